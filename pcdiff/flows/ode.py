"""Flows that are the solution of an ODE: both directions, and the density, from one velocity."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.divergence import Probes, divergence, trace_probes
from pcdiff.errors import InputError
from pcdiff.flows.base import Flow, standard_normal_log_prob

MAX_STEPS = 1000  # of the solver; a flow that needs more has diverged


class OdeFlow(Flow):
    r"""Latents carried along `dz/dt = f(z, t)` from the latent at t0 to w ~ N(0, I) at t1; a subclass has the f.

    `log p(z) = log N(w; 0, I) + int div f dt` (Chen et al., 2018, theorem 1). Gradients come from the adjoint ODE,
    in memory that does not grow with the solver's steps. Errors are measured for each latent by itself, and the
    worst decides the step that all take.

    Attributes:
        span: t0 and t1.
        tolerance: relative and absolute tolerance of the solver, forward and of the adjoint.
    """

    span: tuple[float, float]
    tolerance: float

    def velocity(self, t: Tensor, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return dz/dt `(B, F)` at the time `t`, a scalar, latents `z (B, F)` and conditions `(B, C)`."""
        raise NotImplementedError

    def forward(
        self, z: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map latents to the base; see `Flow.forward`. The log-determinant is exact in evaluation mode."""
        self.check("z", z, cond)
        return self._carry(z, False, self._probes(z, generator), cond)

    def inverse(
        self, w: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map base vectors to latents; see `Flow.inverse`. The log-determinant is exact in evaluation mode."""
        self.check("w", w, cond)
        return self._carry(w, True, self._probes(w, generator), cond)

    def to_latent(self, w: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map base vectors `(B, F)` to latents alone: no divergence is taken."""
        self.check("w", w, cond)
        return self._carry(w, True, None, cond)[0]

    def to_base(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map latents `(B, F)` to base vectors alone: no divergence is taken."""
        self.check("z", z, cond)
        return self._carry(z, False, None, cond)[0]

    def exact_log_prob(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the log-density `(B,)` in nats of latents `z (B, F)` with the exact trace, in training too."""
        self.check("z", z, cond)
        w, log_det = self._carry(z, False, trace_probes("exact", z), cond)
        return standard_normal_log_prob(w) + log_det

    def _probes(self, like: Tensor, generator: torch.Generator | None) -> Probes:
        return trace_probes("exact", like)

    def _carry(
        self, start: Tensor, backward: bool, probes: Probes | None, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Carry `start (B, F)` along the span; return the end and the integral of the divergence `(B,)`."""
        state = start if probes is None else torch.cat([start, start.new_zeros(len(start), 1)], dim=1)

        def slope(t: Tensor, state: Tensor) -> Tensor:
            if probes is None:
                return self.velocity(t, state, cond)
            velocity, spread = divergence(lambda z: self.velocity(t, z, cond), state[:, : self.dim], probes)
            return torch.cat([velocity, spread[:, None]], dim=1)

        # the adjoint finds gradients of what it is told of alone
        learned = [] if cond is None or not cond.requires_grad else [cond]
        from torchdiffeq import odeint_adjoint  # here, since it takes half a second of every program's start

        span: Any = self.span[::-1] if backward else self.span
        try:
            end = odeint_adjoint(
                slope,
                state,
                torch.tensor(span, device=start.device, dtype=start.dtype),
                rtol=self.tolerance,
                atol=self.tolerance,
                method="dopri5",
                options={"norm": _worst_latent, "max_num_steps": MAX_STEPS},
                adjoint_options={"norm": "seminorm", "max_num_steps": MAX_STEPS},
                adjoint_params=(*self.parameters(), *learned),
            )[-1]
        except AssertionError as error:
            raise InputError(f"the flow's ODE is too rough for tolerance {self.tolerance:g}: {error}") from error
        return end[:, : self.dim], end[:, self.dim :].sum(dim=1)


def _worst_latent(error: Tensor) -> Tensor:
    return error.square().mean(dim=1).sqrt().max()
