"""Clouds of given classes: the vectors that stand for them, and what a model's net is conditioned on."""

from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.config import CloudObjectiveConfig, ModelConfig, SamplingConfig
from pcdiff.config.model import check_class_kind
from pcdiff.diffusion import Denoiser
from pcdiff.errors import InputError
from pcdiff.models.classes import Classes, condition, guided, in_proportion
from pcdiff.runtime.cloud_batch import CloudBatch


class ClassConditional(nn.Module):
    """Base of models that may be conditioned on classes, beside the code that a subclass has or has not.

    Attributes:
        classes: what classes there are; None of a model without.
        class_embedding: their vectors, `(K + 1, class_dim)`; the last one stands for no class.
        class_counts: clouds trained on of each class `(K,)`.
    """

    config: ModelConfig
    sampling_config: SamplingConfig
    denoiser: Denoiser
    classes: Classes | None
    class_counts: Tensor

    def _classes(self, config: ModelConfig, objective: CloudObjectiveConfig) -> Classes | None:
        names = config.class_names
        if not config.class_conditional and not names:
            return None
        check_class_kind(config)
        if not config.class_conditional or len(set(names)) < max(2, len(names)):
            raise InputError(
                "a class-conditional model needs two or more class_names, each once, got "
                f"{', '.join(names) or 'none'}{'' if config.class_conditional else ' without class_conditional'}"
            )
        dropout = objective.label_dropout
        return Classes(len(names), dropout > 0, dropout, names)

    def _add_class_vectors(self) -> None:
        if self.classes is not None:
            self.class_embedding = nn.Embedding(self.classes.count + 1, self.class_dim)
            self.register_buffer("class_counts", torch.ones(self.classes.count, dtype=torch.long))

    @property
    def code_dim(self) -> int:
        """Size of the code that the net is conditioned on; 0 is none."""
        raise NotImplementedError

    @property
    def class_dim(self) -> int:
        """Size of the classes' vectors; 0 where there are no classes."""
        return 0 if self.classes is None else self.config.class_dim

    def net_condition(self, z: Tensor | None, labels: Tensor | None = None) -> Any:
        """Return what the net is conditioned on, `(B, code_dim + class_dim)`; None where that is nothing.

        Args:
            z: codes `(B, code_dim)`; of a model without codes None, or codes of no numbers.
            labels: of classes `(B,)`, that of none included; None of a model without classes.
        """
        parts = [] if z is None or self.code_dim == 0 else [z]
        if labels is not None:
            vectors = self.class_vectors(labels)
            parts.append(vectors if z is None else vectors.to(z.dtype))
        return None if not parts else parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def class_vectors(self, labels: Tensor) -> Tensor:
        """Return the vectors `(B, class_dim)` of labels `(B,)`, that of none included."""
        return self.class_embedding(labels)

    def labels(self, labels: Tensor | None, count: int) -> Tensor | None:
        """Return the labels `(count,)`, on the model's device, that `count` clouds of these classes are drawn with.

        Args:
            labels: `(count,)`; None stands for no class.
            count: clouds.

        Raises:
            InputError: labels for a model without classes, an unknown one, or None where the model needs a class.
        """
        return condition(self.classes, labels, count, self.denoiser.process.device)

    def set_class_counts(self, labels: Tensor) -> None:
        """Keep how many of the clouds trained on are of each class; `sample` draws in that proportion.

        Args:
            labels: of those clouds `(n,)`.
        """
        if self.classes is not None:
            self.classes.check(labels, len(labels))
            self.class_counts.copy_(labels.bincount(minlength=self.classes.count))

    def usual_labels(self, count: int) -> Tensor | None:
        """Return labels `(count,)` in proportion to the clouds trained on; None of a model without classes."""
        if self.classes is None:
            return None
        return torch.tensor(in_proportion(self.class_counts.tolist(), count), dtype=torch.long)

    def _batch(
        self, batch: Tensor | CloudBatch, dropped: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return a batch's clouds, and the labels that are left where some are dropped."""
        x, labels = batch if isinstance(batch, CloudBatch) else (batch, None)
        if self.classes is None:
            return x, None
        if labels is None:
            raise InputError(f"the model is conditioned on the classes {self.classes.known}; the clouds have none")
        self.classes.check(labels, len(x))
        if dropped is None and self.classes.has_null:
            dropped = torch.rand(len(x), generator=generator, device=x.device)
        return x, self.classes.dropped(labels, dropped)

    def guidance_scale(self, labels: Tensor | None, guidance: float | None) -> float:
        """Return the scale of guidance for clouds of these classes: what is given, or the model's own.

        Raises:
            InputError: a scale other than 1 is given for clouds of no class.
        """
        if labels is None and guidance not in (None, 1) and self.classes is not None:
            raise InputError(f"guidance {guidance:g} stresses a class, and none is given; name classes, or take 1")
        scale = 1.0 if labels is None and guidance is None else guidance
        scale = self.sampling_config.guidance if scale is None else scale
        return 1.0 if scale is None else scale

    def conditioned(
        self, z: Tensor, labels: Tensor | None = None, guidance: float | None = None
    ) -> tuple[Denoiser, Any]:
        """Return the denoiser for codes `(B, F)` and labels `(B,)` with what it is conditioned on; see `decode`."""
        scale = self.guidance_scale(labels, guidance)
        cond = self.net_condition(z, self.labels(labels, len(z)))

        def null() -> Any:
            return self.net_condition(z, self.labels(None, len(z)))

        return guided(self.classes, self.denoiser, scale, null), cond
