"""The models: loss terms that add up, times shared within a cloud, sampling, and the truncated prior."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from small_models import small_model, small_run

from pcdiff.diffusion import SamplingReport, Trajectory
from pcdiff.errors import InputError
from pcdiff.models import MODELS, AutoEncoder, Latent, build_model, gaussian_entropy

SMALL = {
    "latent_dim": 6,
    "encoder_widths": (8, 16),
    "encoder_head_widths": (8,),
    "flow_depth": 4,
    "flow_hidden_dim": 8,
    "net_widths": (8, 16, 8),
    "num_steps": 10,
}
BATCH, POINTS = 4, 12

every_kind = pytest.mark.parametrize("kind", ["flow", "gaussian", "autoencoder"])
every_generator = pytest.mark.parametrize("kind", ["flow", "gaussian"])
every_objective = pytest.mark.parametrize("objective", ["simple", "elbo"])


def make(kind, seed=0, **objective):
    torch.manual_seed(seed)
    return small_model(SMALL | {"kind": kind}, **objective).double()


def clouds(batch=BATCH, num_points=POINTS):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, num_points, 3, generator=draw, dtype=torch.float64)


def draws(times=BATCH, latent=True):
    """Return values for everything a loss draws."""
    draw = torch.Generator().manual_seed(2)
    given = {
        "latent_noise": torch.randn(BATCH, SMALL["latent_dim"], generator=draw, dtype=torch.float64),
        "t": torch.randint(1, SMALL["num_steps"] + 1, (times,), generator=draw),
        "noise": torch.randn(BATCH, POINTS, 3, generator=draw, dtype=torch.float64),
    }
    return given if latent else {k: v for k, v in given.items() if k != "latent_noise"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("kind", "expected"), [("flow", Latent), ("gaussian", Latent), ("autoencoder", AutoEncoder)]
)
def test_models_by_kind(kind, expected):
    assert type(make(kind)) is expected


def test_unknown_kind_lists_the_known_ones():
    with pytest.raises(InputError, match="'vqvae'") as caught:
        build_model(replace(small_run(SMALL).model, kind="vqvae"))
    assert all(kind in str(caught.value) for kind in MODELS)


@every_kind
@every_objective
def test_loss_terms_are_named_and_add_up(kind, objective):
    model = make(kind, objective=objective, kl_weight=0.37)
    terms = model.loss_terms(clouds(), seeded())
    assert all(value.shape == () and value.isfinite() for value in terms.values())
    if kind == "autoencoder":
        assert list(terms) == ["loss", "reconstruction"]
        assert terms["loss"] == terms["reconstruction"]
    else:
        assert list(terms) == ["loss", "reconstruction", "prior", "entropy"]
        expected = terms["reconstruction"] + 0.37 * (terms["prior"] - terms["entropy"])
        torch.testing.assert_close(terms["loss"], expected)


@every_generator
def test_each_term_is_what_its_name_says(kind):
    model, x, given = make(kind).eval(), clouds(), draws()
    terms = model.loss_terms(x, **given)
    mean, log_variance = model.encoder(x)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = mean + posterior.stddev * given["latent_noise"]
    torch.testing.assert_close(terms["entropy"], posterior.entropy().sum(dim=1).mean())
    w, log_det = model.prior(z) if kind == "flow" else (z, 0.0)
    log_prior = torch.distributions.Normal(0, 1).log_prob(w).sum(dim=1) + log_det
    torch.testing.assert_close(terms["prior"], -log_prior.mean())
    process = model.denoiser.process
    x_t = process.perturb(x, given["t"], given["noise"])
    squared = (model.denoiser.net(x_t, process.betas[given["t"]], z) - given["noise"]).square()
    torch.testing.assert_close(terms["reconstruction"], squared.mean())


def test_prior_less_entropy_is_the_kl_of_the_gaussian_model():
    """In expectation over the draw of z; the closed form is Kingma & Welling (2014), appendix B."""
    model, x = make("gaussian").eval(), clouds(batch=1)
    mean, log_variance = model.encoder(x)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0)).sum()
    noise = torch.randn(20_000, SMALL["latent_dim"], generator=seeded(), dtype=torch.float64)
    z = mean + (0.5 * log_variance).exp() * noise
    drawn = -model.prior_log_prob(z) - gaussian_entropy(log_variance)
    assert abs(drawn.mean() - expected) < 5 * drawn.std() / math.sqrt(len(z))


def test_autoencoder_reconstruction_conditions_on_its_code():
    model, x, given = make("autoencoder").eval(), clouds(), draws(latent=False)
    process, t = model.denoiser.process, given["t"]
    estimate = model.denoiser.net(process.perturb(x, t, given["noise"]), process.betas[t], model.encode(x))
    torch.testing.assert_close(model.loss_terms(x, **given)["loss"], (estimate - given["noise"]).square().mean())


@every_kind
@every_objective
def test_every_parameter_gets_a_gradient(kind, objective):
    model = make(kind, objective=objective, times_per_cloud=3)
    model.loss_terms(clouds(batch=16), seeded())["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # a bias just before batch normalization is subtracted again with the mean: its gradient may be 0
    silent = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert not [name for name in silent if not (name.startswith("encoder") and name.endswith("bias"))]


@every_kind
@every_objective
@pytest.mark.parametrize("groups", [2, 3, 12])
def test_groups_at_the_same_time_change_nothing(kind, objective, groups):
    """Exactly the loss of one time a cloud when all of a cloud's groups stand at it."""
    given = draws(latent=kind != "autoencoder")
    one = make(kind, objective=objective).eval().loss_terms(clouds(), **given)
    given["t"] = given["t"].repeat_interleave(groups)
    many = make(kind, objective=objective, times_per_cloud=groups).eval().loss_terms(clouds(), **given)
    for name, value in one.items():
        torch.testing.assert_close(many[name], value, rtol=1e-12, atol=1e-12)


