"""Parity with DPM's own numbers: every stage of every golden checkpoint."""

import argparse
import copy
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pcdiff.diffusion import Trajectory
from pcdiff.errors import InputError
from pcdiff.interop import dpm
from pcdiff.models import AutoEncoder

GOLDEN = Path(os.environ.get("PCDIFF_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
CASES = sorted(
    (folder / golden.name, checkpoint)
    for checkpoint in GOLDEN.glob("3d/luost26/*/ckpt_*.pt")
    for folder in [checkpoint.parent]
    for golden in folder.glob("golden*.npz")
)


def has_flow(model):
    return not isinstance(model, AutoEncoder) and model.config.prior == "coupling"


def case_id(case):
    return f"{case[0].parent.name}-{case[0].stem}" if isinstance(case, tuple) else None


@pytest.fixture(scope="module", params=CASES or [None], ids=case_id)
def case(request):
    if request.param is None:
        pytest.skip(f"PCDIFF_GOLDEN: no DPM checkpoints under {GOLDEN}")
    arrays_path, checkpoint_path = request.param
    model = dpm.load(checkpoint_path)
    if "stored_weight" in arrays_path.name:
        use_stale_weights(model, checkpoint_path)
    arrays = dict(np.load(arrays_path)) | {"_folder": arrays_path.parent.name}
    return model, arrays


def use_stale_weights(model, checkpoint_path):
    """Put in the buffers that DPM's own loader ends up with, to compare with what it then computes."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(checkpoint_path, weights_only=True)["state_dict"]
    for i, layer in enumerate(model.prior.layers):
        for j in (0, 2, 4):
            key = f"flow.chain.{i}.net_s_t.{j}.weight"
            sigma = torch.dot(state[f"{key}_u"], state[key].mv(state[f"{key}_v"]))
            layer.net[j].weight.data = state[key] / sigma


def close(actual, expected, tolerance=1e-4):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(), 1e-12)
    assert np.abs(actual - expected).max() <= tolerance * scale


def tensor(arrays, key):
    return torch.from_numpy(arrays[key])


pytestmark = pytest.mark.golden


def test_schedule(case):
    model, arrays = case
    process = model.denoiser.process
    close(process.betas, arrays["sched_betas"])
    close(process.alpha_bars, arrays["sched_alpha_bars"])
    t = torch.arange(1, process.num_steps + 1)
    x = torch.zeros(len(t), 1)
    _, posterior, forward = process.posterior(x, x, t, t - 1)
    close(forward.sqrt(), arrays["sched_sigmas_flex"][1:])
    close(posterior.sqrt(), arrays["sched_sigmas_inflex"][1:])


def test_encoder(case):
    model, arrays = case
    mean, log_variance = model.encoder(tensor(arrays, "x"))
    close(mean, arrays["enc_mu"])
    if isinstance(model, AutoEncoder):
        close(model.encode(tensor(arrays, "x")), arrays["ae_code"])
    else:
        close(log_variance, arrays["enc_logvar"])


def test_encoder_in_training_mode(case):
    model, arrays = case
    encoder = copy.deepcopy(model.encoder).train()
    mean, log_variance = encoder(tensor(arrays, "x"))
    close(mean, arrays["enc_train_mu"])
    norms = {f"bn{i + 1}": norm for i, norm in enumerate(encoder.norms)}
    norms |= {"fc_bn1_m": encoder.mean_head[1], "fc_bn2_m": encoder.mean_head[4]}
    if log_variance is not None:
        close(log_variance, arrays["enc_train_logvar"])
        norms |= {"fc_bn1_v": encoder.log_variance_head[1], "fc_bn2_v": encoder.log_variance_head[4]}
    compared = 0
    for name, norm in norms.items():
        for statistic in ("running_mean", "running_var"):
            key = f"after_train_forward_{name}_{statistic}"
            if key in arrays:
                close(getattr(norm, statistic), arrays[key])
                compared += 1
    assert compared >= 4


def test_flow(case):
    model, arrays = case
    if not has_flow(model):
        assert "flow_z" not in arrays
        return
    w, log_det = model.prior(tensor(arrays, "flow_z"))
    close(w, arrays["flow_w"])
    close(log_det[:, None], -arrays["flow_delta_logp"])
    z, log_det = model.prior.inverse(tensor(arrays, "flow_rev_in"))
    close(z, arrays["flow_rev_z"])
    close(log_det[:, None], -arrays["flow_rev_delta_logp"])
    z = tensor(arrays, "flow_z")
    for i, layer in enumerate(model.prior.layers):
        z = layer(z)[0]
        close(z, arrays[f"flow_after_layer{i}"])


def test_denoiser(case):
    model, arrays = case
    x, t, context = (tensor(arrays, f"net_{k}") for k in ("xt", "t", "ctx"))
    close(model.denoiser.process.beta(t), arrays["net_beta"])
    close(model.denoiser.eps(x, t, context), arrays["net_out"])


def loss_terms(model, arrays):
    """Evaluate our loss with the file's draws and weight."""
    draws = {"t": tensor(arrays, "loss_t"), "noise": tensor(arrays, "loss_noise")}
    if not isinstance(model, AutoEncoder):
        draws["latent_noise"] = tensor(arrays, "loss_eps")
        model.objective_config = replace(model.objective_config, kl_weight=float(arrays["loss_kl_weight"]))
    return model.loss_terms(tensor(arrays, "x"), **draws)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_loss_and_gradients(case, mode):
    model, arrays = case
    model = copy.deepcopy(model).train(mode == "train")
    terms = loss_terms(model, arrays)
    offset = 0.0
    if not isinstance(model, AutoEncoder):
        # DPM adds the normalizing constant of log N(.; 0, I) once per dimension: dim - 1 times too often.
        dim = model.config.latent_dim
        constant = 0.5 * dim * (dim - 1) * math.log(2 * math.pi)
        offset = float(arrays["loss_kl_weight"]) * constant
        if mode == "eval":
            close(terms["entropy"], arrays["loss_entropy_per_cloud"].mean())
            ours = terms["prior"] + constant - (terms["entropy"] if model.config.prior == "gaussian" else 0)
            close(ours, arrays["loss_prior"])
    if mode == "eval":
        close(terms["reconstruction"], arrays["loss_mse"])
    close(terms["loss"] + offset, arrays[f"loss_total_{mode}"])
    terms["loss"].backward()
    close(model.denoiser.net.layers[0].bias.grad, arrays[f"loss_grad_net_l0_bias_{mode}"], 2e-3)
    close(model.encoder.mean_head[-1].bias.grad, arrays[f"loss_grad_enc_fc3m_bias_{mode}"], 2e-3)
    if "_sn" not in arrays["_folder"]:  # with spectral norm DPM's norm is that of another parametrization
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
        close(norm, arrays[f"loss_gradnorm_{mode}"])


def chain(model, arrays, flexibility):
    latent = tensor(arrays, "chain_latent")
    z = model.base_to_latent(latent) if has_flow(model) else latent
    close(z, arrays["chain_context"])
    draws = iter(tensor(arrays, "chain_z"))
    trajectory = Trajectory()
    x_init = tensor(arrays, "chain_xT")
    x = model.decode(
        z,
        x_init.shape[1],
        flexibility=flexibility,
        x_init=x_init,
        noise=lambda x: next(draws),
        callback=trajectory,
    )
    assert next(draws, None) is None
    return x, trajectory


def test_reverse_chain(case):
    model, arrays = case
    keys = [k for k in arrays if k.startswith("chain_x0_flex") and not k.endswith("_f64")]
    assert keys
    for key in keys:
        name = key.removeprefix("chain_x0_flex")
        x, trajectory = chain(model, arrays, float(name.replace("p", ".")))
        close(x, arrays[key])
        for t, expected in zip(
            arrays.get(f"chain_traj_flex{name}_t", []), arrays.get(f"chain_traj_flex{name}", []), strict=True
        ):
            close(trajectory.states[trajectory.times.index(float(t))], expected)


def test_seeded_sample(case):
    model, arrays = case
    latent = tensor(arrays, "chain_latent")
    z = model.base_to_latent(latent) if has_flow(model) else latent
    generator = torch.Generator().manual_seed(int(arrays["seeded_seed"]))
    x = model.decode(
        z, arrays["seeded_x0"].shape[1], flexibility=float(arrays["seeded_flexibility"]), generator=generator
    )
    close(x, arrays["seeded_x0"])


def checkpoint():
    if not CASES:
        pytest.skip(f"PCDIFF_GOLDEN: no DPM checkpoints under {GOLDEN}")
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(CASES[0][1], weights_only=True)


def test_left_over_and_missing_keys_are_listed(tmp_path):
    content = checkpoint()
    content["state_dict"]["encoder.surprise"] = torch.zeros(1)
    del content["state_dict"]["encoder.conv1.bias"]
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(
        InputError, match=r"left over: \['encoder.surprise'\], missing: \['encoder.layers.0.bias'\]"
    ):
        dpm.load(tmp_path / "odd.pt")


def test_truncated_checkpoint(tmp_path):
    checkpoint()
    content = CASES[0][1].read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"half\.pt: truncated, damaged or not a torch file"):
        dpm.load(tmp_path / "half.pt")


def test_wrong_shape_is_one_line(tmp_path):
    content = checkpoint()
    content["state_dict"]["encoder.bn1.bias"] = torch.zeros(7)
    torch.save(content, tmp_path / "shape.pt")
    with pytest.raises(InputError, match="shapes do not fit its own args") as raised:
        dpm.load(tmp_path / "shape.pt")
    assert "\n" not in str(raised.value)
