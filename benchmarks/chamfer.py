"""Chamfer distance: pcdiff against the usual ways to compute it, on the same clouds in one run.

    python benchmarks/chamfer.py [--points 2048] [--threads 1] [--set 100] [--repeats 9]

The clouds are surfaces of random ellipsoids, as the shapes of the field are: hollow, thin, and overlapping.
`--blobs` takes Gaussian blobs instead, which fill space and leave a search less to skip. The figures are medians;
the ratio is the baseline's time over ours. Before timing, every baseline's result is compared with ours.
"""

import argparse
import platform
import statistics
import time

import torch
from scipy.spatial import cKDTree

from pcdiff import ops


def surfaces(count: int, points: int, blobs: bool, generator: torch.Generator) -> torch.Tensor:
    """Return `(count, points, 3)` points on ellipsoids with half-axes in [0.3, 1], or Gaussian blobs."""
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


def by_trees(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Build and query two SciPy k-d trees a pair; no gradient."""
    values = []
    for a, b in zip(x.numpy(), y.numpy(), strict=True):
        there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
        values.append((there**2).mean() + (back**2).mean())
    return torch.tensor(values)


def trees_matrix(xs: torch.Tensor) -> torch.Tensor:
    """Return the upper triangle of the matrix with one SciPy k-d tree for each cloud."""
    clouds = xs.numpy()
    trees = [cKDTree(cloud) for cloud in clouds]
    out = torch.zeros(len(xs), len(xs))
    for i in range(len(xs)):
        for j in range(i + 1, len(xs)):
            there, back = trees[j].query(clouds[i])[0], trees[i].query(clouds[j])[0]
            out[i, j] = (there**2).mean() + (back**2).mean()
    return out


def rows_matrix(chamfer, xs: torch.Tensor) -> torch.Tensor:
    """Return the upper triangle, a pair at a time, which keeps the N x M distances in cache."""
    out = torch.zeros(len(xs), len(xs))
    for i in range(len(xs)):
        for j in range(i + 1, len(xs)):
            out[i, j] = chamfer(xs[i : i + 1], xs[j : j + 1])[0]
    return out


def median_ms(run, repeats: int) -> float:
    """Return the median wall time of `run()` in milliseconds, after one run to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def report(title: str, times: dict[str, float]) -> None:
    """Print one table; "pcdiff" must be among the rows."""
    print(f"\n{title}")
    for name, ms in times.items():
        print(f"  {name:<24}{ms:>12.2f} ms {ms / times['pcdiff']:>10.1f} x")


def main() -> None:
    """Run the three comparisons."""
    parser = argparse.ArgumentParser(description="Time the Chamfer distance against its usual forms.")
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", type=int, default=100, help="clouds in the matrix of all pairs")
    parser.add_argument("--baseline-set", type=int, default=12, help="clouds of it that the baselines get")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blobs", action="store_true", help="Gaussian blobs instead of surfaces")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(args.seed)
    print(
        f"backend {ops.backend()} {ops.cpu_capabilities()[-1:]}, torch {torch.__version__}, "
        f"{platform.machine()}, {args.threads} thread(s), seed {args.seed}, {vars(args)}"
    )

    x = surfaces(1, args.points, args.blobs, generator)
    y = surfaces(1, args.points, args.blobs, generator)
    baselines = {"bmm": by_bmm, "cdist": by_cdist, "SciPy k-d trees": by_trees}
    for baseline in baselines.values():
        torch.testing.assert_close(baseline(x, y).float(), ops.chamfer(x, y), rtol=1e-3, atol=1e-5)

    forward = {name: median_ms(lambda f=f: f(x, y), args.repeats) for name, f in baselines.items()}
    forward["pcdiff"] = median_ms(lambda: ops.chamfer(x, y), args.repeats)
    report(f"forward, one pair of {args.points} points", forward)

    gx, gy = x.clone().requires_grad_(), y.clone().requires_grad_()
    both = {
        name: median_ms(lambda f=f: torch.autograd.grad(f(gx, gy).sum(), (gx, gy)), args.repeats)
        for name, f in {"bmm": by_bmm, "cdist": by_cdist, "pcdiff": ops.chamfer}.items()
    }
    report(f"forward and backward, one pair of {args.points} points", both)

    # The baselines would take minutes on the whole set: they get a part, and their times are scaled by pairs.
    size, part = args.set, min(args.set, args.baseline_set)
    xs = surfaces(size, args.points, args.blobs, generator)
    scale = size * (size - 1) / (part * (part - 1))
    slow = {"bmm": lambda: rows_matrix(by_bmm, xs[:part]), "cdist": lambda: rows_matrix(by_cdist, xs[:part])}
    slow["SciPy k-d trees"] = lambda: trees_matrix(xs[:part])
    want = ops.pairwise(xs[:part]).triu()
    for run in slow.values():
        torch.testing.assert_close(run(), want, rtol=1e-3, atol=1e-5)
    matrix = {name: median_ms(run, 1) * scale for name, run in slow.items()}
    matrix["pcdiff"] = median_ms(lambda: ops.pairwise(xs), max(1, args.repeats // 3))
    report(f"all pairs of {size} clouds (baselines scaled up from {part})", matrix)
    print(f"  pcdiff per pair: {matrix['pcdiff'] / (size * (size - 1) / 2):.3f} ms")


if __name__ == "__main__":
    main()
