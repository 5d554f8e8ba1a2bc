"""The cost of moving one cloud onto another by a plan that is known by its factors.

Approximate matches and Sinkhorn's plans are sums of a few scaled kernels,
`P[i, j] = sum_l exp(level_l * c(x_i, y_j)^p + log_left[l, i] + log_right[l, j])`, so N + M numbers a kernel stand
for N x M. The plan is rebuilt in strips of rows whenever it is needed and never kept.
"""

from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from pcdiff.errors import InputError
from pcdiff.ops import _points

# Elements of one strip of the plan. On the CPU a handful of such tensors should stay in the cache (1 MB each in
# float64); a GPU wants enough of them to be busy.
_STRIP_CPU = 1 << 17
_STRIP_ELSEWHERE = 1 << 22


class Plan(NamedTuple):
    """Factors of a plan between clouds `(B, N, D)` and `(B, M, D)`; constants, outside autograd.

    Attributes:
        levels: `(B, L)`.
        log_left: `(B, L, N)`, minus infinity for a factor of 0.
        log_right: `(B, L, M)`.
        squared: whether the kernels are of the squared distance (p = 2) or the distance (p = 1).
    """

    levels: torch.Tensor
    log_left: torch.Tensor
    log_right: torch.Tensor
    squared: bool


def strips(x: torch.Tensor, y: torch.Tensor):
    """Yield slices of x's rows for which a strip of the plan is of the allowed size."""
    size = _STRIP_CPU if x.device.type == "cpu" else _STRIP_ELSEWHERE
    rows = max(1, size // max(1, len(x) * y.shape[1]))
    for first in range(0, x.shape[1], rows):
        yield slice(first, first + rows)


def differences_of(x: torch.Tensor, y: torch.Tensor, rows: slice) -> list[torch.Tensor]:
    return [x[:, rows, None, d] - y[:, None, :, d] for d in range(x.shape[2])]


def squares_of(differences: list[torch.Tensor]) -> torch.Tensor:
    total = differences[0].square()
    for difference in differences[1:]:
        total = torch.addcmul(total, difference, difference)
    return total


def _kernels(squares: torch.Tensor, plan: Plan, rows: slice):
    """Yield the plan's kernels, `(B, rows, M)` each, for the squared distances of some rows."""
    exponent = squares if plan.squared else squares.sqrt()
    for level in range(plan.levels.shape[1]):
        factors = plan.log_left[:, level, rows, None] + plan.log_right[:, level, None, :]
        yield torch.addcmul(factors, plan.levels[:, level, None, None], exponent).exp_()


def strip(x: torch.Tensor, y: torch.Tensor, plan: Plan, rows: slice) -> torch.Tensor:
    """Return the plan's rows, `(B, rows, M)`."""
    return sum(_kernels(squares_of(differences_of(x, y, rows)), plan, rows))


def costs(x: torch.Tensor, y: torch.Tensor, plan: Plan, squared: bool = False) -> torch.Tensor:
    """Return the sums of kernel times distance (squared or not), `(B, L)`, outside autograd, in O(N + M) memory."""
    x, y = x.detach(), y.detach()
    total = x.new_zeros(plan.levels.shape)
    for rows in strips(x, y):
        squares = squares_of(differences_of(x, y, rows))
        distance = squares if squared else squares.sqrt()
        kernels = _kernels(squares, plan, rows)
        total += torch.stack([(kernel * distance).sum(dim=(1, 2)) for kernel in kernels], dim=1)
    return total


def _slopes(x: torch.Tensor, y: torch.Tensor, plan: Plan, squared: bool):
    """Yield the rows of each strip, `weight` `(B, rows, M)`, and the differences `x_i - y_j`, one for a coordinate.

    `weight[i, j] (x_i - y_j)` is the derivative of the plan's cost along x_i that is due to y_j. All is ordinary
    PyTorch but for the plan itself, which is a constant.
    """
    for rows in strips(x, y):
        # Detached, not computed under no_grad: that would let forward mode through.
        moved = strip(x.detach(), y.detach(), plan, rows)
        differences = differences_of(x, y, rows)
        if squared:
            weight = 2 * moved
        else:
            # Coincident points: the distance has no slope there, the subgradient 0 is taken.
            squares = squares_of(differences)
            apart = squares > 0
            weight = torch.where(apart, moved / torch.where(apart, squares, 1).sqrt(), 0)
        yield rows, weight, differences


class _Moved(torch.autograd.Function):
    """Gives a known cost its derivative with the plan held constant.

    Both modes are ordinary PyTorch on strips of the plan, so they can be differentiated again; then, and only then,
    autograd keeps tensors of N x M.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, value, levels, log_left, log_right, squared_kernel, squared):
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, _, levels, log_left, log_right, ctx.squared_kernel, ctx.squared = inputs
        ctx.save_for_backward(x, y, levels, log_left, log_right)
        ctx.save_for_forward(x, y, levels, log_left, log_right)

    @staticmethod
    def backward(ctx, grad):
        x, y, levels, log_left, log_right = ctx.saved_tensors
        plan = Plan(levels, log_left, log_right, ctx.squared_kernel)
        # The plan's own precision: Sinkhorn's needs float64, whatever the clouds are.
        x_grad, dtype = [], plan.levels.dtype
        y_grad = torch.zeros((), dtype=dtype, device=x.device)
        for _, weight, differences in _slopes(x.to(dtype), y.to(dtype), plan, ctx.squared):
            weight = weight * grad.to(dtype)[:, None, None]
            forces = [weight * difference for difference in differences]
            x_grad.append(torch.stack([force.sum(dim=2) for force in forces], dim=2))
            y_grad = y_grad - torch.stack([force.sum(dim=1) for force in forces], dim=2)
        return torch.cat(x_grad, dim=1).to(x.dtype), y_grad.to(y.dtype), None, None, None, None, None, None


class _MovedForward(_Moved):
    """The same with forward mode, too; of its own, because torch.compile refuses functions that have it."""

    @staticmethod
    def jvp(ctx, x_tangent, y_tangent, *_):
        # Autograd switches forward mode off around a jvp, and forward mode of forward mode would silently give 0.
        with forward_ad._set_fwd_grad_enabled(True):
            x, y, levels, log_left, log_right = (
                forward_ad.unpack_dual(saved).primal for saved in ctx.saved_tensors
            )
            plan = Plan(levels, log_left, log_right, ctx.squared_kernel)
            dtype = plan.levels.dtype
            total = torch.zeros((), dtype=dtype, device=x.device)
            x_tangent, y_tangent = x_tangent.to(dtype), y_tangent.to(dtype)
            for rows, weight, differences in _slopes(x.to(dtype), y.to(dtype), plan, ctx.squared):
                moving = differences_of(x_tangent, y_tangent, rows)
                pushed = sum(difference * moved for difference, moved in zip(differences, moving, strict=True))
                total = total + (weight * pushed).sum(dim=(1, 2))
            return total.to(x.dtype)


def tracked(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Return whether a cost of x and y needs a derivative.

    Raises:
        InputError: it would be lost, because a transform of `torch.func` is being compiled.
    """
    # There the compiler takes the derivative of `_Moved` for 0 without a word.
    if torch.compiler.is_compiling() and torch._C._functorch.get_dynamic_layer_stack_depth() > 0:
        raise InputError("this distance cannot be compiled under a transform of torch.func; drop one of the two")
    return _points.tracked(x, y)


def differentiable(value, x: torch.Tensor, y: torch.Tensor, plan: Plan, squared: bool = False) -> torch.Tensor:
    """Return `value` `(B,)`, the plan's cost, with its derivative in x and y, the plan held constant.

    Reverse and forward mode, `torch.func` and derivatives of derivatives work; all leave the plan where it is.
    """
    function = _Moved if torch.compiler.is_compiling() else _MovedForward
    return function.apply(x, y, value, plan.levels, plan.log_left, plan.log_right, plan.squared, squared)
