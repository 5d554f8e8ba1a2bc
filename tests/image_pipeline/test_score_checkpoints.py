"""score_sde's checkpoints: every net comes back from a file of that form; bad files and configs are refused."""

import json

import pytest
import torch
from cases import first
from foreign_files import NETS, Runs, checkpoint_of

from image_pipeline.interop import ncsn, score_sde
from pcdiff.diffusion import log_likelihood, predictor, sample
from pcdiff.errors import InputError


@pytest.fixture
def saved(tmp_path):
    """Save a score_sde checkpoint by name; `change(checkpoint)` may spoil it first."""

    def save(name, change=None):
        config, net, checkpoint = checkpoint_of(name)
        if change is not None:
            change(checkpoint)
        torch.save(checkpoint, tmp_path / "checkpoint.pth")
        return config, net, tmp_path / "checkpoint.pth"

    return save


def labels(denoiser, count):
    """Return what the net is fed at some times."""
    chain = denoiser.process.num_steps is not None
    return denoiser.tau(torch.arange(1, count + 1) if chain else torch.linspace(0.1, 0.9, count))


@pytest.mark.parametrize("name", NETS)
def test_every_net_comes_back(saved, name):
    config, net, path = saved(name)
    found = score_sde.load(path, config, ema=False)
    x = torch.rand(2, 2, 16, 16)
    label = labels(found.denoiser, 2)
    with torch.no_grad():
        torch.testing.assert_close(found.denoiser.net(x, label), net(x, label))
        averaged = score_sde.load(path, config)
        for key, value in averaged.denoiser.net.state_dict().items():
            factor = 1 if key in ("sigmas", "features.frequencies") else 2
            torch.testing.assert_close(value, factor * net.state_dict()[key])
        images = sample(found.denoiser, (2, 2, 16, 16), num_steps=2, generator=torch.manual_seed(0))
    assert found.image_shape == (2, 8, 8)
    assert images.isfinite().all()
    assert (averaged.ema, found.ema) == (True, False)


@pytest.mark.parametrize("step", first(1, ["reverse_diffusion", "heun", "unipc", "ode"]))
@pytest.mark.parametrize("name", ["ddpm", "ncsnpp, levels", "ncsnpp, skips"])
def test_samplers_take_what_was_loaded(saved, name, step):
    config, _, path = saved(name)
    found = score_sde.load(path, config)
    options = {} if step == "ode" else {"num_steps": 6 if name != "ddpm" else 8}
    step = predictor("ode", rtol=0.5, atol=0.5) if step == "ode" else step
    images = sample(found.denoiser, (1, 2, 8, 8), sampler=step, generator=torch.manual_seed(0), **options)
    assert images.shape == (1, 2, 8, 8)


def test_the_config_may_be_a_path_or_text(saved, tmp_path):
    config, _, path = saved("ncsn")
    (tmp_path / "config.json").write_text(json.dumps(config))
    for form in (config, json.dumps(config), tmp_path / "config.json", str(tmp_path / "config.json")):
        assert score_sde.load(path, form).name == "score_sde ncsn"


def test_a_file_without_average_gives_its_weights_if_asked(saved):
    config, net, path = saved("ncsn", lambda checkpoint: checkpoint.pop("ema"))
    found = score_sde.load(path, config, ema=False)
    torch.testing.assert_close(found.denoiser.net.head.weight, net.head.weight)


def test_loading_draws_no_random_number(saved):
    config, _, path = saved("ncsn")
    before = torch.get_rng_state()
    score_sde.load(path, config)
    assert torch.equal(torch.get_rng_state(), before)


def drop(key):
    return lambda checkpoint: checkpoint["model"].pop(f"module.{key}")


def put(key, value):
    return lambda checkpoint: checkpoint["model"].__setitem__(f"module.{key}", value)


