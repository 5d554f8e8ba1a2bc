"""PointNet: order of points, any number of them, gradients (compiled ones too), and the draw of z."""

import shutil

import pytest
import torch

from pcdiff.encoders import PointNetEncoder, reparameterize
from pcdiff.errors import InputError

LATENT = 5


def make_encoder(variational=True, seed=0):
    torch.manual_seed(seed)
    return PointNetEncoder(LATENT, widths=(8, 16, 32), head_widths=(16, 8), variational=variational)


def clouds(batch, num_points, seed=1, dtype=torch.float32):
    return torch.randn(batch, num_points, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_points_may_come_in_any_order():
    encoder, x = make_encoder().double().eval(), clouds(4, 50, dtype=torch.float64)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    for given, shuffled in zip(encoder(x), encoder(x[:, order]), strict=True):
        torch.testing.assert_close(given, shuffled, rtol=0, atol=1e-12)


def test_clouds_do_not_influence_one_another_in_evaluation():
    encoder, x = make_encoder().double().eval(), clouds(4, 20, dtype=torch.float64)
    torch.testing.assert_close(encoder(x)[0][2:3], encoder(x[2:3])[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_points", [1, 2, 33, 1000])
def test_any_number_of_points(num_points):
    encoder = make_encoder()
    mean, log_variance = encoder(clouds(3, num_points))
    assert mean.shape == log_variance.shape == (3, LATENT)


def test_a_repeated_point_changes_nothing():
    encoder, x = make_encoder().double().eval(), clouds(2, 10, dtype=torch.float64)
    torch.testing.assert_close(encoder(x)[0], encoder(torch.cat([x, x[:, :1]], dim=1))[0], rtol=0, atol=1e-12)


def test_non_contiguous_clouds():
    encoder, x = make_encoder().eval(), clouds(2, 10)
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    torch.testing.assert_close(encoder(strided)[0], encoder(x)[0])


def test_every_parameter_gets_a_gradient():
    encoder = make_encoder()
    mean, log_variance = encoder(clouds(6, 40))
    weights = torch.randn(2, 6, LATENT, generator=torch.Generator().manual_seed(3))
    (mean * weights[0] + log_variance * weights[1]).sum().backward()
    silent = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias just before batch normalization is subtracted again with the mean: its gradient is rounding noise or 0
    assert not [name for name in silent if "norms" in name or name.endswith("weight")], silent
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_gradients_match_finite_differences():
    encoder = make_encoder().double().eval()
    x = clouds(2, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: encoder(v), x)


def test_deterministic_encoder_has_no_log_variance_and_no_weights_for_it():
    encoder = make_encoder(variational=False)
    assert encoder(clouds(2, 9))[1] is None
    assert not [name for name in encoder.state_dict() if "log_variance" in name]


@pytest.mark.parametrize("shape", [(10, 3), (2, 10, 2), (2, 10, 4), (2, 0, 3), (2, 2, 10, 3)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(InputError, match=r"x must be \(B, N, 3\)") as caught:
        make_encoder()(torch.zeros(shape))
    assert str(tuple(shape)) in str(caught.value)


def test_an_encoder_needs_a_layer():
    with pytest.raises(InputError, match="widths must name at least one layer"):
        PointNetEncoder(LATENT, widths=())


def test_reparameterize_has_the_moments_it_is_given():
    mean, log_variance = torch.tensor([[-1.0, 0.5, 3.0]]), torch.tensor([[-2.0, 0.0, 1.5]])
    count = 40_000
    z = reparameterize(
        mean.expand(count, 3), log_variance.expand(count, 3), generator=torch.Generator().manual_seed(0)
    )
    std = (0.5 * log_variance[0]).exp()
    assert ((z.mean(dim=0) - mean[0]).abs() < 5 * std / count**0.5).all()
    assert ((z.std(dim=0) / std - 1).abs() < 5 / (2 * count) ** 0.5).all()


def test_reparameterize_takes_every_draw_from_its_generator():
    mean, log_variance = torch.zeros(4, 3), torch.zeros(4, 3)
    before = torch.get_rng_state()
    a, b, c = (
        reparameterize(mean, log_variance, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_reparameterize_passes_gradients_to_both_moments():
    mean = torch.zeros(4, 3, requires_grad=True)
    log_variance = torch.full((4, 3), 0.3, requires_grad=True)
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(5))
    reparameterize(mean, log_variance, generator=torch.Generator().manual_seed(5)).sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(4, 3))
    torch.testing.assert_close(log_variance.grad, 0.5 * noise * (0.5 * log_variance.detach()).exp())


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, not ours
def test_compiled_bf16_gradients_are_finite_and_close_to_eager():
    """A maximum by value (amax) gave NaN here: compiled code compares values that were rounded apart."""
    x, weights = clouds(8, 64), torch.randn(8, LATENT, generator=torch.Generator().manual_seed(3))
    gradients = {}
    for kind in ("eager", "compiled"):
        torch.manual_seed(0)
        encoder = PointNetEncoder(LATENT, widths=(16,), head_widths=(), variational=False)
        if kind == "compiled":
            encoder.compile()
        with torch.autocast("cpu", torch.bfloat16):
            mean, _ = encoder(x)
        (mean.float() * weights).sum().backward()
        gradients[kind] = torch.cat([p.grad.flatten() for p in encoder.parameters()])
    assert gradients["compiled"].isfinite().all()
    difference = (gradients["compiled"] - gradients["eager"]).norm() / gradients["eager"].norm()
    assert difference < 0.1


def test_in_evaluation_the_norms_stand_in_the_weights():
    encoder, x = make_encoder().double(), clouds(4, 20, dtype=torch.float64)
    for _ in range(3):
        encoder(x)  # running statistics unlike those of the start
    encoder.eval()
    h = x.flatten(0, 1)
    for k, (layer, norm) in enumerate(zip(encoder.layers, encoder.norms, strict=True)):
        h = norm(layer(h))
        h = h.relu() if k < len(encoder.layers) - 1 else h
    torch.testing.assert_close(encoder.features(x), h.view(4, 20, -1).amax(dim=1), rtol=0, atol=1e-12)