@every_objective
def test_groups_at_different_times_are_clouds_of_their_own(objective):
    """A mean (simple) or sum (elbo) of the losses of the parts: the expectation stays that of one time."""
    groups, x, given = 3, clouds(), draws(times=BATCH * 3)
    z = torch.randn(BATCH, SMALL["latent_dim"], generator=seeded(), dtype=torch.float64)
    together = make("flow", objective=objective, times_per_cloud=groups).eval()
    alone = make("flow", objective=objective).eval()
    size, t = POINTS // groups, given["t"].view(BATCH, groups)
    parts = [
        alone.reconstruction_term(
            x[:, g * size : (g + 1) * size], z, t=t[:, g], noise=given["noise"][:, g * size : (g + 1) * size]
        )
        for g in range(groups)
    ]
    expected = torch.stack(parts).sum(dim=0) if objective == "elbo" else torch.stack(parts).mean(dim=0)
    result = together.reconstruction_term(x, z, t=given["t"], noise=given["noise"])
    torch.testing.assert_close(result, expected)


@every_objective
def test_expected_loss_does_not_depend_on_how_times_are_shared_out(objective):
    x, z = clouds(), torch.zeros(BATCH, SMALL["latent_dim"], dtype=torch.float64)
    averages = {}
    for groups, stratified in [(1, False), (4, False), (4, True)]:
        model = make("flow", objective=objective, times_per_cloud=groups, stratified_times=stratified).eval()
        draw = seeded(5)
        with torch.no_grad():
            losses = torch.stack([model.reconstruction_term(x, z, draw).mean() for _ in range(400)])
        averages[groups, stratified] = losses.mean(), losses.std() / math.sqrt(len(losses))
    expected, error = averages[1, False]
    for average, other_error in averages.values():
        assert abs(average - expected) <= 5 * math.hypot(error, other_error)


@pytest.mark.parametrize("groups", [0, -1, 5, 24])
def test_times_per_cloud_must_divide_the_points(groups):
    with pytest.raises(
        InputError, match=f"times_per_cloud must divide the {POINTS} points of a cloud, got {groups}"
    ):
        make("flow", times_per_cloud=groups).loss_terms(clouds(), seeded())


