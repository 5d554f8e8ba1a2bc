"""NCSN++ and DDPM++ (Song et al., "Score-Based Generative Modeling through SDEs", ICLR 2021, appendix H)."""

from dataclasses import dataclass
from typing import Literal

from image_pipeline.nets.unet import NCSNppConfig, ScoreUNet


class NCSNpp(ScoreUNet):
    """NCSN++: filters against aliasing, rescaled sums, BigGAN's blocks, pyramids of input and output.

    Args:
        config: what is built; the defaults are score_sde's CIFAR-10 net of the continuous VE process.

    Raises:
        InputError: a field is out of range.

    Example:
        >>> net = NCSNpp(NCSNppConfig(nf=16, num_res_blocks=1))
        >>> net(torch.rand(2, 3, 32, 32), torch.tensor([0.1, 20.0])).shape  # labels are noise levels
        torch.Size([2, 3, 32, 32])
    """

    Config = NCSNppConfig

    def __init__(self, config: NCSNppConfig | None = None):
        config = NCSNppConfig() if config is None else config
        super().__init__(config)
        self.config = config


@dataclass(frozen=True)
class DDPMppConfig(NCSNppConfig):
    """DDPM++ in score_sde's names; the defaults are its CIFAR-10 net of the continuous VP and sub-VP processes."""

    centered: bool = True
    fir: bool = False
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    embedding_type: Literal["fourier", "positional"] = "positional"
    scale_by_sigma: bool = False


class DDPMpp(NCSNpp):
    """DDPM++: NCSN++ without filters and pyramids, conditioned on the step; it predicts noise.

    Args:
        config: what is built.
    """

    Config = DDPMppConfig

    def __init__(self, config: DDPMppConfig | None = None):
        super().__init__(DDPMppConfig() if config is None else config)
