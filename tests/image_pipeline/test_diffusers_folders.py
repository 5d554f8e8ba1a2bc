"""diffusers' folders without its golden files: what is saved comes back, and misfits are told in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from image_pipeline.interop import diffusers
from image_pipeline.interop.imported import Imported
from image_pipeline.nets.sigma_label import SigmaLabel
from image_pipeline.nets.song_unet import SongUNet, SongUNetConfig
from pcdiff.diffusion import PARAMETRIZATIONS, VE, VP, DiscreteProcess, NetDenoiser, discrete_process, spaced_times
from pcdiff.errors import InputError
from pcdiff.nets import UNet, UNetConfig

BASE = {
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "norm_groups": 4,
    "scale_shift_norm": False,
}
CASES = {
    "ddpm": {"asymmetric_padding": True, "sin_first": True, "freq_shift": 1},
    "adm": {
        "scale_shift_norm": True,
        "downsample": "resblock",
        "upsample": ("conv", "resblock"),
        "num_head_channels": 4,
        "middle_norm_groups": 0,
        "num_classes": 3,
        "null_class": True,
        "out_channels": 6,
    },
    "middle": {"scale_shift_norm": True, "num_head_channels": 8},
    "heads": {
        "attention_factors": (1, 2),
        "up_attention_factors": (1,),
        "num_head_channels": 4,
        "middle_norm_groups": 2,
        "time_embed_dim": 24,
        "dropout": 0.1,
    },
}
SKIP = {
    "model_channels": 32,
    "channel_mult": (1, 1),
    "num_blocks": 1,
    "noise_mult": 2,
    "embedding": "fourier",
    "encoder": "skip",
    "decoder": "skip",
    "resample_filter": (1, 3, 3, 1),
    "attention_norm_groups": 32,
}


def made(net, process=None, variance="large", predicts="eps", size=8):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    process = process or discrete_process("linear", 1000)
    denoiser = NetDenoiser(net.eval(), process, predicts, "step", variance)
    return Imported(denoiser, (-1.0, 1.0), (3, size, size), "ours", getattr(net.config, "num_classes", None))


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_saved_net_answers_the_same(case, tmp_path):
    model = made(UNet(UNetConfig(**{**BASE, **CASES[case]})))
    diffusers.save(model, tmp_path / "saved")
    again = diffusers.load(tmp_path / "saved")
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([5, 700])
    y = torch.tensor([0, 3]) if case == "adm" else None
    with torch.no_grad():
        assert torch.equal(again.denoiser.net(x, t, y), model.denoiser.net(x, t, y))
    assert again.image_shape == (3, 8, 8)


def test_a_saved_score_answers_the_same(tmp_path):
    net = SongUNet(SongUNetConfig(**SKIP))
    denoiser = NetDenoiser(SigmaLabel(net).eval(), VE(0.02, 30.0, 500), "score", "sigma")
    diffusers.save(Imported(denoiser, (0.0, 1.0), (3, 8, 8), "ours"), tmp_path / "saved")
    again = diffusers.load(tmp_path / "saved")
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 0.9])
    with torch.no_grad():
        torch.testing.assert_close(again.denoiser(x, t), denoiser(x, t), rtol=1e-6, atol=1e-6)
    assert again.data_range == (0.0, 1.0)
    assert again.denoiser.process.num_scales == 500


CHAINS = {
    "linear": discrete_process("linear", 50, 2e-3, 0.3),
    "squaredcos_cap_v2": discrete_process("cosine", 50),
    "scaled_linear": DiscreteProcess(torch.linspace(0.00085**0.5, 0.012**0.5, 50, dtype=torch.float64).square()),
    None: DiscreteProcess(torch.linspace(1e-3, 0.1, 7, dtype=torch.float64).roll(3)),
}


@pytest.mark.parametrize("name", list(CHAINS))
@pytest.mark.parametrize(("predicts", "variance"), [("eps", "small"), ("x0", "large"), ("v", "small")])
def test_chains_come_back(name, predicts, variance, tmp_path):
    chain = CHAINS[name]
    diffusers.save(made(UNet(UNetConfig(**BASE)), chain, variance, predicts), tmp_path)
    config = json.loads((tmp_path / "scheduler/scheduler_config.json").read_text())
    assert config["trained_betas"] is None if name else len(config["trained_betas"]) == 7
    assert config["beta_schedule"] == (name or "linear")
    again = diffusers.load(tmp_path).denoiser
    torch.testing.assert_close(again.process.betas, chain.betas, rtol=1e-10, atol=0)
    assert again.variance == variance
    assert type(again.parametrization) is PARAMETRIZATIONS[predicts]


def test_a_respaced_chain_is_saved_as_the_trained_one(tmp_path):
    chain = discrete_process("linear", 1000)
    diffusers.save(made(UNet(UNetConfig(**BASE)), chain.respaced(spaced_times(1000, "10"))), tmp_path)
    assert diffusers.load(tmp_path).denoiser.process.num_steps == 1000


def test_bare_folders_and_their_chain(tmp_path):
    diffusers.save(made(UNet(UNetConfig(**BASE))), tmp_path)
    bare = diffusers.load(tmp_path / "unet")
    torch.testing.assert_close(bare.denoiser.process.betas, discrete_process("linear", 1000).betas)
    told = diffusers.load(tmp_path / "unet", {"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"})
    middle = told.denoiser.process.betas[500:502].mean()  # a sigmoid is one half in its middle
    assert float(middle) == pytest.approx((0.02 + 1e-4) / 2)


def test_old_attention_names_and_pickled_weights(tmp_path):
    model = made(UNet(UNetConfig(**BASE)))
    diffusers.save(model, tmp_path)
    safe = tmp_path / "unet" / diffusers.WEIGHTS
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    weights = {}
    for key, value in load_file(safe).items():
        for new, name in old.items():
            key = key.replace(new, name)
        weights[key] = value
    safe.unlink()
    torch.save(weights, tmp_path / "unet" / diffusers.PICKLED_WEIGHTS)
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([5])
    with torch.no_grad():
        assert torch.equal(diffusers.load(tmp_path).denoiser.net(x, t), model.denoiser.net(x, t))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name must be 'UNet2DModel'"),
        ({"cross_attention_dim": 3}, r"unknown settings \['cross_attention_dim'\]"),
        ({"act_fn": "mish"}, "act_fn must be 'silu', got 'mish'"),
        ({"down_block_types": ["DownBlock2D"]}, "down_block_types and up_block_types differ"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "block types must be all of"),
        ({"time_embedding_type": "learned"}, "time_embedding_type must be 'positional' with these block types"),
        ({"downsample_padding": 2}, "downsample_padding must be 0 or 1, got 2"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift must be 'default' or 'scale_shift'"),
        ({"block_out_channels": [8, 12]}, "weights do not fit the config: .* has shape"),
        ({"block_out_channels": [0, 8]}, "division by zero"),
        ({"layers_per_block": 2}, r"left over: \[\], missing: \['down_blocks"),
        ({"norm_num_groups": 5}, "8 channels cannot be normalized in 5 equal groups"),
    ],
)
def test_misfits(changes, message, tmp_path):
    diffusers.save(made(UNet(UNetConfig(**BASE))), tmp_path)
    path = tmp_path / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message) as caught:
        diffusers.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "scheduler must be one of"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "does not fit a net conditioned on the step"),
        ({"beta_schedule": "laplace"}, "beta_schedule must be one of"),
        ({"prediction_type": "flow"}, "prediction_type must be one of"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr must be false"),
    ],
)
def test_misfit_schedulers(changes, message, tmp_path):
    diffusers.save(made(UNet(UNetConfig(**BASE))), tmp_path)
    path = tmp_path / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message):
        diffusers.load(tmp_path)


def test_damaged_folders(tmp_path):
    with pytest.raises(InputError, match=r"config.json: no such file; expected a diffusers folder"):
        diffusers.load(tmp_path)
    diffusers.save(made(UNet(UNetConfig(**BASE))), tmp_path)
    weights = tmp_path / "unet" / diffusers.WEIGHTS
    content = load_file(weights)
    save_file({**content, "extra": torch.zeros(1)}, weights)
    with pytest.raises(InputError, match=r"left over: \['extra'\], missing: \[\]"):
        diffusers.load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="truncated or not a safetensors file"):
        diffusers.load(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="found neither"):
        diffusers.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 1}, "rank must be 2"),
        ({"downsample": "pool"}, "downsample must be 'conv' or 'resblock'"),
        ({"upsample": "nearest"}, "upsample must be 'conv' or 'resblock'"),
        ({"channel_mult": (2, 2)}, "channel_mult must start with 1"),
        ({"middle_norm_groups": 0}, "middle_norm_groups must not be 0 without scale_shift_norm"),
        ({"norm_min_channels": 4}, r"norms must all have 4 groups, got \[2, 4\]"),
        ({"attention_factors": (1, 2), "num_heads": 2}, "heads must have one width, got"),
    ],
)
def test_nets_that_diffusers_cannot_express(config, message, tmp_path):
    net = UNet(UNetConfig(**{**BASE, **config}))
    with pytest.raises(InputError, match=f"diffusers cannot express this net: {message}"):
        diffusers.save(made(net), tmp_path)
    assert not list(tmp_path.iterdir())


def test_processes_that_diffusers_does_not_have(tmp_path):
    net = UNet(UNetConfig(**BASE))
    denoiser = NetDenoiser(net, VP(), "eps", "999t")
    with pytest.raises(InputError, match="diffusers needs a DDPM chain conditioned on the step"):
        diffusers.save(Imported(denoiser, (-1.0, 1.0), None, "ours"), tmp_path)
