"""What a point-voxel net is built from."""

from dataclasses import dataclass
from typing import ClassVar

from pcdiff.errors import InputError, short
from pcdiff.nets.config_checks import lists_to_tuples
from pcdiff.runtime.memory_limit import check_depth
from pcdiff.runtime.ranges import check_ranges

NORM_GROUPS = 8
"""Groups of every norm; every width is a multiple of it."""


@dataclass(frozen=True)
class PVCNNConfig:
    """The point-voxel net of PVD (Zhou, Du & Wu, ICCV 2021); the defaults are its published net, quirks included.

    Levels count from the finest. A level goes down by point-voxel convolutions and a set abstraction, and up, from
    the coarsest, by an interpolation and further convolutions.

    Raises:
        InputError: a value is out of range, or two do not fit each other.
    """

    down_channels: tuple[int, ...] = (32, 64, 128, 0)
    """Width of each level's point-voxel convolutions on the way down; 0 for none."""
    down_blocks: tuple[int, ...] = (2, 3, 3, 0)
    """How many of them each level has; see `first_block_only`."""
    down_resolutions: tuple[int, ...] = (32, 16, 8, 0)
    """Voxels along each side of their grids."""
    centers: tuple[int, ...] = (1024, 256, 64, 16)
    """Points that each level's set abstraction keeps, by farthest point sampling (points)."""
    radii: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    """Radius around each centre, in the unit of the net's input."""
    neighbors: tuple[int, ...] = (32, 32, 32, 32)
    """Most neighbours within it (points)."""
    down_widths: tuple[str, ...] = ("32,64", "64,128", "128,256", "256,256,512")
    """Widths of each set abstraction's layers, as 32,64."""
    up_widths: tuple[str, ...] = ("256,256", "256,256", "256,128", "128,128,64")
    """Widths of the layers after each interpolation, the coarsest level first; convolutions have the last one."""
    up_blocks: tuple[int, ...] = (3, 3, 2, 2)
    """Point-voxel convolutions after them."""
    up_resolutions: tuple[int, ...] = (8, 8, 16, 32)
    """Voxels along each side of their grids."""
    time_dim: int = 64
    """Size of the embedding of time and condition."""
    head_width: int = 128
    """Width of the layer before the output."""
    dropout: float = 0.1
    """Share of a convolution's activations dropped in training."""
    head_dropout: float = 0.1
    """The same before the output; 0.5 in PVD's completion."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels whose first convolution on the way down attends over its voxels, from 0."""
    up_attention_levels: tuple[int, ...] = ()
    """Levels whose first convolution on the way up does; PVD's code means some and has none."""
    global_attention: bool = True
    """Attention over the coarsest points."""
    scaled_attention: bool = False
    """Divide attention's products by the root of the channels, which PVD leaves out."""
    first_block_only: bool = True
    """Of a level's convolutions on the way down build the first alone, but at level 0: PVD's table says three."""
    time_at_first_level: bool = False
    """Feed the time to the first level's convolutions too; PVD does to all others."""
    outer_skip: bool = False
    """Hand the input's coordinates on to the last layers, as every other level does its features."""
    gate_after_attention: bool = True
    """Squeeze and excitation also after a convolution with attention; PVD's completion leaves it out there."""
    repeat_centers: bool = True
    """Where a cloud has fewer points than a level keeps, repeat the first one, as PVD's kernel does."""
    legacy_gradients: bool = True
    """Pass no gradient to coordinates through the weights of voxels and interpolations, as PVD's kernels do."""
    branch_depth: int = 0
    """Blocks of a transformer beside the convolutions, weighed against them by a gate of the time (TIGER: 8)."""
    branch_level: int = 1
    """Level whose points, after its set abstraction, the transformer reads."""
    branch_width: int = 512
    """Its width."""
    branch_heads: int = 8
    """Its heads."""
    branch_dropout: float = 0.2
    """Share of its attention weights and projections dropped in training."""
    checkpoint: bool = False
    """Compute levels again in the backward pass instead of keeping their activations."""

    RANGES: ClassVar[dict[str, str]] = {
        "at least 1": "centers neighbors time_dim head_width branch_width branch_heads",
        "above 0": "radii",
        "at least 0": "down_channels down_blocks down_resolutions up_blocks up_resolutions attention_levels "
        "up_attention_levels branch_depth branch_level",
        "in [0, 1)": "dropout head_dropout branch_dropout",
    }

    def __post_init__(self):
        """Turn lists into tuples and refuse what no net can have."""
        lists_to_tuples(self)
        check_depth("centers", self.centers)
        check_ranges(vars(self), self.RANGES)
        levels = len(self.centers)
        for name in _PER_LEVEL:
            if len(getattr(self, name)) != levels:
                raise InputError(
                    f"{name} must have an entry for each of the {levels} levels of centers, "
                    f"got {short(getattr(self, name))}"
                )
        for name in ("down_widths", "up_widths"):
            for text in getattr(self, name):
                _check_widths(name, widths(text))
        _check_widths("head_width", (self.head_width,))
        for way in ("down", "up"):
            blocks, sizes = getattr(self, f"{way}_blocks"), getattr(self, f"{way}_resolutions")
            for count, size in zip(blocks, sizes, strict=True):
                if count and size < 1:
                    raise InputError(f"{way}_resolutions must be at least 1 where there are blocks, got {size}")
        for count, width in zip(self.down_blocks, self.down_channels, strict=True):
            if count:
                _check_widths("down_channels", (width,))
        for name in ("attention_levels", "up_attention_levels"):
            if any(level >= levels for level in getattr(self, name)):
                raise InputError(f"{name} must be below the {levels} levels, got {short(getattr(self, name))}")
        if self.time_dim % 2 or self.time_dim < 4:
            raise InputError(f"time_dim must be even and at least 4, got {self.time_dim}")
        if self.branch_depth:
            self._check_branch(levels)

    def _check_branch(self, levels: int) -> None:
        if self.branch_level > levels - 2:
            raise InputError(
                f"branch_level must be at most {levels - 2} with {levels} levels, got {self.branch_level}"
            )
        if self.branch_width % self.branch_heads or self.branch_width % NORM_GROUPS:
            raise InputError(
                f"branch_width must be a multiple of branch_heads and of {NORM_GROUPS}, got {self.branch_width} "
                f"with {self.branch_heads} heads"
            )
        # of a single number in a group the norm of the gate's mask leaves nothing
        if self.time_dim % NORM_GROUPS or self.time_dim == NORM_GROUPS:
            raise InputError(
                f"time_dim must be a multiple of {NORM_GROUPS} above it for the gate of a branch, "
                f"got {self.time_dim}"
            )

    def built_blocks(self, level: int) -> int:
        """Return how many convolutions a level has on the way down."""
        count = self.down_blocks[level]
        return min(count, 1) if level and self.first_block_only else count


_PER_LEVEL = (
    "down_channels",
    "down_blocks",
    "down_resolutions",
    "radii",
    "neighbors",
    "down_widths",
    "up_widths",
    "up_blocks",
    "up_resolutions",
)


def widths(text: str) -> tuple[int, ...]:
    """Return the widths that a text names.

    Raises:
        InputError: it is not whole numbers apart by commas.

    Example:
        >>> widths("256,256,512")
        (256, 256, 512)
    """
    parts = text.split(",") if isinstance(text, str) else []
    if not parts or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"widths must be whole numbers apart by commas, as 32,64, got {short(text)}")
    return tuple(map(int, parts))


def _check_widths(name: str, values: tuple[int, ...]) -> None:
    for value in values:
        if value < 1 or value % NORM_GROUPS:
            raise InputError(f"{name} must be multiples of {NORM_GROUPS}, the groups of a norm, got {value}")
