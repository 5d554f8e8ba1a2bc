"""Other projects' checkpoints by the ordinary commands, and further points by inducers."""

import json

import numpy as np
import pytest
import torch
from script_tools import script

import pcdiff
from pcdiff.config import ModelConfig, ProcessConfig
from pcdiff.errors import InputError
from pcdiff.interop import checkpoints, gecco
from pcdiff.models import Direct
from pcdiff.models.upsampling import further_points, upsample
from pcdiff.nets import SetTransformer, SetTransformerConfig

BLOCK = "backbone.resblocks.0"
MLP = {"c_fc.weight": (256, 64), "c_fc.bias": (256,), "c_proj.weight": (64, 256), "c_proj.bias": (64,)}
MEAN, STD = [0.5, -2.0, 30.0], [0.1, 2.0, 5.0]
SIZES = SetTransformerConfig(width=8, depth=1, num_heads=2, num_inducers=3, norm_groups=8)
LAYER = "backbone.model.inner.layers.0"
# keys and shapes of a GECCO model of these sizes, as its code names them
SHAPES = {
    "backbone.model.lift.weight": (8, 3),
    "backbone.model.lift.bias": (8,),
    f"{LAYER}.broadcast.pool.inducers": (1, 2, 3, 4),
    f"{LAYER}.broadcast.pool.kv_proj.weight": (16, 8),
    f"{LAYER}.broadcast.pool.out_proj.weight": (8, 8),
    f"{LAYER}.broadcast.unpool.in_proj_weight": (24, 8),
    f"{LAYER}.broadcast.unpool.in_proj_bias": (24,),
    f"{LAYER}.broadcast.unpool.out_proj.weight": (8, 8),
    f"{LAYER}.broadcast.unpool.out_proj.bias": (8,),
    **{
        f"{LAYER}.{norm}.{row}.{kind}": (8, 1) if kind == "weight" else (8,)
        for norm in ("broadcast_norm", "broadcast.norm_1", "broadcast.norm_2", "mlp_norm")
        for row in ("bias", "scale")
        for kind in ("weight", "bias")
    },
    **{
        f"{LAYER}.{mlp}.{part}": shape
        for mlp in ("broadcast.mlp", "mlp")
        for part, shape in {"0.weight": (16, 8), "0.bias": (16,), "2.weight": (8, 16), "2.bias": (8,)}.items()
    },
    "backbone.model.lower.1.weight": (3, 8),
    "backbone.model.lower.1.bias": (3,),
}


@pytest.fixture(scope="module")
def weights():
    draw = torch.Generator().manual_seed(0)
    found = {key: 0.3 * torch.randn(*shape, generator=draw) for key, shape in SHAPES.items()}
    return found | {"reparam.mean": torch.tensor(MEAN), "reparam.sigma": torch.tensor(STD)}


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("gecco") / "planes.ckpt"
    torch.save({"state_dict": weights, "global_step": 7}, path)
    return path


def test_a_gecco_checkpoint_is_sampled_by_the_command_in_the_datas_unit(file, tmp_path, capsys):
    out = tmp_path / "new.npy"
    options = ["--num-samples", 2, "--num-points", 16, "--num-steps", 2, "--output", out]
    assert script("pcdiff/__main__.py", "sample", "--run", file, *options) == 0
    assert "in the data's unit" in capsys.readouterr().out
    model = pcdiff.load(file)
    assert model.metadata["step"] == 7
    own = pcdiff.models.sampling.sample_all(model, 2, 16, 2020, num_steps=2)
    np.testing.assert_allclose(np.load(out), own * torch.tensor(STD) + torch.tensor(MEAN), rtol=1e-5, atol=1e-5)


def test_upsample_keeps_the_points_given(file, tmp_path, capsys):
    given, out = tmp_path / "given.npy", tmp_path / "dense.npy"
    clouds = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor(STD)
    np.save(given, clouds.numpy())
    command = ["upsample", "--run", file, "--input", given, "--output", out, "--num-steps", 2]
    assert script("pcdiff/__main__.py", *command, "--num-points", 12) == 0
    dense = np.load(out)
    assert dense.shape == (2, 12, 3)
    np.testing.assert_array_equal(dense[:, :5], clouds.numpy())
    model, (mean, std) = pcdiff.load(file), (torch.tensor(MEAN), torch.tensor(STD))
    new = upsample(model, (clouds - mean) / std, 7, 2020, num_steps=2)
    np.testing.assert_allclose(dense[:, 5:], new * std + mean, rtol=1e-4, atol=1e-4)
    # a cloud's points do not depend on how many clouds there are, but for float32's sums
    alone = upsample(model, (clouds[:1] - mean) / std, 7, 2020, num_steps=2)
    torch.testing.assert_close(alone, new[:1], rtol=1e-4, atol=1e-3)
    capsys.readouterr()
    assert script("pcdiff/__main__.py", *command, "--num-points", 5) == 2
    assert "--num-points must be above the 5 points given, got 5" in capsys.readouterr().err


def test_what_is_left_over_missing_or_of_another_shape_is_told(weights, tmp_path):
    def refused(changed, message):
        torch.save({"state_dict": changed}, tmp_path / "x.ckpt")
        with pytest.raises(InputError, match=message):
            gecco.load(tmp_path / "x.ckpt")

    missing = f"{LAYER}.mlp_norm.bias.weight"
    refused({k: v for k, v in weights.items() if k != missing}, "missing in layer 0: .*mlp_norm.bias.weight")
    refused(weights | {"backbone.model.head": torch.ones(1)}, r"left over: \['head'\]")
    refused(weights | {f"{LAYER}.mlp.2.bias": torch.ones(5)}, r"layers.0.mlp.2.bias is \(5,\), not \(8,\)")
    refused(weights | {"reparam.mean": torch.ones(2)}, r"reparam must be mean \(3,\) and sigma")
    refused(weights | {"backbone.model.lift.weight": torch.ones(8, 7)}, "expected a lift of 3 numbers, got 7")


