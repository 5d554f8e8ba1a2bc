"""What a net's output means: parametrizations, each exact both ways. A new one is a class and a line below.

All of them speak of the same pair in `x_t = alpha x_0 + sigma eps`; knowing x_t, t and one number of the pair gives
the other. Every tensor is `(B, *dims)`, times are `(B,)`.
"""

from typing import Any

from torch import Tensor

from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.errors import OutOfRange
from pcdiff.registry import Registry


class Parametrization:
    """Base: a subclass gives `x0` and `target`; the rest follows, and is overridden where it is nearer."""

    needs_signal = False
    """Whether the output does not determine x_0 where no signal is left, alpha = 0."""

    def fits(self, process: Process) -> bool:
        """Return whether the process has what this parametrization needs."""
        return process.T is not None

    def net_input(self, process: Process, x: Tensor, t: Tensor) -> Tensor:
        """Return what the net is fed for x_t."""
        return x

    def x0(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the estimate of x_0 that an output encodes."""
        raise NotImplementedError

    def eps(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the estimate of the noise that an output encodes."""
        alpha, sigma = process.scales(t)
        return (x - append_dims(alpha, x) * self.x0(process, out, x, t)) / append_dims(sigma, x)

    def score(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the estimate of grad log p_t(x_t): `-eps / sigma` (Song et al., 2021, section 3.3)."""
        return -self.eps(process, out, x, t) / append_dims(process.sigma(t), x)

    def velocity(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the estimate of the probability flow's dx/dt."""
        return process.velocity(self.x0(process, out, x, t), self.eps(process, out, x, t), t)

    def target(self, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the output that a perfect net would give for this pair."""
        raise NotImplementedError


class Eps(Parametrization):
    """The noise (Ho et al., 2020, eq. 11)."""

    needs_signal = True

    def fits(self, process: Process) -> bool:
        """Any process has noise."""
        return True

    def x0(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return `(x - sigma eps) / alpha`.

        Raises:
            InputError: alpha is 0 at a time; see `Process.scales_with_signal`.
        """
        alpha, sigma = process.scales_with_signal(t)
        return (x - append_dims(sigma, x) * out) / append_dims(alpha, x)

    def eps(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the output."""
        return out

    def target(self, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the noise."""
        return noise


class X0(Parametrization):
    """The data (Ho et al., 2020, section 3.2)."""

    def x0(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the output."""
        return out

    def target(self, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the data."""
        return x0


class Score(Parametrization):
    """The score `-eps / sigma` (Song & Ermon, 2019, eq. 5)."""

    needs_signal = True

    def x0(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return `(x + sigma^2 score) / alpha`, Tweedie's formula.

        Raises:
            InputError: alpha is 0 at a time; see `Process.scales_with_signal`.
        """
        alpha, sigma = process.scales_with_signal(t)
        return (x + append_dims(sigma.square(), x) * out) / append_dims(alpha, x)

    def eps(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return `-sigma score`."""
        return -append_dims(process.sigma(t), x) * out

    def score(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the output."""
        return out

    def target(self, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the score of q(x_t | x_0)."""
        return -noise / append_dims(process.sigma(t), noise)


class V(Parametrization):
    """`v = alpha eps - sigma x_0` (Salimans & Ho, 2022, section 4), for processes of any alpha and sigma."""

    def x0(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return `(alpha x - sigma v) / (alpha^2 + sigma^2)`."""
        alpha, sigma = process.scales(t)
        norm = alpha.square() + sigma.square()
        return append_dims(alpha / norm, x) * x - append_dims(sigma / norm, x) * out

    def eps(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return `(sigma x + alpha v) / (alpha^2 + sigma^2)`."""
        alpha, sigma = process.scales(t)
        norm = alpha.square() + sigma.square()
        return append_dims(sigma / norm, x) * x + append_dims(alpha / norm, x) * out

    def target(self, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return v of the pair."""
        alpha, sigma = process.scales(t)
        return append_dims(alpha, x0) * noise - append_dims(sigma, x0) * x0


class Velocity(Parametrization):
    """The flow's velocity `alpha' x_0 + sigma' eps`, straight: eps - x_0 (Lipman et al., 2023, eq. 9)."""

    def _solve(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # x and velocity are two linear equations in x_0 and eps; the determinant is positive as the SNR falls
        (alpha, sigma), alpha_dot, sigma_dot = process.scales(t), process.alpha_dot(t), process.sigma_dot(t)
        determinant = alpha * sigma_dot - sigma * alpha_dot
        return alpha / determinant, sigma / determinant, alpha_dot / determinant, sigma_dot / determinant

    def x0(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return `(sigma' x - sigma u) / (alpha sigma' - sigma alpha')`."""
        _, sigma, _, sigma_dot = self._solve(process, t)
        return append_dims(sigma_dot, x) * x - append_dims(sigma, x) * out

    def eps(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return `(alpha u - alpha' x) / (alpha sigma' - sigma alpha')`."""
        alpha, _, alpha_dot, _ = self._solve(process, t)
        return append_dims(alpha, x) * out - append_dims(alpha_dot, x) * x

    def velocity(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the output."""
        return out

    def target(self, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the pair's velocity."""
        return process.velocity(x0, noise, t)


class EDM(Parametrization):
    """EDM's preconditioning, `D = c_skip x + c_out F(c_in x)` (Karras et al., 2022, eq. 7 and table 1).

    It speaks of data plus noise; a process that shrinks the data is stretched first: x / alpha, sigma / alpha.
    With `time_input="edm"` the net gets c_noise.

    Args:
        sigma_data: standard deviation of the data.

    Raises:
        InputError: `sigma_data` is not positive.
    """

    def __init__(self, sigma_data: float = 0.5):
        if not sigma_data > 0:
            raise OutOfRange("sigma_data", "positive", sigma_data)
        self.sigma_data = float(sigma_data)

    def coefficients(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_skip / alpha, c_out and c_in / alpha `(B,)`, which x, F and x meet; finite where alpha is 0."""
        (alpha, sigma), total = process.scales(t), self._total(process, t)
        return self.sigma_data**2 * alpha / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt()

    def _total(self, process: Process, t: Tensor) -> Tensor:
        # alpha^2 times the paper's sigma^2 + sigma_data^2: the variance of x_t
        alpha, sigma = process.scales(t)
        return sigma.square() + (self.sigma_data * alpha).square()

    def net_input(self, process: Process, x: Tensor, t: Tensor) -> Tensor:
        """Return `c_in x / alpha`."""
        return append_dims(self.coefficients(process, t)[2], x) * x

    def x0(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return D."""
        c_skip, c_out, _ = self.coefficients(process, t)
        return append_dims(c_skip, x) * x + append_dims(c_out, x) * out

    def eps(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return `(x - alpha D) / sigma`, written so that it does not cancel at small sigma."""
        (alpha, sigma), total = process.scales(t), self._total(process, t)
        return append_dims(sigma / total, x) * x - append_dims(self.sigma_data * alpha / total.sqrt(), x) * out

    def target(self, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return `(x_0 - c_skip (x_0 + sigma eps / alpha)) / c_out` (eq. 8), variance 1 over data and noise."""
        (alpha, sigma), root = process.scales(t), self._total(process, t).sqrt()
        x0_weight = sigma / (self.sigma_data * root)
        return append_dims(x0_weight, x0) * x0 - append_dims(self.sigma_data * alpha / root, x0) * noise


class Previous(Parametrization):
    """The mean of q(x_{t-1} | x_t, x_0), on chains (Ho et al., 2020, section 3.2; ADM's PREVIOUS_X)."""

    def fits(self, process: Process) -> bool:
        """Only chains have a previous step."""
        return process.num_steps is not None

    def x0(self, process: Process, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 whose posterior has this mean."""
        x_weight, x0_weight, _, _ = process.kernel(t, t - 1)
        return (out - append_dims(x_weight, x) * x) / append_dims(x0_weight, x)

    def target(self, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the posterior's mean."""
        return process.posterior(x0, process.perturb(x0, t, noise), t, t - 1)[0]


PARAMETRIZATIONS: Registry[type[Parametrization]] = Registry(
    "predicts",
    {
        "eps": Eps,
        "x0": X0,
        "score": Score,
        "v": V,
        "velocity": Velocity,
        "edm": EDM,
        "previous": Previous,
    },
)


def parametrization(name: str, **options: Any) -> Parametrization:
    """Build a parametrization by name.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or a value out of range.

    Example:
        >>> parametrization("edm", sigma_data=0.25)
    """
    return PARAMETRIZATIONS.build(name, **options)
