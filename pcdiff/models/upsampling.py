"""Further points of given clouds, from nets with inducers: these see the given points, the new ones see these."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.diffusion import NetDenoiser, Sampler
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import Noise, Progress
from pcdiff.diffusion.samplers.heun import Heun
from pcdiff.diffusion.samplers.loop import standard_normal
from pcdiff.diffusion.samplers.report import SamplingReport
from pcdiff.errors import InputError, OutOfRange
from pcdiff.models.base import PointCloudModel
from pcdiff.models.default_sampling import default_sampling, predictor_of
from pcdiff.models.sampling import CHUNK, decoding_generator
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.chunks import chunk_noise
from pcdiff.runtime.nonfinite import check_finite
from pcdiff.runtime.precision import autocast
from pcdiff.runtime.progress import part_of


class _FromStates(nn.Module):
    """A net of whose inducers the states are held."""

    def __init__(self, net: nn.Module, states: list[Tensor]):
        super().__init__()
        self.net, self.states = net, states
        self.label = getattr(net, "label", "numbers")

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.net(x, t, cond, states=self.states)


def has_inducers(net: nn.Module) -> bool:
    """Return whether a net keeps a shape in the states of inducers."""
    return hasattr(net, "inducer_states") and getattr(getattr(net, "config", None), "attention", "") == "inducers"


@checked
@torch.no_grad()
def further_points(
    model: PointCloudModel,
    x: Tensor,
    num_points: int,
    *,
    cond: Any = None,
    num_substeps: int = 5,
    num_steps: int | None = None,
    grid: str | None = None,
    times: Tensor | None = None,
    predictor: Heun | None = None,
    precision: str = "fp32",
    generator: torch.Generator | None = None,
    x_init: Tensor | None = None,
    noise: Noise | None = None,
    progress: Progress | None = None,
    report: SamplingReport | None = None,
) -> Tensor:
    """Draw further points of the shapes that clouds show (GECCO's `upsample`; Tyszkiewicz et al., ICCV 2023).

    At every time the given points are noised to it and the net reads them once; its inducers' states are kept. The
    new points take a step to the next time with these states, go back up by fresh noise, and take the step again,
    `num_substeps` times in all (as RePaint does; Lugmayr et al., 2022), so that they come to agree with the given.
    The given points need not be the whole shape. Their number and that of the new ones are free.

    Args:
        model: a trained model whose net has inducers.
        x: given clouds `(n, N, D)`, in the model's normalization.
        num_points: new points of each cloud.
        cond: what the net is conditioned on.
        num_substeps: times that every step is taken.
        num_steps: of the time grid; the model's own by default.
        grid: name of the time grid, likewise.
        times: falling times, in place of the model's grid.
        predictor: Heun's method with its churn; the model's own, where it samples so, or else without churn.
        precision: of the net's matrix products, see `PointCloudModel.decode`.
        generator: source of the draws.
        x_init: the start `(n, num_points, D)`, in place of a draw.
        noise: overrides the draws that follow: at every time those of the given points, then churn's and that of
            the way back up of each substep.
        progress: called as `progress(k, num_steps)`.
        report: is filled with the number of steps and of the net's evaluations.

    Returns:
        The new points `(n, num_points, D)`, not the given ones.

    Raises:
        InputError: the net has no inducers, or a value is out of range.

    Example:
        >>> from pcdiff.models import Direct
        >>> from pcdiff.nets import SetTransformer, SetTransformerConfig
        >>> net = SetTransformer(SetTransformerConfig(width=32, depth=1, num_inducers=4))
        >>> model, clouds = Direct(process="edm", net=net), torch.rand(2, 16, 3)
        >>> more = further_points(model, clouds, 48, num_steps=2)
        >>> torch.cat([clouds, more], dim=1).shape
        torch.Size([2, 64, 3])
    """
    denoiser, net = model.denoiser, model.denoiser.net
    if not has_inducers(net):
        raise InputError(
            f"further points need a net with inducers, such as set_transformer, got {type(net).__name__}"
        )
    if x.dim() != 3 or x.shape[2] != model.point_dim or 0 in x.shape:
        raise InputError(f"clouds must be (n, N, {model.point_dim}), got {tuple(x.shape)}")
    for name, value in (("num_points", num_points), ("num_substeps", num_substeps)):
        if value < 1:
            raise OutOfRange(name, "at least 1", value)
    process = denoiser.process
    settings = default_sampling(process, model.sampling_config)
    given_plan = {name: value for name, value in (("num_steps", num_steps), ("grid", grid)) if value is not None}
    settings = replace(settings, **given_plan)
    if predictor is None:
        own = predictor_of(settings)
        predictor = own if isinstance(own, Heun) else Heun()
    times = Sampler(predictor, None, settings.num_steps, settings.grid).times(process) if times is None else times
    num_steps = len(times) - 1
    draw = noise or standard_normal(generator)
    shape = (len(x), num_points, model.point_dim)
    if x_init is not None and x_init.shape != shape:
        raise InputError(f"x_init must be {shape}, got {tuple(x_init.shape)}")
    new = process.prior_sample(shape, generator).to(x) if x_init is None else x_init
    once = _once(predictor, num_steps)
    with autocast(precision, x.device):
        for k in range(num_steps):
            t, s = times[k].expand(len(x)), times[k + 1].expand(len(x))
            given = process.perturb(x, t, draw(x))
            states = net.inducer_states(
                denoiser.parametrization.net_input(process, given, t), denoiser.tau(t), cond
            )
            reads = NetDenoiser(
                _FromStates(net, states), process, denoiser.parametrization, denoiser.time_input, denoiser.variance
            )
            for substep in range(num_substeps):
                new = once.begin(process, times[k : k + 2])(reads, new, t, s, cond, draw)
                if substep < num_substeps - 1 and k < num_steps - 1:
                    new = _back_up(process, new, t, s, draw)
            if progress is not None:
                progress(k + 1, num_steps)
        noisy_end = bool(process.sigma(times[-1:]) > 0)
        if noisy_end:
            new = reads(new, s, cond)
    if report is not None:
        report.num_steps = num_steps
        heun = 2 * num_substeps * num_steps - (0 if noisy_end else num_substeps)
        report.evaluations = num_steps + heun + noisy_end
    return new


def upsample(
    model: PointCloudModel,
    x: Tensor,
    num_points: int,
    seed: int,
    *,
    labels: Tensor | None = None,
    guidance: float | None = None,
    report: SamplingReport | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """Draw further points of any number of clouds, chunk by chunk; cloud i's do not depend on how many there are.

    Args:
        model: a trained model whose net has inducers, or one with a method `further_points` of its own.
        x: clouds `(n, N, D)`.
        num_points: new points of each.
        seed: of every draw.
        labels: of the clouds' classes `(n,)`, of a class-conditional model; None stands for no class.
        guidance: see `check_unguided`.
        report: the net's evaluations are added to it.
        progress: called as `progress(done, total)` with the steps of all chunks.
        **options: see `further_points`.

    Returns:
        The new points `(n, num_points, D)` on the CPU.

    Raises:
        InputError: see `further_points`; or a cloud is not finite.
    """
    check_unguided(model, labels, guidance)
    made, parts = [], x.split(CHUNK)
    for k, part in enumerate(parts):
        moved = part_of(progress, k, len(parts))
        draws = decoding_generator(model, seed, k)
        if getattr(model, "classes", None) is not None:
            own = model.labels(None if labels is None else labels[k * CHUNK : (k + 1) * CHUNK], len(part))
            options["cond"] = model.net_condition(None, own)
        elif labels is not None:
            raise InputError("this model is not conditioned on classes; leave them out")
        made.append(upsample_chunk(model, part, num_points, draws, report=report, progress=moved, **options))
    return torch.cat(made)


def check_unguided(model: PointCloudModel, labels: Tensor | None, guidance: float | None) -> None:
    """Refuse guidance, which further points are drawn without: the net without a class would have other states.

    Args:
        model: a trained model.
        labels: of the clouds' classes, or None.
        guidance: what was asked for; None is the model's own.

    Raises:
        InputError: it is not 1.
    """
    if (scale := model.guidance_scale(labels, guidance)) != 1:
        raise InputError(f"guidance must be 1 for further points of given clouds, got {scale:g}")


def upsample_chunk(
    model: PointCloudModel,
    x: Tensor,
    num_points: int,
    generator: torch.Generator,
    *,
    report: SamplingReport | None = None,
    **options: Any,
) -> Tensor:
    """Draw further points of a chunk of clouds `(n, N, D)`, n at most CHUNK; see `upsample`."""
    cost = SamplingReport()
    start = model.denoiser.process.prior_sample((CHUNK, max(num_points, 0), model.point_dim), generator)
    # a model may have a way of its own, as point-e's up-sampler has
    draw = getattr(model, "further_points", None) or partial(further_points, model)
    points = draw(
        x.to(model.device),
        num_points,
        x_init=start[: len(x)],
        noise=chunk_noise(CHUNK, len(x), generator),
        report=cost,
        **options,
    )
    if report is not None:
        report.add(cost)
    return check_finite(points.float().cpu(), "clouds")


def _once(predictor: Heun, num_steps: int) -> Heun:
    """Return the method for runs of one step, with the churn that it has in one of `num_steps`."""
    settings = predictor.churn_min, predictor.churn_max, predictor.noise_scale, predictor.variable
    return Heun(predictor.churn / num_steps, *settings)


def _back_up(process: Process, x: Tensor, t: Tensor, s: Tensor, draw: Noise) -> Tensor:
    """Return a draw of q(x_t | x_s), like `x`."""
    forward_variance = process.kernel(t, s)[3]
    ratio = process.alpha(t) / process.alpha(s)
    return append_dims(ratio, x) * x + append_dims(forward_variance.sqrt(), x) * draw(x)
