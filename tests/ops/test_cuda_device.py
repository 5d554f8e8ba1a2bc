"""The CUDA kernels on a device: the CPU's results, gradients, streams, graphs, compilation and sizes."""

import pytest
import torch

from pcdiff import ops
from pcdiff.ops import _native

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _native.has_kernels("cuda"), reason=f"no CUDA kernels: {_native._missing_cuda}"),
]

DTYPES = [torch.float32, torch.float64]
NAMESPACE = torch.ops.pcdiff


def clouds(batch, n, dim=3, seed=0, dtype=torch.float32):
    return torch.randn(batch, n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def grid(batch, n, dim=3, seed=0, dtype=torch.float32):
    """Return clouds on a coarse grid: many duplicates and ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, (batch, n, dim), generator=generator).to(dtype)


def both(op, *arguments):
    """Run an op on CPU tensors and on their copies on the device; return both results on the CPU."""
    on_device = [a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments]
    ours, theirs = op(*on_device), op(*arguments)
    pack = isinstance(theirs, tuple | list)
    return [t.cpu() for t in ours] if pack else [ours.cpu()], list(theirs) if pack else [theirs]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [clouds, grid])
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize(("batch", "n", "m"), [(1, 1, 1), (3, 700, 513), (300, 2048, 1000), (1, 20000, 30000)])
def test_neighbors_have_the_cpus_bits(batch, n, m, dim, make, dtype):
    if dim == 5 and batch * n * m > 1e7:
        pytest.skip("the CPU would take minutes")
    x, y = make(batch, n, dim, 1, dtype), make(batch, m, dim, 2, dtype)
    for ours, theirs in zip(*both(NAMESPACE.nearest_both, x, y, None, None), strict=True):
        assert torch.equal(ours, theirs)
    x_lengths, y_lengths = torch.randint(1, n + 1, (batch,)), torch.randint(1, m + 1, (batch,))
    for ours, theirs in zip(*both(NAMESPACE.nearest, x, y, x_lengths, y_lengths), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [clouds, grid])
@pytest.mark.parametrize("k", [1, 16, 17, 100])
def test_knn_has_the_cpus_bits(k, make, dtype):
    for dim in (3, 4):
        x, y = make(4, 300, dim, 3, dtype), make(4, 600, dim, 4, dtype)
        for lengths in ((None, None), (torch.tensor([1, 300, 7, 9]), torch.tensor([600, 1, 50, 513]))):
            for ours, theirs in zip(*both(NAMESPACE.knn, x, y, k, *lengths), strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "m", "dim"), [(2048, 2048, 3), (900, 701, 3), (400, 333, 1), (100, 900, 2), (50, 60, 5), (300, 9000, 3)]
)
def test_chamfer_matrix_is_the_cpus(n, m, dim, dtype):
    xs, ys = clouds(7, n, dim, 5, dtype), clouds(5, m, dim, 6, dtype)
    for upper in (False, True):
        (ours,), (theirs,) = both(NAMESPACE.chamfer_matrix, xs, ys, upper)
        torch.testing.assert_close(ours, theirs, rtol=1e-6 if dtype == torch.float32 else 1e-13, atol=0)


def test_the_chamfer_matrix_is_the_same_every_time():
    xs = clouds(20, 2048).cuda()
    assert torch.equal(NAMESPACE.chamfer_matrix(xs, xs, True), NAMESPACE.chamfer_matrix(xs, xs, True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [clouds, grid])
@pytest.mark.parametrize("dim", [1, 3, 5])
def test_ball_query_has_the_cpus_indices(dim, make, dtype):
    x, y = make(4, 1024, dim, 40, dtype), make(4, 2048, dim, 41, dtype)
    for radius, k in [(0.1, 32), (1.0, 64), (2.0, 3000)]:
        for lengths in ((None, None), (torch.tensor([1, 1024, 7, 9]), torch.tensor([2048, 1, 50, 513]))):
            (ours,), (theirs,) = both(NAMESPACE.ball_query, x, y, radius, k, *lengths)
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("resolution", [1, 8, 32])
def test_voxels_are_the_cpus(resolution, dtype):
    coords = clouds(5, 2048, 3, 42, dtype).sigmoid() * (resolution - 1)
    coords[:, ::2] = (2 * coords[:, ::2]).round() / 2
    for lengths in (None, torch.tensor([2048, 1, 513, 700, 2000])):
        for ours, theirs in zip(*both(NAMESPACE.voxels, coords, resolution, lengths), strict=True):
            assert torch.equal(ours, theirs)


def test_a_point_voxel_pass_and_its_gradient_are_the_cpus():
    x, features = clouds(3, 300, 3, 43, torch.float64), clouds(3, 300, 8, 44, torch.float64)

    def run(a, b):
        coords = ops.voxel_coordinates(a, 8)
        values = ops.devoxelize(ops.voxelize(b, coords, 8).sin(), coords)
        centers = ops.gather_points(a, ops.farthest_point_sample(a, 40))
        index = ops.ball_query(centers, a, 0.5, 16)
        pooled = ops.gather_points(values, index).max(dim=2).values
        return ops.three_nn_interpolate(a, centers, pooled)

    results = []
    for device in ("cpu", "cuda"):
        a, b = (t.to(device, copy=True).requires_grad_() for t in (x, features))
        out = run(a, b)
        results.append([t.cpu() for t in (out, *torch.autograd.grad(out.square().sum(), (a, b)))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    compiled = torch.compile(run, fullgraph=True)
    torch.testing.assert_close(compiled(x.cuda(), features.cuda()).cpu(), results[0][0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_farthest_points_are_the_cpus(dtype):
    for make in (clouds, grid):
        x = make(5, 2048, 3, 7, dtype)
        start, lengths = torch.tensor([0, 5, 99, 3, 2]), torch.tensor([2048, 600, 513, 700, 2000])
        for legacy in (False, True):
            (ours,), (theirs,) = both(NAMESPACE.farthest_points, x, 512, start, lengths, legacy)
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_softmin_is_the_cpus(scale, dtype):
    for dim in (3, 5):
        x, y = clouds(3, 500, dim, 8, dtype), clouds(3, 700, dim, 9, dtype)
        (ours,), (theirs,) = both(NAMESPACE.softmin, x, y, clouds(3, 700, 1, 10, dtype)[..., 0], scale)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("first_level", "zero_level", "squared"), [(7, True, False), (7, False, False), (8, True, True)]
)
def test_the_approximate_match_is_the_cpus(first_level, zero_level, squared, dtype):
    x, y = 0.4 * clouds(4, 600, 3, 11, dtype), 0.4 * clouds(4, 600, 3, 12, dtype)
    ours, theirs = both(NAMESPACE.approxmatch, x, y, first_level, zero_level, squared)
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-4 if dtype == torch.float32 else 1e-7, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "dim", "tolerance"), [(1, 3, 1e-3), (500, 3, 1e-3), (2048, 3, 1e-3), (300, 5, 1e-4)])
def test_the_certificate_holds_and_agrees_with_the_cpus(n, dim, tolerance, dtype):
    x, y = clouds(6, n, dim, 13, dtype), clouds(6, n, dim, 14, dtype)
    ours, theirs = both(NAMESPACE.assign, x, y, None, tolerance)
    assert torch.equal(ours[0].sort(dim=1).values, torch.arange(n).expand(6, n))
    length = (x - y.gather(1, ours[0][..., None].expand(-1, -1, dim))).double().norm(dim=2).mean(dim=1)
    torch.testing.assert_close(ours[1].double(), length, rtol=1e-6, atol=0)
    assert (ours[1] - ours[2] <= tolerance * ours[1]).all()
    # Both bracket the same optimum.
    assert (ours[2] <= theirs[1] * (1 + 1e-6)).all()
    assert (theirs[2] <= ours[1] * (1 + 1e-6)).all()


def test_the_auction_is_the_same_every_time_and_ends_on_hard_clouds():
    x = torch.cat([clouds(2, 512, 3, 15), grid(2, 512, 3, 16), torch.zeros(2, 512, 3)]).cuda()
    y = torch.cat([x[:2].flip(1), grid(2, 512, 3, 17).cuda(), x[4:5] + 1, x[:1]])
    first, second = NAMESPACE.assign(x, y, None, 1e-3), NAMESPACE.assign(x, y, None, 1e-3)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    assert (first[1] - first[2] <= 1e-3 * first[1]).all()


def test_clouds_beyond_shared_memory_have_a_certificate_too():
    x, y = clouds(2, 12000, 3, 18).cuda(), clouds(2, 12000, 3, 19).cuda()
    _, cost, bound = NAMESPACE.assign(x, y, None, 1e-2)
    assert (cost - bound <= 1e-2 * cost).all()


def test_the_assignment_matrix_is_the_pairs():
    xs, ys = clouds(3, 200, 3, 20).cuda(), clouds(4, 200, 3, 21).cuda()
    cost, bound = NAMESPACE.assign_matrix(xs, ys, False, 1e-3)
    for i in range(3):
        _, one, one_bound = NAMESPACE.assign(xs[i : i + 1].expand(4, -1, -1), ys, None, 1e-3)
        assert torch.equal(cost[i], one)
        assert torch.equal(bound[i], one_bound)


def test_sizes_beyond_32_bits():
    """B N M and B N are counted in 64 bits; the last cloud's neighbors show whether its place was right."""
    batch, n, m = 600, 2048, 2048
    assert batch * n * m > 2**31
    x, y = clouds(batch, n, 3, 22).cuda(), clouds(batch, m, 3, 23).cuda()
    index = NAMESPACE.nearest(x, y, None, None)[1]
    assert torch.equal(index[-1:], NAMESPACE.nearest(x[-1:], y[-1:], None, None)[1])
    batch, n = 200_000, 11_000  # B N > 2^31
    if torch.cuda.mem_get_info()[0] > 40 * batch * n:
        x = torch.zeros(batch, n, 1, device="cuda")
        x[-1, :, 0] = torch.arange(n, device="cuda")
        y = torch.full((batch, 1, 1), 2.0, device="cuda")
        distance = NAMESPACE.nearest(x, y, None, None)[0]
        assert torch.equal(distance[-1], (torch.arange(n, device="cuda") - 2.0).square())


def test_gradients_are_the_cpus():
    x, y = clouds(3, 200, 3, 24, torch.float64), clouds(3, 150, 3, 25, torch.float64)
    gradients = []
    for device in ("cpu", "cuda"):
        a, b = (t.to(device, copy=True).requires_grad_() for t in (x, y))
        ops.chamfer(a, b).sum().backward()
        gradients.append((a.grad.cpu(), b.grad.cpu()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    a, b = x[:1, :8].cuda().requires_grad_(), y[:1, :6].cuda().requires_grad_()
    assert torch.autograd.gradcheck(ops.chamfer, (a, b))
    assert torch.autograd.gradgradcheck(ops.chamfer, (a, b))


def test_work_runs_on_the_current_stream():
    x, y = clouds(64, 2048, 3, 26).cuda(), clouds(64, 2048, 3, 27).cuda()
    want = ops.nearest(x, y).index
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # whatever did not wait in this stream would see the zeros below
        late = torch.zeros_like(x)
        late.copy_(x, non_blocking=True)
        got = NAMESPACE.nearest(late, y, None, None)[1]
    stream.synchronize()
    assert torch.equal(got, want)


CAPTURED = {
    "nearest": lambda x, y: NAMESPACE.nearest(x, y, None, None),
    "knn": lambda x, y: NAMESPACE.knn(x, y, 8, None, None),
    "ball_query": lambda x, y: NAMESPACE.ball_query(x, y, 0.5, 8, None, None),
    "voxels": lambda x, y: NAMESPACE.voxels(x.sigmoid() * 7, 8, None),
    "chamfer_matrix": lambda x, y: NAMESPACE.chamfer_matrix(x, y, False),
    "assign": lambda x, y: NAMESPACE.assign(x, y, None, 1e-3),
    "assign_matrix": lambda x, y: NAMESPACE.assign_matrix(x, y, False, 1e-2),
    "approxmatch": lambda x, y: NAMESPACE.approxmatch(x, y, 7, True, False),
    "softmin": lambda x, y: NAMESPACE.softmin(x, y, torch.zeros_like(y[..., 0]), 0.1),
    "chamfer": ops.chamfer,
}


def flat(result):
    return list(result) if isinstance(result, tuple | list) else [result]


@pytest.mark.parametrize("name", CAPTURED)
def test_a_graph_replays_on_new_input(name):
    op = CAPTURED[name]
    x, y = clouds(2, 300, 3, 28).cuda(), clouds(2, 300, 3, 29).cuda()
    op(x, y)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = flat(op(x, y))
    for seed in (30, 31):
        x.copy_(clouds(2, 300, 3, seed))
        graph.replay()
        for ours, theirs in zip(results, flat(op(x, y)), strict=True):
            assert torch.equal(ours, theirs)


def test_nan_is_refused_and_comes_through_a_graph():
    x, y = clouds(2, 50, 3, 32).cuda(), clouds(2, 50, 3, 33).cuda()
    bad = x.clone()
    bad[1, 3, 2] = torch.nan
    with pytest.raises(ValueError, match="x must be finite, got 1 NaN"):
        ops.chamfer(bad, y)
    ops.chamfer(x, y)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = ops.chamfer(x, y)
    x.copy_(bad)
    graph.replay()
    assert result.isnan().tolist() == [False, True]


def test_compiled_in_one_graph():
    x, y = clouds(2, 300, 3, 34).cuda(), clouds(2, 200, 3, 35).cuda()
    compiled = torch.compile(ops.chamfer, fullgraph=True)
    torch.testing.assert_close(compiled(x, y), ops.chamfer(x, y))


def test_opcheck():
    x, y = clouds(2, 30, 3, 36).cuda(), clouds(2, 30, 3, 37).cuda()
    starts = torch.zeros(2, dtype=torch.int64, device="cuda")
    samples = {
        "nearest": (x, y, None, None),
        "nearest_both": (x, y, None, None),
        "knn": (x, y, 3, None, None),
        "chamfer_matrix": (x, y, False),
        "ball_query": (x, y, 0.5, 4, None, None),
        "voxels": (x.sigmoid() * 3, 4, None),
        "farthest_points": (x, 5, starts, None, False),
        "assign": (x, y, None, 1e-3),
        "assign_matrix": (x, y, False, 1e-3),
        "approxmatch": (x, y, 7, True, False),
        "softmin": (x, y, torch.zeros(2, 30, device="cuda"), 0.1),
    }
    for name, arguments in samples.items():
        torch.library.opcheck(getattr(NAMESPACE, name).default, arguments)


def test_the_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("one device only")
    x, y = clouds(2, 300, 3, 38), clouds(2, 200, 3, 39)
    assert torch.equal(ops.nearest(x.to("cuda:1"), y.to("cuda:1")).index.cpu(), ops.nearest(x, y).index)
