"""Derivatives of nearest neighbors and Chamfer: by hand, by finite differences, in every mode torch has."""

import pytest
import torch
from cloud_kinds import cloud
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from pcdiff import ops


@pytest.mark.parametrize("dim", [3, 5])
def test_gradients_of_first_and_second_order(native_or_not, dim):
    x = cloud("random", 2, 5, dim, 16, torch.float64).requires_grad_()
    y = cloud("random", 2, 4, dim, 17, torch.float64).requires_grad_()
    for f in (ops.chamfer, lambda a, b: ops.nearest(a, b).squared_distance):
        assert gradcheck(f, (x, y))
        assert gradgradcheck(f, (x, y))


def test_chamfer_gradient_in_closed_form(native_or_not):
    x = torch.tensor([[[0.0, 0, 0]]], requires_grad=True)
    y = torch.tensor([[[1.0, 0, 0], [0, 3, 0]]], requires_grad=True)
    value = ops.chamfer(x, y)
    value.sum().backward()
    assert value.item() == pytest.approx(1 + (1 + 9) / 2)
    torch.testing.assert_close(x.grad, torch.tensor([[[-2.0 - 1, -3, 0]]]))
    torch.testing.assert_close(y.grad, torch.tensor([[[2.0 + 1, 0, 0], [0, 3, 0]]]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by forward mode itself
@pytest.mark.parametrize("dim", [3, 5])
def test_derivatives_of_every_mode_with_lengths(native_or_not, dim):
    x = cloud("random", 2, 3, dim, 32, torch.float64).requires_grad_()
    y = cloud("random", 2, 2, dim, 33, torch.float64).requires_grad_()
    lengths = torch.tensor([3, 2]), torch.tensor([1, 2])
    for f in (
        lambda a, b: ops.chamfer(a, b, *lengths),
        lambda a, b: ops.chamfer(a, b, *lengths, squared=False, directions="x_to_y"),
        lambda a, b: tuple(ops.chamfer(a, b, *lengths, reduction="sum", directions="apart")),
        lambda a, b: ops.nearest(a, b, *lengths).squared_distance,
    ):
        assert gradcheck(f, (x, y), check_forward_ad=True)
        assert gradgradcheck(f, (x, y))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by forward mode itself
def test_forward_mode_needs_no_requires_grad(native_or_not):
    x, y = cloud("random", 2, 9, 3, 34, torch.float64), cloud("random", 2, 8, 3, 35, torch.float64)
    direction = cloud("random", 2, 9, 3, 36, torch.float64)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(ops.chamfer(forward_ad.make_dual(x, direction), y)).tangent
    gradient = torch.autograd.grad(ops.chamfer(x.requires_grad_(), y).sum(), x)[0]
    torch.testing.assert_close(tangent.sum(), (gradient * direction).sum())


def both_clouds(f):
    """Return f of one tensor `(B, 9 + 8, D)` that holds x and y, so that one Jacobian covers both."""
    return lambda clouds: f(clouds[:, :9], clouds[:, 9:])


FUNCTIONS = [
    ops.chamfer,
    lambda a, b: ops.chamfer(a, b, torch.tensor([9, 2]), torch.tensor([1, 8]), squared=False),
    lambda a, b: ops.nearest(a, b).squared_distance,
]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by forward mode itself
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dim", [3, 5])
def test_torch_func_agrees_with_autograd(native_or_not, function, dim):
    f = both_clouds(function)
    clouds, direction = (cloud("random", 2, 17, dim, seed, torch.float64) for seed in (46, 47))
    want = torch.autograd.functional.jacobian(f, clouds)
    torch.testing.assert_close(torch.func.jacrev(f)(clouds), want)
    value, tangent = torch.func.jvp(f, (clouds,), (direction,))
    assert torch.equal(value, f(clouds))
    torch.testing.assert_close(tangent, (want * direction).flatten(-3).sum(-1))
    want = torch.autograd.functional.hessian(lambda c: f(c).sum(), clouds)
    assert want.any()
    torch.testing.assert_close(torch.func.hessian(lambda c: f(c).sum())(clouds), want)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by forward mode itself
@pytest.mark.parametrize("dim", [3, 5])
def test_vmap_equals_a_loop(native_or_not, dim, capfd):
    xs, ys = (cloud("random", 6, n, dim, n, torch.float64).unflatten(0, (3, 2)) for n in (9, 8))

    def summed(a, b):
        return ops.chamfer(a, b).sum()

    def index(a, b):
        return ops.nearest(a, b).index

    for f in (*FUNCTIONS, index, torch.func.grad(summed), torch.func.hessian(summed)):
        want = torch.stack([f(a, b) for a, b in zip(xs, ys, strict=True)])
        torch.testing.assert_close(torch.vmap(f)(xs, ys), want)
        torch.testing.assert_close(torch.vmap(f, (1, 2))(xs.movedim(0, 1), ys.movedim(0, 2)), want)
        torch.testing.assert_close(torch.vmap(f, (0, None))(xs, ys[0]), torch.stack([f(a, ys[0]) for a in xs]))
        torch.testing.assert_close(torch.vmap(f, (None, 0))(xs[0], ys), torch.stack([f(xs[0], b) for b in ys]))
    pairs = torch.vmap(torch.vmap(lambda a, b: ops.chamfer(a[None], b[None])[0]))(xs, ys)
    torch.testing.assert_close(pairs, torch.stack([ops.chamfer(a, b) for a, b in zip(xs, ys, strict=True)]))
    # Where an op has no rule, torch falls back to a loop of its own and says so.
    assert "performance drop" not in "".join(capfd.readouterr())


def test_coincident_points_have_gradient_zero_when_unsquared(native_or_not):
    x = cloud("random", 1, 20, 3, 37).requires_grad_()
    ops.chamfer(x, x.detach().clone(), squared=False).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    y = torch.tensor([[[3.0, 4.0, 0.0]]])
    z = torch.zeros(1, 1, 3, requires_grad=True)
    ops.chamfer(z, y, squared=False).sum().backward()
    torch.testing.assert_close(z.grad, torch.tensor([[[-1.2, -1.6, 0.0]]]))
