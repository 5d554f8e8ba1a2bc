"""The exact earth mover's distance: optimality, gradients, worker processes."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck

from pcdiff import ops
from pcdiff.ops import _assignment, _workers


def clouds(batch, n, dim, seed, dtype=torch.float64):
    return torch.randn(batch, n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_no_permutation_is_cheaper(dim):
    x, y = clouds(2, 6, dim, 0), clouds(2, 6, dim, 1)
    cost, assignment, lower_bound = ops.emd(x, y)
    for b in range(2):
        distances = torch.cdist(x[b], y[b], compute_mode="donot_use_mm_for_euclid_dist")
        best = min(sum(distances[i, j].item() for i, j in enumerate(p)) for p in itertools.permutations(range(6)))
        assert cost[b].item() == pytest.approx(best / 6, rel=1e-12)
        assert sorted(assignment[b].tolist()) == list(range(6))
    assert torch.equal(lower_bound, cost)


def test_on_a_line_the_sorted_points_match():
    x, y = clouds(3, 50, 1, 2), clouds(3, 50, 1, 3)
    want = (x.sort(dim=1).values - y.sort(dim=1).values).abs().mean(dim=(1, 2))
    torch.testing.assert_close(ops.emd(x, y).cost, want)


def test_metric_properties():
    x, y, z = (clouds(2, 30, 3, s) for s in (4, 5, 6))
    g = torch.Generator().manual_seed(0)
    there = ops.emd(x, y).cost
    torch.testing.assert_close(ops.emd(y, x).cost, there)
    torch.testing.assert_close(ops.emd(3 * x + 1, 3 * y + 1).cost, 3 * there)
    assert (there <= ops.emd(x, z).cost + ops.emd(z, y).cost).all()
    order = torch.randperm(30, generator=g)
    shuffled = ops.emd(x, x[:, order])
    assert shuffled.cost.tolist() == [0, 0]
    assert torch.equal(shuffled.assignment, order.argsort().expand(2, -1))


def test_gradient_is_that_of_the_matched_distances():
    x, y = clouds(2, 7, 3, 7).requires_grad_(), clouds(2, 7, 3, 8).requires_grad_()
    assert gradcheck(lambda a, b: ops.emd(a, b).cost, (x, y))
    result = ops.emd(x, y)
    assert not result.lower_bound.requires_grad
    result.cost.sum().backward()
    # Each point is pulled by 1/N along its own unit vector.
    torch.testing.assert_close(x.grad.norm(dim=-1), torch.full((2, 7), 1 / 7, dtype=torch.float64))


def test_gradient_is_finite_where_points_coincide():
    x = clouds(1, 5, 3, 9).requires_grad_()
    (gradient,) = torch.autograd.grad(ops.emd(x, x.detach().clone()).cost.sum(), x, create_graph=True)
    assert torch.equal(gradient, torch.zeros_like(x))
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert torch.equal(second, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    x, y = clouds(2, 40, 3, 10).to(dtype), clouds(2, 40, 3, 11).to(dtype)
    cost = ops.emd(x, y).cost
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost.double(), ops.emd(x.double(), y.double()).cost, rtol=1e-6, atol=0)


def test_workers_change_nothing_and_report_progress():
    xs, ys = clouds(5, 40, 3, 12, torch.float32), clouds(4, 40, 3, 13, torch.float32)
    seen = []
    alone = ops.pairwise(xs, ys, distance="emd", workers=1, progress=seen.append)
    assert seen == list(range(1, 21))
    seen.clear()
    assert torch.equal(ops.pairwise(xs, ys, distance="emd", workers=2, progress=seen.append), alone)
    assert seen[-1] == 20
    assert seen == sorted(seen)
    together = ops.emd(xs[:4], ys, workers=2)
    assert torch.equal(together.assignment, ops.emd(xs[:4], ys, workers=1).assignment)
    torch.testing.assert_close(together.cost, alone[:4].diagonal())


def test_workers_start_only_where_the_work_is_worth_it(monkeypatch):
    def refuse(*_):
        raise AssertionError("a worker was started for a small job")

    monkeypatch.setattr(_workers, "_Worker", refuse)
    ops.pairwise(clouds(4, 20, 3, 14), distance="emd")
    assert _workers.estimated_seconds(4 * 3 // 2, 20) < 0.01 < 1000 < _workers.estimated_seconds(10_000, 2048)


def test_a_worker_that_dies_is_an_error_and_leaves_no_process(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import sys\nsys.exit(7)\n")
    monkeypatch.setattr(_assignment, "__file__", str(broken))
    started = []
    start = subprocess.Popen

    def popen(*args, **kwargs):
        started.append(start(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(_workers.subprocess, "Popen", popen)
    with pytest.raises(RuntimeError, match="exit status 7"):
        ops.pairwise(clouds(4, 10, 3, 15), distance="emd", workers=2)
    assert len(started) == 2
    assert all(p.poll() is not None for p in started)


def test_an_exception_in_the_callback_ends_the_workers(monkeypatch):
    started = []
    start = subprocess.Popen

    def popen(*args, **kwargs):
        started.append(start(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(_workers.subprocess, "Popen", popen)

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ops.pairwise(clouds(6, 60, 3, 16), distance="emd", workers=2, progress=stop)
    assert len(started) == 2
    assert all(p.poll() is not None for p in started)


def test_worker_program_needs_no_torch_and_no_guarded_main_script(tmp_path):
    program = (
        "import runpy, sys, io, pickle\n"
        "sys.modules['torch'] = None\n"
        "import numpy as np\n"
        f"names = runpy.run_path({_assignment.__file__!r}, run_name='worker')\n"
        "source = io.BytesIO(pickle.dumps((np.eye(3)[None], np.eye(3)[None])) + pickle.dumps([(0, 0)]))\n"
        "sink = io.BytesIO()\n"
        "names['serve'](source, sink)\n"
        "print(pickle.loads(sink.getvalue())[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0.0]"
    # A script without `if __name__ == "__main__"` is not run again by the workers.
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nfrom pcdiff import ops\nprint('started')\n"
        "x = torch.eye(4).expand(3, 4, 4)\n"
        "print(ops.pairwise(x, distance='emd', workers=2).sum().item())\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(ops.__file__))))
    environment = dict(os.environ, PYTHONPATH=root)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["started", "0.0"]
