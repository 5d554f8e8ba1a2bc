"""A net in its process, and what it is trained on: built of configs, the same for points and pixels."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.config.objective import ObjectiveConfig
from pcdiff.config.process import PARAMETERS, ProcessConfig
from pcdiff.diffusion import (
    OBJECTIVES,
    PARAMETRIZATIONS,
    PROCESSES,
    Denoiser,
    NetDenoiser,
    Process,
    build_process,
    check_objective,
    objective,
    parametrization,
    time_draw,
)
from pcdiff.diffusion.losses.time_draws import Times
from pcdiff.errors import InputError
from pcdiff.runtime.memory_limit import check_count


def build_denoiser(net: nn.Module, config: ProcessConfig, warn: bool = True) -> NetDenoiser:
    """Put a net into its process, with what it predicts and the time label that it receives.

    Args:
        net: the net.
        config: names and options.
        warn: log where the process does not end in noise, as the paper's chain for clouds does not.

    Raises:
        InputError: a name is unknown, an option is not the process's, or net and process do not go together.
    """
    for name in ("num_scales", "num_steps"):
        check_count(name, getattr(config, name))
    options = {k: v for k, v in vars(config).items() if v is not None and k not in PARAMETERS}
    process = (build_process if warn else PROCESSES.build)(config.name, **options)
    takes = takes_sigma_data(PARAMETRIZATIONS.get(config.predicts))
    given = {"sigma_data": config.sigma_data} if takes and config.sigma_data is not None else {}
    net_config = getattr(net, "config", None)
    learned = getattr(net_config, "out_channels", 0) == 2 * getattr(net_config, "in_channels", -1)
    learned = learned or getattr(net, "learned_variance", False)
    variance = "learned_range" if learned else "small"
    return NetDenoiser(net, process, parametrization(config.predicts, **given), config.time_input, variance)


def check_signal(predicts: str, denoiser: NetDenoiser) -> None:
    """Refuse a net whose output does not determine the data where sampling starts, before it is trained.

    Raises:
        InputError: it is so: the process ends without any signal; the message names what to predict instead.
    """
    process = denoiser.process
    start = torch.tensor([process.last_time()], dtype=torch.float64, device=process.device)
    if denoiser.parametrization.needs_signal and float(process.alpha(start)) == 0:
        raise InputError(
            f"predicts {predicts!r} does not determine the data at the start of {type(process).__name__}, where no "
            "signal is left; take --process.predicts velocity, v, x0 or edm"
        )


def takes_sigma_data(part: Callable[..., Any] | None) -> bool:
    """Return whether a parametrization or an objective weighs by the data's standard deviation."""
    return part is not None and "sigma_data" in inspect.signature(part).parameters


def check_sigma_data(process: ProcessConfig, objectives: ObjectiveConfig) -> None:
    """Refuse a standard deviation of the data that nothing asks for.

    Raises:
        InputError: neither the parametrization nor an objective takes it.
    """
    parts = [PARAMETRIZATIONS.get(process.predicts), *map(OBJECTIVES.get, objectives.objectives)]
    if process.sigma_data is not None and not any(map(takes_sigma_data, parts)):
        raise InputError(
            f"sigma_data goes with predicts edm or objective edm, got predicts {process.predicts!r} and "
            f"objectives {list(objectives.objectives)}; take --process.sigma-data None"
        )


class Objectives:
    """The weighted sum of objectives that a model is trained on, and how its times are drawn.

    Args:
        config: names, weights and options.
        denoiser: the model's; an objective that it does not fit is refused.
        sigma_data: standard deviation of the data, for the objectives that weigh by it; their own default if None.

    Raises:
        InputError: an unknown name, not one weight for each, or an objective that does not fit the denoiser.
    """

    def __init__(self, config: ObjectiveConfig, denoiser: Denoiser, sigma_data: float | None = None):
        if not config.objectives or len(config.weights) != len(config.objectives):
            raise InputError(
                f"weights must be one for each of the objectives {list(config.objectives)}, "
                f"got {list(config.weights)}"
            )
        self.config = config
        self.functions: dict[str, Callable[..., Tensor]] = {}
        for name in config.objectives:
            check_objective(name, denoiser)
            takes = inspect.signature(OBJECTIVES[name]).parameters
            options: dict[str, Any] = {key: getattr(config, key) for key in ("reduction", "norm") if key in takes}
            if sigma_data is not None and takes_sigma_data(OBJECTIVES[name]):
                options["sigma_data"] = sigma_data
            self.functions[name] = partial(objective(name), **options)
        log_normal = {"mean": config.time_mean, "std": config.time_std}
        stratified = {"stratified": config.stratified_times}
        self._times = time_draw(
            config.time_draw, **(log_normal if config.time_draw == "log_normal" else stratified)
        )

    def draw_times(self, process: Process, count: int, generator: torch.Generator | None = None) -> Times:
        """Draw training times and their weights, each `(count,)`."""
        return self._times(process, count, generator)

    def values(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Tensor,
        noise: Tensor,
        cond: Any = None,
        projection: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return each objective's values `(B,)` by name.

        Args:
            denoiser: the model's.
            x: data `(B, *dims)`.
            t: times `(B,)`.
            noise: standard normal, like `x`.
            cond: what the net is conditioned on.
            projection: of sliced score matching, like `x`; drawn by it where None.
        """
        found = {}
        for name, function in self.functions.items():
            given = {"projection": projection} if name == "sliced" and projection is not None else {}
            found[name] = function(denoiser, x, t, noise, cond, **given)
        return found

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the objectives' terms."""
        return reduce(torch.add, (w * term for w, term in zip(self.config.weights, terms.values(), strict=True)))

    def sums(self, name: str) -> bool:
        """Return whether an objective adds over a sample's numbers, so that those of its parts add up, too."""
        function = self.functions[name]
        added = getattr(OBJECTIVES[name], "sums", False)
        return added or (isinstance(function, partial) and function.keywords.get("reduction") == "sum")
