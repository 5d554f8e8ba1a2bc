"""Checkpoints of luost26/diffusion-point-cloud to mutate: a whole one, and some that ask for too much."""

import argparse
import re
from pathlib import Path

import torch
from small_models import small_model

from pcdiff.interop import dpm


def dpm_checkpoints(folder: Path) -> list[Path]:
    settings = {
        "latent_dim": 2, "num_steps": 4, "sched_mode": "linear", "beta_1": 1e-4, "beta_T": 0.05, "residual": True,
    }  # fmt: skip
    whole = _named_as_dpm_does(small_model({"kind": "autoencoder", "latent_dim": 2, "num_steps": 4}))
    without_most = {f"encoder.conv{i}.bias": torch.arange(5.0) for i in range(1, 4)}
    cases = [(settings, whole)]
    cases += [(settings | huge, without_most) for huge in ({"num_steps": 10**9}, {"latent_dim": 10**9})]
    for k, (args, state) in enumerate(cases):
        file = {"args": argparse.Namespace(**args), "state_dict": state, "others": {"step": 3}}
        torch.save(file, folder / f"{k}.pt")
    dpm.load(folder / "0.pt")  # a seed that is refused whole would never reach the end of the reader
    return sorted(folder.iterdir())


def _named_as_dpm_does(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return an autoencoder's weights under DPM's names, one gate and one shift a layer."""
    state, out = model.state_dict(), {}
    widths = [len(value) for key, value in state.items() if re.fullmatch(r"denoiser\.net\.layers\.\d\.bias", key)]
    for key, value in state.items():
        place, _, rest = key.partition(".")[2].rpartition(".")
        number = int(place.rpartition(".")[2]) if place[-1:].isdigit() else 0
        if place.startswith("layers"):
            out[f"encoder.conv{number + 1}.{rest}"] = value
        elif place.startswith("norms"):
            out[f"encoder.bn{number + 1}.{rest}"] = value
        elif place.startswith("mean_head"):
            out[f"encoder.fc{'_bn' if number % 3 else ''}{number // 3 + 1}_m.{rest}"] = value
        elif place.startswith("net.layers"):
            out[f"diffusion.net.layers.{number}._layer.{rest}"] = value
        elif place in ("net.gate", "net.shift"):
            name = {"net.gate": "_hyper_gate", "net.shift": "_hyper_bias"}[place]
            for layer, piece in enumerate(value.split(widths)):
                out[f"diffusion.net.layers.{layer}.{name}.{rest}"] = piece
        else:
            raise KeyError(f"no name of DPM's for {key}")
    return out
