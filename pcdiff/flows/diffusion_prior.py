"""Diffusion prior: the latent's distribution as a diffusion of its own (Vahdat et al., LSGM, NeurIPS 2021)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pcdiff.diffusion import VP, ClassifierFreeGuidance, NetDenoiser, Sampler
from pcdiff.errors import InputError
from pcdiff.flows.base import standard_normal_log_prob
from pcdiff.flows.ode import OdeFlow
from pcdiff.nets.residual_mlp import ResidualMLP


@dataclass(frozen=True)
class DiffusionPriorConfig:
    """Sizes of the diffusion prior's net, and how latents are drawn."""

    width: int = 512
    """Width of the diffusion prior's residual blocks; LION's has 2048."""
    depth: int = 8
    """Residual blocks of the diffusion prior."""
    dropout: float = 0.0
    """Dropout of the diffusion prior's blocks; LION's is 0.2 to 0.4."""
    sigma_min: float = 0.01
    """Noise level at which the diffusion of latents ends."""
    sampler: str = "unipc"
    """Sampler that latents are drawn by: a predictor's name, such as unipc, dpmpp, heun or euler_maruyama."""
    num_steps: int = 20
    """Steps of that sampler (steps)."""
    tolerance: float = 1e-5
    """Relative and absolute tolerance of the probability flow's solver, for densities and paths between latents."""

    RANGES: ClassVar[dict[str, str]] = {
        "at least 1": "width depth num_steps",
        "in [0, 1)": "dropout",
        "in (0, 1)": "sigma_min",
        "above 0": "tolerance",
    }


