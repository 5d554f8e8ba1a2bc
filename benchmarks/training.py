"""Time a training step: ours against the arithmetic of the original, on the same batch in one run.

The baseline (`plain.py`) renders the model of Luo & Hu (2021) in fp32, layer by layer, with a Python-level Adam.
Ours is `pcdiff.training.Trainer`.

python benchmarks/training.py --batch-size 32 --num-points 2048
"""

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from plain import PlainModel
from timing import interleaved
from torch import Tensor, nn

from pcdiff.commands import cli
from pcdiff.config import ModelConfig, TrainConfig
from pcdiff.models import Latent
from pcdiff.runtime.devices import keep_freed_memory
from pcdiff.runtime.precision import native_bf16
from pcdiff.training import Trainer


def plain_step(model: PlainModel, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """Make one optimizer step the plain way."""
    optimizer.zero_grad()
    model(x).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10)
    optimizer.step()


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32, help="clouds in a batch (default: 32)")
    parser.add_argument("--num-points", type=int, default=2048, help="points of a cloud (default: 2048)")
    parser.add_argument("--repeats", type=int, default=6, help="timed steps of each (default: 6)")
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.batch_size, args.num_points, 3)
    config = ModelConfig()
    plain = PlainModel(config)
    optimizer = torch.optim.Adam(plain.parameters(), lr=2e-3)
    steps: dict[str, Callable[[], object]] = {"plain fp32": lambda: plain_step(plain, optimizer, x)}
    precisions = ["fp32", "bf16"] if native_bf16(x.device) else ["fp32"]
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            for compiled in (False, True):
                model = Latent(config)
                train = dataclasses.replace(TrainConfig(), precision=precision, batch_size=args.batch_size)
                trainer = Trainer(model, lambda step, rows: x[rows], train, Path(folder), {}, 0, x.device)
                if compiled:
                    model.compile()
                steps[f"pcdiff {precision}{' compiled' if compiled else ''}"] = trainer.train_step
        times = interleaved(steps, args.repeats, warm_up=1)
        # It cannot be undone, so what it brings is timed last.
        keep_freed_memory()
        kept = interleaved(steps, args.repeats, warm_up=1)
        times |= {f"{name}, freed memory kept": values for name, values in kept.items()}
    baseline = statistics.median(times["plain fp32"])
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"batch {args.batch_size} x {args.num_points} points, {threads}")
    print("| step | median ms | steps/s | against plain |\n| --- | ---: | ---: | ---: |")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {median * 1e3:.0f} | {1 / median:.2f} | {baseline / median:.2f} x |")


if __name__ == "__main__":
    cli.run(main)