def test_a_file_of_no_known_project_is_told(tmp_path):
    torch.save({"weights": {"a": torch.ones(1)}}, tmp_path / "x.pt")
    with pytest.raises(
        InputError, match=r"expected a checkpoint of DPM, GECCO.*, got one that holds \['weights'\]"
    ):
        checkpoints.load(tmp_path / "x.pt")


def test_further_points_of_any_process_and_what_they_need():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 3)
    for process in (ProcessConfig("vp"), ProcessConfig("edm", predicts="edm", time_input="edm")):
        model = Direct(ModelConfig("direct"), process, net=SetTransformer(SIZES)).eval()
        new = further_points(model, x, 4, num_steps=2, num_substeps=2, generator=torch.Generator().manual_seed(1))
        assert new.shape == (2, 4, 3)
        assert new.isfinite().all()
    for options, message in (
        ({"num_points": 0}, "num_points must be at least 1"),
        ({"num_substeps": 0}, "num_sub"),
    ):
        with pytest.raises(InputError, match=message):
            further_points(model, x, **{"num_points": 3} | options)
    with pytest.raises(InputError, match=r"further points need a net with inducers.*got PointwiseNet"):
        further_points(Direct(ModelConfig("direct"), process), x, 3)
    with pytest.raises(InputError, match=r"clouds must be \(n, N, 3\), got \(2, 9, 2\)"):
        further_points(model, x[:, :, :2], 3)


def test_metadata_is_json(file):
    json.dumps(pcdiff.load(file).metadata)


POINTE = {
    **{f"time_embed.{part}": shape for part, shape in MLP.items()},
    **{f"{norm}.{kind}": (64,) for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")},
    **{f"{BLOCK}.{norm}.{kind}": (64,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")},
    **{f"{BLOCK}.mlp.{part}": shape for part, shape in MLP.items()},
    f"{BLOCK}.attn.c_qkv.weight": (192, 64),
    f"{BLOCK}.attn.c_qkv.bias": (192,),
    f"{BLOCK}.attn.c_proj.weight": (64, 64),
    f"{BLOCK}.attn.c_proj.bias": (64,),
    "input_proj.weight": (64, 6),
    "input_proj.bias": (64,),
    "output_proj.weight": (12, 64),
    "output_proj.bias": (12,),
}


def pointe_file(folder, more=None):
    draw = torch.Generator().manual_seed(0)
    shapes = POINTE | (more or {})
    torch.save({key: 0.2 * torch.randn(*shape, generator=draw) for key, shape in shapes.items()}, folder / "e.pt")
    return folder / "e.pt"


def test_a_pointe_model_is_sampled_by_the_command_and_guided_by_a_code(tmp_path, capsys):
    file, out = (
        pointe_file(tmp_path, {"clip_embed.weight": (64, 5), "clip_embed.bias": (64,)}),
        tmp_path / "new.npy",
    )
    options = ["--num-samples", 2, "--num-points", 16, "--num-steps", 2, "--output", out]
    assert script("pcdiff/__main__.py", "sample", "--run", file, *options) == 0
    assert "in the data's unit" in capsys.readouterr().out
    made = np.load(out)
    assert made.shape == (2, 16, 3)
    assert np.abs(made).max() <= 0.5 + 1e-6  # x_0 is cut to 1, and coordinates are half of it
    model, generator = pcdiff.load(file), torch.Generator()
    z = torch.randn(2, 5, generator=generator.manual_seed(1))

    def drawn(z, guidance):
        return model.decode_channels(z, 8, num_steps=2, guidance=guidance, generator=generator.manual_seed(2))

    assert drawn(z, 1.0).shape == (2, 8, 6)
    assert not torch.equal(drawn(z, 1.0), drawn(z, 3.0))
    torch.testing.assert_close(drawn(0 * z, 3.0), drawn(0 * z, 1.0))  # nothing said, nothing to stress
    with pytest.raises(InputError, match=r"codes must be \(B, 5\), got \(2, 4\)"):
        model.decode(z[:, :4], 8)
    with pytest.raises(InputError, match="an up-sampler draws further points"):
        model.upsample(torch.zeros(1, 4, 6), 4)


def test_an_unconditional_pointe_model_is_not_guided(tmp_path, capsys):
    out = ["--num-samples", 1, "--num-points", 8, "--num-steps", 2, "--output", tmp_path / "new.npy"]
    assert script("pcdiff/__main__.py", "sample", "--run", pointe_file(tmp_path, {}), *out, "--guidance", 3) == 2
    assert "guidance stresses a condition, and this point-e model has none, got 3" in capsys.readouterr().err


def test_pointes_up_sampler_draws_points_beside_those_given(tmp_path, capsys):
    more = {"cond_point_proj.weight": (64, 6), "cond_point_proj.bias": (64,)}
    file, given, out = pointe_file(tmp_path, more), tmp_path / "given.npy", tmp_path / "dense.npy"
    np.save(given, np.random.default_rng(0).random((1, 5, 3), dtype=np.float32) - 0.5)
    command = ["--run", file, "--num-points", 9, "--num-steps", 2, "--output", out]
    assert script("pcdiff/__main__.py", "upsample", "--input", given, *command) == 0
    dense = np.load(out)
    assert dense.shape == (1, 9, 3)
    np.testing.assert_array_equal(dense[:, :5], np.load(given))
    capsys.readouterr()
    assert script("pcdiff/__main__.py", "sample", *command) == 2
    assert "point-e's up-sampler draws further points of given ones" in capsys.readouterr().err
