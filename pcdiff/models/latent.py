"""Generators: a latent variable with a prior, a posterior from the encoder, and the bound that joins them."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.config import ModelConfig, ObjectiveConfig
from pcdiff.encoders import reparameterize
from pcdiff.errors import InputError
from pcdiff.flows import FLOWS, Flow, standard_normal_log_prob
from pcdiff.models.base import PointCloudModel
from pcdiff.runtime.call_checks import checked


class LatentPriorModel(PointCloudModel):
    """Base of the generators: q(z | X) from the encoder, a prior p(z), and the bound that joins them."""

    def prior_log_prob(
        self, z: Tensor, generator: torch.Generator | None = None, probes: Tensor | None = None
    ) -> Tensor:
        """Return log p(z) `(B,)` in nats of latents `(B, F)`, as training takes it.

        Args:
            z: latents.
            generator: source of the draws of a prior that is estimated in training (the continuous flow).
            probes: those draws themselves, in place of the generator.
        """
        raise NotImplementedError

    def draw(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """See `PointCloudModel.draw`: the latents' noise beside it."""
        shape = (count, self.config.latent_dim)
        latent_noise = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        return {"latent_noise": latent_noise} | super().draw(x, count, generator)

    @torch.no_grad()
    def latent_log_prob(self, z: Tensor) -> Tensor:
        """Return the prior's log-density `(B,)` in nats of latents `z (B, F)`, exact whatever the prior."""
        return self.prior_log_prob(z)

    def base_to_latent(self, w: Tensor) -> Tensor:
        """Map base vectors w ~ N(0, I) `(B, F)` to latents of the prior."""
        raise NotImplementedError

    def latent_to_base(self, z: Tensor) -> Tensor:
        """Map latents `(B, F)` to the base, where the prior is N(0, I)."""
        raise NotImplementedError

    def loss_terms(self, x: Tensor, generator: torch.Generator | None = None, **draws: Tensor) -> dict[str, Tensor]:
        """Return the negative bound (Luo & Hu, CVPR 2021, eq. 8 and 13, unverified) and its terms.

        `loss = reconstruction + kl_weight * (prior - entropy)`, where `prior` is the mean of -log p(z) and
        `entropy` that of q(z | X), both in nats a cloud; their difference is the KL divergence.
        """
        mean, log_variance = self.encoder(x)
        mean, log_variance = mean.to(x.dtype), log_variance.to(x.dtype)
        latent_noise, probes = draws.pop("latent_noise", None), draws.pop("probes", None)
        if latent_noise is None:
            z = reparameterize(mean, log_variance, generator)
        else:
            z = mean + latent_noise * (0.5 * log_variance).exp()
        reconstruction = self.reconstruction_term(x, z, generator, **draws).mean()
        prior = -self.prior_log_prob(z, generator, probes).mean()
        entropy = gaussian_entropy(log_variance).mean()
        loss = reconstruction + self.objective_config.kl_weight * (prior - entropy)
        return {"loss": loss, "reconstruction": reconstruction, "prior": prior, "entropy": entropy}

    @torch.no_grad()
    def sample_latent(
        self, num_samples: int, generator: torch.Generator | None = None, truncate_std: float | None = None
    ) -> Tensor:
        """Draw latents `(num_samples, F)` from the prior.

        Args:
            num_samples: how many.
            generator: source of the draw.
            truncate_std: draw every coordinate of w from N(0, 1) cut off at this many standard deviations.

        Raises:
            InputError: `truncate_std` is not positive.
        """
        device = self.denoiser.process.device
        w = torch.randn(num_samples, self.config.latent_dim, generator=generator, device=device)
        if truncate_std is not None:
            if not truncate_std > 0:  # nan too
                raise InputError(f"truncate_std must be positive, got {truncate_std}")
            # The normal's own distribution function makes w uniform; squeezed and inverted, it is cut off exactly.
            low = torch.special.ndtr(torch.tensor(-truncate_std, dtype=torch.float64, device=device))
            uniform = low + (1 - 2 * low) * torch.special.ndtr(w.double())
            w = torch.special.ndtri(uniform).float()
        return self.base_to_latent(w)

    @checked
    def sample(
        self,
        num_samples: int,
        num_points: int,
        *,
        generator: torch.Generator | None = None,
        truncate_std: float | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate clouds: a latent from the prior, points from the reverse chain.

        Args:
            num_samples: how many clouds.
            num_points: points of each; any number.
            generator: source of every draw.
            truncate_std: see `sample_latent`.
            **options: see `decode`.

        Returns:
            Clouds `(num_samples, num_points, 3)` in the training set's normalisation.
        """
        z = self.sample_latent(num_samples, generator, truncate_std)
        return self.decode(z, num_points, generator=generator, **options)


class GaussianVAE(LatentPriorModel):
    """Generator whose prior is N(0, I): a variational autoencoder, the `gaussian` model of DPM's code."""

    def prior_log_prob(
        self, z: Tensor, generator: torch.Generator | None = None, probes: Tensor | None = None
    ) -> Tensor:
        """Return log N(z; 0, I) `(B,)` in nats."""
        return standard_normal_log_prob(z)

    def base_to_latent(self, w: Tensor) -> Tensor:
        """Return `w` itself: the prior is the base."""
        return w

    def latent_to_base(self, z: Tensor) -> Tensor:
        """Return `z` itself: the prior is the base."""
        return z


class FlowVAE(LatentPriorModel):
    """Generator whose prior is a normalizing flow (Luo & Hu, CVPR 2021, section 4.1; eq. 12-13, unverified).

    Example:
        >>> model = FlowVAE(ModelConfig()).eval()
        >>> clouds = model.sample(4, 2048, generator=torch.Generator().manual_seed(0))  # (4, 2048, 3)
    """

    def __init__(self, config: ModelConfig, objective_config: ObjectiveConfig | None = None):
        super().__init__(config, objective_config)
        self.flow = build_flow(config)

    def draw(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """See `PointCloudModel.draw`: the continuous flow's probes beside it."""
        draws = super().draw(x, count, generator)
        probes = self.flow.draw_probes(count, generator)
        return draws if probes is None else draws | {"probes": probes}

    def prior_log_prob(
        self, z: Tensor, generator: torch.Generator | None = None, probes: Tensor | None = None
    ) -> Tensor:
        """Return log p(z) = log N(w; 0, I) + log |det dw/dz| `(B,)` in nats (eq. 12).

        The continuous flow's determinant is an estimate in training mode, and exact in evaluation.
        """
        # The log-determinant adds up many small numbers: not in half precision.
        with torch.autocast(z.device.type, enabled=False):
            return self.flow.log_prob(z, generator, probes)

    @torch.no_grad()
    def latent_log_prob(self, z: Tensor) -> Tensor:
        """See `LatentPriorModel.latent_log_prob`; nothing is drawn, in training mode too."""
        with torch.autocast(z.device.type, enabled=False):
            return self.flow.exact_log_prob(z)

    def base_to_latent(self, w: Tensor) -> Tensor:
        """Run the flow from base to latent."""
        return self.flow.to_latent(w)

    def latent_to_base(self, z: Tensor) -> Tensor:
        """Run the flow from latent to base."""
        return self.flow.to_base(z)


def gaussian_entropy(log_variance: Tensor) -> Tensor:
    """Return the entropy `(B,)` in nats of N(., exp(log_variance)), `log_variance (B, F)`."""
    log_2pi_e = 2.8378770664093453
    return 0.5 * (log_variance + log_2pi_e).sum(dim=1)


def build_flow(config: ModelConfig) -> Flow:
    """Build the flow prior that `config.flow` names.

    Raises:
        InputError: the name is unknown, or a size is out of range.
    """
    if config.flow not in FLOWS:
        raise InputError(f"flow must be one of {sorted(FLOWS)}, got {config.flow!r}")
    options = {
        "coupling": {"depth": config.flow_depth, "hidden_dim": config.flow_hidden_dim},
        "cnf": {
            "widths": config.cnf_widths,
            "time_length": config.cnf_time,
            "trace": config.cnf_trace,
            "tolerance": config.cnf_tolerance,
        },
    }
    return FLOWS[config.flow](config.latent_dim, **options[config.flow])
