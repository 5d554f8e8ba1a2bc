"""Continuous normalizing flow: the latent prior as the solution of an ODE (Grathwohl et al., FFJORD, ICLR 2019)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pcdiff.diffusion.divergence import Probes, check_trace, divergence, trace_probes
from pcdiff.errors import InputError
from pcdiff.flows.base import Flow, standard_normal_log_prob

MAX_STEPS = 1000  # of the solver; a flow that needs more has diverged


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


class ContinuousFlow(Flow):
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
        self.net = VelocityNet(dim, widths, cond_dim)

    def forward(
        self, z: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map latents to the base; see `Flow.forward`. The log-determinant is exact in evaluation mode."""
        self.check("z", z, cond)
        return self._carry(z, 0.0, self.time_length, self._probes(z, generator), cond)

    def inverse(
        self, w: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map base vectors to latents; see `Flow.inverse`. The log-determinant is exact in evaluation mode."""
        self.check("w", w, cond)
        return self._carry(w, self.time_length, 0.0, self._probes(w, generator), cond)

    def to_latent(self, w: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map base vectors `(B, F)` to latents alone: no divergence is taken."""
        self.check("w", w, cond)
        return self._carry(w, self.time_length, 0.0, None, cond)[0]

    def to_base(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map latents `(B, F)` to base vectors alone: no divergence is taken."""
        self.check("z", z, cond)
        return self._carry(z, 0.0, self.time_length, None, cond)[0]

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
        w, log_det = self._carry(z, 0.0, self.time_length, Probes(probes[None], 1.0), cond)
        return standard_normal_log_prob(w) + log_det

    def exact_log_prob(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the log-density `(B,)` in nats of latents `z (B, F)` with the exact trace, in training too."""
        self.check("z", z, cond)
        w, log_det = self._carry(z, 0.0, self.time_length, trace_probes("exact", z), cond)
        return standard_normal_log_prob(w) + log_det

    def _probes(self, like: Tensor, generator: torch.Generator | None) -> Probes:
        return trace_probes(self.trace if self.training else "exact", like, generator=generator)

    def _carry(
        self, start: Tensor, t0: float, t1: float, probes: Probes | None, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Carry `start (B, F)` from t0 to t1; return the end and the integral of the divergence `(B,)`."""
        state = start if probes is None else torch.cat([start, start.new_zeros(len(start), 1)], dim=1)

        def slope(t: Tensor, state: Tensor) -> Tensor:
            if probes is None:
                return self.net(t, state, cond)
            velocity, spread = divergence(lambda z: self.net(t, z, cond), state[:, : self.dim], probes)
            return torch.cat([velocity, spread[:, None]], dim=1)

        # the adjoint finds gradients of what it is told of alone
        learned = [] if cond is None or not cond.requires_grad else [cond]
        from torchdiffeq import odeint_adjoint  # here, since it takes half a second of every program's start

        try:
            end = odeint_adjoint(
                slope,
                state,
                torch.tensor([t0, t1], device=start.device, dtype=start.dtype),
                rtol=self.tolerance,
                atol=self.tolerance,
                method="dopri5",
                options={"norm": _worst_latent, "max_num_steps": MAX_STEPS},
                adjoint_options={"norm": "seminorm", "max_num_steps": MAX_STEPS},
                adjoint_params=(*self.net.parameters(), *learned),
            )[-1]
        except AssertionError as error:
            raise InputError(f"the flow's ODE is too rough for tolerance {self.tolerance:g}: {error}") from error
        return end[:, : self.dim], end[:, self.dim :].sum(dim=1)


def _worst_latent(error: Tensor) -> Tensor:
    return error.square().mean(dim=1).sqrt().max()
