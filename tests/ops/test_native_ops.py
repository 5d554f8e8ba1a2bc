"""The native ops as torch sees them: schemas, batching rules, compiled graphs."""

import pytest
import torch
from cloud_kinds import cloud
from torch.library import opcheck

from pcdiff import ops

needs_native = pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")


@needs_native
@pytest.mark.parametrize("name", ["nearest", "nearest_both"])
def test_native_ops_pass_opcheck(name):
    op = getattr(torch.ops.pcdiff, name).default
    for dim in (3, 4):
        x, y = cloud("random", 2, 20, dim, 22), cloud("random", 2, 17, dim, 23)
        opcheck(op, (x, y, None, None))
        opcheck(op, (x.double()[:, ::2], y.double()[:, :9], None, None))
        opcheck(op, (x, y, torch.tensor([20, 3]), torch.tensor([1, 17])))


@needs_native
def test_native_ops_check_lengths_themselves():
    # In a compiled graph nobody else can.
    x = cloud("random", 2, 5, 3, 45)
    with pytest.raises(RuntimeError, match=r"y_lengths must be in 1\.\.5, got 6"):
        torch.ops.pcdiff.nearest(x, x, None, torch.tensor([1, 6]))
    with pytest.raises(RuntimeError, match=r"x_lengths must be an int64 tensor \(2,\)"):
        torch.ops.pcdiff.nearest(x, x, torch.tensor([1]), None)


@needs_native
def test_native_ops_map_over_lengths_too():
    x, y = cloud("random", 6, 20, 3, 51).unflatten(0, (3, 2)), cloud("random", 2, 17, 3, 52)
    lengths = torch.tensor([[20, 1], [3, 4], [9, 20]])
    for op in (torch.ops.pcdiff.nearest, torch.ops.pcdiff.nearest_both):
        got = torch.vmap(op, (0, None, 0, None))(x, y, lengths, torch.tensor([17, 2]))
        for i in range(3):
            for a, b in zip(got, op(x[i], y, lengths[i], torch.tensor([17, 2])), strict=True):
                assert torch.equal(a[i], b)


@needs_native
def test_matrix_op_passes_opcheck():
    xs, ys = cloud("random", 3, 20, 3, 24), cloud("random", 4, 17, 3, 25)
    opcheck(torch.ops.pcdiff.chamfer_matrix.default, (xs, ys, False))
    opcheck(torch.ops.pcdiff.chamfer_matrix.default, (xs, xs, True))


@needs_native
def test_compiles_to_one_graph_with_gradient():
    compiled = torch.compile(lambda a, b: ops.chamfer(a, b).sum(), fullgraph=True, backend="aot_eager")
    x, y = cloud("random", 2, 33, 3, 26).requires_grad_(), cloud("random", 2, 40, 3, 27).requires_grad_()
    want = torch.autograd.grad(ops.chamfer(x, y).sum(), (x, y))
    got = torch.autograd.grad(compiled(x, y), (x, y))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    lengths = torch.tensor([33, 5]), torch.tensor([1, 40])
    compiled = torch.compile(
        lambda a, b, n, m: ops.chamfer(a, b, n, m, squared=False).sum(), fullgraph=True, backend="aot_eager"
    )
    want = torch.autograd.grad(ops.chamfer(x, y, *lengths, squared=False).sum(), (x, y))
    for a, b in zip(torch.autograd.grad(compiled(x, y, *lengths), (x, y)), want, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        compiled_nearest = torch.compile(ops.nearest, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled_nearest(x, y).index, ops.nearest(x, y).index)


@needs_native
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on the way to its forward mode
@pytest.mark.parametrize("op", [ops.chamfer, lambda a, b: ops.emd(a, b).cost], ids=["chamfer", "emd"])
def test_compiled_function_transforms_are_not_silently_zero(op):
    x, y = cloud("random", 2, 20, 3, 40), cloud("random", 2, 20, 3, 41)
    torch._dynamo.reset()

    def slope(a):
        return torch.func.jvp(lambda z: op(z, y).sum(), (a,), (torch.ones_like(a),))[1]

    want = torch.autograd.functional.jvp(lambda z: op(z, y).sum(), x, torch.ones_like(x))[1]
    torch.testing.assert_close(slope(x), want)
    torch.testing.assert_close(torch.compile(slope, backend="eager")(x), want)
