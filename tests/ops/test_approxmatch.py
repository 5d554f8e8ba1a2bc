"""The approximate matches against a float64 oracle and the published kernels, on every path this machine has."""

import re

import numpy as np
import pytest
import torch
from derivatives import check_derivatives
from golden_files import load
from torch.library import opcheck

from pcdiff import ops
from pcdiff.errors import InputError
from pcdiff.ops import _transport_plan
from pcdiff.ops._approxmatch import VARIANTS, approxmatch_cost, approxmatch_match, approxmatch_matrix
from pcdiff.ops._points import root

FASTEST = (ops.cpu_capabilities() or ("none",))[-1]

# Whose numbers the golden files hold, and the variant that must reproduce them.
PEERS = {
    "pointflow_cuda": "approxmatch-pointflow",
    "pytorchemd_cuda": "approxmatch-pytorchemd",
    "latent3d_tf_cuda": "approxmatch-latent3d",
}
# Points of the largest clouds that a path is compared on. The native ones return the same bits, so that one of them
# has to prove the large clouds, which take seconds each.
LARGEST = {FASTEST: 2048, "reference": 256}
# The reference's levels are a graph that takes long to trace.
TRACED = [*ops.cpu_capabilities()[-1:], "reference"]
TRACED = [TRACED[0], *(pytest.param(path, marks=pytest.mark.slow) for path in TRACED[1:])]
# float32 and float64, and how far the published kernels stand from each other in them.
PRECISIONS = [("", torch.float32, 1e-4), ("_f64", torch.float64, 1e-7)]


def clouds(batch, n, dim=3, seed=0, dtype=torch.float32, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(batch, n, dim, generator=generator, dtype=torch.float64)).to(dtype)


