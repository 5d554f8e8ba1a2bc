"""What each command with a trained model does: read, run the model, write, and log one line."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcdiff.commands.flags import (
    Arithmetic,
    Command,
    Complete,
    Interpolate,
    Invert,
    LogLikelihood,
    Reconstruct,
    Sample,
    Upsample,
    WritesClouds,
    check,
)
from pcdiff.commands.units import read_beside, read_clouds, restore_generated, with_statistics
from pcdiff.config import RunConfig, run_from_dict
from pcdiff.diffusion import SamplingReport
from pcdiff.diffusion.samplers.base import Progress
from pcdiff.errors import InputError, escaped
from pcdiff.interop.files import write_clouds
from pcdiff.metrics import completion_scores
from pcdiff.models import Generator, PointCloudModel, editing
from pcdiff.models.completing import check_completion, method_of
from pcdiff.models.sampling import decoding, reconstruct, sample_all
from pcdiff.models.upsampling import upsample
from pcdiff.ops import chamfer
from pcdiff.ops.far_origin import placed
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.devices import prepare, resolve_device
from pcdiff.runtime.file_lock import sole_writer
from pcdiff.runtime.progress import bar
from pcdiff.runtime.run_folder import write_json
from pcdiff.training.checkpoint import load, locate
from pcdiff.training.job import keep_clouds
from pcdiff.viz import save_completions

THEIR_UNIT = "the input's unit"
_MEANING = {
    "log_p_x_given_z": "log-probability density of the points given the code, in nats a cloud; higher is better",
    "nats_per_dim": "-log p(x | z) / (3 N), negative log-likelihood in nats a coordinate; lower is better",
    "latent_log_prob": "log p(z), log-probability density of the code under the prior, in nats; higher is better",
}


@dataclass
class Trained:
    """A model with its run's config, and the cost of what is done with it."""

    model: PointCloudModel
    run: RunConfig
    progress: Progress
    started: float = field(default_factory=time.perf_counter)
    report: SamplingReport = field(default_factory=SamplingReport)

    @property
    def mode(self) -> str:
        """Return the normalization that the model was trained in."""
        return self.run.data.normalization

    def options(self, command: WritesClouds) -> dict[str, Any]:
        """Return the settings of decoding."""
        return {**decoding(self.run.flexibility, command), "report": self.report, "progress": self.progress}

    def given(self, command: Any, count: int) -> dict[str, Any]:
        """Return the settings of decoding `count` clouds that were read, their classes included."""
        return self.options(command) | {"labels": self.labels(command.classes, count)}

    def labels(self, classes: Sequence[str], count: int) -> Tensor | None:
        """Return the labels of `count` clouds' classes by name, one for all or one for each; None for none.

        Raises:
            InputError: an unknown class, another number of them, or a run without classes.
        """
        if not classes:
            return None
        model = self.model
        if model.classes is None:
            raise InputError(f"--classes go with a class-conditional run, got {', '.join(classes)} for one without")
        return model.classes.labels(classes[0] if len(classes) == 1 else classes, count)

    def cost(self, evaluations: int | None = None) -> str:
        """Return evaluations and seconds in words."""
        count = self.report.evaluations if evaluations is None else evaluations
        return f"{count} network evaluations, {time.perf_counter() - self.started:.1f} s"


def perform(command: Any) -> None:
    """Do what a command asks.

    Raises:
        InputError: a flag, a file or the run does not fit.
    """
    check(command)
    with sole_writer(command.output):
        print(escaped(_performed(command)))


def _performed(command: Command) -> str:
    device = prepare(resolve_device(command.device))
    file = locate(command.run, command.checkpoint)
    model = load(file).to(device)
    run = run_from_dict(model.metadata["config"], str(file))
    command = with_statistics(command, run.data.normalization, model.metadata.get("statistics") or {})
    with bar(type(command).__name__.lower(), "step") as progress:
        return _WORK[type(command)](command, Trained(model, run, progress))


