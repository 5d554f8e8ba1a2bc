"""Other people's image checkpoints by kind, and our own format; every loader gives an `Imported`.

A new kind is a file with `load(path, ...)` and a line in `LOADERS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from image_pipeline.interop import abarankab, adm, diffusers, edm, native, ncsn, score_sde
from image_pipeline.interop.imported import Imported
from image_pipeline.interop.settings import Config
from pcdiff.errors import InputError, UnknownName


class Loader(NamedTuple):
    """A loader, and what it takes beside the path.

    Attributes:
        load: `load(path)`, with `config` second where it takes one, and `ema` where it leaves the choice.
        config: what a config is to it.
        expects: what the config is, for messages.
        both: its files may hold both the weights and their moving average.
    """

    load: Callable[..., Imported]
    config: Literal["needed", "optional", "none"]
    expects: str = ""
    both: bool = False


LOADERS: dict[str, Loader] = {
    "score_sde": Loader(score_sde.load, "needed", "the JSON of the run's config", both=True),
    "ncsn": Loader(ncsn.load, "optional", both=True),
    "adm": Loader(adm.load, "needed", "the JSON of the constructor's arguments, or of the script's flags"),
    "diffusers": Loader(diffusers.load, "optional"),  # a scheduler_config.json
    "edm": Loader(edm.load, "none"),
    "abarankab": Loader(abarankab.load, "needed", "the JSON of the UNet's arguments", both=True),
}


def load(kind: str, path: str | Path, config: Config | None = None, ema: bool = True) -> Imported:
    """Open other people's checkpoint, without running any code in it.

    Args:
        kind: whose it is, a key of `LOADERS`.
        path: the file, or for diffusers the folder.
        config: settings that the file itself lacks, as a dict, JSON or the path of a JSON file; see the loader.
        ema: take the moving average of the weights where the file holds both; the result's `ema` is what was taken.

    Raises:
        InputError: the kind is unknown (the message lists the known ones), the config is missing or not wanted,
            `ema=False` is asked of a file that leaves no choice, or the loader refuses the file or the config.

    Example:
        >>> load("score_sde", "checkpoint_24.pth", "cifar10_ncsnpp_continuous.json").denoiser
    """
    if kind not in LOADERS:
        raise UnknownName("kind", kind, sorted(LOADERS))
    loader = LOADERS[kind]
    if config is None and loader.config == "needed":
        raise InputError(f"{kind} needs a config, {loader.expects}: its files do not hold it")
    if config is not None and loader.config == "none":
        raise InputError(f"{kind} takes no config: its files are complete")
    if not ema and not loader.both:
        raise InputError(f"{kind}: ema must be true, its files hold one set of weights only")
    given = [path] if config is None else [path, config]
    return loader.load(*given, **({"ema": ema} if loader.both else {}))


__all__ = [
    "LOADERS",
    "Imported",
    "Loader",
    "abarankab",
    "adm",
    "diffusers",
    "edm",
    "load",
    "native",
    "ncsn",
    "score_sde",
]
