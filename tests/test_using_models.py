"""What models do with given clouds: ends of paths, sums of codes, inversions, completions, likelihoods."""

import pytest
import torch
from cases import first
from small_models import small_model

from pcdiff.diffusion import Denoiser, SamplingReport, append_dims
from pcdiff.diffusion.likelihood import log_likelihood
from pcdiff.errors import InputError
from pcdiff.models import editing, sampling
from pcdiff.models.latent_interpolation import codes_between
from pcdiff.models.sampling import generate, reconstruct, sample_all
from pcdiff.ops import chamfer

SMALL = {
    "latent_dim": 6,
    "encoder_widths": (8, 16),
    "encoder_head_widths": (8,),
    "flow_depth": 4,
    "flow_hidden_dim": 8,
    "cnf_widths": (8,),
    "net_widths": (8, 16, 8),
    "num_steps": 6,
    "beta_T": 0.3,
}
every_kind = pytest.mark.parametrize("kind", ["flow", "gaussian", "autoencoder"])


def make(kind="flow", **sizes):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return small_model(SMALL | dict(kind=kind, **sizes)).eval()


def clouds(count=3, points=20, seed=1):
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(seed))


def all_of(parts):
    return torch.cat(list(parts))


@pytest.mark.parametrize("options", [{}, {"sampler": "dpmpp", "num_steps": 3}, {"truncate_std": 0.5}])
def test_a_sample_does_not_depend_on_how_many_are_drawn(options):
    model = make()
    many, few = (sample_all(model, count, 15, 7, **options) for count in (34, 2))
    torch.testing.assert_close(few, many[:2], rtol=1e-5, atol=1e-5)
    assert not torch.equal(many[32:], many[:2])  # the second chunk draws its own
    assert not torch.equal(few, sample_all(model, 2, 15, 8, **options))


def test_a_reconstruction_does_not_depend_on_what_else_is_there(monkeypatch):
    model, x = make("autoencoder"), clouds()
    whole = all_of(reconstruct(model, x, 20, 0))
    torch.testing.assert_close(all_of(reconstruct(model, x[:1], 20, 0)), whole[:1], rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(sampling, "CHUNK", 2)
    assert [len(chunk) for chunk in generate(make(), 5, 4, 0)] == [2, 2, 1]


def test_more_points_are_decoded_from_the_same_code():
    model, x, codes = make(), clouds(), []
    decode = model.decode
    model.decode = lambda z, *args, **options: codes.append(z) or decode(z, *args, **options)
    assert all_of(reconstruct(model, x, 77, 0)).shape == (3, 77, 3)
    assert torch.equal(codes[0], model.encode(x))


def test_a_report_adds_up_over_chunks():
    report = SamplingReport()
    sample_all(make(), 34, 5, 0, report=report, sampler="dpmpp", num_steps=3)
    assert (report.num_steps, report.evaluations) == (3, 6)


@every_kind
@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_interpolation_begins_and_ends_with_the_reconstructions(kind, path):
    model, a, b = make(kind), clouds(seed=1), clouds(points=14, seed=2)
    if (kind, path) == ("autoencoder", "spherical"):
        with pytest.raises(InputError, match="spherical needs a generator's prior, which AutoEncoder lacks"):
            editing.interpolate(model, a, b, 4, 10, 0, path=path)
        return
    frames = editing.interpolate(model, a, b, 4, 10, 0, path=path)
    assert frames.shape == (3, 4, 10, 3)
    # as of every batch of another size: float32 products round by their shape, in each of six steps
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(frames[:, 0], all_of(reconstruct(model, a, 10, 0)), **close)
    torch.testing.assert_close(frames[:, -1], all_of(reconstruct(model, b, 10, 0)), **close)
    assert not torch.equal(frames[:, 1], frames[:, 0])


@pytest.mark.parametrize(
    ("chunk", "pairs", "frames", "batches"),
    [(8, 1, 8, 1), (6, 3, 8, 4), (2, 5, 3, 3 + 3 + 2)],  # pairs 2, 2 and 1: frame by frame, and two at once
)
def test_frames_are_decoded_together_as_they_are_one_by_one(chunk, pairs, frames, batches, monkeypatch):
    monkeypatch.setattr(editing, "CHUNK", chunk)
    monkeypatch.setattr(sampling, "CHUNK", editing.CHUNK)
    model, a, b = make(), clouds(pairs, seed=1), clouds(pairs, seed=2)
    report, seen = SamplingReport(), []
    made = editing.interpolate(
        model, a, b, frames, 10, 0, flexibility=1.0, report=report, progress=lambda *now: seen.append(now)
    )
    assert report.evaluations == 6 * batches
    assert seen == [(k + 1, 6 * batches) for k in range(6 * batches)]
    codes = codes_between(model, model.encode(a), model.encode(b), frames)
    single = torch.stack([editing.decode(model, z, 10, 0, flexibility=1.0) for z in codes], dim=1)
    torch.testing.assert_close(made, single, rtol=1e-5, atol=1e-5)


def test_arithmetic_adds_codes():
    model, a, b, c = make(), clouds(seed=1), clouds(seed=2), clouds(seed=3)
    torch.testing.assert_close(
        editing.arithmetic(model, a, a, c, 10, 0), all_of(reconstruct(model, c, 10, 0)), rtol=1e-4, atol=1e-4
    )
    z = model.encode(a) - model.encode(b) + model.encode(c)
    assert torch.equal(editing.arithmetic(model, a, b, c, 10, 0), editing.decode(model, z, 10, 0))


class Normal(Denoiser):
    """Exact denoiser of data N(m, s^2 I), m the first three numbers of the code."""

    std = 0.5

    def forward(self, x, t, cond=None):
        """Return E[x_0 | x_t]."""
        alpha, sigma = (append_dims(v, x) for v in self.process.scales(t))
        mean = cond[:, None, :3]
        gain = alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2)
        return mean + gain * (x - alpha * mean)


