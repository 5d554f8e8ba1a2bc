"""Point-cloud distances: pcdiff against the usual ways to compute them, on the same clouds in one run.

    python benchmarks/ops.py [--only chamfer emd ...] [--points 2048] [--threads 2] [--device cpu]

The clouds are surfaces of random ellipsoids, as the shapes of the field are: hollow, thin, and overlapping.
`--blobs` takes Gaussian blobs instead, which fill space and leave a search less to skip. Baseline and pcdiff take
turns, so that a slow minute of the machine hits both; the figures are medians, and the ratio is one of medians.
Before timing, every baseline's result is compared with ours.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from pcdiff import ops
from pcdiff.commands import cli
from pcdiff.ops import _native, reference

Run = Callable[[], object]


def surfaces(count: int, points: int, blobs: bool, seed: int) -> torch.Tensor:
    """Return `(count, points, 3)` points on ellipsoids with half-axes in [0.3, 1], or Gaussian blobs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, points, 3, generator=generator)
    if not blobs:
        x = x / x.norm(dim=-1, keepdim=True)
    return x * (0.3 + 0.7 * torch.rand(count, 1, 3, generator=generator))


def by_bmm(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute |x|^2 + |y|^2 - 2 x.y by a matrix product, as most published code does; it cancels."""
    d = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None, :] - 2 * torch.bmm(x, y.mT)
    return d.min(2).values.mean(1) + d.min(1).values.mean(1)


def by_cdist(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute the N x M distances with `torch.cdist`."""
    d = torch.cdist(x, y)
    return d.min(2).values.square().mean(1) + d.min(1).values.square().mean(1)


def by_trees(x: torch.Tensor, y: torch.Tensor, threads: int) -> torch.Tensor:
    """Build and query two SciPy k-d trees a pair, pairs spread over threads; no gradient."""

    def one(pair) -> float:
        a, b = pair
        there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
        return (there**2).mean() + (back**2).mean()

    with ThreadPoolExecutor(threads) as pool:
        return torch.tensor(list(pool.map(one, zip(x.numpy(), y.numpy(), strict=True))))


def by_scipy_assignment(x: torch.Tensor, y: torch.Tensor, threads: int) -> torch.Tensor:
    """Solve the assignment on the float64 distance matrix, pairs spread over threads."""

    def one(pair) -> float:
        distance = cdist(*pair)
        return distance[linear_sum_assignment(distance)].mean()

    with ThreadPoolExecutor(threads) as pool:
        return torch.tensor(list(pool.map(one, zip(x.double().numpy(), y.double().numpy(), strict=True))))


def bmm_matrix(xs: torch.Tensor, at_once: int) -> torch.Tensor:
    """Return the Chamfer matrix the way the peers' metrics loop: each cloud against `at_once` others at a time."""
    rows = []
    for x in xs:
        parts = [by_bmm(x.expand(len(ys), -1, -1), ys) for ys in xs.split(at_once)]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def ball_by_cdist(x: torch.Tensor, y: torch.Tensor, radius: float, k: int) -> torch.Tensor:
    """Find the first k within a radius as PointNet++ is usually written in plain PyTorch: all distances, a sort."""
    none = y.shape[1]
    place = torch.arange(none, device=x.device).expand(*x.shape[:2], none).clone()
    place[torch.cdist(x, y) >= radius] = none
    found = place.sort(dim=2).values[..., :k]
    first = found[..., :1]
    return torch.where(found == none, torch.where(first == none, 0, first), found)


def voxel_index(coords: torch.Tensor, resolution: int) -> torch.Tensor:
    """Return the voxel of each point, `(B, N)`."""
    x, y, z = coords.round().long().unbind(2)
    return (x * resolution + y) * resolution + z


def mean_by_index_add(features: torch.Tensor, coords: torch.Tensor, resolution: int) -> torch.Tensor:
    """Average per voxel over rows of all clouds: sums by `index_add`, divided by counts; channels last."""
    cells, index = resolution**3, voxel_index(coords, resolution)
    flat = (index + cells * torch.arange(len(index), device=index.device)[:, None]).flatten()
    rows = features.flatten(0, 1)
    total = rows.new_zeros(len(index) * cells, rows.shape[1]).index_add(0, flat, rows)
    count = rows.new_zeros(len(total)).index_add(0, flat, rows.new_ones(len(rows)))
    mean = total / count.clamp(min=1)[:, None]
    return mean.unflatten(0, (-1, *[resolution] * 3)).movedim(-1, 1)


def mean_by_scatter_add(features: torch.Tensor, coords: torch.Tensor, resolution: int) -> torch.Tensor:
    """Average per voxel with channels first: sums by `scatter_add`, divided by counts."""
    cells, index = resolution**3, voxel_index(coords, resolution)
    rows = features.transpose(1, 2)
    total = rows.new_zeros(*rows.shape[:2], cells).scatter_add(2, index[:, None].expand(rows.shape), rows)
    count = rows.new_zeros(len(rows), cells).scatter_add(1, index, torch.ones_like(rows[:, 0]))
    return (total / count.clamp(min=1)[:, None]).unflatten(2, (resolution,) * 3)


def values_by_grid_sample(grid: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    """Read a grid trilinearly with `grid_sample`, whose axes are z, y, x in [-1, 1]."""
    places = (coords * (2 / (grid.shape[2] - 1)) - 1).flip(2)[:, :, None, None]
    values = torch.nn.functional.grid_sample(grid, places, align_corners=True, padding_mode="border")
    return values.flatten(2).transpose(1, 2)


def interpolated_by_cdist(x: torch.Tensor, y: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Interpolate from three neighbors found among all distances."""
    near, index = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").topk(3, largest=False)
    weights = 1 / near.square().clamp(1e-10, 1e10)
    return (ops.gather_points(features, index) * (weights / weights.sum(2, keepdim=True))[..., None]).sum(2)


def seconds(run: Run, device: str) -> float:
    """Return the wall time of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    title: str, runs: dict[str, Run], repeats: int, device: str, scale: dict[str, float] | None = None
) -> None:
    """Time the runs in turns and print their medians; "pcdiff" must be among them. `scale` multiplies a time."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            taken = seconds(run, device)
            if turn:  # the first turn warms up
                times[name].append(taken * (scale or {}).get(name, 1))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n{title}")
    for name, median in medians.items():
        print(f"  {name:<34}{1e3 * median:>12.2f} ms {median / medians['pcdiff']:>9.1f} x", flush=True)


def bench_chamfer(args: argparse.Namespace) -> None:
    """Chamfer distance of a batch, forward, and forward with backward."""
    x, y = (surfaces(args.batch, args.points, args.blobs, args.seed + s).to(args.device) for s in (0, 1))
    ours = ops.chamfer(x, y)
    for baseline in (by_bmm(x, y), by_cdist(x, y)):
        torch.testing.assert_close(baseline, ours, rtol=1e-3, atol=1e-5)
    runs: dict[str, Run] = {"bmm form": lambda: by_bmm(x, y), "torch.cdist": lambda: by_cdist(x, y)}
    if args.device == "cpu":
        torch.testing.assert_close(by_trees(x, y, args.threads).float(), ours, rtol=1e-3, atol=1e-5)
        runs[f"SciPy k-d trees, {args.threads} threads"] = lambda: by_trees(x, y, args.threads)
    runs["pcdiff"] = lambda: ops.chamfer(x, y)
    size = f"{args.batch} pairs of {args.points} points"
    compare(f"Chamfer forward, {size}", runs, args.repeats, args.device)

    gx, gy = x.clone().requires_grad_(), y.clone().requires_grad_()
    backward = {
        name: lambda f=f: torch.autograd.grad(f(gx, gy).sum(), (gx, gy))
        for name, f in {"bmm form": by_bmm, "torch.cdist": by_cdist, "pcdiff": ops.chamfer}.items()
    }
    compare(f"Chamfer forward and backward, {size}", backward, args.repeats, args.device)


def bench_emd(args: argparse.Namespace) -> None:
    """Certified and exact earth mover's distance of a batch of 8; on CUDA of 1,000 pairs, certified."""
    count = 8 if args.device == "cpu" else 1000
    x, y = (surfaces(count, args.points, args.blobs, args.seed + s).to(args.device) for s in (2, 3))
    result = ops.emd(x, y)
    gap = (result.cost - result.lower_bound) / result.cost
    if args.device != "cpu":
        taken = statistics.median(seconds(lambda: ops.emd(x, y), args.device) for _ in range(3))
        print(f"\nEMD, {count} pairs of {args.points} points: {1e3 * taken / count:.3f} ms a pair")
        print(f"  certified gap at most {gap.max():.2e}")
        return
    optimum = by_scipy_assignment(x, y, args.threads)
    torch.testing.assert_close(ops.emd(x, y, method="exact").cost.double(), optimum, rtol=1e-6, atol=0)
    assert (gap <= 1e-3).all()
    assert (result.lower_bound <= optimum * (1 + 1e-6)).all()
    runs = {
        "SciPy linear_sum_assignment": lambda: by_scipy_assignment(x, y, 1),
        f"the same, {args.threads} threads": lambda: by_scipy_assignment(x, y, args.threads),
        "pcdiff, exact": lambda: ops.emd(x, y, method="exact"),
        "pcdiff": lambda: ops.emd(x, y),
    }
    title = f"EMD, {count} pairs of {args.points} points; certified gap of the last row at most {gap.max():.1e}"
    compare(title, runs, max(1, args.repeats // 3), args.device)


def bench_pairwise(args: argparse.Namespace) -> None:
    """Chamfer matrix of a set with itself. The baselines get a slice of it; their times are scaled by pairs.

    Like the metrics of the peers, the baselines do not make use of the symmetry.
    """
    xs = surfaces(args.set, args.points, args.blobs, args.seed + 4).to(args.device)
    part = xs[: args.slice]
    want = ops.pairwise(part)
    for at_once in (32, 1):
        got = bmm_matrix(part, at_once).fill_diagonal_(0)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)
    runs = {
        "bmm form, 32 clouds at a time": lambda: bmm_matrix(part, 32),
        "bmm form, a pair at a time": lambda: bmm_matrix(part, 1),
        "pcdiff": lambda: ops.pairwise(xs),
    }
    scale = dict.fromkeys(runs, (args.set / args.slice) ** 2) | {"pcdiff": 1.0}
    title = f"all pairs of {args.set} clouds of {args.points} points (baselines: {args.slice} clouds, scaled up)"
    compare(title, runs, max(2, args.repeats // 3), args.device, scale)
    if args.device == "cuda":
        pairs = args.set * (args.set - 1) // 2
        taken = statistics.median(seconds(lambda: ops.pairwise(xs), args.device) for _ in range(5))
        print(f"  {8 * pairs * args.points**2 / taken / 1e12:.1f} TFLOP/s counting 8 flops a point pair")


def bench_million(args: argparse.Namespace) -> None:
    """Nearest neighbors between two clouds of a million points, both directions, trees built in the time.

    The clouds are two samplings of one surface, as two scans are. (Between two surfaces of different shape SciPy's
    trees did not end within nine minutes, ours within two seconds.)
    """
    x, y = surfaces(1, 2 * args.million, args.blobs, args.seed + 5).to(args.device).chunk(2, dim=1)

    def trees() -> tuple[np.ndarray, np.ndarray]:
        a, b = x[0].numpy(), y[0].numpy()
        return cKDTree(b).query(a, workers=args.threads)[0], cKDTree(a).query(b, workers=args.threads)[0]

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        return ops.nearest(x, y).squared_distance, ops.nearest(y, x).squared_distance

    # Before SciPy has run: the process's peak never falls.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    clouds = 2 * x.numel() * x.element_size()
    print(f"\nmemory on top of the two clouds' {clouds / 2**20:.0f} MB: {grown / 2**10:.0f} MB at most")
    runs: dict[str, Run] = {"pcdiff": ours}
    if args.device == "cpu":
        for got, want in zip(ours(), trees(), strict=True):
            torch.testing.assert_close(got[0].double().sqrt(), torch.from_numpy(want), rtol=1e-4, atol=1e-7)
        runs = {f"SciPy cKDTree(workers={args.threads})": trees} | runs
    compare(f"nearest, {args.million:,} x {args.million:,} points, both directions", runs, 3, args.device)


def bench_hard(args: argparse.Namespace) -> None:
    """Certified and exact EMD of single pairs that are hard in different ways, beside SciPy's exact one."""
    n, generator = args.points, torch.Generator().manual_seed(args.seed + 7)
    x, y = torch.randn(2, n, 3, generator=generator).unbind(0)
    one = surfaces(1, 2 * n, False, args.seed + 8)[0]
    centers = torch.randn(16, 3, generator=generator).repeat_interleave(-(-n // 8), dim=0)
    line = torch.tensor([1.0, 0.0, 0.0])
    pairs = {
        "two samplings of one surface": one.chunk(2),
        "Gaussian blobs": (x, y),
        "eight tight clusters": [c[:n] + 1e-3 * z for c, z in zip(centers.chunk(2), (x, y), strict=True)],
        "rounded to a grid": ((2 * x).round(), (2 * y).round()),
        "on a line": (x * line, y * line),
        "five apart": (one[:n], surfaces(1, n, False, args.seed + 9)[0] + 5 * line),
    }
    for name, pair in pairs.items():
        a, b = (cloud[None].to(args.device) for cloud in pair)
        runs: dict[str, Run] = {"pcdiff, exact": lambda a=a, b=b: ops.emd(a, b, method="exact")}
        if args.device == "cpu":
            runs = {"SciPy linear_sum_assignment": lambda a=a, b=b: by_scipy_assignment(a, b, 1)} | runs
        compare(f"EMD, {name}", runs | {"pcdiff": lambda a=a, b=b: ops.emd(a, b)}, 1, args.device)


def bench_others(args: argparse.Namespace) -> None:
    """Time the other ops, a pair at a time: no baseline but SciPy's trees for the neighbors."""
    x, y = (surfaces(1, args.points, args.blobs, args.seed + s).to(args.device) for s in (10, 11))
    runs: dict[str, Run] = {"pcdiff": lambda: ops.knn(x, y, 8)}
    if args.device == "cpu":
        a, b = x[0].numpy(), y[0].numpy()
        runs = {"SciPy k-d tree": lambda: cKDTree(b).query(a, k=8, workers=args.threads)} | runs
    compare("8 nearest neighbors", runs, args.repeats, args.device)
    for k in (args.points // 8, args.points // 4, args.points // 2):  # about where sorting begins to be less work
        ways: dict[str, Run] = {
            "cdist and topk": lambda k=k: torch.cdist(x, y).topk(k, largest=False),
            "sorted list": lambda k=k: _native.call("knn", k, None, None, x=x, y=y),
            "stable sort": lambda k=k: reference.knn(x, y, k),
            "pcdiff": lambda k=k: ops.knn(x, y, k),
        }
        if not _native.has_kernels(x.device):
            del ways["sorted list"]
        compare(f"{k} nearest neighbors", ways, args.repeats, args.device)
    single: dict[str, Run] = {
        "512 farthest points": lambda: ops.farthest_point_sample(x, min(512, args.points)),
        "approxmatch-pointflow": lambda: ops.emd(x, y, method="approxmatch-pointflow"),
        "sinkhorn, tolerance 1e-2": lambda: ops.emd(x, y, method="sinkhorn", tolerance=1e-2),
    }
    for name, run in single.items():
        compare(name, {"pcdiff": run}, 3, args.device)


def bench_voxels(args: argparse.Namespace) -> None:
    """Time the ops of a point-voxel net on 16 clouds, beside each in plain PyTorch."""
    count, channels = 16, 64
    x = surfaces(count, args.points, args.blobs, args.seed + 12).to(args.device)
    generator = torch.Generator().manual_seed(args.seed + 13)
    features = torch.randn(count, args.points, channels, generator=generator).to(args.device).requires_grad_()
    size = f"{count} clouds of {args.points} points"
    centers = ops.gather_points(x, ops.farthest_point_sample(x, args.points // 2))
    for radius in (0.1, 0.4):  # few and many inside
        assert torch.equal(reference.ball_query(centers, x, radius, 32), ops.ball_query(centers, x, radius, 32))
        balls: dict[str, Run] = {
            "differences, mask, sort": lambda r=radius: reference.ball_query(centers, x, r, 32),
            "torch.cdist, mask, sort": lambda r=radius: ball_by_cdist(centers, x, r, 32),
            "pcdiff": lambda r=radius: ops.ball_query(centers, x, r, 32),
        }
        title = f"ball query, {size}, {args.points // 2} centers, radius {radius}, 32 neighbors"
        compare(title, balls, args.repeats, args.device)

    for resolution in (32, 16):
        coords = ops.voxel_coordinates(x, resolution)
        ways = {"index_add": mean_by_index_add, "scatter_add": mean_by_scatter_add, "pcdiff": ops.voxelize}
        for way in ways.values():
            torch.testing.assert_close(
                way(features, coords, resolution), ops.voxelize(features, coords, resolution)
            )
        grid = ops.voxelize(features, coords, resolution).detach()
        with torch.no_grad():
            forward: dict[str, Run] = {
                n: lambda f=f, r=resolution, c=coords: f(features, c, r) for n, f in ways.items()
            }
            compare(f"voxelize, {size}, {channels} channels, {resolution}^3", forward, args.repeats, args.device)
        both: dict[str, Run] = {
            n: lambda f=f, r=resolution, c=coords, g=grid: torch.autograd.grad(f(features, c, r), features, g)
            for n, f in ways.items()
        }
        compare(f"voxelize {resolution}^3, forward and backward", both, args.repeats, args.device)

        leaf = grid.requires_grad_()
        reads = {"grid_sample": values_by_grid_sample, "pcdiff": ops.devoxelize}
        for way in reads.values():
            torch.testing.assert_close(way(leaf, coords), ops.devoxelize(leaf, coords), rtol=1e-4, atol=1e-4)
        values: dict[str, Run] = {
            n: lambda f=f, c=coords, g=leaf: torch.autograd.grad(f(g, c), g, features.detach())
            for n, f in reads.items()
        }
        compare(f"devoxelize {resolution}^3, forward and backward", values, args.repeats, args.device)

    coarse = features[:, : args.points // 2]
    got, want = interpolated_by_cdist(x, centers, coarse), ops.three_nn_interpolate(x, centers, coarse)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    interpolations: dict[str, Run] = {
        "torch.cdist and topk": lambda: interpolated_by_cdist(x, centers, coarse),
        "pcdiff": lambda: ops.three_nn_interpolate(x, centers, coarse),
    }
    title = f"three nearest of {args.points // 2}, {size}, {channels} channels"
    compare(title, interpolations, args.repeats, args.device)


BENCHES = {
    "chamfer": bench_chamfer,
    "emd": bench_emd,
    "pairwise": bench_pairwise,
    "million": bench_million,
    "hard": bench_hard,
    "others": bench_others,
    "voxels": bench_voxels,
}


def where(args: argparse.Namespace) -> str:
    """Return what the figures depend on: backend, versions, machine, threads, commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    return (
        f"backend {ops.backend(args.device)} {ops.cpu_capabilities()[-1:]}, torch {torch.__version__}, {machine}, "
        f"{args.threads} thread(s), commit {commit or 'unknown'}"
    )


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description="Time the ops against the usual ways.")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", type=int, default=100, help="clouds in the matrix of all pairs")
    parser.add_argument("--slice", type=int, default=12, help="clouds of it that the baselines get")
    parser.add_argument("--million", type=int, default=1_000_000, help="points of the two large clouds")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blobs", action="store_true", help="Gaussian blobs instead of surfaces")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{where(args)}, seed {args.seed}")
    for name in args.only:
        BENCHES[name](args)


if __name__ == "__main__":
    cli.run(main)