def oracle(x, y, variant):
    """The match (n, m) of one pair written out in float64."""
    x, y = x.double().numpy(), y.double().numpy()
    n, m = len(x), len(y)
    squares = ((x[:, None] - y[None]) ** 2).sum(-1)
    rest_x = np.full(n, 1.0 if n >= m else m // n)
    rest_y = np.full(m, float(n // m) if n >= m else 1.0)
    match = np.zeros((n, m))
    for level in [-(4.0**j) for j in range(7, -2, -1)] + [0.0] * VARIANTS[variant].zero_level:
        kernel = np.exp(level * squares)
        offered = rest_x / (1e-9 + kernel @ rest_y)
        asked = rest_y * (offered @ kernel)
        accepted = rest_y * np.minimum(rest_y / (asked + 1e-9), 1)
        moved = kernel * offered[:, None] * accepted
        match += moved
        rest_y, rest_x = np.maximum(rest_y - asked, 0), np.maximum(rest_x - moved.sum(1), 0)
    cost = (match * (squares if VARIANTS[variant].squared else np.sqrt(squares))).sum()
    return match, cost / n


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_cost_and_match_follow_the_definition(path, variant, dim):
    for dtype, tolerance in [(torch.float32, 1e-4), (torch.float64, 1e-9)]:
        for n, m in [(1, 1), (1, 7), (20, 1), (16, 16), (33, 70), (129, 64)]:
            x, y = clouds(2, n, dim, 1, dtype), clouds(2, m, dim, 2, dtype)
            got, match = approxmatch_cost(x, y, variant), approxmatch_match(x, y, variant)
            assert got.dtype == match.dtype == dtype
            assert match.shape == (2, n, m)
            for b in range(2):
                want_match, want = oracle(x[b], y[b], variant)
                np.testing.assert_allclose(got[b].item(), want, rtol=tolerance)
                # Single entries are far worse conditioned than the sums over them.
                np.testing.assert_allclose(match[b], want_match, atol=100 * tolerance)


@pytest.mark.skipif(len(ops.cpu_capabilities()) < 2, reason="one instruction set only")
@pytest.mark.parametrize("dim", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instruction_set_returns_the_same_bits(dim, dtype, monkeypatch):
    x, y = clouds(2, 300, dim, 3, dtype), clouds(2, 217, dim, 4, dtype)
    results = []
    for capability in ops.cpu_capabilities():
        monkeypatch.setenv("PCDIFF_CPU_CAPABILITY", capability)
        results.append(torch.ops.pcdiff.approxmatch(x, y, 7, True, False))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_far_clouds_lose_their_mass_only_without_the_last_level(path):
    x = clouds(1, 50, dtype=torch.float64)
    y = x + 16
    assert approxmatch_cost(x, y, "approxmatch-pointflow").item() < 1e-6
    assert approxmatch_cost(x, y, "approxmatch-latent3d").item() == pytest.approx(16 * 3**0.5, rel=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_is_that_of_the_match_held_constant(native_or_not, variant):
    x, y = clouds(2, 40, 3, 5, torch.float64), clouds(2, 23, 3, 6, torch.float64)
    x[0, 3] = y[0, 4]
    match = approxmatch_match(x, y, variant)
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)

    def plainly(a, b):
        squares = (a[:, :, None] - b[:, None]).square().sum(-1)
        apart = squares > 0
        distance = (
            squares if VARIANTS[variant].squared else torch.where(apart, torch.where(apart, squares, 1).sqrt(), 0)
        )
        return (match * distance).sum((1, 2)) / a.shape[1]

    results = []
    for function in (lambda a, b: approxmatch_cost(a, b, variant), plainly):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = function(a, b)
        first = torch.autograd.grad(value, (a, b), weights, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), (a, b))
        results.append([value.detach(), *(g.detach() for g in first), *second])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by forward mode itself
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_mode_and_order_holds_the_match_constant(native_or_not, variant):
    x, y = clouds(2, 6, 3, 15, torch.float64), clouds(2, 5, 3, 16, torch.float64)
    x[0, 2] = y[0, 1]
    match = approxmatch_match(x, y, variant)

    def fixed(a, b):
        squares = (a[:, :, None] - b[:, None]).square().sum(-1)
        return (match * (squares if VARIANTS[variant].squared else root(squares))).sum((1, 2)) / a.shape[1]

    def cost(a, b):
        return approxmatch_cost(a, b, variant)

    check_derivatives(cost, fixed, x, y)


def test_vmap_agrees_with_the_batch():
    x, y = clouds(3, 6, 3, 17, torch.float64), clouds(3, 5, 3, 18, torch.float64)

    def one(a, b):
        return approxmatch_cost(a[None], b[None], "approxmatch-latent3d")[0]

    if ops.backend() == "reference":
        pytest.skip("the reference looks at values, which vmap refuses")
    value, grad = torch.func.vmap(torch.func.grad_and_value(one))(x, y)[::-1]
    a = x.clone().requires_grad_()
    want = approxmatch_cost(a, y, "approxmatch-latent3d")
    want.sum().backward()
    torch.testing.assert_close(value, want.detach())
    torch.testing.assert_close(grad, a.grad)


def test_gradient_does_not_depend_on_the_strips(native_or_not, monkeypatch):
    gradients = []
    for size in (1, 1000, 1 << 22):
        monkeypatch.setattr(_transport_plan, "_STRIP_CPU", size)
        x, y = clouds(2, 30, 3, 7, torch.float64).requires_grad_(), clouds(2, 20, 3, 8, torch.float64)
        approxmatch_cost(x, y, "approxmatch-latent3d").sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients[1], gradients[2], rtol=1e-12, atol=1e-14)


def test_no_gradient_unless_asked(native_or_not):
    x = clouds(1, 10).requires_grad_()
    assert approxmatch_cost(x, x.detach(), "approxmatch-latent3d").requires_grad
    assert not approxmatch_match(x, x, "approxmatch-latent3d").requires_grad
    assert not approxmatch_matrix(x, x, "approxmatch-latent3d").requires_grad
    with torch.no_grad():
        assert not approxmatch_cost(x, x, "approxmatch-latent3d").requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_matrix_holds_the_cost_of_every_pair(path, variant, monkeypatch):
    xs, ys = clouds(5, 30, seed=9), clouds(4, 20, seed=10)
    whole = approxmatch_matrix(xs, ys, variant)
    assert whole.shape == (5, 4)
    for i in range(5):
        want = approxmatch_cost(xs[i].expand(4, -1, -1), ys, variant)
        torch.testing.assert_close(whole[i], want, rtol=1e-6, atol=0)
    monkeypatch.setattr("pcdiff.ops._approxmatch._STRIP", 1500)
    seen = []
    torch.testing.assert_close(approxmatch_matrix(xs, ys, variant, seen.append), whole, rtol=1e-6, atol=0)
    assert seen == [3, 6, 9, 12, 15, 18, 20]
    assert approxmatch_matrix(xs[:0], ys, variant).shape == (0, 4)
    assert approxmatch_matrix(xs, ys[:0], variant).shape == (5, 0)


def test_strides_and_precisions(path):
    x, y = clouds(2, 64, seed=11), clouds(2, 64, seed=12)
    want = approxmatch_cost(x, y, "approxmatch-latent3d")
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(approxmatch_cost(turned, y, "approxmatch-latent3d"), want)
    assert torch.equal(
        approxmatch_cost(x.half(), y.half(), "approxmatch-latent3d"),
        approxmatch_cost(x.half().float(), y.half().float(), "approxmatch-latent3d"),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(approxmatch_cost(x, y, "approxmatch-latent3d"), want)
    half = x.half().requires_grad_()
    approxmatch_cost(half, y.half(), "approxmatch-latent3d").sum().backward()
    assert half.grad.dtype == torch.float16
    assert approxmatch_cost(x[:0], y[:0], "approxmatch-latent3d").shape == (0,)


# Of dynamo's own doing.
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("native_or_not", TRACED, indirect=True)
def test_compiles_to_one_graph(native_or_not):
    x, y = clouds(2, 40, seed=13), clouds(2, 40, seed=14)

    def loss(a, b):
        return approxmatch_cost(a, b, "approxmatch-pytorchemd").sum()

    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        a = x.clone().requires_grad_()
        function(a, y).backward()
        gradients.append(a.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_matrix_compiles_to_one_graph(native_or_not):
    xs, ys = clouds(3, 20, seed=19), clouds(2, 30, seed=20)

    def matrix(a, b):
        return ops.pairwise(a, b, "approxmatch-latent3d")

    compiled = torch.compile(matrix, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(xs, ys), matrix(xs, ys))


@pytest.mark.parametrize("transform", ["grad", "jvp"])
def test_a_compiled_transform_is_refused_not_0(transform):
    x, y = clouds(1, 6, seed=21), clouds(1, 5, seed=22)

    def cost(a):
        return approxmatch_cost(a, y, "approxmatch-latent3d").sum()

    functions = {"grad": torch.func.grad(cost), "jvp": lambda a: torch.func.jvp(cost, (a,), (a,))}
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"cannot be compiled under a transform of torch\.func"):
        torch.compile(functions[transform], fullgraph=True, backend="eager")(x)


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
@pytest.mark.parametrize("zero_level", [True, False])
def test_opcheck(zero_level):
    op = torch.ops.pcdiff.approxmatch.default
    opcheck(op, (clouds(2, 20), clouds(2, 30), 7, zero_level, False))
    opcheck(
        op, (clouds(2, 20, 5, dtype=torch.float64), clouds(2, 30, 5, dtype=torch.float64), -1, zero_level, True)
    )
    with pytest.raises(RuntimeError, match="first_level must be between"):
        op(clouds(2, 20), clouds(2, 30), -2, zero_level, False)
    with pytest.raises(RuntimeError, match="same batch size"):
        op(clouds(2, 20), clouds(3, 30), 7, zero_level, False)


X = torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("x", "y", "variant", "message"),
    [
        (X, X, "emd", "variant must be one of approxmatch-latent3d, approxmatch-pointflow, approxmatch-pytorchemd"),
        (X[0], X, "approxmatch-latent3d", "x must be (B, N, D), got (4, 3)"),
        (X, X[:1], "approxmatch-latent3d", "y must have the batch size 2 of x"),
        (X, X.double(), "approxmatch-latent3d", "y must have the dtype torch.float32 of x"),
        (X, X / 0, "approxmatch-latent3d", "y must be finite, got 24 NaN"),
    ],
)
def test_bad_input(native_or_not, x, y, variant, message):
    with pytest.raises(InputError, match=re.escape(message)):
        approxmatch_cost(x, y, variant)


def test_bad_sets(native_or_not):
    with pytest.raises(InputError, match=re.escape("ys must be finite, got 24 NaN")):
        approxmatch_matrix(X, X / 0, "approxmatch-latent3d")
    with pytest.raises(InputError, match=re.escape("xs must be (S, N, D)")):
        approxmatch_matrix(X[0], X, "approxmatch-latent3d")


@pytest.fixture(scope="module")
def published(golden):
    file = golden / "3d" / "emd" / "approx_emd.npz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    data = np.load(file)
    return {name: data[name] for name in data.files}


def cases(published):
    """Yield every case's name, its clouds in both orders and the order's name in the file."""
    for name in sorted({key.split("/")[0] for key in published}):
        x, y = torch.from_numpy(published[f"{name}/x"]), torch.from_numpy(published[f"{name}/y"])
        yield name, x, y, "xy"
        yield name, y, x, "yx"


@pytest.mark.golden
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("suffix", "dtype", "tolerance"), PRECISIONS)
def test_costs_as_published(native_or_not, published, peer, suffix, dtype, tolerance):
    compared = 0
    for name, x, y, order in cases(published):
        if max(x.shape[1], y.shape[1]) > LARGEST.get(native_or_not, 512):
            continue
        want = published[f"{name}/{peer}/cost_{order}{suffix}"]
        got = approxmatch_cost(x.to(dtype), y.to(dtype), PEERS[peer]) * x.shape[1]
        # Costs of about 0 (identical clouds, clouds out of reach) mean no more than that.
        np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=1e-6, err_msg=f"{name} {order}")
        compared += 1
    assert compared


