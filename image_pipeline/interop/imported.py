"""What every loader of foreign image checkpoints gives."""

from dataclasses import dataclass

from pcdiff.diffusion import NetDenoiser
from pcdiff.errors import InputError, short
from pcdiff.runtime.memory_limit import check_count

_LARGEST = 1 << 14  # side of an image, in pixels


@dataclass(frozen=True)
class Imported:
    """A net of other people, ready for every sampler of `pcdiff.diffusion`, and what must be known to use it.

    Attributes:
        denoiser: the net with its process, label and parametrization, in evaluation mode; the bare net is
            `denoiser.net`.
        data_range: lowest and highest value of the images it was trained on.
        image_shape: (C, H, W); H and W are None where neither file nor config has them, all of it where it is of no
            images.
        name: whose net it is, such as `score_sde ncsnpp`.
        num_classes: classes that it can be conditioned on; None if it takes none.
        ema: whether the weights are the moving average.

    Example:
        >>> found = score_sde.load("checkpoint_24.pth", "cifar10_ncsnpp_continuous.json")
        >>> images = sample(found.denoiser, (16, *found.image_shape), sampler="reverse_diffusion", num_steps=1000)
    """

    denoiser: NetDenoiser
    data_range: tuple[float, float]
    image_shape: tuple[int, int | None, int | None] | None
    name: str
    num_classes: int | None = None
    ema: bool = False

    def __post_init__(self):
        """Refuse what no image model has, whatever is in the file."""
        process = self.denoiser.process
        for name in ("num_scales", "num_steps"):
            check_count(name, getattr(process, name, None))
        if self.image_shape is not None and not is_shape(self.image_shape):
            raise InputError(f"image_shape must be (C, H, W) of at most {_LARGEST}, got {short(self.image_shape)}")
        low_high = self.data_range
        if not (isinstance(low_high, tuple) and len(low_high) == 2 and all(map(_is_number, low_high))):
            raise InputError(f"data_range must be two numbers, got {short(low_high)}")
        if self.num_classes is not None and (type(self.num_classes) is not int or self.num_classes < 1):
            raise InputError(f"num_classes must be a count or None, got {short(self.num_classes)}")
        if not isinstance(self.name, str) or not isinstance(self.ema, bool):
            raise InputError(
                f"name must be a text and ema true or false, got {short(self.name)}, {short(self.ema)}"
            )


def is_shape(shape: object) -> bool:
    """Return whether a value is a shape (C, H, W) of images, of which H and W may be None: unknown."""
    if not isinstance(shape, tuple) or len(shape) != 3 or shape[0] is None:
        return False
    return all(size is None or (type(size) is int and 1 <= size <= _LARGEST) for size in shape)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
