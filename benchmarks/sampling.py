"""Time sampling: ours against the arithmetic of the original, the same chain on the same machine in one run.

The baseline (`plain.py`) runs the reverse chain of Luo & Hu (2021) layer by layer in fp32. Ours is
`Latent.sample`: the whole chain in fp32 and bf16, compiled or not, and DPM-Solver++ in ten steps.

python benchmarks/sampling.py --clouds 8 --num-points 2048

`evaluate.py --run RUN --precision bf16` shows that the precision leaves the scores of the samples as they are.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from plain import PlainModel
from timing import interleaved

from pcdiff.commands import cli
from pcdiff.config import ModelConfig
from pcdiff.config.run import PAPER_PROCESS
from pcdiff.models import Latent
from pcdiff.runtime.devices import keep_freed_memory
from pcdiff.runtime.precision import native_bf16


def speed(clouds: int, num_points: int, repeats: int) -> None:
    """Print medians and ratios."""
    config = ModelConfig()
    torch.manual_seed(0)
    plain, model, compiled = PlainModel(config).eval(), Latent(config).eval(), Latent(config).eval()
    compiled.compile()
    latents = torch.randn(clouds, config.latent_dim)

    def ours(model: Latent, **options: object) -> Callable[[], object]:
        return lambda: model.decode(latents, num_points, **options)

    steps = {"plain fp32": lambda: plain.sample(latents, num_points), "pcdiff fp32": ours(model)}
    steps["pcdiff fp32 compiled"] = ours(compiled)
    if native_bf16(latents.device):
        steps["pcdiff bf16"] = ours(model, precision="bf16")
        steps["pcdiff bf16 compiled"] = ours(compiled, precision="bf16")
    steps["pcdiff fp32, dpmpp, 10 steps"] = ours(model, sampler="dpmpp", num_steps=10)
    for options in ({}, {"precision": "bf16"}):  # compiled here, not in the clock's time
        compiled.decode(latents, num_points, num_steps=2, **options)
    times = interleaved(steps, repeats, warm_up=0)
    # It cannot be undone, so what it brings is timed last.
    keep_freed_memory()
    kept = interleaved(steps, repeats, warm_up=0)
    times |= {f"{name}, freed memory kept": values for name, values in kept.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    plain_as_is, plain_kept = medians["plain fp32"], medians["plain fp32, freed memory kept"]
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{clouds} clouds of {num_points} points, {PAPER_PROCESS.num_steps} steps unless said, {threads}")
    print("| chain | median s | against plain | against plain, freed memory kept |\n| --- | ---: | ---: | ---: |")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {plain_as_is / median:.2f} x | {plain_kept / median:.2f} x |")


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=8, help="clouds drawn at once (default: 8)")
    parser.add_argument("--num-points", type=int, default=2048, help="points of a cloud (default: 2048)")
    parser.add_argument("--repeats", type=int, default=3, help="timed chains of each (default: 3)")
    args = parser.parse_args()
    speed(args.clouds, args.num_points, args.repeats)


if __name__ == "__main__":
    cli.run(main)
