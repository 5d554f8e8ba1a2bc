"""Which parts a model of clouds is composed of, by name, each with its own config."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pcdiff.config.listed import listed
from pcdiff.errors import InputError
from pcdiff.runtime.dataclass_json import from_dict
from pcdiff.runtime.part_config import config_class, find

if TYPE_CHECKING:
    from pcdiff.registry import Registry

_PARTS_OF = {
    "latent": ("encoder", "prior", "net"),
    "autoencoder": ("encoder", "net"),
    "direct": ("net",),
    "completion": ("net",),
}
PARTS = ("encoder", "prior", "net")


def known(part: str) -> "Registry[Any]":
    """Return the encoders, priors or nets by name; imported only here, since commands without a model need none."""
    from pcdiff.encoders import ENCODERS
    from pcdiff.flows import PRIORS
    from pcdiff.nets import NETS

    registries: dict[str, Registry[Any]] = {"encoder": ENCODERS, "prior": PRIORS, "net": NETS}
    return registries[part]


def _options(part: str, name: str) -> Callable[[], Any]:
    return lambda: config_class(known(part)[name])()


@dataclass(frozen=True)
class ModelConfig:
    """What is built: encoder, prior and net by name, each with its options. The defaults are the paper's."""

    kind: Literal["latent", "autoencoder", "direct", "completion"] = "latent"
    """`latent` (a generator: encoder, prior of the latent, net conditioned on it), `autoencoder` (encoder and net),
    `direct` (a generator without a latent: the net alone) or `completion` (the net alone, which draws the rest of
    clouds of which some points are given)."""
    num_given: int = 200
    """Points of a cloud that a completion model is given (points)."""
    mark_given: bool = False
    """Tell a completion model's net which points are given, by a coordinate more, 1 of those and 0 of the others;
    PVD's net finds it out by itself."""
    latent_dim: int = 256
    """Size F of the shape latent."""
    class_conditional: bool = False
    """Condition a generator on the clouds' classes, which are the categories that it is trained on."""
    class_dim: int = 64
    """Size of a class's vector (embedding), of a class-conditional model."""
    class_names: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """Names of the classes, in the order of their labels; written by the run."""
    encoder: Annotated[str, listed("pcdiff.encoders:ENCODERS")] = "pointnet"
    """Encoder from a cloud to the latent, by name, or your own, FILE.py:CLASS."""
    prior: Annotated[str, listed("pcdiff.flows:PRIORS")] = "coupling"
    """Prior of the latent, by name (docs/training.md), or your own, FILE.py:CLASS."""
    net: Annotated[str, listed("pcdiff.nets:NETS")] = "pointwise"
    """Denoising net, by name, or your own, FILE.py:CLASS."""
    encoder_options: Annotated[Any, tyro.conf.arg(name="encoder")] = field(
        default_factory=_options("encoder", "pointnet")
    )
    prior_options: Annotated[Any, tyro.conf.arg(name="prior")] = field(
        default_factory=_options("prior", "coupling")
    )
    net_options: Annotated[Any, tyro.conf.arg(name="net")] = field(default_factory=_options("net", "pointwise"))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the fields that hold this kind's parts."""
        return _PARTS_OF[self.kind]


def check_class_kind(config: ModelConfig) -> None:
    """Refuse a class-conditional model of a kind that takes no classes.

    Raises:
        InputError: it is class-conditional, and neither latent nor direct.
    """
    if config.class_conditional and config.kind not in ("latent", "direct"):
        raise InputError(f"class_conditional goes with kind latent or direct, got {config.kind}")


def with_part(config: ModelConfig, part: str, name: str, cls: type | None = None, **options: Any) -> ModelConfig:
    """Return the config with another encoder, prior or net, at its own defaults.

    Args:
        config: the model's.
        part: `encoder`, `prior` or `net`.
        name: of the class, as `pcdiff.runtime.part_config.find` takes it.
        cls: the class itself, if it is already imported.
        **options: of its config that differ.

    Raises:
        InputError: the name or an option is unknown.
    """
    name = known(part).aliases.get(name, name)
    cls = find(part, known(part), name) if cls is None else cls
    made_from = config_class(cls)
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in options.items()}
    return replace(config, **{part: name, f"{part}_options": from_dict(made_from, values, f"{part} {name}")})


def model_from_dict(values: Any, source: str) -> ModelConfig:
    """Rebuild a model's config from its JSON dict.

    Raises:
        InputError: a field or a part is unknown, or a value is of another type.
    """
    if not isinstance(values, dict):
        return from_dict(ModelConfig, values, source)  # which refuses it
    values = dict(values)
    options = {part: values.pop(f"{part}_options", {}) for part in PARTS}
    config = from_dict(ModelConfig, values, source)
    for part in PARTS:
        try:
            cls = find(part, known(part), getattr(config, part))
        except InputError as error:
            if part not in config.parts:
                continue
            raise error.within(source) from None
        made_from: type[Any] = config_class(cls)
        config = replace(config, **{f"{part}_options": from_dict(made_from, options[part], f"{source}: {part}")})
    return config


def check_sees_points(name: str, net: Any) -> None:
    """Refuse a net for completion that moves every point by itself, to which given points would say nothing.

    Args:
        name: of the net, for the message.
        net: it, or its class.

    Raises:
        InputError: it is one.
    """
    if getattr(net, "pointwise", False):
        raise InputError(
            f"a completion model needs a net whose points see one another, got {name}; take another with --net"
        )