def _sample(command: Sample, trained: Trained) -> str:
    if not isinstance(trained.model, Generator):
        kind = trained.model.config.kind
        if kind == "completion":
            raise InputError(f"{command.run}: a completion model needs given points; take complete, or a generator")
        raise InputError(f"{command.run}: an {kind} has no prior to sample; take reconstruct, or a generator")
    num_points = command.num_points or trained.run.sample_points
    turns = [name for name, _ in zip(cycle(command.classes), range(command.num_samples), strict=False)]
    options = trained.options(command) | {"truncate_std": command.truncate_std}
    options["labels"] = trained.labels(turns, command.num_samples)
    made = sample_all(trained.model, command.num_samples, num_points, command.seed, **options)
    return _written(command, trained, *restore_generated(made, command, trained.mode))


def _upsample(command: Upsample, trained: Trained) -> str:
    if "encoder" in trained.model.config.parts:
        return _reconstruct(command, trained)
    given = read_clouds(command.input, command, trained.mode)
    new = command.num_points - given.points.shape[1]
    if new < 1:
        raise InputError(
            f"--num-points must be above the {given.points.shape[1]} points given, got {command.num_points}"
        )
    if command.sampler not in (None, "heun") or command.flexibility:
        raise InputError(f"upsample draws further points by Heun's method, got --sampler {command.sampler}")
    options = {"num_steps": command.num_steps, "grid": command.grid, "precision": command.precision or "fp32"}
    drawn = upsample(
        *(trained.model, given.points, new, command.seed),
        **options,
        labels=trained.labels(command.classes, len(given.raw)),
        guidance=command.guidance,
        report=trained.report,
        progress=trained.progress,
    )
    made = torch.cat([given.raw, given.restore(drawn)], dim=1)
    return _written(command, trained, made, THEIR_UNIT)


def _reconstruct(command: Reconstruct | Upsample, trained: Trained) -> str:
    given = read_clouds(command.input, command, trained.mode)
    num_points = command.num_points or given.points.shape[1]
    options = trained.given(command, len(given.raw))
    made = torch.cat(list(reconstruct(trained.model, given.points, num_points, command.seed, **options)))
    return _written(command, trained, given.restore(made), THEIR_UNIT)


def _complete(command: Complete, trained: Trained) -> str:
    given = read_clouds(command.input, command, trained.mode)
    truth = None if command.truth is None else read_beside(command.truth, command, given)
    num_points, known = command.num_points or trained.run.sample_points, given.raw.shape[1]
    model, each = trained.model, command.num_completions
    check_completion(model, known, num_points)
    options = trained.given(command, len(given.raw))
    method = method_of(model, command.method)
    drawn = editing.completions(model, given.points, num_points, command.seed, each, method=method, **options)
    # there and back again would round the points given
    rows = [torch.cat([given.raw, given.restore(drawn[:, k])[:, known:]], dim=1) for k in range(each)]
    made = torch.stack(rows, dim=1)
    how = {
        "trained": f"by a model trained for it, from {model.config.num_given} of {known} points",
        "constraint": "by a constraint: the model was not trained for it",
        "inducers": "by its inducers' states: the model was not trained for it",
    }[method]
    parts = {"given": given.raw, "completions": made, "truth": truth}
    line = _written(command, trained, made.flatten(0, 1), THEIR_UNIT, parts)
    if truth is None:
        return f"{line}; {how}"
    scores = completion_scores(completions=made, reference=truth, given=given.raw, emd=num_points == truth.shape[1])
    path = command.output.with_suffix(".json")
    write_json(path, scores | {"unit": THEIR_UNIT, "seed": command.seed, "how": how})
    told = ", ".join(f"{name} {value:.4g}" for name, value in scores["scores"].items())
    return f"{line}, {path}; {how}; {told}"


def _interpolate(command: Interpolate, trained: Trained) -> str:
    a, b = (read_clouds(path, command, trained.mode) for path in (command.a, command.b))
    num_points = command.num_points or max(a.points.shape[1], b.points.shape[1])
    frames = editing.interpolate(
        trained.model,
        a.points,
        b.points,
        command.steps,
        num_points,
        command.seed,
        path=command.path,
        **trained.given(command, len(a.raw)),
    )
    # place and size go from a's to b's with the shape
    weights = torch.linspace(0, 1, command.steps, dtype=torch.float64)[:, None, None]
    shift, scale = (
        torch.lerp(p[:, None], q[:, None], weights) for p, q in ((a.shift, b.shift), (a.scale, b.scale))
    )
    made = placed(frames.flatten(0, 1), scale.flatten(0, 1), shift.flatten(0, 1))
    return _written(command, trained, made, THEIR_UNIT)


