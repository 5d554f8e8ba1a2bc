"""A deterministic code and a diffusion decoder (Luo & Hu, CVPR 2021)."""

import torch
from torch import Tensor

from pcdiff.models.base import PointCloudModel
from pcdiff.runtime.cloud_batch import CloudBatch


class AutoEncoder(PointCloudModel):
    """Deterministic code and diffusion decoder (Luo & Hu, CVPR 2021, section 4.2; eq. 14, unverified).

    Example:
        >>> model = AutoEncoder(ModelConfig(kind="autoencoder"))
        >>> y = model.eval().reconstruct(x)  # (B, N, 3) -> (B, N, 3)
    """

    kind = "autoencoder"
    variational = False

    def loss_terms(
        self, batch: Tensor | CloudBatch, generator: torch.Generator | None = None, **draws: Tensor
    ) -> dict[str, Tensor]:
        """See `PointCloudModel.loss_terms`: `reconstruction` is the whole loss."""
        x, _ = self._batch(batch, None, generator)
        code, _ = self.encoder(x)
        reconstruction = self.reconstruction_term(x, code.to(x.dtype), generator, **draws).mean()
        return {"loss": reconstruction, "reconstruction": reconstruction}
