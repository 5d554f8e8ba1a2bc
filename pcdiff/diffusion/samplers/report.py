"""What a sampling run costs: its steps and its evaluations of the denoiser."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser


@dataclass
class SamplingReport:
    """What a run cost; hand one to `sample`, which fills it.

    Attributes:
        num_steps: steps of the grid.
        evaluations: calls of the denoiser, each for the whole batch.
    """

    num_steps: int = 0
    evaluations: int = 0

    def add(self, other: "SamplingReport") -> None:
        """Count another run's evaluations too; the steps become its own."""
        self.num_steps, self.evaluations = other.num_steps, self.evaluations + other.evaluations


class CountedDenoiser:
    """A denoiser that counts its evaluations in a report; each of these methods is one."""

    COSTLY = ("estimate", "eps", "score", "velocity", "reverse_kernel")

    def __init__(self, denoiser: Denoiser, report: SamplingReport):
        self._denoiser, self._report = denoiser, report

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        self._report.evaluations += 1
        return self._denoiser(*args, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._denoiser, name)
        if name not in self.COSTLY:
            return value

        def counted(*args: Any, **options: Any) -> Any:
            self._report.evaluations += 1
            return value(*args, **options)

        return counted
