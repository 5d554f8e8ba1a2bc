"""Continuous normalizing flow: the latent prior as the solution of an ODE (Grathwohl et al., FFJORD, ICLR 2019)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pcdiff.diffusion.divergence import Probes, check_trace, trace_probes
from pcdiff.errors import InputError
from pcdiff.flows.base import standard_normal_log_prob
from pcdiff.flows.ode import OdeFlow


class ConcatSquash(nn.Module):
    """A linear layer whose output the time gates and shifts: `(W h + b) * sigmoid(g t + c) + s t`."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)
        self.gate = nn.Linear(1, dim_out)
        self.shift = nn.Linear(1, dim_out, bias=False)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        """Map `h (B, dim_in)` at the time `t`, a scalar, to `(B, dim_out)`."""
        t = t.view(1)
        return self.linear(h) * torch.sigmoid(self.gate(t)) + self.shift(t)


class VelocityNet(nn.Module):
    """The flow's dz/dt: concat-squash layers with tanh between them (Yang et al., PointFlow, ICCV 2019).

    A condition, where there is one, stands beside the latent in what the first layer gets.
    """

    def __init__(self, dim: int, widths: Sequence[int], cond_dim: int = 0):
        super().__init__()
        sizes = [dim + cond_dim, *widths, dim]
        self.layers = nn.ModuleList(ConcatSquash(*pair) for pair in itertools.pairwise(sizes))

    def forward(self, t: Tensor, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return dz/dt `(B, F)` at the time `t`, a scalar, latents `z (B, F)` and conditions `(B, C)`."""
        h = z if cond is None else torch.cat([z, cond], dim=1)
        for k, layer in enumerate(self.layers):
            h = layer(t, h if k == 0 else h.tanh())
        return h


@dataclass(frozen=True)
class ContinuousConfig:
    """Sizes and solver of the continuous flow."""

    widths: tuple[int, ...] = (256, 256)
    """Hidden widths of the continuous flow's velocity."""
    time_length: float = 0.5
    """Time that the continuous flow runs from latent to base."""
    trace: Literal["rademacher", "gaussian", "exact"] = "rademacher"
    """Trace of the continuous flow in training: estimated with one probe of signs or normal numbers, or exact."""
    tolerance: float = 1e-5
    """Relative and absolute tolerance of the continuous flow's solver."""

    RANGES: ClassVar[dict[str, str]] = {"at least 1": "widths", "above 0": "time_length tolerance"}


class ContinuousFlow(OdeFlow):
    r"""Latents carried along `dz/dt = f(z, t)` from the latent at t = 0 to w ~ N(0, I) at the horizon.

    `log p(z) = log N(w; 0, I) + int_0^T div f dt` (Chen et al., 2018, theorem 1). In training the divergence is
    estimated with one probe a latent, the same along the path (FFJORD, section 3.1), and gradients come from the
    adjoint ODE, in memory that does not grow with the solver's steps; in evaluation the divergence is exact, F
    vector-Jacobian products in one batch. Errors are measured for each latent by itself, and the worst decides the
    step that all take. PointFlow's batch normalization around the ODE and its learned horizon are left out: the net
    can scale its own velocity.

    Args:
        dim: size F of the latent.
        widths: hidden widths of the velocity's net.
        time_length: horizon T; PointFlow's is 0.5 at the start.
        trace: the divergence in training: `"rademacher"`, `"gaussian"` or `"exact"`.
        tolerance: relative and absolute tolerance of the solver, forwards and of the adjoint.
        cond_dim: size of a condition c of p(z | c), an input of the velocity's net; 0 for none.

    Raises:
        InputError: a size, the horizon or the tolerance is not positive, or the trace is unknown.

    Example:
        >>> flow = ContinuousFlow(8, widths=(32, 32)).eval()
        >>> w, log_det = flow(torch.randn(2, 8))
        >>> z, _ = flow.inverse(w)
    """

    Config = ContinuousConfig
    conditional = True

    def __init__(
        self,
        dim: int,
        widths: Sequence[int] = (256, 256),
        time_length: float = 0.5,
        trace: str = "rademacher",
        tolerance: float = 1e-5,
        cond_dim: int = 0,
    ):
        super().__init__(dim, cond_dim)
        if min(dim, *widths, 1) < 1:
            raise InputError(f"dim and widths must be at least 1, got {dim} and {tuple(widths)}")
        if not (time_length > 0 and tolerance > 0):
            raise InputError(f"time_length and tolerance must be positive, got {time_length} and {tolerance}")
        if trace == "pointwise":
            raise InputError("trace must be 'exact', 'gaussian' or 'rademacher' for a flow, got 'pointwise'")
        check_trace(trace, torch.Size([dim]))
        self.time_length, self.trace, self.tolerance = time_length, trace, tolerance
        self.span = (0.0, time_length)
        self.net = VelocityNet(dim, widths, cond_dim)

    def velocity(self, t: Tensor, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """See `OdeFlow.velocity`."""
        return self.net(t, z, cond)

    def draw_probes(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """See `Flow.draw_probes`: one probe a latent, in training, unless the trace is exact."""
        if not self.training or self.trace == "exact":
            return None
        like = next(self.net.parameters()).new_empty(count, self.dim)
        return self._probes(like, generator).vectors[0]

    def log_prob(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        probes: Tensor | None = None,
        cond: Tensor | None = None,
    ) -> Tensor:
        """See `Flow.log_prob`."""
        if probes is None:
            return super().log_prob(z, generator, cond=cond)
        self.check("z", z, cond)
        self.check("probes", probes, cond)
        w, log_det = self._carry(z, False, Probes(probes[None], 1.0), cond)
        return standard_normal_log_prob(w) + log_det

    def _probes(self, like: Tensor, generator: torch.Generator | None) -> Probes:
        return trace_probes(self.trace if self.training else "exact", like, generator=generator)
