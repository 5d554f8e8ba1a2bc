"""Classes that a model of clouds or images is conditioned on: which there are, dropping labels, guidance."""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion import ClassifierFreeGuidance, Denoiser
from pcdiff.errors import InputError, short


@dataclass(frozen=True)
class Classes:
    """The classes of a model, `0..count-1`; the label `count` stands for none.

    Attributes:
        count: how many there are.
        has_null: whether the model is trained to do without a class, too.
        label_dropout: share of labels that training drops.
        names: of the classes, in the order of their labels; none where they have none.
        unit: what has a class, for messages.

    Example:
        >>> classes = Classes(2, names=("airplane", "chair"))
        >>> classes.labels(["chair", "airplane", 1], 3)
        tensor([1, 0, 1])
    """

    count: int
    has_null: bool = True
    label_dropout: float = 0.1
    names: tuple[str, ...] = ()
    unit: str = "cloud"

    @property
    def known(self) -> str:
        """The classes in words."""
        return ", ".join(self.names) or f"0..{self.count - 1}"

    def dropped(self, labels: Tensor, uniform: Tensor | None) -> Tensor:
        """Return labels `(B,)`, none in place of those whose draw `(B,)` in [0, 1) lies below `label_dropout`."""
        return labels if uniform is None else torch.where(uniform < self.label_dropout, self.count, labels)

    def labels(self, classes: str | int | Sequence[str | int] | Tensor, count: int) -> Tensor:
        """Return the labels `(count,)` of classes by name or label: one for each of `count`, or one for all.

        Raises:
            InputError: an unknown class, or another number of them.
        """
        given: Any = classes.tolist() if isinstance(classes, Tensor) else classes
        if isinstance(given, str) or not isinstance(given, Iterable):
            given = [given] * count
        found = [self._label(each) for each in given]
        if len(found) != count:
            raise InputError(f"classes must be {count}, one for each {self.unit} (or one name), got {len(found)}")
        return torch.tensor(found, dtype=torch.long)

    def check(self, labels: Tensor, count: int) -> None:
        """Refuse labels that are not one of a class for each of `count`.

        Raises:
            InputError: another number or type of them, or a label of no class.
        """
        fits = labels.shape == (count,) and not labels.is_floating_point()
        if not fits or not ((labels >= 0) & (labels < self.count)).all():
            raise InputError(f"classes must be {count} of {self.known}, got {labels.flatten().tolist()[:8]}")

    def _label(self, given: str | int) -> int:
        label = self.names.index(given) if given in self.names else given
        if isinstance(label, bool) or not (hasattr(label, "__index__") and 0 <= operator.index(label) < self.count):
            raise InputError(f"classes must be of {self.known}, got {short(given)}")
        return operator.index(label)


def condition(classes: Classes | None, labels: Tensor | None, count: int, device: torch.device) -> Tensor | None:
    """Return the labels `(count,)` on a device that a model is given: those, or that of no class.

    Args:
        classes: the model's; None for one without, whose labels are None.
        labels: `(count,)`, or None.
        count: samples.
        device: where the labels go.

    Raises:
        InputError: labels for a model without classes, an unknown label, or none where the model needs them.
    """
    if classes is None:
        if labels is not None:
            raise InputError("this model is not conditioned on classes; leave them out")
        return None
    if labels is None:
        if not classes.has_null:
            raise InputError(f"this model needs a class, {classes.known}, for every {classes.unit}")
        return torch.full((count,), classes.count, device=device)
    classes.check(labels, count)
    return labels.to(device)


def guided(classes: Classes | None, denoiser: Denoiser, scale: float, null: Callable[[], Any]) -> Denoiser:
    """Return the denoiser that stresses its condition `scale` times (Ho & Salimans, 2022).

    Args:
        classes: the model's; None for one without.
        denoiser: of the model.
        scale: 1 is the denoiser itself.
        null: `null()` makes the condition of no class.

    Raises:
        InputError: the scale is not 1 and the model was not trained to do without a class.
    """
    if scale == 1:
        return denoiser
    if classes is None or not classes.has_null:
        raise InputError(
            f"guidance {scale:g} needs a net conditioned on classes, with a null class; "
            "train it with classes, or take 1"
        )
    return ClassifierFreeGuidance(denoiser, null(), scale)


def in_proportion(counts: Sequence[int], number: int) -> list[int]:
    """Return `number` labels in proportion to counts, such that each beginning of the list is so too.

    Label by label the class takes its turn that has the largest `count / (2 given + 1)`: the method of Webster and
    Sainte-Laguë, by which no share ever falls when more are given (Balinski & Young, Fair Representation, 1982).

    Example:
        >>> in_proportion([6, 2], 8)
        [0, 0, 1, 0, 0, 0, 1, 0]
    """
    given, labels = [0] * len(counts), []
    for _ in range(number):
        label = max(range(len(counts)), key=lambda k: (counts[k] / (2 * given[k] + 1), -k))
        given[label] += 1
        labels.append(label)
    return labels


def spread(labels: Tensor, number: int) -> Tensor:
    """Return the indices `(number,)`, ascending, of the first ones of each class, in proportion to the classes.

    Args:
        labels: of the classes `(n,)`.
        number: how many to choose; all n where there are no more.

    Example:
        >>> spread(torch.tensor([0, 0, 0, 0, 1, 1]), 3)
        tensor([0, 1, 4])
    """
    if number >= len(labels):
        return torch.arange(len(labels))
    counts = labels.bincount().tolist()
    shares = torch.tensor(in_proportion(counts, number)).bincount(minlength=len(counts)).tolist()
    chosen = [(labels == label).nonzero()[:share, 0] for label, share in enumerate(shares)]
    return torch.cat(chosen).sort().values
