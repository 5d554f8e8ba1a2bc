"""Score anyone's clouds, read from files."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcdiff import ops
from pcdiff.config import EvaluateConfig
from pcdiff.errors import InputError
from pcdiff.evaluation.job import Places, finish
from pcdiff.evaluation.report import picture, report
from pcdiff.interop import CloudSet, read_cloud_set, stack_clouds
from pcdiff.metrics import emd_seconds, evaluate, fingerprint, get_protocol, reconstruction_report
from pcdiff.metrics.evaluation import EMD_LIMIT_SECONDS
from pcdiff.metrics.generation import pairs_compared
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.progress import bar
from pcdiff.runtime.resumable import Arrays, ResumableMap
from pcdiff.runtime.stopping import Stop

QUICK_CLOUDS = 64
_MESH_POINTS = 2048  # of a surface, where no protocol names a number


def score_files(config: EvaluateConfig, stop: Stop | None = None) -> dict[str, Any] | None:
    """Score `config.samples` against `config.reference`; print the table, write it where asked.

    `stop` is as in `pcdiff.evaluation.job.finish`.

    Returns:
        The result, or None when a limit or a signal stopped the work.

    Raises:
        InputError: a file is unreadable, or the sets do not fit.
    """
    protocol = get_protocol(config.protocol)
    files = {"samples": config.samples, "reference": config.reference, "train": config.train}
    files = {name: file for name, file in files.items() if file is not None}
    sets = _stacked(config, files, protocol.points, whole=("reference",) if protocol.skips_points else ())
    sets = {name: clouds if name == "train" else clouds[: limit(config)] for name, clouds in sets.items()}
    places = Places.asked_for(config)
    settings = asked(config) | {name: fingerprint(clouds) for name, clouds in sets.items()}

    def job(work: ResumableMap) -> dict[str, Any]:
        result = compared(config, work, **sets)
        for name, file in files.items():
            result["dataset"][name]["source"] = str(file)
        result["settings"] = settings_of(config)
        if config.point_rule is not None:
            result["details"]["notes"].append(f"points chosen by the rule {config.point_rule}")
        report(result, places)
        title = f"{config.samples.name} against {config.reference.name}, protocol {protocol.name}"
        picture(result, places, title, num_points=config.num_points, **sets)
        return result

    return finish(config, places, settings, job, stop)


def score_reconstructions(config: EvaluateConfig, stop: Stop | None = None) -> dict[str, Any] | None:
    """Score `config.reconstructions` against their `config.reference`; print the table, write it where asked.

    `stop` is as in `pcdiff.evaluation.job.finish`.

    Returns:
        The result, or None when a limit or a signal stopped the work.

    Raises:
        InputError: a file is unreadable, or the sets do not pair up.
    """
    files = {"reconstructions": config.reconstructions, "reference": config.reference, "second": config.oracle}
    files = {name: file for name, file in files.items() if file is not None}
    sets = {name: clouds[: limit(config)] for name, clouds in _stacked(config, files, _MESH_POINTS).items()}
    places = Places.asked_for(config)
    hashes = {name: fingerprint(clouds) for name, clouds in sets.items()}

    def job(work: ResumableMap) -> dict[str, Any]:
        result = reconstructed(config, work, **sets)
        result["unit"] = "the files' own"
        result["dataset"] = {name: {"source": str(file), "sha256": hashes[name]} for name, file in files.items()}
        result |= {"settings": settings_of(config), "seed": config.seed}
        report(result, places)
        return result

    return finish(config, places, asked(config) | hashes, job, stop)


def settings_of(config: EvaluateConfig) -> dict[str, Any]:
    """Return the flags that decide the numbers, for the result."""
    names = ("split", "num_points", "point_rule", "num_samples", "preset", "metrics", "emd")
    drawn = ("sampler", "num_steps", "grid", "flexibility", "precision", "truncate_std", "guidance")
    return {name: value for name in names + drawn if (value := _plain(getattr(config, name))) is not None}


def asked(config: EvaluateConfig) -> dict[str, Any]:
    """Return the flags that decide what is compared, for a journal's settings."""
    names = "protocol", "num_points", "point_rule", "num_samples", "preset", "metrics", "emd", "floor", "seed"
    return {name: _plain(getattr(config, name)) for name in names}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def compared(config: EvaluateConfig, work: ResumableMap, of: str = "", **sets: Tensor) -> dict[str, Any]:
    """Return `evaluate`'s result for `samples`, `reference` and maybe `train`, with a bar.

    Where several comparisons are one job, `of` sets each apart from the others.
    """

    def map_blocks(name: str, blocks: Sequence[Any], compute: Callable[[Any], Arrays]) -> Iterable[Arrays]:
        return work.map(f"{of} {name}" if of else name, blocks, compute)

    device = resolve_device(config.device)
    if ops.backend(device) == "reference":  # the CPU's kernels are quicker than PyTorch on any device
        device = torch.device("cpu")
    with bar(f"comparing {of}".rstrip(), "pair") as progress:
        return evaluate(
            **{name: clouds.to(device) for name, clouds in sets.items()},
            protocol=config.protocol,
            num_points=config.num_points,
            metrics=config.metrics,
            emd=with_emd(config),
            floor=config.floor,
            resamples=config.resamples,
            seed=config.seed,
            progress=progress,
            map_blocks=map_blocks,
        )


def reconstructed(config: EvaluateConfig, work: ResumableMap, **sets: Tensor) -> dict[str, Any]:
    """Return `reconstruction_report`'s result for `reconstructions`, `reference` and maybe `second`, with a bar."""
    pairs, points = len(sets["reference"]), sets["reference"].shape[1]
    emd = with_emd(config)
    if emd is None:
        seconds = pairs * emd_seconds(pairs, points) / pairs_compared(pairs)
        emd = seconds < EMD_LIMIT_SECONDS and points == sets["reconstructions"].shape[1]
    with bar("comparing", "pair") as progress:
        return reconstruction_report(**sets, emd=emd, progress=progress, map_blocks=work.map)


def with_emd(config: EvaluateConfig) -> bool | None:
    """Return whether the EMD is asked for; None: where it takes little time."""
    return {"yes": True, "no": False, "auto": None if config.preset == "paper" else False}[config.emd]


def limit(config: EvaluateConfig) -> int | None:
    """Return how many clouds of a set are scored at most; None: all."""
    limits = [config.num_samples, QUICK_CLOUDS if config.preset == "quick" else None]
    return min((n for n in limits if n is not None), default=None)


def _stacked(
    config: EvaluateConfig, files: dict[str, Path], points: int | None, whole: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Read sets of clouds and give each set's clouds one size; those named in `whole` are not cut."""
    mesh_points = config.num_points or points or _MESH_POINTS
    sets = {name: read_cloud_set(file, mesh_points=mesh_points, seed=config.seed) for name, file in files.items()}
    wanted = config.num_points
    if config.point_rule is not None and wanted is None:
        smallest = min(len(cloud) for held in sets.values() for cloud in held.clouds)
        wanted = min(smallest, points or smallest)

    for name in whole:
        sizes = {len(cloud) for cloud in sets[name].clouds}
        if len(sizes) > 1:
            raise InputError(
                f"{files[name]}: protocol {config.protocol} chooses the points of the {name} clouds itself, so "
                f"they must be of one size, got {min(sizes)} to {max(sizes)} points"
            )

    def stack(name: str, held: CloudSet) -> Tensor:
        cut = (None, None) if name in whole else (wanted, config.point_rule)
        return torch.from_numpy(stack_clouds(held, *cut, seed=config.seed))

    return {name: stack(name, held) for name, held in sets.items()}
