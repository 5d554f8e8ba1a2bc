"""Time the scores of two sets of clouds: ours against the usual loops, on the same clouds in one run.

PYTHONPATH=. python benchmarks/metrics.py # Chamfer scores at full size, EMD scores of 100 against 100 chairs

PYTHONPATH=. python benchmarks/metrics.py --only emd-large # 405 against 405 clouds of 2048 points
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import torch
from ops import bmm_matrix, by_scipy_assignment, where
from torch import Tensor

from pcdiff import ops
from pcdiff.commands import cli
from pcdiff.data import procedural
from pcdiff.metrics import normalize_bbox
from pcdiff.metrics._blocks import in_order
from pcdiff.metrics.generation import named, pairs_compared, score_by, scores_of
from pcdiff.metrics.neighbors import neighbors_in_matrices
from pcdiff.runtime import rng

ROOT = Path(__file__).resolve().parent.parent


def stand_ins(count: int, points: int) -> tuple[Tensor, Tensor]:
    """Return built-in airplanes, `count` of the training and `count` of the test stream."""
    sets = (procedural.shape_clouds("airplane", split, count, num_points=points) for split in ("train", "test"))
    return tuple(normalize_bbox(torch.from_numpy(clouds)) for clouds in sets)


def chairs(path: Path, count: int, points: int) -> tuple[Tensor, Tensor]:
    """Return real chairs: training ones, and test ones as far as there are, then further training ones.

    Clouds of fewer points than wanted get points halfway between one of theirs and one of its eight nearest.
    """
    with h5py.File(path, "r") as file:
        (category,) = file.values()
        train, test = (torch.from_numpy(category[split][:]) for split in ("train", "test"))
    reference = torch.cat([test, train[count:]])[:count]
    return tuple(
        normalize_bbox(resampled(clouds, points, seed)) for seed, clouds in enumerate((train[:count], reference))
    )


def resampled(clouds: Tensor, points: int, seed: int) -> Tensor:
    """Return clouds `(n, P, 3)` as `(n, points, 3)`: cut, or filled up with midpoints of neighbors."""
    missing = points - clouds.shape[1]
    if missing <= 0:
        return clouds[:, :points]
    draws = rng.generator(seed, "resampled")
    shape = (len(clouds), missing)
    chosen = torch.randint(clouds.shape[1], shape, generator=draws)
    neighbor = torch.randint(1, 9, shape, generator=draws)
    index = ops.knn(clouds, clouds, 9).index
    partner = index.gather(1, chosen[..., None].expand(-1, -1, 9)).gather(2, neighbor[..., None])[..., 0]
    ends = [clouds.gather(1, place[..., None].expand(-1, -1, 3)) for place in (chosen, partner)]
    return torch.cat([clouds, (ends[0] + ends[1]) / 2], dim=1)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `run` returns and the seconds it took."""
    start = time.perf_counter()
    found = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


def trio(samples: Tensor, reference: Tensor, distance: str, quiet: bool = False) -> tuple[dict, dict]:
    """Return MMD, COV and 1-NNA by one distance, and the details; a line a minute shows the progress."""
    total, done, shown = pairs_compared(len(samples)), 0, time.monotonic()

    def progress(pairs: int) -> None:
        nonlocal done, shown
        done += pairs
        if not quiet and time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(f"    {done:,} of {total:,} pairs", flush=True)

    scores, details = score_by(samples, reference, [distance], in_order, "", progress)
    return named(scores), details[distance.upper()]


def show(what: str, seconds: float, ratio: float | None = None) -> None:
    print(f"  {what:<58}{seconds:>11.2f} s" + (f"{ratio:>10.1f} x" if ratio else ""), flush=True)


