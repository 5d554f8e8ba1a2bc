"""Guidance of Gaussians against closed forms, on clouds and images: every answer of a denoiser, and samples."""

import math

import pytest
import torch
from cases import first
from exact_gaussian import ExactGaussian
from exact_gaussian import gaussian as correlated
from exact_models import Mixture
from refusals import refused
from torch import nn

from pcdiff.diffusion import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Denoiser,
    NetDenoiser,
    SamplingReport,
    append_dims,
    build_process,
    log_likelihood,
    objective,
    predictor,
    sample,
)
from pcdiff.errors import InputError, UnknownName

STD, MEAN, COUNT = 0.4, 0.3, 2000
SCALES = (-0.5, 0.0, 1.0, 2.5)
MAKERS = {
    "ddpm": lambda: build_process("ddpm", schedule="cosine", num_steps=40),
    "vp": lambda: build_process("vp"),
    "ve": lambda: build_process("ve", sigma_min=0.01, sigma_max=10.0),
    "edm": lambda: build_process("edm"),
}


def gaussian(process, mean):
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(process, one, mean[None], STD * one)


def pattern(dims, seed=0):
    return torch.randn(dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tilt(process, w):
    """Return log E[exp(w . x_0) | x_t] up to a constant: linear in x_t, so that a scale s makes w into s w."""

    def log_prob(x, t, cond):
        alpha, sigma = process.scales(t)
        gain = alpha * STD**2 / ((alpha * STD).square() + sigma.square())
        return gain.to(x.dtype) * (w.to(x.dtype) * x).flatten(1).sum(dim=1)

    return log_prob


class ByCondition(Denoiser):
    """Exact denoiser of N(cond, STD^2 I), cond `(B, *dims)`."""

    def forward(self, x, t, cond=None):
        cond = cond["mean"][0] if isinstance(cond, dict) else cond
        alpha, sigma = (append_dims(v, x) for v in self.process.scales(t))
        return cond + alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2) * (x - alpha * cond)


