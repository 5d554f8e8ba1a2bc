"""UniPC: a multistep predictor, and a corrector that costs no evaluation of its own."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import Noise
from pcdiff.diffusion.samplers.dpm_solver import Multistep, log_step
from pcdiff.errors import UnknownName

# B(h) of the paper, of h' = -h
SCALES = {"bh1": lambda h: h, "bh2": torch.expm1}


class UniPC(Multistep):
    """UniPC-p in data prediction (Zhao et al., 2023, arXiv 2302.04867).

    A step first corrects x_t by the estimate made there, then predicts x_s. A state that something else has
    changed since (a constraint) is not corrected.

    Args:
        order: p.
        scale: `"bh1"` for B(h) = h, `"bh2"` for exp(h) - 1.
        correct: use the corrector.
        lower_final: see `Multistep`.

    Raises:
        InputError: `order` or `scale` is unknown.
    """

    def __init__(self, order: int = 2, scale: str = "bh2", correct: bool = True, lower_final: bool | None = True):
        super().__init__(order, lower_final)
        if scale not in SCALES:
            raise UnknownName("scale", scale, sorted(SCALES))
        self.scale, self.correct = scale, correct

    def plan(self, process: Process, times: Tensor) -> None:
        """Set the order of every step."""
        super().plan(process, times)
        # what the step before began with, and what it predicted
        self.before: tuple[Tensor, Tensor, int] | None = None
        self.predicted: Tensor | None = None

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        process = denoiser.process
        m0 = denoiser(x, t, cond)
        if self.correct and self.before is not None and x is self.predicted:
            x_before, t_before, order = self.before
            x = self._update(process, x_before, t_before, t, order, m0)
        self.remember(process.log_snr(t) / 2, m0)
        order = self.next_order()
        self.predicted = self._update(process, x, t, s, order, None)
        self.before = x, t, order
        return self.predicted

    def _update(
        self, process: Process, x: Tensor, t: Tensor, s: Tensor, order: int, ahead: Tensor | None
    ) -> Tensor:
        """Return x_s from x_t: the predictor, or with the estimate at s the corrector."""
        lam, h, shrink, alpha_s, _ = log_step(process, t, s)
        (_, m0), *older = self.past
        # alpha_s (exp(-h) - 1), written so that it is finite where alpha_s is 0
        x_s = append_dims(shrink, x) * x - append_dims(shrink * process.alpha(t) - alpha_s, x) * m0
        places = [(lam_i - lam) / h for lam_i, _ in older[: order - 1]]
        changes = [(m_i - m0) / append_dims(r, x) for r, (_, m_i) in zip(places, older[: order - 1], strict=True)]
        if ahead is not None:
            places.append(torch.ones_like(h))
            changes.append(ahead - m0)
        weights = self._weights(places, -h, ahead is not None)
        scale = alpha_s * SCALES[self.scale](-h)
        for weight, change in zip(weights, changes, strict=True):
            x_s = x_s - append_dims(scale * weight, x) * change
        return x_s

    def _weights(self, places: list[Tensor], h: Tensor, corrects: bool) -> list[Tensor]:
        # the paper takes 1/2 where there is one unknown, whatever B(h) is
        if len(places) < 2:
            return [torch.full_like(h, 0.5) for _ in places]
        phi, factorial, moments, rows = torch.expm1(h) / h - 1, 1.0, [], []
        for i in range(len(places)):
            rows.append(torch.stack(places, dim=1) ** i)
            moments.append(phi * factorial / SCALES[self.scale](h))
            factorial *= i + 2
            phi = phi / h - 1 / factorial
        return list(torch.linalg.solve(torch.stack(rows, dim=1), torch.stack(moments, dim=1)).unbind(dim=1))