def bench_cd(args: argparse.Namespace, sets: dict[str, tuple[Tensor, Tensor]]) -> None:
    """MMD, COV and 1-NNA by the Chamfer distance; the loop of bmm forms gets a slice, scaled up by pairs."""
    for name, (samples, reference) in sets.items():
        count = len(samples)
        print(f"\nCD scores, {name}: {count} against {count} clouds of {samples.shape[1]} points")
        (scores, _), ours = timed(lambda s=samples, r=reference: trio(s, r, "cd"))
        part = samples[: args.slice]
        loop, taken = timed(lambda p=part: bmm_matrix(p, 32))
        torch.testing.assert_close(loop.fill_diagonal_(0), ops.pairwise(part), rtol=1e-3, atol=1e-5)
        # The peers' loops compare every cloud with every other one of both sets, three whole matrices.
        scaled = taken * 3 * count**2 / len(part) ** 2
        show(f"bmm form, 32 clouds at a time ({len(part)} x {len(part)}, scaled)", scaled, scaled / ours)
        show("pcdiff", ours, 1.0)
        print(f"    {scores}")


def bench_emd(args: argparse.Namespace, sets: dict[str, tuple[Tensor, Tensor]]) -> None:
    """MMD, COV and 1-NNA by the exact EMD: the search against whole matrices, and against SciPy on a slice."""
    for name, (samples, reference) in sets.items():
        count, pairs = len(samples), pairs_compared(len(samples))
        print(f"\nEMD scores, {name}: {count} against {count} clouds of {samples.shape[1]} points")
        (scores, details), ours = timed(lambda s=samples, r=reference: trio(s, r, "emd"))

        def brute_force(s: Tensor = samples, r: Tensor = reference) -> dict:
            matrices = (ops.pairwise(a, b, "emd-exact") for a, b in ((s, r), (r, None), (s, None)))
            return named({"EMD": scores_of(neighbors_in_matrices(*matrices))})

        whole, taken = timed(brute_force)
        assert whole == scores, (whole, scores)
        _, by_scipy = timed(lambda s=samples, r=reference: by_scipy_assignment(s[:8], r[:8], args.threads))
        scaled = by_scipy / 8 * pairs
        show(f"SciPy linear_sum_assignment, {args.threads} threads (8 pairs, scaled)", scaled, scaled / ours)
        show("pcdiff, every pair solved", taken, taken / ours)
        show("pcdiff, by search", ours, 1.0)
        print(f"    {scores}, equal to those of every pair solved\n    {details}")


def bench_emd_large(args: argparse.Namespace, sets: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Time the search at full size; every pair solved is estimated from 16 of them."""
    for name, (samples, reference) in sets.items():
        count, pairs = len(samples), pairs_compared(len(samples))
        print(f"\nEMD scores, {name}: {count} against {count} clouds of {samples.shape[1]} points")
        (scores, details), ours = timed(lambda s=samples, r=reference: trio(s, r, "emd"))
        _, taken = timed(lambda s=samples, r=reference: ops.emd(s[:16], r[:16], "exact"))
        show("pcdiff, every pair solved (16 pairs, scaled)", taken / 16 * pairs, taken / 16 * pairs / ours)
        show("pcdiff, by search", ours, 1.0)
        print(f"    {scores}\n    {details}", flush=True)


BENCHES = {"cd": bench_cd, "emd": bench_emd, "emd-large": bench_emd_large}


def main() -> None:
    """Run the comparisons."""
    shared = Path(os.environ.get("PCDIFF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description="Time the scores of sets of clouds.")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=["cd", "emd"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clouds", type=int, default=405, help="clouds in each set, at full size")
    parser.add_argument("--points", type=int, default=2048, help="points of a cloud, at full size")
    parser.add_argument("--slice", type=int, default=12, help="clouds that the bmm loop gets")
    parser.add_argument("--chairs", type=Path, default=shared / "modelnet10" / "chair_1024.hdf5")
    parser.add_argument("--data", nargs="+", choices=("airplanes", "chairs"), default=["airplanes", "chairs"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(where(args))
    has_chairs = "chairs" in args.data and args.chairs.is_file()
    if "chairs" in args.data and not has_chairs:
        print(f"no real chairs: {args.chairs} is not there (--chairs)")
    for name in args.only:
        count, points = (100, 1024) if name == "emd" else (args.clouds, args.points)
        sets = {}
        if "airplanes" in args.data:
            sets["built-in airplanes"] = stand_ins(count, points)
        if has_chairs:
            sets["real chairs"] = chairs(args.chairs, count, points)
        sets = {key: tuple(clouds.to(args.device) for clouds in pair) for key, pair in sets.items()}
        BENCHES[name](args, sets)


if __name__ == "__main__":
    cli.run(main)
