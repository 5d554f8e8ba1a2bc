"""Generators with a latent: an encoder, a prior, and the bound that joins them (Luo & Hu, CVPR 2021)."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.config.model import known
from pcdiff.encoders import reparameterize
from pcdiff.errors import InputError, OutOfRange
from pcdiff.flows.base import given
from pcdiff.models.generator import Generator
from pcdiff.runtime.cloud_batch import CloudBatch


class Latent(Generator):
    """Encoder q(z | X), prior p(z) and a denoiser of points conditioned on z (Luo & Hu, CVPR 2021, section 4.1).

    With the prior `gaussian` it is a variational autoencoder, the `gaussian` model of DPM's code; with `coupling`
    the paper's generator. Arguments as for `PointCloudModel`. A class-conditional one has a prior p(z | class); the
    encoder is told no class, since it sees the cloud.

    Raises:
        InputError: as `PointCloudModel`, or the model is class-conditional and its prior takes no condition.

    Example:
        >>> model = Latent(ModelConfig()).eval()
        >>> clouds = model.sample(4, 2048, generator=torch.Generator().manual_seed(0))  # (4, 2048, 3)
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.prior = self._part("prior", cond_dim=self.class_dim)
        if self.classes is not None and not getattr(self.prior, "conditional", False):
            able = sorted(name for name, prior in known("prior").items() if getattr(prior, "conditional", False))
            raise InputError(
                f"prior {self.config.prior} takes no condition, as a class-conditional model needs; those that do: "
                f"{', '.join(able)}"
            )

    def draw(
        self, batch: Tensor | CloudBatch, count: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """See `PointCloudModel.draw`: the latents' noise beside it, and the probes of a prior that needs some."""
        x = batch.points if isinstance(batch, CloudBatch) else batch
        shape = (count, self.config.latent_dim)
        latent_noise = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        draws = {"latent_noise": latent_noise} | super().draw(batch, count, generator)
        probes = self.prior.draw_probes(count, generator)
        return draws if probes is None else draws | {"probes": probes}

    def _prior_condition(self, labels: Tensor | None) -> dict[str, Tensor]:
        return given(None if labels is None else self.class_vectors(labels))

    def prior_log_prob(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        probes: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return log p(z) `(B,)` in nats of latents `z (B, F)`, as training takes it.

        For a flow that is log N(w; 0, I) + log |det dw/dz| (Luo & Hu, CVPR 2021, eq. 12, unverified); a continuous
        flow's determinant is an estimate in training mode, and exact in evaluation.

        Args:
            z: latents.
            generator: source of the draws of a prior that is estimated in training (the continuous flow).
            probes: those draws themselves, in place of the generator.
            labels: of the latents' classes `(B,)`, that of none included, where the model is class-conditional.
        """
        # The log-determinant adds up many small numbers: not in half precision.
        with torch.autocast(z.device.type, enabled=False):
            return self.prior.log_prob(z, generator, probes, **self._prior_condition(labels))

    @torch.no_grad()
    def latent_log_prob(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the prior's log-density `(B,)` in nats of latents `z (B, F)`, exact whatever the prior.

        Nothing is drawn, in training mode too. Of a class-conditional model it is that given classes `labels (B,)`,
        or no class.
        """
        condition = self._prior_condition(self.labels(labels, len(z)))
        with torch.autocast(z.device.type, enabled=False):
            return self.prior.exact_log_prob(z, **condition)

    def base_to_latent(self, w: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map base vectors w ~ N(0, I) `(B, F)` to latents of the prior, given classes `labels (B,)` or none."""
        return self.prior.to_latent(w, **self._prior_condition(self.labels(labels, len(w))))

    def latent_to_base(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents `(B, F)` to the base, where the prior is N(0, I), given classes `labels (B,)` or none."""
        return self.prior.to_base(z, **self._prior_condition(self.labels(labels, len(z))))

    def loss_terms(
        self, batch: Tensor | CloudBatch, generator: torch.Generator | None = None, **draws: Tensor
    ) -> dict[str, Tensor]:
        """Return the negative bound (Luo & Hu, CVPR 2021, eq. 8 and 13, unverified) and its terms.

        `loss = reconstruction + kl_weight * (prior - entropy)`, where `prior` is the mean of -log p(z) and
        `entropy` that of q(z | X), both in nats a cloud; their difference is the KL divergence.
        """
        x, labels = self._batch(batch, draws.pop("dropped", None), generator)
        mean, log_variance = self.encoder(x)
        mean, log_variance = mean.to(x.dtype), log_variance.to(x.dtype)
        latent_noise, probes = draws.pop("latent_noise", None), draws.pop("probes", None)
        if latent_noise is None:
            z = reparameterize(mean, log_variance, generator)
        else:
            z = mean + latent_noise * (0.5 * log_variance).exp()
        reconstruction = self.reconstruction_term(x, z, generator, labels=labels, **draws).mean()
        prior = -self.prior_log_prob(z, generator, probes, labels).mean()
        entropy = gaussian_entropy(log_variance).mean()
        loss = reconstruction + self.objective_config.kl_weight * (prior - entropy)
        return {"loss": loss, "reconstruction": reconstruction, "prior": prior, "entropy": entropy}

    @torch.no_grad()
    def sample_latent(
        self,
        num_samples: int,
        generator: torch.Generator | None = None,
        truncate_std: float | None = None,
        labels: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Draw latents `(num_samples, F)` from the prior.

        Args:
            num_samples: how many.
            generator: source of the draw.
            truncate_std: draw every coordinate of w from N(0, 1) cut off at this many standard deviations.
            labels: of the latents' classes `(num_samples,)`, where the model is class-conditional; None stands for
                no class.
            guidance: scale of classifier-free guidance, of a prior that can be guided; the model's own by default.

        Raises:
            InputError: `truncate_std` is not positive.
        """
        device = self.device
        w = torch.randn(num_samples, self.config.latent_dim, generator=generator, device=device)
        if truncate_std is not None:
            if not truncate_std > 0:  # nan too
                raise OutOfRange("truncate_std", "positive", truncate_std)
            # The normal's own distribution function makes w uniform; squeezed and inverted, it is cut off exactly.
            low = torch.special.ndtr(torch.tensor(-truncate_std, dtype=torch.float64, device=device))
            uniform = low + (1 - 2 * low) * torch.special.ndtr(w.double())
            w = torch.special.ndtri(uniform).float()
        known, scale = self.labels(labels, num_samples), self.guidance_scale(labels, guidance)
        told: dict[str, Any] = self._prior_condition(known)
        if scale != 1 and getattr(self.prior, "guidable", False):
            told |= {"guidance": scale, "null": self.class_vectors(self.labels(None, num_samples))}
        return self.prior.sample(w, generator, **told)


def gaussian_entropy(log_variance: Tensor) -> Tensor:
    """Return the entropy `(B,)` in nats of N(., exp(log_variance)), `log_variance (B, F)`."""
    log_2pi_e = 2.8378770664093453
    return 0.5 * (log_variance + log_2pi_e).sum(dim=1)
