"""Denoisers: eps, x_0 and score are one estimate in three forms."""

import copy
import math

import pytest
import torch
from refusals import refused
from small_nets import FixedAnswer, KnownData

from pcdiff.diffusion import EpsDenoiser, Process, append_dims, discrete_process
from pcdiff.errors import InputError, UnknownName

TIMES = torch.tensor([1, 9, 50])


@pytest.fixture(params=["linear", "cosine"])
def setting(request, dims):
    process = discrete_process(request.param, int(TIMES.max()))
    draw = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(len(TIMES), *dims, generator=draw, dtype=torch.float64) for _ in range(2))
    return process, x0, noise, process.perturb(x0, TIMES, noise)


def test_true_noise_gives_the_true_data(setting):
    process, x0, noise, x = setting
    torch.testing.assert_close(EpsDenoiser(FixedAnswer(noise), process)(x, TIMES), x0, rtol=1e-9, atol=1e-9)


def test_true_data_gives_the_true_noise(setting):
    process, x0, noise, x = setting
    torch.testing.assert_close(KnownData(process, x0).eps(x, TIMES), noise, rtol=1e-9, atol=1e-9)


def test_noise_to_data_to_noise_for_any_estimate(setting):
    """Not only at the truth: the two conversions undo each other."""
    process, x0, noise, x = setting
    estimate = torch.tanh(3 * noise + 1)
    denoised = EpsDenoiser(FixedAnswer(estimate), process)(x, TIMES)
    torch.testing.assert_close(KnownData(process, denoised).eps(x, TIMES), estimate, rtol=1e-9, atol=1e-9)
    noised = KnownData(process, torch.tanh(x0)).eps(x, TIMES)
    torch.testing.assert_close(
        EpsDenoiser(FixedAnswer(noised), process)(x, TIMES), torch.tanh(x0), rtol=1e-9, atol=1e-9
    )


def test_score_of_both_is_the_gradient_of_the_log_density(setting):
    """With x_0 known, p_t(x) = N(alpha x_0, sigma^2): autograd's gradient is the score."""
    process, x0, noise, x = setting
    x = x.requires_grad_()
    alpha, sigma = append_dims(process.alpha(TIMES), x0), append_dims(process.sigma(TIMES), x0)
    torch.distributions.Normal(alpha * x0, sigma.expand_as(x0)).log_prob(x).sum().backward()
    for denoiser in (EpsDenoiser(FixedAnswer(noise), process), KnownData(process, x0)):
        torch.testing.assert_close(denoiser.score(x.detach(), TIMES), x.grad, rtol=1e-8, atol=1e-8)


def quarter_log_snr(beta):
    return math.log((1 - beta) / beta) / 4


@pytest.mark.parametrize(
    ("time_input", "expected"),
    [("beta", [0.1, 0.5]), ("index", [1, 2]), ("log_snr", [quarter_log_snr(0.1), quarter_log_snr(0.55)])],
)
def test_the_net_is_fed_time_and_condition(time_input, expected, dims):
    process = discrete_process("linear", 2, 0.1, 0.5)  # alpha_bar is 0.9, then 0.45
    x, t, cond = torch.zeros(2, *dims), torch.tensor([1, 2]), object()
    net = FixedAnswer(x)
    EpsDenoiser(net, process, time_input)(x, t, cond)
    torch.testing.assert_close(net.given[1], torch.tensor(expected), check_dtype=False)
    assert net.given[2] is cond


@pytest.mark.parametrize("time_input", ["beta", "log_snr"])
def test_a_copy_reads_its_own_process(time_input):
    """The moving average of the weights is a deep copy: it must not keep the original's tables."""
    denoiser = EpsDenoiser(FixedAnswer(torch.zeros(1, 2, 3)), discrete_process("linear", 5), time_input)
    twin = copy.deepcopy(denoiser)
    twin.process.betas.fill_(0.25)
    twin.process.alpha_bars.fill_(0.25)
    for one in (denoiser, twin):
        one.eps(torch.zeros(1, 2, 3), torch.tensor([2]))
    expected = {"beta": 0.25, "log_snr": quarter_log_snr(0.75)}[time_input]
    assert twin.net.given[1].item() == pytest.approx(expected)
    assert denoiser.net.given[1].item() != pytest.approx(expected)


def test_half_precision_noise_does_not_lower_the_datas_precision(dims):
    process = discrete_process("linear", 5)
    x, t = torch.ones(2, *dims), torch.tensor([1, 5])
    assert EpsDenoiser(FixedAnswer(torch.ones_like(x).bfloat16()), process)(x, t).dtype == torch.float32


def test_gradients_pass_through_all_forms(setting):
    process, _, noise, x = setting
    for form in ("forward", "eps", "score"):
        estimate = noise.clone().requires_grad_()
        getattr(EpsDenoiser(FixedAnswer(estimate), process), form)(x, TIMES).sum().backward()
        assert (estimate.grad != 0).all()


def test_unknown_time_input_lists_the_known_ones():
    with pytest.raises(InputError, match=r"time_input must be one of .*sigma") as caught:
        EpsDenoiser(FixedAnswer(None), discrete_process("linear", 5), "sigma")
    assert all(name in str(caught.value) for name in ("beta", "index", "log_snr"))


def test_a_process_without_betas_cannot_feed_beta():
    with refused(UnknownName, what="time_input", name="beta"):
        EpsDenoiser(FixedAnswer(None), Process(), "beta")
