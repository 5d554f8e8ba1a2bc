"""Time the CIFAR-10 UNet of Ho et al. (2020): ours against diffusers' UNet2DModel, the same weights in one run.

128 channels, 1-2-2-2, two residual blocks a level, attention of one head at 16 x 16. A training step is the simple
loss, its gradient and Adam; a sampling step one evaluation of the net. `diffusers` is no dependency of this
project: `pip install diffusers`.

PYTHONPATH=. python benchmarks/images.py --batch-size 8
"""

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import interleaved
from torch import Tensor, nn

from image_pipeline.interop import load
from pcdiff.commands import cli
from pcdiff.runtime.devices import keep_freed_memory
from pcdiff.runtime.precision import autocast, native_bf16


def theirs() -> nn.Module:
    """Return diffusers' net; exits with one line where diffusers is not installed."""
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        sys.exit(f"{error}; this benchmark's baseline is diffusers: see its head for how to install it")
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,  # one head, as DDPM has; diffusers' default is heads of 8 channels
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )


class Steps:
    """The two steps of a net.

    Args:
        net: `net(x, t)`, or diffusers' with an output that holds `sample`.
        x: images `(B, 3, 32, 32)`.
        precision: of the products.
    """

    def __init__(self, net: nn.Module, x: Tensor, precision: str = "fp32", fused: bool = True):
        self.net, self.x, self.precision = net, x, precision
        self.noise, self.t = torch.randn_like(x), torch.randint(1000, (len(x),))
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=fused)

    def predict(self) -> Tensor:
        """Return the noise predicted."""
        with autocast(self.precision, self.x.device):
            out = self.net(self.x, self.t)
        return getattr(out, "sample", out).float()

    def train(self) -> None:
        """Make a training step."""
        self.net.train()
        self.optimizer.zero_grad()
        F.mse_loss(self.predict(), self.noise).backward()
        self.optimizer.step()

    @torch.no_grad()
    def sample(self) -> None:
        """Evaluate the net once."""
        self.net.eval()
        self.predict()


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8, help="images in a batch (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each (default: 3)")
    args = parser.parse_args()
    keep_freed_memory()
    x = torch.randn(args.batch_size, 3, 32, 32)
    baseline = theirs()
    with tempfile.TemporaryDirectory() as folder:
        baseline.save_pretrained(folder)
        ours = load("diffusers", folder).denoiser.net
    with torch.no_grad():
        t = torch.arange(len(x))
        torch.testing.assert_close(ours(x, t), baseline.eval()(x, t).sample, rtol=1e-4, atol=1e-4)
    kinds = {"diffusers fp32": Steps(baseline, x, fused=False), "pcdiff fp32": Steps(copy.deepcopy(ours), x)}
    if native_bf16(x.device):
        kinds["diffusers bf16"] = Steps(copy.deepcopy(baseline), x, "bf16", fused=False)
        kinds["pcdiff bf16"] = Steps(copy.deepcopy(ours), x, "bf16")
        compiled = copy.deepcopy(ours)
        compiled.compile()
        kinds["pcdiff bf16 compiled"] = Steps(compiled, x, "bf16")
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"batch {args.batch_size}, {sum(p.numel() for p in ours.parameters()):,} parameters, {threads}")
    print("| net | training step ms | against diffusers | sampling step ms | against diffusers |")
    print("| --- | ---: | ---: | ---: | ---: |")
    steps: dict[str, dict[str, Callable[[], object]]] = {
        "train": {name: kind.train for name, kind in kinds.items()},
        "sample": {name: kind.sample for name, kind in kinds.items()},
    }
    found = {what: interleaved(these, args.repeats, warm_up=1) for what, these in steps.items()}
    medians = {what: {name: statistics.median(v) for name, v in times.items()} for what, times in found.items()}
    for name in kinds:
        cells = [
            cell
            for what in ("train", "sample")
            for cell in (
                f"{medians[what][name] * 1e3:.0f}",
                f"{medians[what]['diffusers fp32'] / medians[what][name]:.2f} x",
            )
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    cli.run(main)
