"""What every generator of clouds can do: draw codes, and clouds from them."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.errors import InputError, short
from pcdiff.models.base import PointCloudModel
from pcdiff.runtime.call_checks import checked


class Generator(PointCloudModel):
    """Base of the models that clouds are sampled from; subclasses give `sample_latent`."""

    def sample_latent(
        self,
        num_samples: int,
        generator: torch.Generator | None = None,
        truncate_std: float | None = None,
        labels: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Draw codes `(num_samples, F)`, F = `code_dim`; of a model without codes `(num_samples, 0)`.

        Args:
            num_samples: how many.
            generator: source of every draw.
            truncate_std: see `Latent.sample_latent`.
            labels: of the clouds' classes `(num_samples,)`, where the model is class-conditional.
            guidance: see `decode`.
        """
        raise NotImplementedError

    @checked
    def sample(
        self,
        num_samples: int,
        num_points: int,
        *,
        classes: Any = None,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
        truncate_std: float | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate clouds: a latent from the prior, points from the reverse chain.

        Args:
            num_samples: how many clouds.
            num_points: points of each; any number.
            classes: of a class-conditional model, by name or label: one for each cloud, or one for all; in
                proportion to the clouds trained on by default.
            guidance: scale of classifier-free guidance toward these classes, of the points and of a latent whose
                prior can be guided; 1 is none. The model's own by default.
            generator: source of every draw.
            truncate_std: see `sample_latent`.
            **options: see `decode`.

        Returns:
            Clouds `(num_samples, num_points, 3)` in the training set's normalization.

        Raises:
            InputError: a class is unknown, another number of them, or the model has none; or see `decode`.

        Example:
            >>> chairs = model.sample(4, 2048, classes="chair", guidance=2.0)  # doctest: +SKIP
        """
        labels = self.labels(self.labels_of(classes, num_samples), num_samples)
        z = self.sample_latent(num_samples, generator, truncate_std, labels, guidance)
        return self.decode(z, num_points, labels=labels, guidance=guidance, generator=generator, **options)

    def labels_of(self, classes: Any, count: int) -> Tensor | None:
        """Return the labels `(count,)` of classes as `sample` takes them; None of a model without classes.

        Raises:
            InputError: see `sample`.
        """
        if classes is None:
            return self.usual_labels(count)
        if self.classes is None:
            raise InputError(f"this model is not conditioned on classes, got {short(classes)}; leave them out")
        return self.classes.labels(classes, count)
