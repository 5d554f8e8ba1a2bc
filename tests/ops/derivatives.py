"""What every derivative of a distance whose plan is held constant must be."""

import torch
from torch.autograd import forward_ad


def check_derivatives(cost, fixed, x, y):
    """Compare every mode and order of `cost(x, y)` `(B,)` with `fixed`, the same cost in plain PyTorch, plan given.

    The first order of `fixed` is itself checked against finite differences.
    """
    generator = torch.Generator().manual_seed(0)
    along = tuple(torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (x, y))

    def both(derivative):
        torch.testing.assert_close(derivative(cost), derivative(fixed), rtol=1e-7, atol=1e-9)

    both(lambda f: torch.func.jvp(f, (x, y), along))
    both(lambda f: torch.func.jvp(lambda b: f(x, b), (y,), along[1:]))
    both(lambda f: torch.func.jacrev(f, (0, 1))(x, y))
    both(lambda f: torch.func.jacfwd(f, (0, 1))(x, y))
    both(lambda f: torch.func.hessian(f)(x, y))
    for outer in (torch.func.jacrev, torch.func.jacfwd):
        for inner in (torch.func.jacrev, torch.func.jacfwd):
            both(lambda f, outer=outer, inner=inner: outer(inner(f))(x, y))

    def dual(f):
        leaf = x.clone().requires_grad_()
        with forward_ad.dual_level():
            slope = forward_ad.unpack_dual(f(forward_ad.make_dual(leaf, along[0]), y)).tangent
            return slope.detach(), torch.autograd.grad(slope.sum(), leaf)[0]

    both(dual)
    with torch.no_grad():
        slope = torch.func.jvp(cost, (x, y), along)[1]
    step = 1e-6
    apart = fixed(x + step * along[0], y + step * along[1]) - fixed(x - step * along[0], y - step * along[1])
    torch.testing.assert_close(slope, apart / (2 * step), rtol=1e-5, atol=1e-7)
