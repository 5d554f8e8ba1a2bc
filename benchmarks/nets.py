"""What the nets of clouds cost: parameters, multiply-adds, memory for the gradient, and time, side by side.

Multiply-adds are those of one evaluation for one cloud (matrix products and convolutions, counted by PyTorch).
Memory is what one cloud's training step keeps for the backward pass. Times are of this machine: a training step
(forward, backward, Adam) of a batch, and one evaluation of the batch without gradients.

python benchmarks/nets.py --num-points 2048 --batch-size 4
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from timing import interleaved
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pcdiff.commands import cli
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.models import build_model

PRESETS = ("paper", "cpu", "set-cpu", "set-gpu", "gecco", "pvd", "tiger")


def inputs(model: nn.Module, batch: int, points: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return noisy clouds, time labels that every net takes, and codes of zeros, where the net has a condition."""
    cond = torch.zeros(batch, model.code_dim) if model.code_dim else None
    return torch.randn(batch, points, 3), torch.ones(batch), cond


def kept_bytes(net: nn.Module, given: tuple) -> int:
    """Return how many bytes of activations a forward pass keeps for the backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(*given)  # is held until all is counted, so that no place is used twice
    del out
    return sum(storages.values())


def step_of(net: nn.Module, given: tuple) -> Callable[[], None]:
    """Return a training step on one batch."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        net(*given).square().mean().backward()
        optimizer.step()

    return step


def evaluation_of(net: nn.Module, given: tuple) -> Callable[[], None]:
    """Return one evaluation without gradients."""

    @torch.no_grad()
    def evaluate() -> None:
        net(*given)

    return evaluate


def main() -> None:
    """Print a row for each preset's net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS, help=f"(default: {' '.join(PRESETS)})")
    parser.add_argument("--num-points", type=int, default=2048, help="points of a cloud (default: 2048)")
    parser.add_argument("--batch-size", type=int, default=4, help="clouds in a timed batch (default: 4)")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each (default: 3)")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{args.num_points} points, batch {args.batch_size}, {torch.get_num_threads()} threads, fp32")
    print("| preset | parameters | multiply-adds | kept for the gradient | training step | evaluation |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for preset in args.presets:
        model = build_model(GENERATOR_PRESETS[preset])
        net = model.denoiser.net
        one, batch = (inputs(model, count, args.num_points) for count in (1, args.batch_size))
        # the CPU's fused attention is not among what is counted
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            net(*one)
        kept = kept_bytes(net, one)
        timed = {"step": step_of(net, batch), "evaluation": evaluation_of(net.eval(), batch)}
        times = interleaved(timed, args.repeats, warm_up=1)
        step, evaluation = (statistics.median(times[name]) for name in ("step", "evaluation"))
        count = sum(parameter.numel() for parameter in net.parameters())
        print(
            f"| `{preset}` | {count / 1e6:.2f} M | {counter.get_total_flops() / 2e9:.2f} G "
            f"| {kept / 2**20:.0f} MiB | {step:.2f} s | {evaluation:.2f} s |",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main)