def _arithmetic(command: Arithmetic, trained: Trained) -> str:
    a, b, c = (read_clouds(path, command, trained.mode).points for path in (command.a, command.b, command.c))
    num_points = command.num_points or max(points.shape[1] for points in (a, b, c))
    made = editing.arithmetic(trained.model, a, b, c, num_points, command.seed, **trained.given(command, len(a)))
    return _written(command, trained, *restore_generated(made, command, trained.mode))


def _invert(command: Invert, trained: Trained) -> str:
    given = read_clouds(command.input, command, trained.mode)
    found = editing.invert(
        trained.model,
        given.points,
        sampler=command.sampler,
        num_steps=command.num_steps,
        grid=command.grid,
        labels=trained.labels(command.classes, len(given.raw)),
        report=trained.report,
        progress=trained.progress,
    )
    off = float(chamfer(found.clouds, given.points).mean())
    pair = command.output.with_suffix(".npz")
    with replacing(pair) as draft:
        np.savez(draft, code=found.code.numpy(), noise=found.noise.numpy())
    line = _written(command, trained, given.restore(found.clouds), THEIR_UNIT)
    return f"{line}, {pair}; round-trip CD {off:.3e} in the model's normalization ({trained.mode})"


def _log_likelihood(command: LogLikelihood, trained: Trained) -> str:
    given = read_clouds(command.input, command, trained.mode)
    found = editing.log_likelihood(
        trained.model,
        given.points,
        command.seed,
        trace=command.trace,
        labels=trained.labels(command.classes, len(given.raw)),
        progress=trained.progress,
    )
    coordinates = given.points.shape[1:].numel()
    given_code = -coordinates * found.nats_per_dim
    whole, each = float(given_code.mean()), float(found.nats_per_dim.mean())
    line = (
        f"log-likelihood: {len(given.raw)} clouds, means: log p(x | z) = {whole:.2f} nats a cloud, of the points "
        f"given the code (negative log-likelihood {each:.4f} nats a coordinate, lower is better)"
    )
    values: dict[str, Any] = {
        "log_p_x_given_z": given_code.tolist(),
        "nats_per_dim": found.nats_per_dim.tolist(),
        "normalization": trained.mode,
        "trace": command.trace,
        "seed": command.seed,
    }
    if found.latent_log_prob is not None:
        line += f"; log p(z) = {float(found.latent_log_prob.mean()):.2f} nats a cloud, of the code under the prior"
        values["latent_log_prob"] = found.latent_log_prob.tolist()
    values["meaning"] = {name: text for name, text in _MEANING.items() if name in values}
    line += f"; in the model's normalization ({trained.mode}), {trained.cost(found.evaluations)}"
    if command.output is None:
        return line
    write_json(command.output, values)
    return f"{line} -> {command.output}"


_WORK: dict[type, Callable[..., str]] = {
    Sample: _sample,
    Reconstruct: _reconstruct,
    Upsample: _upsample,
    Complete: _complete,
    Interpolate: _interpolate,
    Arithmetic: _arithmetic,
    Invert: _invert,
    LogLikelihood: _log_likelihood,
}


def _written(
    command: WritesClouds | Invert,
    trained: Trained,
    clouds: Tensor,
    unit: str,
    completed: dict[str, Any] | None = None,
) -> str:
    """Write clouds `(n, P, 3)` and a picture, of completions that of `completed`; return a line about it."""
    name, cost = type(command).__name__.lower(), trained.cost()
    step = trained.model.metadata.get("step")  # other projects' files may not tell
    title = f"{name}: {command.run.name}{'' if step is None else f', step {step}'}"
    picture = command.output.with_suffix(".png")
    if completed is None:
        columns = command.steps if isinstance(command, Interpolate) else None
        keep_clouds(command.output.parent, command.output.stem, clouds, title, columns=columns)
    else:
        write_clouds(command.output, clouds)
        save_completions(picture, **completed, title=title)
    shape = f"{len(clouds)} clouds of {clouds.shape[1]} points"
    return f"{name}: {shape} in {unit}, {cost} -> {command.output}, {picture}"
