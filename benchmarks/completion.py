"""Train a completion model for some minutes, then complete real clouds from a part of their points.

Beside it stand what memory alone gives, the training cloud that fits the given points best, and what a generator of
the same net and time makes of them without having been trained for it: by a constraint, and, where its net has
inducers, by their states. The completion model knows of a cloud's place and size what its given points tell; the
others are told those of the whole cloud.

A table, `results.json` and `completions.png` (given, three completions, truth, nearest training cloud) are written
into the folder. Called again, finished trainings are not repeated.

python benchmarks/completion.py --dataset-path chair_1024.hdf5 --minutes 40 --out runs/completion
python benchmarks/completion.py --dataset-path chair_1024.hdf5 --minutes 40 --out runs/completion --rule view

Flags behind `--` go to both trainings: `-- --net.width 192 --batch-size 48`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcdiff.data import PartialClouds, load_clouds, partial_set
from pcdiff.metrics import completion_scores, nearest_by_given
from pcdiff.metrics.columns import markdown
from pcdiff.models.completing import completions
from pcdiff.models.upsampling import has_inducers
from pcdiff.runtime.run_folder import write_json, write_text
from pcdiff.training.checkpoint import load, locate
from pcdiff.viz import save_completions

NORMALIZATION = "shape_unit_per_axis"
SCRIPT = Path(__file__).parent.parent / "train_gen.py"


def trained(folder: Path, flags: list[str]) -> Path:
    """Train a run in the folder, unless it is finished, and return the folder."""
    if (folder / "results.json").exists():
        return folder
    go_on = ["--resume", str(folder)] if (folder / "checkpoints" / "last.safetensors").exists() else []
    command = [sys.executable, str(SCRIPT), *(go_on or [*flags, "--out", str(folder)])]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)
    return folder


def restored(clouds: Tensor, denormalize: Callable[[Tensor, Iterable[int]], Tensor]) -> Tensor:
    """Return several clouds of each of a split's `(n, K, P, 3)` in the data set's own unit."""
    indices = range(len(clouds))
    return torch.stack([denormalize(clouds[:, k], indices) for k in range(clouds.shape[1])], dim=1)


def main() -> None:
    """Train, complete, score, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-path", type=Path, help="clouds (default: the built-in stand-in)")
    parser.add_argument("--categories", default="chair", help="category names (default: chair)")
    parser.add_argument("--out", type=Path, default=Path("runs/completion"), help="folder of all that is made")
    parser.add_argument("--minutes", type=float, default=40, help="of each training (default: 40)")
    parser.add_argument("--preset", default="set-cpu", help="of both trainings (default: set-cpu)")
    parser.add_argument("--rule", default="nearest", choices=("nearest", "view"), help="how clouds are cut")
    parser.add_argument("--removed", type=float, default=0.5, help="share that rule nearest removes (default: 0.5)")
    parser.add_argument("--num-given", type=int, default=256, help="points that the net is given (default: 256)")
    parser.add_argument("--train-points", type=int, default=512, help="points of a training cloud (default: 512)")
    parser.add_argument("--num-points", type=int, default=1024, help="points of a completed cloud (default: 1024)")
    parser.add_argument("--clouds", type=int, default=20, help="test clouds (default: 20)")
    parser.add_argument("--num-completions", type=int, default=3, help="of each cloud (default: 3)")
    parser.add_argument("--num-steps", type=int, help="of the samplers (default: the preset's)")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--no-mark", action="store_true", help="do not tell the net which points are given, as PVD")
    parser.add_argument("--no-constraint", action="store_true", help="leave the generator out")
    parser.add_argument("flags", nargs="*", help="further flags of both trainings, behind --")
    args = parser.parse_args()

    data = ["--categories", args.categories, "--normalization", NORMALIZATION]
    data += [] if args.dataset_path is None else ["--dataset-path", str(args.dataset_path)]
    common = ["--preset", args.preset, "--budget-minutes", str(args.minutes), *data, "--seed", str(args.seed)]
    common += [*args.flags, "--num-points", str(args.train_points), "--sample-points", str(args.num_points)]
    cut_flags = ["--num-given", str(args.num_given), "--partial.rule", args.rule]
    cut_flags += ["--partial.removed", str(args.removed), *([] if args.no_mark else ["--mark-given"])]
    runs = {"trained for it": trained(args.out / "completion", [*common, "--kind", "completion", *cut_flags])}
    if not args.no_constraint:
        runs["by a constraint"] = trained(args.out / "direct", [*common, "--kind", "direct"])

    asked = args.dataset_path, args.categories
    split = load_clouds(*asked, "test", NORMALIZATION)
    # scored with each whole cloud normalized, since a data set's clouds need not have one unit
    train = load_clouds(*asked, "train", NORMALIZATION).points
    # of rule nearest all that is left is given; of rule view as many as the net takes
    left = args.num_points - round(args.removed * args.num_points)
    known = max(args.num_given, left) if args.rule == "nearest" else args.num_given
    truth = clouds = split.points[: args.clouds, : args.num_points]
    # the same cuts in two frames: that of the given points, and that of the whole cloud
    frames = {
        name: partial_set(clouds, PartialClouds(known, args.rule, (args.removed,), normalization=mode), args.seed)
        for name, mode in (("trained for it", NORMALIZATION), ("others", None))
    }
    given = frames["others"].points[:, :known]

    rows: dict[str, dict[str, Any]] = {}
    made: dict[str, Tensor] = {}
    for name, folder in runs.items():
        model = load(locate(folder, "auto")).eval()
        methods = {name: None}
        if name == "by a constraint" and has_inducers(model.denoiser.net):
            methods["by inducers' states"] = "inducers"
        for label, method in methods.items():
            start = time.perf_counter()
            options: dict[str, Any] = {"method": method}
            if args.num_steps is not None:
                options["num_steps"] = args.num_steps
            frame = frames.get(label, frames["others"])
            drawn = completions(
                model, frame.points[:, :known], args.num_points, args.seed, args.num_completions, **options
            )
            seconds = time.perf_counter() - start
            made[label] = restored(drawn, frame.restore)
            rows[label] = completion_scores(completions=made[label], reference=truth, given=given)
            rows[label] |= {"seconds": seconds, "step": model.metadata["step"]}
            print(f"{label}: {seconds:.1f} s for {len(truth)} x {args.num_completions}", flush=True)
    nearest = nearest_by_given(given, train)
    fitting = train[nearest.index][:, : args.num_points]
    rows["nearest training cloud"] = completion_scores(
        completions=fitting, reference=truth, emd=fitting.shape == truth.shape
    )

    table = markdown([(name, row["scores"], None) for name, row in rows.items()])
    print(table)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    write_json(args.out / "results.json", {"settings": settings, "rows": rows, "given": known})
    write_text(args.out / "results.md", table + "\n")
    for name, drawn in made.items():
        picture = args.out / ("completions.png" if name == "trained for it" else f"{name.replace(' ', '-')}.png")
        title = f"{name}: {known} of {args.num_points} points given"
        save_completions(picture, given, drawn, truth, nearest_train=fitting, title=title)
        print(picture)
    print(json.dumps({name: row["scores"] for name, row in rows.items()}, indent=1))


if __name__ == "__main__":
    main()
