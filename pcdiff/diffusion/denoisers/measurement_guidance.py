"""Guidance by the gradient of a measurement, and guidance by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.denoisers.guidance import ClassifierFreeGuidance, ClassifierGuidance
from pcdiff.diffusion.processes.base import append_dims
from pcdiff.errors import InputError, OutOfRange, UnknownName
from pcdiff.registry import Registry

LIKELIHOODS = ("estimate", "noisy")


class MeasurementGuidance(ClassifierGuidance):
    r"""Shift the score by the gradient of log p(y | x_t), y = A x_0 + noise_std n with n ~ N(0, I).

    p(y | x_t) is known for Gaussians only. Two approximations:

    - `"noisy"`: of y with noise, `y_t = alpha y + sigma A z`, the density of A x_t + alpha noise_std n at a draw of
      y_t (Song et al., 2021, appendix I.4, eq. 50). It is drawn again at every evaluation and stiff: the gradient
      moves x by the share `h (sigma / (alpha noise_std))^2` in a step h of log sigma / alpha, so that y without
      much noise needs very short steps, or replacement (`Linear`), which is its limit.
    - `"estimate"`: of y, the density of A E[x_0 | x_t], as wide as noise_std and what x_0 may still be with data of
      standard deviation `data_std` make it: `noise_std^2 + A A^T data_std^2 sigma^2 / (alpha^2 data_std^2 +
      sigma^2)`. The gradient goes through the model. Exact for data N(m, data_std^2 I), and never stiff; after
      Chung et al. (DPS, 2023) and Song et al. (pseudoinverse guidance, 2023), whose widths are others.

    Args:
        denoiser: the model.
        known: the measurements y, `(B, m)` of a matrix, else what the operator gives; a batch of 1 is for all.
        operator: A as a matrix `(m, d)`, which meets every sample flat, or a linear map of batches; of that the
            rows are taken for orthogonal and equally long, as of masks and means over blocks.
        noise_std: standard deviation of the measurements' error.
        likelihood: `"estimate"` or `"noisy"`.
        data_std: of the data about what is unknown, for `"estimate"`.
        scale: times the gradient; 1 asks for the posterior.
        generator: source of the draws of `"noisy"`.

    Raises:
        InputError: the shapes do not fit, or a number or name is out of range; in use, no signal is left at a time.

    Example:
        >>> guided = MeasurementGuidance(denoiser, y, matrix, noise_std=0.1)  # (4, 500) and (500, 6144)
        >>> sample(guided, (4, 2048, 3), sampler="ancestral")
    """

    def __init__(
        self,
        denoiser: Denoiser,
        known: Tensor,
        operator: Tensor | Callable[[Tensor], Tensor],
        noise_std: float,
        likelihood: str = "estimate",
        data_std: float = 0.5,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__(denoiser, self._log_prob, scale)
        if likelihood not in LIKELIHOODS:
            raise UnknownName("likelihood", likelihood, sorted(LIKELIHOODS))
        for name, value in (("noise_std", noise_std), ("data_std", data_std)):
            if not value > 0:
                raise OutOfRange(name, "positive", value)
        if not known.isfinite().all():
            raise InputError("known, the measurements, must be finite")
        self.known, self.noise_std, self.data_std = known, float(noise_std), float(data_std)
        self.likelihood, self.generator = likelihood, generator
        self.axes = None
        if isinstance(operator, Tensor):
            if operator.dim() != 2 or known.dim() != 2 or known.shape[1] != len(operator):
                shapes = f"{tuple(operator.shape)} and {tuple(known.shape)}"
                raise InputError(f"operator and known must be (m, d) and (B, m), got {shapes}")
            matrix = operator
            self.operator = lambda x: x.flatten(1) @ matrix.T.to(x)
            exact = operator.double()
            self.spectrum, self.axes = torch.linalg.eigh(exact @ exact.T)
        else:
            self.operator = operator

    def _log_prob(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        alpha, sigma = self.process.scales(t)
        known = self.known.to(x)
        if self.likelihood == "noisy":
            z = torch.randn(x.shape, generator=self.generator, device=x.device, dtype=x.dtype)
            noise = self._measure(z)
            known = append_dims(alpha, noise) * known + append_dims(sigma, noise) * noise
            variance = (alpha * self.noise_std).square()[:, None]
            offset = known - self._measure(x)
        else:
            left = (self.data_std * sigma).square() / ((alpha * self.data_std).square() + sigma.square())
            variance = self.noise_std**2 + left[:, None] * self._gram(x).clamp(min=0)
            offset = known - self._measure(self.denoiser(x, t, cond))
        offset = offset.flatten(1)
        if self.axes is not None:
            offset = offset @ self.axes.to(offset)
        return -(offset.square() / (2 * variance.to(offset))).sum(dim=1)

    def _measure(self, x: Tensor) -> Tensor:
        measured = self.operator(x)
        if measured.shape[1:] != self.known.shape[1:] or len(self.known) not in (1, len(x)):
            shapes = f"{tuple(self.known.shape)}, got {tuple(measured.shape)} from samples {tuple(x.shape)}"
            raise InputError(f"the operator must measure what is known, {shapes}")
        return measured

    def _gram(self, x: Tensor) -> Tensor:
        """Return the eigenvalues of A A^T, `(m,)`, or the one number that all of them are."""
        if self.axes is not None:
            return self.spectrum.to(x.device)
        if not hasattr(self, "square"):
            # |A^T 1|^2 = m g, where A A^T = g
            measured, back, *_ = torch.func.vjp(self.operator, torch.zeros_like(x[:1]))
            (spread,) = back(torch.ones_like(measured))
            self.square = spread.detach().double().square().sum().reshape(1) / measured.numel()
        return self.square.to(x.device)


GUIDANCE: Registry[Callable[..., Denoiser]] = Registry(
    "guidance",
    {
        "classifier": ClassifierGuidance,
        "classifier_free": ClassifierFreeGuidance,
        "measurement": MeasurementGuidance,
    },
)


def guidance(name: str, **options: Any) -> Denoiser:
    """Return guidance by name: a denoiser about a denoiser.

    Args:
        name: a key of `GUIDANCE`.
        **options: what that guidance takes, the denoiser among them.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), one is missing, or does not
            fit.

    Example:
        >>> guided = guidance("measurement", denoiser=denoiser, known=y, operator=matrix, noise_std=0.1)
        >>> sample(guided, (4, 2048, 3), sampler="ancestral")
    """
    return GUIDANCE.build(name, **options)
