"""Train presets for equal times on this machine, one after another, and score each over several sampling seeds.

Every training plans its steps for the minutes it has (`--budget-minutes`), so that rate and average end with the
time. Scores are the protocol `dpm`'s, as `evaluate.py` gives them, with their spread over the seeds.

python benchmarks/equal_clock.py --dataset-path chair_1024.hdf5 --categories chair --presets cpu set-cpu \
    --minutes 40 --seeds 8 --out runs/equal_clock
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from pcdiff.commands import cli

ROOT = Path(__file__).resolve().parent.parent
SCORES = ("MMD-CD", "COV-CD", "1-NNA-CD", "MMD-EMD", "COV-EMD", "1-NNA-EMD")
FIRST_SEED = 2020


def program(name: str, *flags: object) -> None:
    """Run a script of the project; its output goes where ours goes."""
    subprocess.run([sys.executable, name, *map(str, flags)], cwd=ROOT, check=True)


def train(entry: str, args: argparse.Namespace, out: Path) -> Path:
    """Train a preset, with flags of its own behind a colon; return the run's folder."""
    preset, _, flags = entry.partition(":")
    run = out / entry.replace(":", "_").replace(" ", "").replace("--", "-")
    if not (run / "config.json").exists():
        data = ["--dataset-path", args.dataset_path, "--categories", *args.categories]
        budget = ["--budget-minutes", args.minutes, "--seed", args.training_seed]
        program("train_gen.py", "--preset", preset, *data, *budget, "--out", run, *flags.split())
    return run


def score(run: Path, args: argparse.Namespace, seed: int, steps: int | None) -> dict[str, float]:
    """Return a run's scores for one sampling seed, by name."""
    out = run / f"seed-{seed}" if steps is None else run / f"seed-{seed}-steps-{steps}"
    found = out / "evaluation.json"
    if not found.exists():
        few = [] if steps is None else ["--num-steps", steps]
        if args.sampler is not None and steps is not None:
            few += ["--sampler", args.sampler]
        program(
            "evaluate.py", "--run", run, "--out", out, "--num-points", args.num_points, "--emd", "yes",
            "--seed", seed, "--resamples", 0, *few,
        )  # fmt: skip
    return json.loads(found.read_text())["scores"]


def main() -> None:
    """Print a row of means and standard deviations for each preset, and for each number of sampling steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-path", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", required=True)
    presets = "presets of train_gen.py, each with flags of its own behind a colon: 'cpu:--lr 1e-3'"
    parser.add_argument("--presets", nargs="+", default=["cpu", "set-cpu"], help=presets)
    parser.add_argument("--minutes", type=float, default=40, help="of each training (default: 40)")
    parser.add_argument("--training-seed", type=int, default=2020, help="(default: 2020)")
    parser.add_argument("--seeds", type=int, default=8, help="sampling seeds from 2020 up (default: 8)")
    parser.add_argument("--num-points", type=int, default=512, help="points that are compared (default: 512)")
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[], help="numbers of sampling steps, beside the own"
    )
    parser.add_argument("--sampler", help="sampler of those numbers of steps; the run's own by default")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the runs; what is there is not done again"
    )
    args = parser.parse_args()
    args.dataset_path = args.dataset_path.resolve()
    out = args.out.resolve()
    runs = {entry: train(entry, args, out) for entry in args.presets}
    rows = []
    for entry, run in runs.items():
        for steps in (None, *args.steps):
            seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
            results = [score(run, args, seed, steps) for seed in seeds]
            cells = [[result[name] for result in results] for name in SCORES]
            spread = [statistics.stdev(cell) if len(cell) > 1 else 0.0 for cell in cells]
            means = [f"{statistics.mean(cell):.4g} +- {s:.2g}" for cell, s in zip(cells, spread, strict=True)]
            rows.append([f"{entry}{'' if steps is None else f', {steps} steps'}", *means])
    print(f"| preset, {args.minutes:g} min | {' | '.join(SCORES)} |")
    print("| --- |" + " ---: |" * len(SCORES))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    cli.run(main)
