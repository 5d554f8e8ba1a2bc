"""A generator without a latent: the denoiser alone draws the points of a cloud."""

import torch
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.models.generator import Generator
from pcdiff.runtime.cloud_batch import CloudBatch


class Direct(Generator):
    """Diffusion of the points themselves, conditioned on a class or nothing; arguments as for `PointCloudModel`.

    Its net should let points see one another: a pointwise one has nothing that makes a cloud's points agree.

    Example:
        >>> from pcdiff.config import ModelConfig, ProcessConfig
        >>> model = Direct(ModelConfig(kind="direct"), ProcessConfig(name="edm", predicts="edm", time_input="edm"))
        >>> clouds = model.eval().sample(4, 2048, generator=torch.Generator().manual_seed(0))  # (4, 2048, 3)
    """

    kind = "direct"

    @property
    def code_dim(self) -> int:
        """0: there is no code."""
        return 0

    def loss_terms(
        self, batch: Tensor | CloudBatch, generator: torch.Generator | None = None, **draws: Tensor
    ) -> dict[str, Tensor]:
        """See `PointCloudModel.loss_terms`: the objectives are the whole loss."""
        x, labels = self._batch(batch, draws.pop("dropped", None), generator)
        return {"loss": self.reconstruction_term(x, None, generator, labels=labels, **draws).mean()}

    def sample_latent(
        self,
        num_samples: int,
        generator: torch.Generator | None = None,
        truncate_std: float | None = None,
        labels: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Return codes of no numbers, `(num_samples, 0)`; nothing is drawn.

        Raises:
            InputError: `truncate_std` is given, which cuts off a latent's draw.
        """
        if truncate_std is not None:
            raise InputError(f"truncate_std is a latent's, which this model has none of, got {truncate_std}")
        return torch.zeros(num_samples, 0, device=self.device)
