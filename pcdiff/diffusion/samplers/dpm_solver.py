"""DPM-Solver++: multistep solvers that are exact but for the change of x_0 over the log-SNR."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import Noise, Solver, check_falling
from pcdiff.errors import OutOfRange, UnknownName

ORDERS = (1, 2, 3)


class Multistep(Solver):
    """Base of the solvers that remember earlier estimates of x_0: the plan of orders, and the memory.

    Args:
        order: 1, 2 or 3.
        lower_final: lower the order toward the end, one by one, which steadies runs of few steps; None does so
            below 10 steps, as DPM-Solver's code does. The first steps, and one that ends where there is no noise
            or no signal, have a low order always.

    Raises:
        InputError: the order is none of these.
    """

    invertible = True
    grid = "log_snr"

    def __init__(self, order: int, lower_final: bool | None = None):
        if order not in ORDERS:
            raise UnknownName("order", order, ORDERS)
        self.order, self.lower_final = order, lower_final

    def plan(self, process: Process, times: Tensor) -> None:
        """Set the order of every step."""
        steps = len(times) - 1
        lower = steps < 10 if self.lower_final is None else self.lower_final
        alpha, sigma = process.scales(times[1:])
        # to a time without noise, or upwards to one without signal, the log-SNR is infinite and no difference lasts
        finite = ((sigma > 0) & (alpha > 0)).tolist()
        # a start without signal has no log-SNR to remember
        first = 1 + int(process.alpha(times[:1]) == 0)
        self.orders = [
            min(self.order, max(k + 2 - first, 1), steps - k if lower else self.order) if finite[k] else 1
            for k in range(steps)
        ]
        # the log-SNR (half of it, lambda in the papers) and the estimate at the last few times, newest first
        self.past: list[tuple[Tensor, Tensor]] = []
        self.step = 0

    def next_order(self) -> int:
        """Return the order of the step that comes, and count it."""
        order, self.step = self.orders[self.step], self.step + 1
        return order

    def remember(self, lam: Tensor, x0: Tensor) -> None:
        """Keep an estimate, and only as many as the order needs."""
        self.past = [(lam, x0), *self.past[: self.order - 1]]


class DPMSolver(Multistep):
    """DPM-Solver++ (Lu et al., 2022b, arXiv 2211.01095): 2M, 3M, and with noise SDE-DPM-Solver++.

    With lambda the half log-SNR, h its growth over the step, h' = (1 + eta) h and `phi_1 = exp(-h') - 1`,
    `x_s = sigma_s / sigma_t exp(-eta h) x - alpha_s phi_1 x_0 + (terms in the differences of x_0) + noise` of
    variance `sigma_s^2 (1 - exp(-2 eta h))` (algorithm 2 is 2M).

    The first step has no estimate to compare with and is DDIM's. From noise that costs nothing, as x_0 hardly
    depends on x there; from a partial start near sigma = alpha it leaves an error of second order, at order 3 too.
    `UniPC` corrects that step.

    Args:
        order: 1 (DDIM), 2 or 3.
        eta: 0 follows the probability flow, 1 the reverse SDE.
        taylor: the difference's weight at order 2 by Taylor's series instead of the midpoint's rule.
        lower_final: see `Multistep`.
        legacy: halve the second difference at order 3, as the authors' and others' code does, which leaves an error
            of second order.

    Raises:
        InputError: `order` or `eta` is out of range.
    """

    def __init__(
        self,
        order: int = 2,
        eta: float = 0.0,
        taylor: bool = False,
        lower_final: bool | None = None,
        legacy: bool = False,
    ):
        super().__init__(order, lower_final)
        if not eta >= 0:
            raise OutOfRange("eta", "at least 0", eta)
        self.eta, self.taylor, self.legacy = eta, taylor, legacy
        self.stochastic, self.invertible = eta > 0, eta == 0

    def plan(self, process: Process, times: Tensor) -> None:
        """Set the order of every step.

        Raises:
            InputError: the times rise, with noise.
        """
        if self.eta:
            check_falling(times, "dpmpp with eta", "eta=0")
        super().plan(process, times)

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        self.remember(denoiser.process.log_snr(t) / 2, denoiser(x, t, cond))
        return self.update(denoiser.process, x, t, s, self.next_order(), noise)

    def update(self, process: Process, x: Tensor, t: Tensor, s: Tensor, order: int, noise: Noise | None) -> Tensor:
        """Return x_s by the remembered estimates, the newest of which is that at t: the step's arithmetic."""
        lam, h, shrink, alpha_s, sigma_s = log_step(process, t, s)
        m0 = self.past[0][1]
        if self.eta:
            shrink = shrink * (-self.eta * h).exp()
        h_eta = (1 + self.eta) * h
        phi1 = torch.expm1(-h_eta)
        m0_weight = alpha_s * phi1
        if order == 1 and not self.eta:
            # the same, with alpha_s exp(-h) written out: finite where alpha_s is 0
            m0_weight = shrink * process.alpha(t) - alpha_s
        x_s = append_dims(shrink, x) * x - append_dims(m0_weight, x) * m0
        if order > 1:
            phi2 = phi1 / h_eta + 1
            (lam1, m1), *older = self.past[1:]
            r0 = (lam - lam1) / h
            d1 = (m0 - m1) / append_dims(r0, x)
            if order == 2:
                weight = phi2 if self.taylor else -phi1 / 2
                x_s = x_s + append_dims(alpha_s * weight, x) * d1
            else:
                ((lam2, m2),) = older
                r1 = (lam1 - lam2) / h
                change = d1 - (m1 - m2) / append_dims(r1, x)
                x_s = x_s + append_dims(alpha_s * phi2, x) * (d1 + append_dims(r0 / (r0 + r1), x) * change)
                # h^2 times the second derivative is twice the divided difference of second order
                second = change / append_dims((r0 + r1) if self.legacy else (r0 + r1) / 2, x)
                x_s = x_s - append_dims(alpha_s * (phi2 / h_eta - 0.5), x) * second
        if self.eta and noise is not None:
            std = sigma_s * (-torch.expm1(-2 * self.eta * h)).sqrt()
            x_s = x_s + append_dims(std, x) * noise(x)
        return x_s


def log_step(process: Process, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the half log-SNR at t, its growth to s, sigma_s / sigma_t, alpha_s and sigma_s, `(B,)` each."""
    (alpha_s, sigma_s), sigma_t = process.scales(s), process.sigma(t)
    lam = process.log_snr(t) / 2
    return lam, process.log_snr(s) / 2 - lam, sigma_s / sigma_t, alpha_s, sigma_s