@pytest.mark.golden
def test_the_latent3d_program_without_a_gpu_agrees_as_far_as_it_does_with_its_own_kernel(published):
    for name, x, y, order in cases(published):
        want = published[f"{name}/latent3d_standalone_cpu/cost_{order}_f64"]
        got = approxmatch_cost(x.double(), y.double(), "approxmatch-latent3d") * x.shape[1]
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-6, err_msg=f"{name} {order}")


@pytest.mark.golden
@pytest.mark.parametrize("peer", PEERS)
def test_matches_masses_and_gradients_as_published(native_or_not, published, peer):
    matches = masses = gradients = 0
    for name, x, y, order in cases(published):
        if max(x.shape[1], y.shape[1]) > min(LARGEST.get(native_or_not, 256), 512):
            continue
        got = approxmatch_match(x.double(), y.double(), PEERS[peer])
        mass = published[f"{name}/{peer}/mass_{order}_f64"]
        np.testing.assert_allclose(got.sum((1, 2)), mass, rtol=1e-9, atol=1e-9)
        masses += 1
        for suffix, dtype, tolerance in [("", torch.float32, 1e-3), ("_f64", torch.float64, 1e-8)]:
            want = published.get(f"{name}/{peer}/match_{order}{suffix}")
            if want is not None:
                got = approxmatch_match(x.to(dtype), y.to(dtype), PEERS[peer]).transpose(1, 2)
                np.testing.assert_allclose(got, want, atol=tolerance, rtol=0)
                matches += 1
        for dtype, tolerance in [(torch.float32, 2e-3), (torch.float64, 1e-8)]:
            want = [published.get(f"{name}/{peer}/grad{k}_{order}_f64") for k in (1, 2)]
            if want[0] is not None:
                a, b = (c.to(dtype).clone().requires_grad_() for c in (x, y))
                (approxmatch_cost(a, b, PEERS[peer]).sum() * x.shape[1]).backward()
                for grad, expected in zip((a.grad, b.grad), want, strict=True):
                    np.testing.assert_allclose(grad, expected, rtol=tolerance, atol=tolerance)
                gradients += 1
    assert matches
    assert masses
    assert gradients


@pytest.mark.golden
@pytest.mark.parametrize("letters", ["rs", "rr", "ss"])
def test_set_matrices_as_published(native_or_not, golden, letters):
    published = load(golden, "3d/emd/approx_emd_set_matrices.npz")
    clouds_of = load(golden, "3d/metrics/caseA.npz")
    for peer in ("pointflow_cuda", "pytorchemd_cuda"):
        for suffix, dtype, tolerance in PRECISIONS:
            want = published[f"{peer}/M{letters}{suffix}"]
            sets = [
                torch.from_numpy(clouds_of["sample" if letter == "s" else "ref"][:count]).to(dtype)
                for letter, count in zip(letters, want.shape, strict=True)
            ]
            # One matrix whole, on the fastest native_or_not, in one precision; of the others a few clouds, drawn.
            if (native_or_not, letters, dtype) != (FASTEST, "rs", torch.float32):
                drawn = np.random.default_rng(0)
                count = 1 if native_or_not == "reference" else 3
                chosen = [drawn.choice(len(part), count, replace=False) for part in sets]
                want, sets = want[np.ix_(*chosen)], [part[where] for part, where in zip(sets, chosen, strict=True)]
            got = approxmatch_matrix(*sets, PEERS[peer])
            np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=1e-8)