@every_kind
def test_loss_takes_every_draw_from_its_generator(kind):
    model, before = make(kind).eval(), torch.get_rng_state()
    a, b, c = (model.loss_terms(clouds(), seeded(seed))["loss"] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert a == b
    assert a != c


@every_kind
def test_points_in_another_order_encode_alike(kind):
    model, x = make(kind).eval(), clouds()
    torch.testing.assert_close(model.encode(x.flip(1)), model.encode(x), rtol=0, atol=1e-12)


@every_kind
@pytest.mark.parametrize("num_points", [1, 5, 200])
def test_shapes_of_encode_decode_and_reconstruct(kind, num_points):
    model, x = make(kind).eval(), clouds()
    z = model.encode(x)
    assert z.shape == (BATCH, SMALL["latent_dim"])
    assert not z.requires_grad
    assert model.float().decode(z.float(), num_points, generator=seeded()).shape == (BATCH, num_points, 3)
    given = x.float()
    assert model.reconstruct(given, generator=seeded()).shape == given.shape
    assert model.reconstruct(given, num_points, generator=seeded()).shape == (BATCH, num_points, 3)


@every_generator
@pytest.mark.parametrize("num_points", [1, 7, 300])
def test_any_number_of_points_is_sampled(kind, num_points):
    model = make(kind).float().eval()
    x = model.sample(3, num_points, generator=seeded(), flexibility=0.5, num_steps=4, truncate_std=1.0)
    assert x.shape == (3, num_points, 3)
    assert x.isfinite().all()


@every_generator
def test_sampling_repeats_with_its_seed_and_uses_no_other_randomness(kind):
    model, before = make(kind).float().eval(), torch.get_rng_state()
    a, b, c = (model.sample(2, 8, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.isclose(a, c).any()


@every_generator
def test_a_sample_is_a_latent_decoded(kind):
    model, draw = make(kind).float().eval(), seeded(3)
    z = model.sample_latent(2, draw)
    assert torch.equal(model.decode(z, 8, generator=draw), model.sample(2, 8, generator=seeded(3)))


@every_kind
def test_decoding_from_given_draws(kind):
    model, trajectory = make(kind).float().eval(), Trajectory()
    z = torch.randn(2, SMALL["latent_dim"], generator=seeded())
    start = torch.randn(2, 5, 3, generator=seeded(1))
    x = model.decode(z, 5, x_init=start, noise=torch.zeros_like, callback=trajectory)
    assert torch.equal(trajectory.states[0], start)
    assert torch.equal(trajectory.states[-1], x)
    assert len(trajectory.times) == SMALL["num_steps"] + 1
    assert torch.equal(x, model.decode(z, 5, x_init=start, noise=torch.zeros_like, flexibility=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"num_points": 5, "flexibility": 1.5}, r"flexibility must be in \[0, 1\], got 1.5"),
        ({"num_points": 5, "num_steps": 11}, r"num_steps must be in 1\.\.10 .*got 11"),
        ({"num_points": 5, "truncate_std": 0.0}, "truncate_std must be positive, got 0.0"),
        ({"num_points": 5, "truncate_std": -1.0}, "truncate_std must be positive, got -1.0"),
        ({"num_points": 5, "truncate_std": math.nan}, "truncate_std must be positive, got nan"),
    ],
)
def test_sampling_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        make("gaussian").float().eval().sample(2, **options)


def test_a_start_of_another_size_is_named():
    model = make("gaussian").float().eval()
    with pytest.raises(InputError, match=r"x_init must be \(2, 5, 3\), got \(2, 4, 3\)"):
        model.decode(torch.zeros(2, SMALL["latent_dim"]), 5, x_init=torch.zeros(2, 4, 3))


@pytest.mark.parametrize("shape", [(4, 12), (4, 12, 2), (4, 0, 3)])
@every_kind
def test_wrong_clouds_are_named(kind, shape):
    for call in (make(kind).loss_terms, make(kind).encode):
        with pytest.raises(InputError, match=r"x must be \(B, N, 3\)"):
            call(torch.zeros(shape, dtype=torch.float64))


def test_gaussian_entropy_is_that_of_torch():
    log_variance = torch.randn(5, 7, generator=seeded(), dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, (0.5 * log_variance).exp()).entropy().sum(dim=1)
    torch.testing.assert_close(gaussian_entropy(log_variance), expected)


@every_generator
def test_latents_have_the_density_the_prior_claims(kind):
    """Drawn latents go back to a standard normal, by the Kolmogorov-Smirnov distance."""
    model = make(kind).float().eval()
    z = model.sample_latent(4000, seeded())
    assert z.shape == (4000, SMALL["latent_dim"])
    w = model.prior(z)[0].detach() if kind == "flow" else z
    for coordinate in w.T:
        assert stats.kstest(coordinate.numpy(), "norm").pvalue > 1e-4


@every_generator
@pytest.mark.parametrize("bound", [0.1, 1.0, 2.5, 8.0])
def test_truncated_latents_stay_in_bounds_and_have_the_truncated_moments(kind, bound):
    model, count = make(kind).float().eval(), 4000
    z = model.sample_latent(count, seeded(), truncate_std=bound)
    w = (model.prior(z)[0].detach() if kind == "flow" else z).double()
    slack = 1e-4 if kind == "flow" else 0.0  # the flow's float32 round trip
    assert w.abs().max() <= bound + slack
    expected = stats.truncnorm(-bound, bound)
    values = w.flatten()
    assert abs(values.mean()) < 5 * expected.std() / math.sqrt(len(values))
    fourth = expected.moment(4)
    error = math.sqrt((fourth - expected.var() ** 2) / len(values))
    assert abs(values.square().mean() - expected.var()) < 5 * error + slack
    assert stats.kstest(values.numpy(), expected.cdf).pvalue > 1e-4


@every_generator
def test_truncation_keeps_the_order_and_fades_out_with_its_bound(kind):
    """The same seed gives the same latent, squeezed: comparing truncations compares like with like."""
    model = make(kind).float().eval()
    free, mild, tight = (model.sample_latent(50, seeded(), truncate_std=bound) for bound in (None, 30.0, 0.5))
    torch.testing.assert_close(free, mild, rtol=1e-4, atol=1e-4)
    assert not torch.isclose(free, tight).all()
    if kind == "gaussian":
        assert torch.equal(free.argsort(dim=0), tight.argsort(dim=0))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("time_input", ["beta", "index", "log_snr"])
def test_every_choice_of_schedule_and_time_trains_and_samples(schedule, time_input):
    config = SMALL | {"schedule": schedule, "time_input": time_input, "frequencies": 2}
    torch.manual_seed(0)
    model = small_model(config)
    model.loss_terms(clouds().float(), seeded())["loss"].backward()
    assert model.eval().sample(2, 5, generator=seeded()).isfinite().all()


def test_loss_terms_under_bf16_autocast_stay_in_float32():
    torch.manual_seed(0)
    model = small_model(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.loss_terms(clouds().float(), seeded())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp", "unipc", "heun", "kernel"])
def test_a_model_samples_by_any_name_in_few_steps(sampler):
    model, report = make("flow").float().eval(), SamplingReport()
    x = model.sample(2, 9, generator=seeded(), sampler=sampler, num_steps=3, report=report)
    assert x.shape == (2, 9, 3)
    assert x.isfinite().all()
    assert report.num_steps == 3
    assert report.evaluations == (5 if sampler == "heun" else 3)


def test_sampling_in_bf16_stays_near_fp32():
    model = make("gaussian").float().eval()
    a, b = (model.sample(4, 64, generator=seeded(), precision=p) for p in ("fp32", "bf16"))
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert (a - b).square().mean() < 1e-3 * a.square().mean()


def test_the_ancestral_sampler_is_the_default():
    model = make("gaussian").float().eval()
    a, b = (model.sample(2, 9, generator=seeded(), **options) for options in ({}, {"sampler": "ancestral"}))
    assert torch.equal(a, b)
    options = {"sampler": "ancestral", "sampler_options": {"flexibility": 0.5}}
    c, d = (model.sample(2, 9, generator=seeded(), **o) for o in (options, {"flexibility": 0.5}))
    assert torch.equal(c, d)
    assert not torch.equal(a, c)


def test_flexibility_belongs_to_the_ancestral_sampler():
    with pytest.raises(InputError, match=r"flexibility is the ancestral sampler's, got 0\.5 with sampler 'ddim'"):
        make("gaussian").float().sample(1, 4, sampler="ddim", flexibility=0.5)