def exact(num_steps=100):
    """Return a model of known density, its decoder exact."""
    model = make(num_steps=num_steps, beta_T=0.1)
    model.denoiser = Normal(model.denoiser.process)
    return model


@pytest.mark.parametrize(
    ("sampler", "steps", "close"), [("ddim", 100, 5e-3), ("heun", 100, 1e-4), ("ode", 20, 1e-4)]
)
def test_an_exact_model_comes_back_from_its_noise(sampler, steps, close):
    model = exact(steps)
    x = model.encode(clouds())[:, None, :3] + 0.5 * clouds(seed=4)
    report = SamplingReport()
    found = editing.invert(model, x, sampler=sampler, report=report)
    assert torch.equal(found.code, model.encode(x))
    assert found.noise.shape == found.clouds.shape == x.shape
    assert float(chamfer(found.clouds, x).max()) < close
    # the flow of a Gaussian is linear: the noise is x, centered and scaled to the marginal at T
    alpha, sigma = (float(v) for v in model.denoiser.process.scales(torch.tensor([float(steps)])))
    mean = found.code[:, None, :3]
    expected = alpha * mean + (alpha**2 * 0.25 + sigma**2) ** 0.5 / 0.5 * (x - mean)
    torch.testing.assert_close(found.noise, expected, rtol=0.05, atol=0.05)
    assert report.evaluations >= 199


def test_inversion_in_chunks_is_that_of_all(monkeypatch):
    model, x = make(), clouds()
    whole = editing.invert(model, x)
    monkeypatch.setattr(editing, "CHUNK", 2)
    for part, one in zip(editing.invert(model, x), whole, strict=True):
        torch.testing.assert_close(part, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"sampler": "dpmpp", "num_steps": 3}, {"sampler": "heun", "num_steps": 3}])
def test_completion_keeps_the_known_points_exactly(options):
    model, known = make(), clouds(points=8)
    made = editing.complete(model, known, 20, 0, **options)
    assert made.shape == (3, 20, 3)
    assert torch.equal(made[:, :8], known)
    torch.testing.assert_close(editing.complete(model, known[:1], 20, 0, **options), made[:1])


def test_known_points_are_as_noisy_as_the_rest_on_the_way():
    model = exact()
    known = clouds(count=1, points=4000)
    seen = {}
    process = model.denoiser.process

    def watch(k, t, x):
        seen[t] = x[:, :4000]

    editing.complete(model, known, 4001, 0, callback=watch)
    for t in (90.0, 50.0, 10.0):
        alpha, sigma = process.scales(torch.tensor([t]))
        residue = (seen[t] - alpha * known) / sigma
        assert abs(float(residue.mean())) < 0.03
        assert abs(float(residue.std()) - 1) < 0.03


def test_likelihood_of_an_exact_model_is_the_densitys():
    model = exact()
    x = clouds(points=40)
    found = editing.log_likelihood(model, x, 0)
    z = model.encode(x)
    process = model.denoiser.process
    # the data of a chain are its first noisy state
    alpha, sigma = process.scales(torch.tensor([1.0]))
    std = float((0.25 * alpha**2 + sigma**2).sqrt())
    density = torch.distributions.Normal((alpha * z[:, None, :3]).double(), std)
    # the chain ends in N(0, 1) but nearly
    torch.testing.assert_close(
        found.nats_per_dim, -density.log_prob(x.double()).mean(dim=(1, 2)), rtol=0, atol=2e-2
    )
    torch.testing.assert_close(found.latent_log_prob, model.latent_log_prob(z))


@pytest.mark.parametrize("kind", first(1, ["flow", "gaussian", "autoencoder"]))
def test_likelihood_is_of_each_cloud_by_itself(kind):
    model, x = make(kind), clouds()
    found, alone = editing.log_likelihood(model, x, 0), editing.log_likelihood(model, x[1:2], 0)
    torch.testing.assert_close(alone.nats_per_dim, found.nats_per_dim[1:2], rtol=1e-6, atol=1e-6)
    direct = log_likelihood(model.denoiser, x[:1], model.encode(x[:1]), trace="pointwise")
    torch.testing.assert_close(found.nats_per_dim[0], -direct.log_likelihood[0] / 60)
    assert (found.latent_log_prob is None) == (kind == "autoencoder")
    assert found.evaluations > 10


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m, x: editing.complete(m, x, 20, 0), "more than the 20 points given, got 20"),
        (lambda m, x: editing.interpolate(m, x, x[:1], 3, 5, 0), "a, b must hold as many .*, got a 3, b 1"),
        (lambda m, x: editing.interpolate(m, x, x, 1, 5, 0), "num_frames must be at least 2"),
        (
            lambda m, x: editing.interpolate(m, x, x, 3, 5, 0, path="bent"),
            "linear, spherical, got 'bent'",
        ),
        (lambda m, x: editing.arithmetic(m, x, x, x[:2], 5, 0), "got a 3, b 3, c 2"),
        (
            lambda m, x: editing.invert(m, x, sampler="ancestral"),
            "deterministic .* one of ddim, dpmpp, heun, ode, unipc, got 'anc",
        ),
        (lambda m, x: editing.encode(m, x[0]), r"clouds must be \(n, N, 3\), got \(20, 3\)"),
        (lambda m, x: sample_all(m, 1, 0, 0), "num_points must be at least 1, got 0"),
    ],
)
def test_messages(call, match):
    with pytest.raises(InputError, match=match):
        call(make(), clouds())