def times(process):
    steps = process.num_steps
    return torch.tensor([1, steps // 2, steps]) if steps else process.T * torch.tensor([0.01, 0.5, 1.0]).double()


def agree(ours, theirs, x, t, cond=None):
    """Compare every answer of two denoisers, and one's answers with each other."""
    for name in ("forward", "eps", "score", "velocity"):
        a, b = (getattr(denoiser, name)(x, t, cond) for denoiser in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
    x0, eps = ours.estimate(x, t, cond)
    alpha, sigma = (append_dims(v, x) for v in ours.process.scales(t))
    torch.testing.assert_close(alpha * x0 + sigma * eps, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.score(x, t, cond), -eps / sigma)
    torch.testing.assert_close(ours(x, t, cond), x0)
    early = t // 2 if ours.process.num_steps else t / 2
    a, b = (denoiser.reverse_kernel(x, t, early, cond) for denoiser in (ours, theirs))
    for mine, other in zip(a, b, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", sorted(MAKERS))
@pytest.mark.parametrize("scale", SCALES)
def test_a_linear_classifier_moves_a_gaussians_mean(kind, scale, dims):
    """N(m, s^2 I) weighted by exp(scale w . x) is N(m + scale s^2 w, s^2 I), and so is all that is said of it."""
    process, w = MAKERS[kind](), pattern(dims)
    mean, t = MEAN + torch.zeros(dims, dtype=torch.float64), times(process)
    guided = ClassifierGuidance(gaussian(process, mean), tilt(process, w), scale)
    agree(guided, gaussian(process, mean + scale * STD**2 * w), pattern((len(t), *dims), 1), t)


def test_samples_under_a_classifier(dims):
    """Within five standard errors and what 40 steps add, 0.03 standard deviations."""
    process, w, scale = MAKERS["ddpm"](), pattern(dims), 2.0
    mean = torch.zeros(dims, dtype=torch.float64)
    x = sample(
        ClassifierGuidance(gaussian(process, mean), tilt(process, w), scale),
        (COUNT, *dims),
        sampler="dpmpp",
        num_steps=15,
        generator=torch.Generator().manual_seed(3),
    )
    error = (x.double().mean(dim=0) - scale * STD**2 * w) / STD
    assert error.abs().max() < 5 / math.sqrt(COUNT) + 0.03
    assert (x.double().std(dim=0) / STD - 1).abs().max() < 5 / math.sqrt(2 * COUNT) + 0.03
    assert not x.requires_grad


def test_the_mean_form_moves_the_kernels_mean_by_its_variance(dims):
    process, w = MAKERS["ddpm"](), pattern(dims)
    x, t, s = pattern((3, *dims), 1), torch.tensor([2, 20, 40]), torch.tensor([1, 19, 39])
    for variance in ("small", "large"):
        base = gaussian(process, torch.zeros(dims, dtype=torch.float64))
        base.variance = variance
        guided = ClassifierGuidance(base, tilt(process, w), 1.5, form="mean")
        ours, plain = guided.reverse_kernel(x, t, s), base.reverse_kernel(x, t, s)
        shift = plain.log_variance.exp() * guided.gradient(x, t)
        torch.testing.assert_close(ours.mean, plain.mean + shift)
        torch.testing.assert_close(ours.x0, plain.x0)


def test_the_clip_comes_before_the_shift(dims):
    process, w = MAKERS["ddpm"](), pattern(dims)
    base = gaussian(process, torch.zeros(dims, dtype=torch.float64))
    guided = ClassifierGuidance(base, tilt(process, w), clip=(-0.1, 0.1))
    x, t = pattern((3, *dims), 1), torch.tensor([1, 20, 40])
    alpha, sigma = (append_dims(v, x) for v in process.scales(t))
    shift = sigma.square() / alpha * guided.gradient(x, t)
    torch.testing.assert_close(guided(x, t), base(x, t).clamp(-0.1, 0.1) + shift)
    torch.testing.assert_close(alpha * guided(x, t) + sigma * guided.eps(x, t), x)
    torch.testing.assert_close(guided.reverse_kernel(x, t, t - 1).x0, guided(x, t))


def test_a_model_that_knows_no_condition_is_not_told_it(dims):
    process, w = MAKERS["ddpm"](), pattern(dims)
    base, seen = gaussian(process, torch.zeros(dims, dtype=torch.float64)), []

    class Spy(type(base)):
        def forward(self, x, t, cond=None):
            seen.append(cond)
            return super().forward(x, t, cond)

    base.__class__ = Spy
    x, t = pattern((3, *dims), 1), torch.tensor([2, 20, 40])
    for told in (True, False):
        guided = ClassifierGuidance(base, tilt(process, w), conditional=told)
        guided.estimate(x, t, "which")
        guided.reverse_kernel(x, t, t - 1, "which")
        assert set(seen) == {"which" if told else None}
        seen.clear()


def test_classifiers_that_do_not_fit_are_refused(dims):
    process, x, t = MAKERS["ddpm"](), pattern((2, *dims)), torch.tensor([3, 3])
    base = gaussian(process, torch.zeros(dims, dtype=torch.float64))
    for scale in (math.nan, math.inf):
        for build in (
            lambda scale=scale: ClassifierGuidance(base, tilt(process, x[0]), scale),
            lambda scale=scale: ClassifierFreeGuidance(base, None, scale),
        ):
            with pytest.raises(InputError, match="scale must be finite"):
                build()
    with refused(UnknownName, what="form"):
        ClassifierGuidance(base, tilt(process, x[0]), form="eps")
    with pytest.raises(InputError, match=r"one number a sample, \(2,\)"):
        ClassifierGuidance(base, lambda x, t, cond: x)(x, t)
    with pytest.raises(InputError, match="differentiable in x"):
        ClassifierGuidance(base, lambda x, t, cond: torch.zeros(2))(x, t)
    straight = build_process("rectified_flow")
    guided = ClassifierGuidance(gaussian(straight, x[0]), lambda x, t, cond: x.flatten(1).sum(dim=1))
    with pytest.raises(InputError, match="alpha > 0"):
        guided(x, torch.ones(2).double())
    with torch.no_grad():
        assert guided(x, torch.full((2,), 0.9).double()).isfinite().all()


Y, NOISE = 0.8, 0.3  # one measurement, the sum of all numbers, and the deviation of its error


def measured(model):
    """Return log p(y | x_t) of y = sum(x_0) + NOISE e, whose Hessian is not 0, and the exact p(x_0 | y)."""
    size = len(model.mean)
    row = torch.ones(1, size, dtype=torch.float64)

    def log_prob(x, t, cond):
        alpha, sigma = (v.to(x)[:, None] for v in model.process.scales(t))
        # Cov[x_0 | x_t] along the axes of the covariance
        left = model.spectrum * sigma.square() / (alpha.square() * model.spectrum + sigma.square())
        variance = NOISE**2 + (left * (row @ model.axes).square()).sum(dim=1)
        return -(Y - model(x, t).flatten(1).sum(dim=1)).square() / (2 * variance)

    gain = model.covariance @ row.T / (row @ model.covariance @ row.T + NOISE**2)
    mean = model.mean + (gain * (Y - row @ model.mean)).flatten()
    return log_prob, ExactGaussian(model.process, mean, model.covariance - gain @ row @ model.covariance)


def log_density(model, x, t):
    """Return log p_t(x) `(B,)` of an exact Gaussian."""
    alpha, sigma = model.process.scales(t[:1])
    covariance = alpha.square() * model.covariance + sigma.square() * torch.eye(len(model.mean)).double()
    law = torch.distributions.MultivariateNormal(alpha * model.mean, covariance)
    return law.log_prob(x.flatten(1))


@pytest.mark.parametrize("kind", sorted(MAKERS))
@pytest.mark.parametrize("trace", first(1, ["exact", "rademacher"]))
def test_the_likelihood_under_a_classifier_is_the_posteriors(kind, trace):
    """In two dimensions. The trace of the classifier's Hessian is worth about a nat here."""
    model = correlated(MAKERS[kind](), (1, 2))
    process, (log_prob, posterior) = model.process, measured(model)
    x = pattern((3, 1, 2), 4)
    start = torch.full((3,), float(process.num_steps is not None or process.train_eps), dtype=torch.float64)
    probes = pattern((4, 3, 1, 2), 5).sign() if trace == "rademacher" else None
    if probes is not None:  # both pairs of signs: their mean is the trace itself
        probes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).view(2, 1, 1, 2).expand(2, 3, 1, 2)
    found = log_likelihood(ClassifierGuidance(model, log_prob), x, trace=trace, probes=probes)
    change = found.log_likelihood - process.log_prior(found.z)
    end = torch.full((3,), process.T, dtype=torch.float64)
    expected = log_density(posterior, x, start) - log_density(posterior, found.z, end)
    torch.testing.assert_close(change, expected, rtol=0, atol=2e-3)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, at jvp
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_the_gradient_of_a_classifier_can_be_differentiated(kind, dims):
    """Backwards and forwards, it has the score's own Jacobian; without gradients there is no graph."""
    model = correlated(MAKERS[kind](), dims)
    log_prob, posterior = measured(model)
    guided, x, t = ClassifierGuidance(model, log_prob), pattern((3, *dims), 1), times(model.process)
    direction = pattern((3, *dims), 2)
    expected = torch.func.jvp(lambda v: posterior.score(v, t), (x,), (direction,))
    for ours, theirs in zip(
        torch.func.jvp(lambda v: guided.score(v, t), (x,), (direction,)), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    leaf = x.clone().requires_grad_()
    (back,) = torch.autograd.grad((guided.score(leaf, t) * direction).sum(), leaf)
    torch.testing.assert_close(back, expected[1], rtol=1e-7, atol=1e-7)  # a score's Jacobian is symmetric
    with torch.no_grad():
        assert not guided.score(x, t).requires_grad


def test_the_sliced_objective_sees_the_classifiers_hessian(dims):
    """It is that of the posterior, whose score this is; and data that are trained themselves get its gradient."""
    model = correlated(MAKERS["vp"](), dims)
    log_prob, posterior = measured(model)
    loss, t = objective("sliced"), times(model.process)
    x0, noise, along = (pattern((3, *dims), seed) for seed in (1, 2, 3))
    x0.requires_grad_()
    ours, theirs = (
        loss(denoiser, x0, t, noise, projection=along)
        for denoiser in (ClassifierGuidance(model, log_prob), posterior)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    gradients = [torch.autograd.grad(value.sum(), x0)[0] for value in (ours, theirs)]
    assert gradients[1].abs().max() > 0.01
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        assert not loss(posterior, x0, t, noise, projection=along).requires_grad


def test_a_classifier_that_mixes_points_is_seen_by_the_pointwise_trace():
    model = gaussian(MAKERS["vp"](), torch.zeros(4, 2).double())

    def of_all(x, t, cond):
        return -x.flatten(1).sum(dim=1).square()

    x = pattern((2, 4, 2))
    log_likelihood(model, x, trace="exact")
    with pytest.raises(InputError, match="moves every point by itself"):
        log_likelihood(ClassifierGuidance(model, of_all), x, trace="pointwise")


@pytest.mark.parametrize("kind", sorted(MAKERS))
@pytest.mark.parametrize("scale", SCALES)
def test_guidance_without_classifier_extrapolates_between_gaussians(kind, scale, dims):
    """Of N(a, s^2 I) without and N(b, s^2 I) with the condition comes N(a + scale (b - a), s^2 I)."""
    process = MAKERS[kind]()
    t = times(process)
    null, cond = pattern((1, *dims), 2), pattern((len(t), *dims), 3)
    guided = ClassifierFreeGuidance(ByCondition(process), null, scale)

    class Moved(ByCondition):
        def forward(self, x, t, cond=None):
            return super().forward(x, t, null + scale * (cond - null))

    agree(guided, Moved(process), pattern((len(t), *dims), 1), t, cond)


class Counting(nn.Module):
    """A net that remembers the batches it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, tau, cond):
        self.asked.append(len(x))
        return x * cond["scale"].view(-1, *[1] * (x.dim() - 1)) + cond["shift"][0]


def test_at_scale_one_it_is_the_conditional_model_to_the_bit(dims):
    process, cond = MAKERS["ddpm"](), pattern((3, *dims), 3)
    base = ByCondition(process)
    guided = ClassifierFreeGuidance(base, torch.zeros(1, *dims), 1.0)
    draws = {"sampler": predictor("ddim", eta=1.0), "num_steps": 5}
    ours, theirs = (
        sample(denoiser, (3, *dims), cond=cond, generator=torch.Generator().manual_seed(1), **draws)
        for denoiser in (guided, base)
    )
    assert torch.equal(ours, theirs)


def test_one_evaluation_of_twice_the_batch_with_any_structure(dims):
    process = MAKERS["ddpm"]()
    net, x, t = Counting(), pattern((3, *dims)), torch.tensor([1, 5, 9])
    cond = {"scale": torch.tensor([0.1, 0.2, 0.3]).double(), "shift": [pattern((3, *dims), 2)]}
    null = {"scale": torch.zeros(1).double(), "shift": [torch.zeros(1, *dims).double()]}
    base = NetDenoiser(net, process)
    report = SamplingReport()
    guided = ClassifierFreeGuidance(base, null, 3.0)
    torch.testing.assert_close(guided.eps(x, t, cond), 3 * base.eps(x, t, cond))
    assert net.asked == [6, 3]
    net.asked.clear()
    sample(guided, (3, *dims), cond=cond, sampler="ddim", num_steps=4, report=report)
    assert net.asked == [6] * 4
    assert report.evaluations == 4


def test_rescaling_gives_the_conditions_own_spread(dims):
    process = MAKERS["vp"]()
    null, cond, x = pattern((1, *dims), 2), pattern((3, *dims), 3), pattern((3, *dims), 1)
    t, base = times(process), ByCondition(process)
    plain = ClassifierFreeGuidance(base, null, 4.0)(x, t, cond)
    spread = base(x, t, cond).flatten(1).std(dim=1)
    for share in (0.7, 1.0):
        guided = ClassifierFreeGuidance(base, null, 4.0, rescale=share)
        ours = guided(x, t, cond)
        wanted = share * spread + (1 - share) * plain.flatten(1).std(dim=1)
        torch.testing.assert_close(ours.flatten(1).std(dim=1), wanted)
        directions = (v.flatten(1) / v.flatten(1).norm(dim=1, keepdim=True) for v in (ours, plain))
        torch.testing.assert_close(*directions)
        alpha, sigma = (append_dims(v, x) for v in process.scales(t))
        torch.testing.assert_close(alpha * ours + sigma * guided.eps(x, t, cond), x)
        torch.testing.assert_close(guided.reverse_kernel(x, t, t / 2, cond).x0, ours)


@pytest.mark.parametrize("one", [(1, 1), (1, 1, 1)])
def test_samples_without_spread_are_not_rescaled(one):
    """One number has none, nor has a constant; neither gives NaN."""
    process = MAKERS["vp"]()
    t = times(process)
    x, null, cond = pattern((3, *one), 1), pattern((1, *one), 2), pattern((3, *one), 3)
    guided, plain = (ClassifierFreeGuidance(ByCondition(process), null, 4.0, rescale=v) for v in (0.7, 0.0))
    assert torch.equal(guided(x, t, cond), plain(x, t, cond))
    wide = [v.expand(-1, *one[:-1], 5) for v in (x, null, cond)]
    guided, plain = (ClassifierFreeGuidance(ByCondition(process), wide[1], 4.0, rescale=v) for v in (0.7, 0.0))
    assert guided(wide[0], t, wide[2]).isfinite().all()


def test_a_learned_variance_is_the_conditions(dims):
    process = MAKERS["ddpm"]()

    def net(x, tau, cond):
        return torch.cat([x * cond.view(-1, *[1] * (x.dim() - 1)), x + cond.view(-1, *[1] * (x.dim() - 1))], dim=1)

    module = nn.Module()
    module.forward = net
    base = NetDenoiser(module, process, variance="learned")
    cond, x, t = torch.tensor([0.5, 0.2]).double(), pattern((2, *dims)), torch.tensor([4, 9])
    kernel = ClassifierFreeGuidance(base, torch.zeros(1).double(), 2.0).reverse_kernel(
        x, t, t - 1, cond, clip=(-1, 1)
    )
    torch.testing.assert_close(kernel.log_variance, base.reverse_kernel(x, t, t - 1, cond).log_variance)
    assert kernel.x0.abs().max() == 1
    torch.testing.assert_close(kernel.mean, process.posterior(kernel.x0, x, t, t - 1)[0])


def test_conditions_that_do_not_match_are_refused(dims):
    process, x, t = MAKERS["ddpm"](), pattern((2, *dims)), torch.tensor([3, 3])
    base = ByCondition(process)
    with pytest.raises(InputError, match=r"rescale must be in \[0, 1\]"):
        ClassifierFreeGuidance(base, None, 2.0, rescale=1.1)
    null = torch.zeros(1, *dims)
    for bad in (x[:1], x[..., :1], pattern((2, *dims, 1))):
        with pytest.raises(InputError, match=r"guidance needs cond \(2, ...\) and null alike"):
            ClassifierFreeGuidance(base, null, 2.0)(x, t, bad)
    for bad in (None, {"mean": x}, (x,), [x, x]):
        with pytest.raises(InputError, match="built alike of tensors, got"):
            ClassifierFreeGuidance(base, null, 2.0)(x, t, bad)
    with pytest.raises(InputError, match="built alike"):
        ClassifierFreeGuidance(base, {"mean": null}, 2.0)(x, t, {"other": x})
