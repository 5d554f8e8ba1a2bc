"""Open the checkpoints of luost26/diffusion-point-cloud ("DPM", Luo & Hu, CVPR 2021).

Such a file is `{"args": argparse.Namespace, "state_dict": ..., "others": ...}`. It is opened without running any
code in it: tensors and the namespace are read, anything else is refused.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcdiff.config import CloudObjectiveConfig, RunConfig, check, run_from_dict, to_json
from pcdiff.errors import InputError
from pcdiff.flows import CouplingConfig
from pcdiff.models import PointCloudModel, build_model
from pcdiff.runtime.memory_limit import built_for
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.torch_files import check_named_tensors, load_without_code


def load(path: str | Path) -> PointCloudModel:
    """Rebuild a DPM autoencoder or generator (flow or Gaussian prior) from its checkpoint.

    Spectrally normalized flows are rebuilt from the trained parameter, `weight_orig / (u . weight_orig v)`: the
    model that was saved. (DPM's own loader takes the stale buffer `weight` there and gets another model.)

    Args:
        path: a `ckpt_<score>_<step>.pt`.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        InputError: the file is missing, truncated, damaged, would run code, or is not DPM's; keys left over or
            missing are listed.
    """
    path = Path(path)
    checkpoint = _read(path)
    try:
        return _rebuild(vars(checkpoint["args"]), checkpoint["state_dict"]).eval()
    except InputError as error:
        raise error.within(path) from None


def fits(checkpoint: Any) -> bool:
    """Tell whether what a file holds is laid out as DPM's checkpoints are."""
    laid_out = isinstance(checkpoint, dict) and {"args", "state_dict"} <= set(checkpoint)
    return laid_out and isinstance(checkpoint["args"], argparse.Namespace)


def _read(path: Path) -> dict:
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected a DPM checkpoint (.pt)")
    checkpoint = load_without_code(path, argparse.Namespace)
    if not fits(checkpoint):
        raise InputError(f"{path}: expected a dict with 'args' and 'state_dict', as DPM saves it")
    check_named_tensors(checkpoint["state_dict"], f"{path}: state_dict")
    return checkpoint


def _rebuild(args: dict[str, Any], weights: dict[str, Tensor]) -> PointCloudModel:
    config = _config(args)
    model = built_for(weights, lambda: build_model(config))
    try:
        translated = _translate(weights, variational=model.variational)
        expected = set(model.state_dict())
        left_over, missing = sorted(set(translated) - expected), sorted(expected - set(translated))
        if left_over or missing:
            raise InputError(
                f"does not fit a DPM {config.model.kind} model; left over: {left_over}, missing: {missing}"
            )
        model.load_state_dict(translated)
        model.metadata = {"config": json.loads(to_json(config))}
    except (RuntimeError, TypeError, MemoryError, OverflowError) as error:
        # torch names the first misfit in the second line, if there are several.
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"shapes do not fit its own args: {lines[:2][-1].strip()}") from None
    return model


def _config(args: dict[str, Any]) -> RunConfig:
    """Return the settings in DPM's arguments, checked."""
    sizes = CouplingConfig()
    try:
        model = {
            "kind": args.get("model", "autoencoder"),
            "latent_dim": args["latent_dim"],
            "num_steps": args["num_steps"],
            "schedule": args["sched_mode"],
            "beta_1": args["beta_1"],
            "beta_T": args["beta_T"],
            "residual": args["residual"],
            "flow_depth": args.get("latent_flow_depth", sizes.depth),
            "flow_hidden_dim": args.get("latent_flow_hidden_dim", sizes.hidden_dim),
        }
    except KeyError as error:
        raise InputError(f"its args lack {error}, which every DPM checkpoint has") from None
    objective = {"kl_weight": args.get("kl_weight", CloudObjectiveConfig.kl_weight)}
    for name, value in (model | objective).items():
        if not isinstance(value, (str, int, float)):  # the messages below print values: no tensors, no trees
            raise InputError(f"its args: {name} must be a number or a word, got a {type(value).__name__}")
    if model["kind"] not in ("flow", "gaussian", "autoencoder"):
        raise InputError(
            f"its args: model must be 'flow', 'gaussian' or absent (autoencoder), got {model['kind']!r}"
        )
    # DPM's arguments are what pcdiff 0.1 called its own
    config = run_from_dict({"model": model, "objective": objective}, "its args")
    try:
        check(config)
    except InputError as error:
        raise InputError(f"its args: {error}") from None
    return config


def _translate(weights: dict[str, Tensor], variational: bool) -> dict[str, Tensor]:
    """Rename the keys; merge what is one matrix here; resolve spectral norm; drop the tables."""
    weights = _without_spectral_norm(weights)
    out: dict[str, Tensor] = {}
    layers: dict[str, dict[int, Tensor]]
    layers = {"_hyper_gate.weight": {}, "_hyper_gate.bias": {}, "_hyper_bias.weight": {}}
    for key, value in weights.items():
        if key.startswith("diffusion.var_sched."):
            continue  # follows from args
        if match := re.fullmatch(r"encoder\.conv(\d)\.(weight|bias)", key):
            out[f"encoder.layers.{int(match[1]) - 1}.{match[2]}"] = value.flatten(1) if value.dim() == 3 else value
        elif match := re.fullmatch(r"encoder\.bn(\d)\.(\w+)", key):
            out[f"encoder.norms.{int(match[1]) - 1}.{match[2]}"] = value
        elif match := re.fullmatch(r"encoder\.fc(_bn)?(\d)_([mv])\.(\w+)", key):
            if match[3] == "v" and not variational:
                continue  # DPM's autoencoder builds this head and never uses it
            head = "mean_head" if match[3] == "m" else "log_variance_head"
            out[f"encoder.{head}.{3 * (int(match[2]) - 1) + bool(match[1])}.{match[4]}"] = value
        elif match := re.fullmatch(r"flow\.chain\.(\d+)\.net_s_t\.(\d)\.(\w+)", key):
            out[f"prior.layers.{match[1]}.net.{match[2]}.{match[3]}"] = value
        elif match := re.fullmatch(r"diffusion\.net\.layers\.(\d)\._layer\.(\w+)", key):
            out[f"denoiser.net.layers.{match[1]}.{match[2]}"] = value
        elif match := re.fullmatch(r"diffusion\.net\.layers\.(\d)\.(_hyper_(?:gate|bias)\.\w+)", key):
            layers[match[2]][int(match[1])] = value
        else:
            out[key] = value  # left over: the caller lists it
    ours = {
        "_hyper_gate.weight": "gate.weight",
        "_hyper_gate.bias": "gate.bias",
        "_hyper_bias.weight": "shift.weight",
    }
    for name, parts in layers.items():
        if parts:
            out[f"denoiser.net.{ours[name]}"] = torch.cat([parts[i] for i in sorted(parts)])
    return out


def _without_spectral_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {k: v for k, v in weights.items() if not k.endswith(("_orig", "_u", "_v"))}
    for key, original in weights.items():
        if key.endswith(".weight_orig"):
            base = key.removesuffix("_orig")
            u, v = weights.get(f"{base}_u"), weights.get(f"{base}_v")
            if u is None or v is None:
                raise InputError(f"{key} is spectrally normalized but its u or v is missing")
            out[base] = original / torch.dot(u, original.mv(v))
    return out
