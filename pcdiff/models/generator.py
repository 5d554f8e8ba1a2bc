"""What every generator of clouds can do: draw codes, and clouds from them."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.models.base import PointCloudModel
from pcdiff.runtime.call_checks import checked


class Generator(PointCloudModel):
    """Base of the models that clouds are sampled from; subclasses give `sample_latent`."""

    def sample_latent(
        self, num_samples: int, generator: torch.Generator | None = None, truncate_std: float | None = None
    ) -> Tensor:
        """Draw codes `(num_samples, F)`, F = `code_dim`; of a model without codes `(num_samples, 0)`."""
        raise NotImplementedError

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
            Clouds `(num_samples, num_points, 3)` in the training set's normalization.
        """
        z = self.sample_latent(num_samples, generator, truncate_std)
        return self.decode(z, num_points, generator=generator, **options)
