"""ADM's settings and state dicts: names, head order, chains, and every misfit in one line."""

import pytest
import torch

from image_pipeline.interop import adm
from pcdiff.diffusion import sample
from pcdiff.errors import InputError
from pcdiff.nets.attention import SelfAttention

SMALL = {
    "image_size": 8,
    "in_channels": 3,
    "model_channels": 8,
    "out_channels": 6,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_classes": 4,
    "num_heads": 2,
    "num_head_channels": -1,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
}
CLASSIFIER = {
    **{k: v for k, v in SMALL.items() if k not in ("num_classes", "num_heads")},
    "num_head_channels": 4,
    "pool": "attention",
}


def written(tmp_path, net, modules):
    """Write a net's weights as ADM names and shapes them, with q, k and v head by head."""
    state, weights = net.state_dict(), {}
    for name, module in net.named_modules():
        if isinstance(module, SelfAttention):
            for leaf in ("weight", "bias"):
                rows = state[f"{name}.qkv.{leaf}"].unflatten(0, (3, module.num_heads, -1))
                state[f"{name}.qkv.{leaf}"] = rows.transpose(0, 1).flatten(0, 2)
    for ours, (theirs,) in adm.names_of(net, modules(net), adm.PARTS).items():
        conv1d = ("qkv.weight", "proj_out.weight", "qkv_proj.weight", "c_proj.weight")
        weights[theirs] = state[ours][..., None] if theirs.endswith(conv1d) else state[ours]
    path = tmp_path / "model.pt"
    torch.save(weights, path)
    return path


@pytest.fixture
def unet(tmp_path):
    torch.manual_seed(0)
    net = adm.UNet(adm.adm_config.unet_config(SMALL, None))
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net, written(tmp_path, net, adm._unet_modules)


def test_a_state_dict_comes_back(unet):
    net, path = unet
    model = adm.load(path, SMALL)
    assert (model.image_shape, model.data_range, model.num_classes) == ((3, 8, 8), (-1.0, 1.0), 4)
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([0, 999]), torch.tensor([1, 3])
    with torch.no_grad():
        assert torch.equal(model.denoiser.net(x, t, y), net.eval()(x, t, y))


def test_the_attention_order_is_a_setting(unet):
    _, path = unet
    legacy, new = (adm.load(path, SMALL | {"use_new_attention_order": order}) for order in (False, True))
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([0, 999]), torch.tensor([1, 3])
    with torch.no_grad():
        assert not torch.allclose(legacy.denoiser.net(x, t, y), new.denoiser.net(x, t, y), rtol=1e-3)


@pytest.mark.parametrize("step", ["ancestral", "ddim", "dpmpp"])
def test_samplers_run_on_the_respaced_chain(unet, step):
    _, path = unet
    model = adm.load(path, SMALL | {"noise_schedule": "cosine", "timestep_respacing": [2, 1]})
    assert model.denoiser.process.num_steps == 3
    with torch.no_grad():
        out = sample(model.denoiser, (2, 3, 8, 8), cond=torch.tensor([0, 1]), sampler=step)
    assert out.shape == (2, 3, 8, 8)
    assert out.isfinite().all()


def test_labels_of_longer_chains_are_stretched_where_asked(unet):
    _, path = unet
    t = torch.tensor([1, 4000])
    for rescale, labels in ((True, [0.0, 999.75]), (False, [0.0, 3999.0])):
        config = SMALL | {"diffusion_steps": 4000, "rescale_timesteps": rescale}
        assert adm.load(path, config).denoiser.tau(t).tolist() == labels
    with pytest.raises(InputError, match="rescale_timesteps is needed unless diffusion_steps is 1000"):
        adm.load(path, SMALL | {"diffusion_steps": 4000})


def test_the_linear_schedule_keeps_its_ends_over_any_length(unet):
    _, path = unet
    config = SMALL | {"diffusion_steps": 500, "rescale_timesteps": False}
    betas = adm.load(path, config).denoiser.process.betas
    torch.testing.assert_close(betas[[1, -1]], torch.tensor([2e-4, 0.04], dtype=torch.float64))


def test_flags(unet):
    _, path = unet
    flags = {
        "image_size": 8,
        "num_channels": 8,
        "num_res_blocks": 1,
        "num_heads": 2,
        "attention_resolutions": "4",
        "channel_mult": "1,2",
        "class_cond": True,
        "learn_sigma": True,
        "use_scale_shift_norm": True,
        "predict_xstart": True,
    }
    model = adm.load(path, flags)
    assert model.denoiser.net.config == adm.load(path, SMALL).denoiser.net.config
    assert type(model.denoiser.parametrization).__name__ == "X0"
    # left out, class_cond is false: the weights know better
    with pytest.raises(InputError, match=r"left over: \['label_emb.weight'\], missing: \[\]"):
        adm.load(path, {k: v for k, v in flags.items() if k != "class_cond"})


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_classifiers_come_back(tmp_path, pool):
    torch.manual_seed(0)
    config = CLASSIFIER | {"pool": pool}
    net = adm.EncoderClassifier(adm.adm_config.classifier_config(config))
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    again = adm.load_classifier(written(tmp_path, net, adm._classifier_modules), config)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0, 999])
    with torch.no_grad():
        assert torch.equal(again(x, t), net.eval()(x, t))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_channels": 4},
            r"weights do not fit the config: .* has shape \(8, 3, 3, 3\), expected \(4, 3, 3, 3\)",
        ),
        ({"num_res_blocks": 2}, r"left over: \['input_blocks.*\], missing: \['input_blocks"),
        ({"num_classes": None}, r"left over: \['label_emb.weight'\], missing: \[\]"),
        ({"widht": 3}, r"unknown settings \['widht'\]; known are"),
        ({"attention_resolutions": None}, "attention_resolutions is needed"),
        ({"channel_mult": "1;2"}, "channel_mult must be numbers"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule must be 'linear' or 'cosine', got 'sigmoid'"),
        ({"timestep_respacing": 2000}, "spacing '2000' asks for 2000 of the 1000 steps"),
        ({"timestep_respacing": "fast"}, "spacing must be like 'ddim25'"),
        ({"learn_sigma": False}, "learn_sigma False with 3 and 6 channels"),
        ({"dims": 3}, "dims must be 1 or 2, got 3"),
        ({"num_heads": 3}, "16 channels cannot be split as 3 heads asks"),
    ],
)
def test_misfits(unet, changes, message):
    _, path = unet
    with pytest.raises(InputError, match=message) as caught:
        adm.load(path, SMALL | changes)
    assert "\n" not in str(caught.value)


def test_bad_files(unet, tmp_path):
    _, path = unet
    with pytest.raises(InputError, match="no such file"):
        adm.load(tmp_path / "none.pt", SMALL)
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        adm.load(path, tmp_path / "none.json")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="truncated, damaged or not a torch file"):
        adm.load(cut, SMALL)
    torch.save([torch.zeros(1)], cut)
    with pytest.raises(InputError, match="a state dict must be a dict of tensors by name, got a list"):
        adm.load(cut, SMALL)
