"""Plain mistakes in the arguments of the library's functions: one line that names the argument."""

import re

import numpy as np
import pytest
import torch
from small_models import small_model

from pcdiff import diffusion, metrics
from pcdiff.errors import InputError
from pcdiff.models import editing
from pcdiff.runtime.call_checks import checked

SIZES = {
    "latent_dim": 6,
    "encoder_widths": (8,),
    "encoder_head_widths": (8,),
    "flow_depth": 2,
}
CLOUDS = np.random.default_rng(0).normal(size=(4, 10, 3))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        return small_model(dict(net_widths=(8,), num_steps=4, flow_hidden_dim=8, **SIZES)).eval()


X, Z = torch.zeros(2, 10, 3), torch.zeros(2, 6)
VP = diffusion.build_process("vp")
MISTAKES = {
    "a name where the generator belongs": (
        lambda model: diffusion.draw_times(VP, 4, "log_normal"),
        "generator must be a torch.Generator or None, got 'log_normal'",
    ),
    "a text for a count": (lambda model: diffusion.draw_times(VP, "4"), "batch must be an integer, got '4'"),
    "an unknown option of a likelihood": (
        lambda model: diffusion.log_likelihood(model.denoiser, X, Z, tol=1e-3),
        "log_likelihood(): got an unexpected keyword argument 'tol'; did you mean",
    ),
    "an option that a likelihood hands on": (
        lambda model: editing.log_likelihood(model, X, 0, traces="exact"),
        "got an unexpected keyword argument 'traces'; did you mean trace?",
    ),
    "a tolerance in letters": (
        lambda model: diffusion.log_likelihood(model.denoiser, X, Z, trace="pointwise", rtol="small"),
        "rtol must be a number, got 'small'",
    ),
    "probes in letters": (
        lambda model: diffusion.log_likelihood(model.denoiser, X, Z, num_probes="3"),
        "num_probes must be an integer, got '3'",
    ),
    "an array for a tensor": (
        lambda model: editing.log_likelihood(model, X.numpy(), 0),
        "x must be a tensor, got array(",
    ),
    "a seed for a generator": (
        lambda model: diffusion.sample(model.denoiser, (2, 5, 3), cond=Z, generator=0),
        "generator must be a torch.Generator or None, got 0",
    ),
    "a number for a shape": (
        lambda model: diffusion.sample(model.denoiser, 4, cond=Z),
        "shape must be a sequence or None, got 4",
    ),
    "a net for a denoiser": (
        lambda model: diffusion.sample(model.denoiser.net, (2, 5, 3), cond=Z),
        "denoiser must be a Denoiser, as NetDenoiser makes of net and process, got PointwiseNet",
    ),
    "an option of a predictor": (
        lambda model: diffusion.predictor("ddim", eta="a"),
        "eta must be a number, got 'a'",
    ),
    "an option of a corrector": (
        lambda model: diffusion.corrector("langevin", snr="a"),
        "snr must be a number",
    ),
    "half a step": (
        lambda model: diffusion.build_process("ddpm", num_steps=10.5),
        "num_steps must be an integer, got 10.5",
    ),
    "an option of a time draw": (lambda model: diffusion.time_draw("log_normal", std="1"), "std must be a number"),
    "frames in letters": (
        lambda model: editing.interpolate(model, X, X, "3", 5, 0),
        "num_frames must be an integer, got '3'",
    ),
    "an option that decoding does not take": (
        lambda model: editing.interpolate(model, X, X, 3, 5, 0, samplers="ddim"),
        "decode(): got an unexpected keyword argument 'samplers'; did you mean sampler?",
    ),
    "points in letters": (lambda model: model.decode(Z, "5"), "num_points must be an integer, got '5'"),
    "sets without names": (
        lambda model: metrics.evaluate(CLOUDS, CLOUDS),
        "evaluate(): too many positional arguments; it takes samples, reference, ",
    ),
    "resamples in letters": (
        lambda model: metrics.evaluate(samples=CLOUDS, reference=CLOUDS, resamples="5"),
        "resamples must be an integer, got '5'",
    ),
    "a threshold in letters": (
        lambda model: metrics.reconstruction_scores(reconstructions=CLOUDS, reference=CLOUDS, threshold="a"),
        "threshold must be a number, got 'a'",
    ),
    "thresholds in letters": (
        lambda model: metrics.reconstruction_scores(reconstructions=CLOUDS, reference=CLOUDS, thresholds=["a"]),
        "thresholds must be numbers, got ['a']",
    ),
    "a file for a matrix": (lambda model: metrics.mmd("a.npy"), "sample_reference must be a matrix of distances"),
    "a file for results": (
        lambda model: metrics.compare("a.json"),
        "results must be pairs (label, result of evaluate), got 'a'",
    ),
    "a level in letters": (
        lambda model: metrics.mean_interval([1.0, 2.0], level="a"),
        "level must be a number, got 'a'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_argument(name, model):
    call, message = MISTAKES[name]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        call(model)
    assert "\n" not in str(caught.value)


@checked
def example(count: int, size: float = 1.0, flag: bool = False, name: str | None = None, *rest, **options):
    """Return what came."""
    return count, size, flag, name


@pytest.mark.parametrize(
    "arguments",
    [
        (1,),
        (np.int64(1), 2),
        (1, np.float32(2)),
        (1, torch.tensor(2.0), True, "a"),
        (1, 2, np.bool_(True), None, "b"),
    ],
)
def test_whatever_is_of_the_kind_passes(arguments):
    assert example(*arguments, other=3)[0] == 1
    assert example.__name__ == "example"
    assert example.__doc__ == "Return what came."


@pytest.mark.parametrize("arguments", [(True,), (1.5,), ("1",), (1, "2"), (1, 2.0, "yes"), (1, 2.0, True, 5)])
def test_whatever_is_not_is_refused(arguments):
    with pytest.raises(InputError, match=" must be "):
        example(*arguments)


def test_a_missing_argument_is_named():
    with pytest.raises(InputError, match=r"example\(\): missing a required argument: 'count'"):
        example()
