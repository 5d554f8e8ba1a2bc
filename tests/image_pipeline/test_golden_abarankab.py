"""abarankab/DDPM's net, chain and sampler against the project's own numbers."""

import pytest
import torch
from golden_files import arrays_of, classes_of, found

from image_pipeline.interop import abarankab
from pcdiff.diffusion import sample

pytestmark = pytest.mark.golden


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def files(golden):
    return found(golden, "2d/extras/abarankab_*.pth")


@pytest.mark.parametrize(("ema", "name"), [(True, "out_ema"), (False, "out_model")])
def test_outputs(files, ema, name):
    for path in files:
        io = arrays_of(path)
        net = abarankab.load(path, path.with_suffix(".json"), ema).denoiser.net
        with torch.no_grad():
            assert relative(net(io["x"], io["t"], classes_of(io)), io[name]) < 1e-4


def test_the_chain_is_its_own(files):
    for path in files:
        io = arrays_of(path)
        denoiser = abarankab.load(path, path.with_suffix(".json")).denoiser
        torch.testing.assert_close(denoiser.process.alpha_bars[1:].float(), io["alphas_cumprod"])
        with torch.no_grad():
            mean = denoiser.reverse_kernel(io["x"], io["t"] + 1, io["t"], classes_of(io)).mean
        assert relative(mean, io["remove_noise_ema"]) < 1e-4


def test_its_own_sampling(files):
    """Its chain adds noise of variance beta after every step but the last."""
    for path in files:
        io = arrays_of(path)
        model = abarankab.load(path, path.with_suffix(".json"))
        draws = iter([*io["sample_noise"], torch.zeros_like(io["sample_init"])])
        x, process, y = io["sample_init"], model.denoiser.process, classes_of(io)
        with torch.no_grad():
            for step in range(process.num_steps, 0, -1):
                t = torch.full((len(x),), step)
                mean, log_variance, _ = model.denoiser.reverse_kernel(x, t, t - 1, y)
                x = mean + (log_variance / 2).exp() * next(draws)
        assert relative(x, io["sample"]) < 1e-4
        first = None if y is None else y[:1]
        one = sample(model.denoiser, (1, *model.image_shape), cond=first, sampler="ancestral")
        assert one.shape == (1, *model.image_shape)