class DiffusionPrior(OdeFlow):
    r"""p(z) of a variance-preserving diffusion whose net predicts v (Salimans & Ho, 2022), with LION's net.

    Training takes the evidence bound on log p(z), as LSGM's cross entropy (Vahdat et al., 2021, theorem 1; Kingma
    et al., VDM, 2021, section 5, in the log-SNR lambda), and its gradient goes to the encoder too, as that of a
    flow's density does: the sum of the model's terms stays a bound on log p(X), and the latent keeps to a scale
    that the prior fits. With the gradient stopped at z nothing would hold the latent's scale or spread, and a
    second stage of training would be needed (as LION has). The bound is written around that of N(0, I),

        log p(z) >= log N(z; 0, I) - 1/2 int E [|eps_hat - eps|^2 - |sigma z_t - eps|^2] d lambda,

    where `sigma z_t` is N(0, I)'s own prediction, v = 0: it has no noise where the net says nothing, since the last
    layer starts at zero, and the net has to learn only how latents differ from N(0, I) (LSGM's mixed score, section
    3.2, unverified). Below the noise level `sigma_min` the score is taken to be N(0, I)'s, which changes little for
    latents that vary smoothly over that distance. lambda is drawn evenly, stratified over the batch, with one draw
    of z_t each: the integrand's weight is then constant, as in LSGM's importance sampling for the likelihood
    (section 3.4, unverified).

    The probability flow from `sigma_min` to T is the map between latents and w ~ N(0, I), deterministic and
    invertible, and gives the exact density of what it draws; latents are drawn from w by a sampler in few steps.

    Args:
        dim: size F of the latent.
        width: of the net's residual blocks.
        depth: blocks.
        dropout: of the blocks, in training.
        sigma_min: noise level at which the diffusion ends.
        sampler: a predictor's name, by which latents are drawn.
        num_steps: its steps.
        tolerance: of the probability flow's solver.
        cond_dim: size of a condition c of p(z | c), which the net is given; 0 for none.

    Raises:
        InputError: a value is out of range, or the sampler is unknown or does not fit.

    Example:
        >>> prior = DiffusionPrior(8, width=16, depth=2)
        >>> bound = prior.log_prob(torch.randn(4, 8), torch.Generator().manual_seed(0))  # (4,) in nats
        >>> z = prior.eval().sample(torch.randn(4, 8))
    """

    Config = DiffusionPriorConfig
    conditional = True
    guidable = True

    def __init__(
        self,
        dim: int,
        width: int = 512,
        depth: int = 8,
        dropout: float = 0.0,
        sigma_min: float = 0.01,
        sampler: str = "unipc",
        num_steps: int = 20,
        tolerance: float = 1e-5,
        cond_dim: int = 0,
    ):
        super().__init__(dim, cond_dim)
        if min(dim, width, depth, num_steps) < 1:
            raise InputError(
                f"dim, width, depth and num_steps must be at least 1, got {dim}, {width}, {depth} and {num_steps}"
            )
        if not (0 < sigma_min < 1 and tolerance > 0 and 0 <= dropout < 1):
            raise InputError(
                "sigma_min must be in (0, 1), tolerance positive and dropout in [0, 1), got "
                f"{sigma_min}, {tolerance} and {dropout}"
            )
        self.config = DiffusionPriorConfig(width, depth, dropout, sigma_min, sampler, num_steps, tolerance)
        process, self.tolerance = VP(), tolerance
        # of log SNR, from the smallest noise on; sigma^2 = 1 - alpha^2
        self.high = math.log(1 / sigma_min**2 - 1)
        start = float(process.t_of_log_snr(torch.tensor(self.high, dtype=torch.float64)))
        process.train_eps = process.sample_eps = start
        self.low = float(process.log_snr(torch.tensor([process.T], dtype=torch.float64)))
        self.span = (start, process.T)
        net = ResidualMLP(dim, width, depth, cond_dim, dropout)
        self.denoiser = NetDenoiser(net, process, "v", "log_snr")
        self.sampler = Sampler(sampler, num_steps=num_steps)
        self.sampler.check(process)

    def velocity(self, t: Tensor, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """See `OdeFlow.velocity`: the probability flow's."""
        t = t.clamp(*self.span).expand(len(z))  # the solver looks a little past an end
        return self.denoiser.velocity(z, t, cond)

    def draw_probes(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """See `Flow.draw_probes`: noise of each latent and where in the log-SNR it stands, `(count, F + 1)`."""
        if not self.training:
            return None
        device = self.denoiser.process.device
        noise = torch.randn(count, self.dim, generator=generator, device=device)
        place = torch.randperm(count, generator=generator, device=device)
        u = (place + torch.rand(count, generator=generator, device=device)) / count
        return torch.cat([noise, u[:, None]], dim=1)

    def log_prob(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        probes: Tensor | None = None,
        cond: Tensor | None = None,
    ) -> Tensor:
        """Return the log-density `(B,)` in nats: exact in evaluation, in training an estimate of the bound on it.

        Arguments as for `Flow.log_prob`.
        """
        self.check("z", z, cond)
        if probes is None:
            probes = self.draw_probes(len(z), generator)
        if probes is None:
            return self.exact_log_prob(z, cond)
        if probes.shape != (len(z), self.dim + 1):
            raise InputError(f"probes must be ({len(z)}, {self.dim + 1}), got {tuple(probes.shape)}")
        noise, u = probes[:, :-1].to(z), probes[:, -1]
        process, meaning = self.denoiser.process, self.denoiser.parametrization
        t = process.t_of_log_snr(self.high + (self.low - self.high) * u.double()).clamp(*self.span).to(z.dtype)
        v = meaning.target(process, z, noise, t)
        predicted, _ = self.denoiser.output(process.perturb(z, t, noise), t, cond)
        # eps_hat - eps = alpha (v_hat - v), and N(0, I) predicts v = 0
        excess = ((predicted - v).square() - v.square()).sum(dim=1) * process.alpha(t).square().to(z.dtype)
        return standard_normal_log_prob(z) - (self.high - self.low) / 2 * excess

    @torch.no_grad()
    def sample(
        self,
        w: Tensor,
        generator: torch.Generator | None = None,
        cond: Tensor | None = None,
        guidance: float = 1.0,
        null: Tensor | None = None,
    ) -> Tensor:
        """Draw latents from base vectors `w (B, F)`; see `Flow.sample`."""
        self.check("w", w, cond)
        denoiser = self.denoiser
        if guidance != 1:
            return self.sampler(
                ClassifierFreeGuidance(denoiser, null, guidance), x_init=w, cond=cond, generator=generator
            )
        return self.sampler(denoiser, x_init=w, cond=cond, generator=generator)

    def _carry(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        with _without_dropout(self):
            return super()._carry(*args, **options)


@contextmanager
def _without_dropout(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
