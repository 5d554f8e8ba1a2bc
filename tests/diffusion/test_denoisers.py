"""Every parametrization on every process: exact both ways, with an oracle for a net."""

import math

import pytest
import torch
from refusals import refused
from small_nets import FixedAnswer, KnownData
from torch import nn

from pcdiff.diffusion import (
    PARAMETRIZATIONS,
    TIME_INPUTS,
    VARIANCES,
    VE,
    VP,
    EDMProcess,
    NetDenoiser,
    NoiseLevels,
    append_dims,
    build_process,
    discrete_process,
    linear_betas,
    parametrization,
    spaced_times,
)
from pcdiff.diffusion.processes.ddpm import DiscreteProcess
from pcdiff.errors import InputError, UnknownName


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times_of(process):
    if process.num_steps is None:
        return process.T * torch.tensor([0.03, 0.4, 0.97], dtype=torch.float64)
    return torch.tensor([1, max(1, process.num_steps // 2), process.num_steps])


def relative(actual, expected):
    """Return the largest error in units of the largest value, for each sample."""
    error, size = ((v.flatten(1).abs().amax(dim=1)) for v in (actual - expected, expected))
    return (error / size).max().item()


@pytest.fixture(params=sorted(PARAMETRIZATIONS))
def says(request, process):
    chosen = parametrization(request.param)
    if not chosen.fits(process):
        with pytest.raises(InputError, match=f"predicts '{request.param}' does not fit the process"):
            NetDenoiser(FixedAnswer(None), process, request.param)
        pytest.skip("this process has no previous step")
    return chosen


def test_the_truth_comes_out_in_every_form(process, says, dims):
    t = times_of(process)
    x0, noise = draws(len(t), *dims), draws(len(t), *dims, seed=1)
    x = process.perturb(x0, t, noise)
    denoiser = NetDenoiser(FixedAnswer(says.target(process, x0, noise, t)), process, says)
    sigma = append_dims(process.sigma(t), x)
    truths = {
        "forward": x0,
        "eps": noise,
        "score": -noise / sigma,
        "velocity": process.velocity(x0, noise, t),
    }
    # x_0 hides under the noise, or the noise under the data, by the ratio of their scales
    hidden = torch.maximum(process.sigma(t) / process.alpha(t), process.alpha(t) / process.sigma(t)).max().item()
    for form, truth in truths.items():
        assert relative(getattr(denoiser, form)(x, t), truth) < 1e-11 * max(1, hidden), form
    both = denoiser.estimate(x, t)
    assert torch.equal(both.x0, denoiser(x, t))
    assert torch.equal(both.eps, denoiser.eps(x, t))


def test_any_output_stands_for_one_pair(process, says, dims):
    """Wrong estimates too obey x = alpha x_0 + sigma eps, and the other forms follow from the pair."""
    t = times_of(process)
    x, out = draws(len(t), *dims), draws(len(t), *dims, seed=1)
    denoiser = NetDenoiser(FixedAnswer(out), process, says)
    x0, eps = denoiser.estimate(x, t)
    alpha, sigma = append_dims(process.alpha(t), x), append_dims(process.sigma(t), x)
    scale = (alpha * x0).abs().max().item() + (sigma * eps).abs().max().item()
    torch.testing.assert_close(alpha * x0 + sigma * eps, x, rtol=0, atol=1e-12 * max(1, scale))
    assert relative(denoiser.score(x, t), -eps / sigma) < 1e-9
    assert relative(denoiser.velocity(x, t), process.velocity(x0, eps, t)) < 1e-7
    target = says.target(process, x0, eps, t)
    assert relative(target, out) < 1e-6


def test_a_denoiser_of_data_alone_has_all_forms(process, dims):
    t = times_of(process)
    x0, noise = draws(len(t), *dims), draws(len(t), *dims, seed=1)
    x = process.perturb(x0, t, noise)
    denoiser = KnownData(process, x0)
    hidden = (process.alpha(t) / process.sigma(t)).max().item()
    assert denoiser.estimate(x, t).x0 is x0
    assert relative(denoiser.eps(x, t), noise) < 1e-12 * max(1, hidden)
    assert relative(denoiser.velocity(x, t), process.velocity(x0, noise, t)) < 1e-11 * max(1, hidden)


def test_edms_net_sees_unit_variance(process):
    """Inputs and targets have variance 1 over data of variance sigma_data^2 (Karras et al., 2022, appendix B.6)."""
    t, std = times_of(process)[:2], 0.3
    x0, noise = std * draws(len(t), 200, 100), draws(len(t), 200, 100, seed=1)
    says = parametrization("edm", sigma_data=std)
    for value in (says.net_input(process, process.perturb(x0, t, noise), t), says.target(process, x0, noise, t)):
        torch.testing.assert_close(
            value.std(dim=(1, 2)), torch.ones(len(t), dtype=torch.float64), rtol=0.03, atol=0
        )


def test_the_nets_precision_does_not_lower_the_datas(says, process, dims):
    t = times_of(process)
    x = draws(len(t), *dims).float()
    net = nn.Linear(dims[-1], dims[-1])
    denoiser = NetDenoiser(Wrapped(net), process, says)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        for form in ("forward", "eps", "score", "velocity"):
            assert getattr(denoiser, form)(x, t).dtype == torch.float32


class Wrapped(nn.Module):
    """A layer as a net."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, t, cond=None):
        return self.layer(x)


@pytest.mark.parametrize("predicts", sorted(PARAMETRIZATIONS))
def test_compiled_denoisers_have_no_breaks(predicts, shape):
    torch.compiler.reset()
    t = torch.tensor([1, 7])
    x = draws(2, *shape).float()
    net = Wrapped(nn.Linear(shape[-1], shape[-1]))
    denoiser = NetDenoiser(net, discrete_process("linear", 10), predicts, variance="large")
    compiled = torch.compile(lambda x, t: denoiser.reverse_kernel(x, t, t - 1), fullgraph=True, backend="eager")
    torch.testing.assert_close(tuple(compiled(x, t)), tuple(denoiser.reverse_kernel(x, t, t - 1)))


@pytest.mark.parametrize("variance", sorted(VARIANCES))
def test_reverse_kernels_variance(variance, dims):
    process = discrete_process("linear", 20)
    t = torch.tensor([1, 2, 20])
    x, eps, values = draws(3, *dims), draws(3, *dims, seed=1), draws(3, *dims, seed=2)
    learned = variance.startswith("learned")
    denoiser = NetDenoiser(
        FixedAnswer(torch.cat([eps, values], dim=1) if learned else eps), process, variance=variance
    )
    mean, log_variance, x0 = denoiser.reverse_kernel(x, t, t - 1)
    torch.testing.assert_close(x0, denoiser(x, t))
    expected_mean, posterior, forward = process.posterior(x0, x, t, t - 1)
    torch.testing.assert_close(mean, expected_mean)
    posterior[0] = process.posterior(x0, x, torch.tensor([2]), torch.tensor([1]))[1]
    low, high = append_dims(posterior.log(), x), append_dims(forward.log(), x)
    large = torch.where(append_dims(t, x) == 1, low, high)
    expected = {
        "small": low,
        "large": large,
        "learned": values,
        "learned_range": low + (values + 1) / 2 * (high - low),
    }
    torch.testing.assert_close(log_variance, expected[variance])


@pytest.mark.parametrize("axis", [1, -1])
def test_whichever_dimension_is_doubled_holds_the_variance(axis, dims):
    process, t = discrete_process("linear", 20), torch.tensor([3, 9])
    x, eps, values = draws(2, *dims), draws(2, *dims, seed=1), draws(2, *dims, seed=2)
    denoiser = NetDenoiser(FixedAnswer(torch.cat([eps, values], dim=axis)), process, variance="learned")
    assert torch.equal(denoiser.reverse_kernel(x, t, t - 1).log_variance, values)
    assert torch.equal(denoiser.eps(x, t), eps)


def test_clipped_data_makes_the_mean(dims):
    process, t = discrete_process("linear", 20), torch.tensor([3, 9])
    x, x0 = draws(2, *dims), 3 * draws(2, *dims, seed=1)
    for denoiser in (KnownData(process, x0), NetDenoiser(FixedAnswer(x0), process, "x0")):
        kernel = denoiser.reverse_kernel(x, t, t - 1, clip=(-1, 1))
        assert torch.equal(kernel.x0, x0.clamp(-1, 1))
        torch.testing.assert_close(kernel.mean, process.posterior(x0.clamp(-1, 1), x, t, t - 1)[0])


def test_a_chain_of_one_step_has_a_variance(dims):
    process, t = DiscreteProcess(torch.tensor([0.9])), torch.tensor([1])
    denoiser = NetDenoiser(FixedAnswer(draws(1, *dims)), process)
    assert denoiser.reverse_kernel(draws(1, *dims), t, t - 1).log_variance.item() == pytest.approx(math.log(0.9))


@pytest.mark.parametrize(
    ("name", "process", "t", "expected"),
    [
        ("t", VP(), [0.25, 1.0], [0.25, 1.0]),
        ("999t", VP(num_scales=50), [0.25, 1.0], [249.75, 999.0]),
        ("step", VP(num_scales=51), [0.25, 1.0], [12.5, 50.0]),
        ("step", discrete_process("linear", 10), [1, 10], [0, 9]),
        ("step1000", discrete_process("linear", 10), [1, 10], [0.0, 900.0]),
        ("level", VE(num_scales=51), [0.0, 0.251, 1.0], [50, 37, 0]),
        ("level", NoiseLevels(torch.tensor([1.0, 2.0, 5.0])), [1, 2, 3], [2, 1, 0]),
        ("sigma", NoiseLevels(torch.tensor([1.0, 2.0, 5.0])), [1, 2, 3], [1.0, 2.0, 5.0]),
        ("log_sigma", EDMProcess(), [1.0, 7.0], [0.0, math.log(7)]),
        ("edm", EDMProcess(), [1.0, 7.0], [0.0, math.log(7) / 4]),
        ("edm", build_process("rectified_flow"), [0.5, 0.8], [0.0, math.log(4) / 4]),
        ("beta", VP(0.1, 20.0), [0.0, 1.0], [0.1, 20.0]),
    ],
)
def test_time_labels(name, process, t, expected, dims):
    t = torch.tensor(t)
    x = draws(len(t), *dims).float()
    cond = object()
    denoiser = NetDenoiser(FixedAnswer(x), process, time_input=name)
    denoiser.eps(x, t, cond)
    torch.testing.assert_close(denoiser.net.given[1].double(), torch.tensor(expected, dtype=torch.float64))
    assert denoiser.net.given[2] is cond
    assert name != "level" or denoiser.net.given[1].dtype == torch.long  # an index, not a number


def test_every_label_is_told_or_refused(process, dims):
    t = times_of(process)
    x = draws(len(t), *dims)
    for name in TIME_INPUTS:
        if TIME_INPUTS[name].fits(process):
            label = NetDenoiser(FixedAnswer(x), process, time_input=name).tau(t)
            assert label.shape == t.shape
            assert label.isfinite().all()
        else:
            with refused(UnknownName, what="time_input"):
                NetDenoiser(FixedAnswer(x), process, time_input=name)


@pytest.mark.parametrize("name", ["beta", "index", "log_snr", "step", "level", "t"])
def test_a_shorter_chain_is_told_the_longer_ones_time(name):
    parent = DiscreteProcess(linear_betas(100))
    times = spaced_times(100, "7")
    short = NetDenoiser(FixedAnswer(None), parent.respaced(times), time_input=name)
    long = NetDenoiser(FixedAnswer(None), parent, time_input=name)
    assert torch.equal(short.tau(torch.arange(1, 8)), long.tau(times))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predicts": "noise"}, "predicts must be one of"),
        ({"time_input": "clock"}, "time_input must be one of"),
        ({"variance": "tiny"}, "variance must be one of"),
    ],
)
def test_unknown_names_list_the_known_ones(options, message):
    known = {"predicts": PARAMETRIZATIONS, "time_input": ["log_snr", "step", "beta"], "variance": VARIANCES}
    with pytest.raises(UnknownName, match=message) as caught:
        NetDenoiser(FixedAnswer(None), discrete_process("linear", 5), **options)
    assert set(known[next(iter(options))]) <= set(caught.value.known)


def test_outputs_of_another_shape_are_named(dims):
    process, t, x = discrete_process("linear", 5), torch.tensor([1, 2]), draws(2, *dims)
    with pytest.raises(InputError, match=r"the net's output must be like x \(2, .*, got \(2, 1\)"):
        NetDenoiser(FixedAnswer(x.flatten(1)[:, :1]), process)(x, t)
    with pytest.raises(InputError, match="a net with a learned variance must double one dimension, got"):
        NetDenoiser(FixedAnswer(x), process, variance="learned_range")(x, t)


def test_a_standard_deviation_is_positive():
    with pytest.raises(InputError, match="sigma_data must be positive, got 0"):
        parametrization("edm", sigma_data=0)
