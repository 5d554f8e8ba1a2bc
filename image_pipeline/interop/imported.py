"""What a loader of other people's checkpoints gives."""

from dataclasses import dataclass

from pcdiff.diffusion import NetDenoiser


@dataclass(frozen=True)
class Imported:
    """An imported model, ready for every sampler."""

    denoiser: NetDenoiser
    """The net in evaluation mode, on the CPU, with its process and what its output means."""
    data_range: tuple[float, float]
    """Smallest and largest value of its data."""
    image_shape: tuple[int, int, int] | None
    """`(C, H, W)` of its images; None where neither file nor config tells."""
    name: str
    """What it is, for people."""
    num_classes: int | None = None
    """Number of classes it may be told; none by default."""
