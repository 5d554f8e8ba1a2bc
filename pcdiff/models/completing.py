"""Complete partial clouds: by a model trained for it, or, of any other, by a constraint on what it draws."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion import Inpaint
from pcdiff.errors import InputError, OutOfRange, UnknownField
from pcdiff.models.base import PointCloudModel
from pcdiff.models.completion import Completion
from pcdiff.models.sampling import CHUNK, decode_chunk, decoding_generator
from pcdiff.models.upsampling import check_unguided, upsample_chunk
from pcdiff.runtime import rng
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.chunks import Chunks
from pcdiff.runtime.progress import Progress, part_of
from pcdiff.runtime.stopping import Stop

METHODS = ("trained", "constraint", "inducers")
"""How clouds are completed: by what was learned for it, by a constraint, or by the states of inducers."""


@checked
def complete(model: PointCloudModel, known: Tensor, num_points: int, seed: int, **options: Any) -> Tensor:
    """Keep given points of clouds and draw the rest: one completion each, `(n, num_points, 3)`.

    Arguments, errors and result are those of `completions`, of which this is the first.

    Example:
        >>> whole = complete(model, x[:, :512], 2048, seed=0)  # (n, 2048, 3)
    """
    return completions(model, known, num_points, seed, **options)[:, 0]


@checked
def completions(
    model: PointCloudModel,
    known: Tensor,
    num_points: int,
    seed: int,
    count: int = 1,
    *,
    method: str | None = None,
    stop: Stop | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """Keep given points of clouds and draw the rest, several times; the processes of a job share the work.

    A `Completion` model has been trained for it. Its net is given as many points as in training: where there are
    more, that many of them, drawn at random as in training; all of them are kept.

    Every other model has two ways. `constraint`, the usual one: after every step the given points are put back, as
    noisy as x is then (Song et al., 2021, appendix I.2). With a net that moves every point by itself, as
    PointwiseNet, the new points then know of the given ones by the code alone; so how well they fit depends on what
    the encoder makes of a part of a shape, and on the part's normalization, which should be the whole shape's.
    `inducers`, where the net has some: the new points see their states, which see the given points alone
    (`pcdiff.models.upsampling.further_points`), so that they follow the part that is there.

    Args:
        model: a trained model.
        known: the points given, `(n, P, 3)`.
        num_points: points of each result, more than P.
        seed: of every draw.
        count: completions of each cloud; a smaller number gives the first ones.
        method: `trained`, `constraint` or `inducers`; by default `trained` where the model is, else `constraint`.
        stop: asked after every step of the sampler.
        progress: called as `progress(done, total)` with the steps of all chunks.
        **options: see `pcdiff.models.sampling.decode_chunk`; `labels (n,)` are those of all clouds' classes, of a
            class-conditional model.

    Returns:
        `(n, count, num_points, 3)`, the first P points of each the given ones, unchanged.

    Raises:
        InputError: `num_points` leaves nothing to draw, there are fewer points than the model is given, or the
            method or an option does not go with the model.
        Stopped: `stop` said so, in any process; all raise it.
    """
    if count < 1:
        raise OutOfRange("the completions of a cloud", "at least 1", count)
    passes = []
    for j in range(count):

        def draw(k: int, moved: Progress | None, j: int = j) -> Tensor:
            told = {"method": method, "progress": moved}
            return complete_chunk(model, known, k, num_points, seed, j, **told, **options)

        passes.append(Chunks(len(known), CHUNK).all_drawn(draw, stop, part_of(progress, j, count)))
    return torch.stack(passes, dim=1)


def complete_chunk(
    model: PointCloudModel,
    known: Tensor,
    k: int,
    num_points: int,
    seed: int,
    completion: int = 0,
    *,
    method: str | None = None,
    labels: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Draw completion number `completion` of chunk `k` of `known`, as `completions` does: on the CPU."""
    check_completion(model, known.shape[1], num_points)
    method = method_of(model, method)
    rows = slice(k * CHUNK, (k + 1) * CHUNK)
    part, own = known[rows].to(model.device), None if labels is None else labels[rows]
    seed = rng.number(seed, "completion", completion) if completion else seed
    draws = decoding_generator(model, seed, k)
    missing = num_points - part.shape[1]
    if method == "trained":
        assert isinstance(model, Completion)
        made = decode_chunk(model, _chosen(model, part, seed, k), missing, draws, labels=own, **options)
        return torch.cat([part.float().cpu(), made], dim=1)
    code = model.encode(part) if "encoder" in model.config.parts else model.blank_codes(len(part))
    if method == "inducers":
        check_unguided(model, own, options.get("guidance"))
        cond = model.conditioned(code, own)[1]
        made = upsample_chunk(model, part, missing, draws, cond=cond, **_of_inducers(options))
        return torch.cat([part.float().cpu(), made], dim=1)
    whole = torch.nn.functional.pad(part, (0, 0, 0, missing))
    mask = (torch.arange(num_points, device=part.device) < part.shape[1])[:, None]
    hold = Inpaint(model.denoiser.process, whole, mask)
    return decode_chunk(model, code, num_points, draws, labels=own, constraint=hold, **options)


def method_of(model: PointCloudModel, method: str | None = None) -> str:
    """Return the way that a model completes clouds, one of `METHODS`.

    Args:
        model: a trained model.
        method: what was asked for; None is the usual one.

    Raises:
        InputError: the method is unknown, or does not go with the model.
    """
    trained = isinstance(model, Completion)
    if method is None:
        return "trained" if trained else "constraint"
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if trained != (method == "trained"):
        own = "has been trained to complete" if trained else "has not been trained to complete"
        raise InputError(f"method {method} does not go with a model that {own}; leave it out")
    return method


def _of_inducers(options: dict[str, Any]) -> dict[str, Any]:
    """Return a decoding's options as `further_points` takes them, without those that change nothing."""
    given = {name: value for name, value in options.items() if value is not None and name != "guidance"}
    of_sampler = {name: given.pop(name, None) for name in ("sampler", "flexibility", "sampler_options")}
    asked = {name: value for name, value in of_sampler.items() if value}
    if asked and asked != {"sampler": "heun"}:
        raise InputError(f"method inducers draws by Heun's method in the run's own way, got {asked}")
    known = "num_steps", "grid", "precision", "report", "progress", "num_substeps"
    if unknown := sorted(given.keys() - set(known)):
        raise UnknownField(f"method inducers takes {', '.join(known)}, got {', '.join(unknown)}", unknown, known)
    return given


def check_completion(model: PointCloudModel, given: int, num_points: int) -> None:
    """Refuse a completion that nothing is left of, or that the model is given too few points for.

    Args:
        model: a trained model.
        given: points of a partial cloud.
        num_points: points of a completed one.

    Raises:
        InputError: it is so.
    """
    if num_points <= given:
        raise InputError(f"num_points must be more than the {given} points given, got {num_points}")
    if isinstance(model, Completion) and given < model.config.num_given:
        raise InputError(
            f"the model was trained to complete clouds of {model.config.num_given} points or more, got {given}"
        )


def _chosen(model: Completion, known: Tensor, seed: int, k: int) -> Tensor:
    """Return the points of a chunk `(n, P, 3)` that the net is given: all, or as many as in training, at random."""
    count, points = model.config.num_given, known.shape[1]
    if points == count:
        return known
    keys = torch.rand(CHUNK, points, generator=rng.generator(seed, "given", k))[: len(known)]
    places = keys.argsort(dim=1, stable=True)[:, :count].to(known.device)
    return known.gather(1, places[:, :, None].expand(-1, -1, known.shape[2]))