@pytest.mark.parametrize(
    ("change", "ema", "message"),
    [
        (drop("all_modules.3.Conv_0.bias"), False, r"missing: \['all_modules\.3\.Conv_0\.bias'\]$"),
        (
            put("all_modules.99.weight", torch.zeros(2)),
            False,
            r"left over: \['all_modules\.99\.weight'\], missing: \[\]",
        ),
        (
            put("all_modules.2.weight", torch.zeros(8, 3, 3, 3)),
            False,
            r"2\.weight has shape \(8, 3, 3, 3\), exp",
        ),
        (put("all_modules.0.weight", 3), False, "model must be a dict of tensors by name, got an entry str: int"),
        (lambda c: c.pop("ema"), True, "expected a dict with 'model' and 'ema', as score_sde saves it"),
        (lambda c: c["ema"]["shadow_params"].pop(), True, r"ema must hold \d+ tensors, .*, got \d+"),
        (lambda c: c["ema"]["shadow_params"].reverse(), True, "ema does not follow the model"),
        (lambda c: c["ema"].clear(), True, "ema must hold a list of tensors 'shadow_params'"),
        (lambda c: c.update(model=[1]), False, "model must be a dict of tensors by name, got a list"),
        (put("sigmas", torch.ones(6)), False, "config: model has 6 levels from 2 to 0.01, the file 6 from 1 to 1"),
        (put("sigmas", torch.ones(0)), False, "the file none"),
    ],
)
def test_files_that_are_not_whole(saved, change, ema, message):
    config, _, path = saved("ncsnpp, levels", change)
    with pytest.raises(InputError, match=rf"checkpoint\.pth: .*{message}"):
        score_sde.load(path, config, ema=ema)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "name", "unet", r"config: model\.name must be one of ddpm.*, got 'unet'"),
        ("model", "name", None, r"config lacks model\.name"),
        ("model", "nf", None, r"config lacks model\.nf"),
        ("model", "nf", "8", "nf must be int, got '8'"),
        ("model", "nf", 16, "has shape"),
        ("model", "num_res_blocks", 2, "weights do not fit the config; left over"),
        ("model", "fir", 1, "fir must be bool"),
        ("model", "conditional", False, r"config: model\.conditional must be true"),
        ("model", "embedding_type", "fourier", "'fourier' goes with continuous training only"),
        ("model", "num_scales", 7, "config: model has 7 levels from 2 to 0.01, the file 6"),
        ("model", "sigma_max", "2", r"config: model\.sigma_max must be float, got '2'|sigma_max must be float"),
        ("data", "centered", None, r"config lacks (data|model)\.centered"),
        ("data", "image_size", 9, "image_size must be a multiple of 2"),
        ("training", "sde", "edm", r"config: training\.sde must be one of"),
        ("training", "continuous", True, r"model\.scale_by_sigma looks levels up by their index"),
        ("training", "sde", "subvpsde", r"model\.scale_by_sigma looks levels up by their index"),
        ("training", "continuous", "no", r"config: training\.continuous must be bool, got 'no'"),
    ],
)
def test_configs_that_do_not_fit(saved, section, key, value, message):
    config, _, path = saved("ncsnpp, levels")
    if value is None:
        del config[section][key]
    else:
        config[section][key] = value
    with pytest.raises(InputError, match=message) as caught:
        score_sde.load(path, config)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("training", "continuous", True, "ncsn goes with discrete training and vesde only"),
        ("training", "sde", "vpsde", "ncsn goes with discrete training and vesde only"),
        ("model", "normalization", "VarianceNorm", r"model\.normalization must be 'InstanceNorm\+\+' here"),
    ],
)
def test_configs_that_do_not_fit_ncsn(saved, section, key, value, message):
    config, _, path = saved("ncsn")
    config[section][key] = value
    with pytest.raises(InputError, match=message):
        score_sde.load(path, config)


def test_configs_that_cannot_be_read(saved, tmp_path):
    _, _, path = saved("ncsn")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    for config, message in (
        (tmp_path / "none.json", r"none\.json: cannot be read \(No such file or directory\); expected"),
        (tmp_path / "bad.json", r"bad\.json: not JSON"),
        (tmp_path / "list.json", r"list\.json must be a JSON object, got a list"),
        (3, "config must be a dict, JSON or a path, got a int"),
        ({}, r"config lacks model\.name"),
    ):
        with pytest.raises(InputError, match=message):
            score_sde.load(path, config)


@pytest.mark.parametrize("load", [score_sde.load, ncsn.load])
def test_code_does_not_run_and_damage_is_told(saved, tmp_path, load):
    config, _, path = saved("ncsn")
    whole = path.read_bytes()
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"checkpoint\.pth: (truncated|refused)"):
            load(path, config)
    torch.save({"model": Runs(tmp_path / "it-ran"), "ema": {}}, path)
    with pytest.raises(InputError, match=r"refused to open: it asks for \S*mkdir, which could run code"):
        load(path, config)
    assert not (tmp_path / "it-ran").exists()
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.pth", config)


def test_likelihood_of_a_loaded_net(saved):
    config, _, path = saved("ncsnpp, skips")
    found = score_sde.load(path, config)
    scores = log_likelihood(
        found.denoiser, torch.rand(1, 2, 8, 8), rtol=0.1, atol=0.1, generator=torch.manual_seed(0)
    )
    assert scores.log_likelihood.isfinite().all()
