"""A corrector that keeps to a constraint between its steps."""

from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.samplers.base import Constraint, Corrector, Noise, Stateful
from pcdiff.diffusion.samplers.correctors import corrector as corrector_by_name
from pcdiff.errors import OutOfRange


class ConstrainedCorrector(Stateful):
    """Alternate steps of a corrector with a constraint, so that the rest adapts to what is known.

    `num_steps` of the corrector itself would let the known drift along with the rest until all are done. NCSNv2's
    inpainting alternates so (Song & Ermon, 2020).

    Args:
        corrector: one step of it, or its name.
        constraint: the one that the sampler has too.
        num_steps: steps at every time.

    Raises:
        InputError: `num_steps` is not positive, or the name is unknown.

    Example:
        >>> keep = Inpaint(denoiser.process, clouds, mask)
        >>> alternating = ConstrainedCorrector(corrector("ald", snr=0.5), keep, num_steps=4)
        >>> sample(denoiser, clouds.shape, constraint=keep, corrector=alternating)
    """

    def __init__(self, corrector: Corrector | str, constraint: Constraint, num_steps: int = 1):
        if num_steps < 1:
            raise OutOfRange("num_steps of a corrector", "at least 1", num_steps)
        self.corrector: Any = corrector_by_name(corrector) if isinstance(corrector, str) else corrector
        self.constraint, self.num_steps = constraint, num_steps

    def plan(self, process: Process, times: Tensor) -> None:
        """Let the corrector look at the run ahead."""
        if isinstance(self.corrector, Stateful):
            self.corrector = self.corrector.begin(process, times)

    def __call__(self, denoiser: Denoiser, x: Tensor, t: Tensor, cond: Any, noise: Noise) -> Tensor:
        """Return x_t after the steps, like `x (B, *dims)`, at times `t (B,)`."""
        for _ in range(self.num_steps):
            x = self.constraint(self.corrector(denoiser, x, t, cond, noise), t, noise)
        return x
