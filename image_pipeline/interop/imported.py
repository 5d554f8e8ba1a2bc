"""What every loader of foreign image checkpoints gives."""

from dataclasses import dataclass

from pcdiff.diffusion import NetDenoiser


@dataclass(frozen=True)
class Imported:
    """A net of other people, ready for every sampler of `pcdiff.diffusion`, and what must be known to use it.

    Attributes:
        denoiser: the net with its process, label and parametrisation, in evaluation mode; the bare net is
            `denoiser.net`.
        data_range: lowest and highest value of the images it was trained on.
        image_shape: (C, H, W); H and W are None where neither file nor config says, all of it where it is of no
            images.
        name: whose net it is, such as `score_sde ncsnpp`.
        num_classes: classes that it can be conditioned on; None if it takes none.
        ema: whether the weights are the moving average.

    Example:
        >>> found = score_sde.load("checkpoint_24.pth", "cifar10_ncsnpp_continuous.json")
        >>> images = sample(found.denoiser, (16, *found.image_shape), step="reverse_diffusion", num_steps=1000)
    """

    denoiser: NetDenoiser
    data_range: tuple[float, float]
    image_shape: tuple[int, int | None, int | None] | None
    name: str
    num_classes: int | None = None
    ema: bool = False
