"""Open the unconditional checkpoints of cvlab-epfl/gecco ("GECCO", Tyszkiewicz, Fua & Trulls, ICCV 2023).

Such a file is Lightning's, `{"state_dict": ..., "ema_state_dict": ..., ...}`; it is opened without running any code
in it. The settings are not in it: sizes are read off the weights, and the rest is what GECCO's code has.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcdiff.config import (
    CloudObjectiveConfig,
    DataConfig,
    ModelConfig,
    ProcessConfig,
    RunConfig,
    SamplingConfig,
    to_json,
)
from pcdiff.errors import InputError
from pcdiff.models import Direct, build_model
from pcdiff.nets import SetTransformerConfig
from pcdiff.runtime.memory_limit import built_for
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.torch_files import check_named_tensors, load_without_code, put_weights

_BACKBONE = "backbone.model."
_LAYER = re.compile(r"inner\.layers\.(\d+)\.(.+)")
_NORMS = ("broadcast_norm", "broadcast.norm_1", "broadcast.norm_2", "mlp_norm")  # as our layers have them
_NAMES = {
    "broadcast.pool.kv_proj.weight": "pool_key_value.weight",
    "broadcast.pool.out_proj.weight": "pool_out.weight",
    "broadcast.unpool.out_proj.weight": "out.weight",
    "broadcast.unpool.out_proj.bias": "out.bias",
    **{f"broadcast.mlp.{part}": f"inducer_mlp.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")},
    **{f"mlp.{part}": f"mlp.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")},
    "broadcast.mlp.1.alpha": "inducer_mlp.1.width",
    "mlp.1.alpha": "mlp.1.width",
}


def load(path: str | Path, ema: bool = True, sigma_max: float = 165.0) -> Direct:
    """Rebuild a GECCO model from its checkpoint.

    It makes clouds in GECCO's own normalization; `model.metadata["statistics"]` has the mean and the standard
    deviation of each axis that undo it, where the file has them, and the commands use them.

    Args:
        path: a `*.ckpt`.
        ema: take the moving average of the weights where the file has one.
        sigma_max: largest noise level of its training, which the file does not tell; 165 in GECCO's recipe.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        InputError: the file is missing, truncated, damaged, would run code, or is no unconditional GECCO model;
            keys left over or missing are listed.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected a GECCO checkpoint (.ckpt)")
    checkpoint = load_without_code(path)
    if not fits(checkpoint):
        raise InputError(f"{path}: expected a dict with 'state_dict' of {_BACKBONE}*, as GECCO saves it")
    name = "ema_state_dict" if ema and "ema_state_dict" in checkpoint else "state_dict"
    check_named_tensors(checkpoint[name], f"{path}: {name}")
    try:
        model = from_weights(checkpoint[name], sigma_max)
    except InputError as error:
        raise error.within(path) from None
    model.metadata["step"] = checkpoint.get("global_step") if type(checkpoint.get("global_step")) is int else None
    return model


def fits(checkpoint: Any) -> bool:
    """Return whether what a file holds is laid out as GECCO's checkpoints are."""
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    return isinstance(weights, Mapping) and f"{_BACKBONE}lift.weight" in weights


def from_weights(weights: Mapping[str, Tensor], sigma_max: float = 165.0) -> Direct:
    """Rebuild a model from a state dict of GECCO's `Diffusion`.

    Raises:
        InputError: keys are left over or missing, or a shape does not fit.
    """
    reparam = {key: weights[key] for key in ("reparam.mean", "reparam.sigma") if key in weights}
    if reparam and not (len(reparam) == 2 and all(value.shape == (3,) for value in reparam.values())):
        raise InputError("reparam must be mean (3,) and sigma (3,), or absent")
    run = RunConfig(
        preset="own",
        model=ModelConfig(kind="direct", net="set_transformer", net_options=_config(weights)),
        process=ProcessConfig(name="edm", sigma_max=sigma_max, predicts="edm", time_input="edm", sigma_data=1.0),
        objective=CloudObjectiveConfig(
            objectives=("edm",), weights=(100.0,), time_draw="log_uniform", stratified_times=True
        ),
        sampling=SamplingConfig(sampler="heun", num_steps=64, churn=0.5),
        data=DataConfig(normalization="global_per_axis" if reparam else "none"),
    )
    model = built_for(weights, lambda: build_model(run))
    translated = translate({key: value for key, value in weights.items() if key not in reparam})
    put_weights(model.denoiser.net, translated, "a GECCO model")
    statistics = {}
    if reparam:
        statistics = {"mean": weights["reparam.mean"].tolist(), "std": weights["reparam.sigma"].tolist()}
    model.metadata = {"config": json.loads(to_json(run)), "statistics": statistics}
    assert isinstance(model, Direct)
    return model.eval()


def _config(weights: Mapping[str, Tensor]) -> SetTransformerConfig:
    layers = [int(match[1]) for key in weights if (match := _LAYER.fullmatch(key.removeprefix(_BACKBONE)))]
    first = f"{_BACKBONE}inner.layers.0."
    inducers, hidden = (weights.get(f"{first}{name}") for name in ("broadcast.pool.inducers", "mlp.0.weight"))
    lift = weights[f"{_BACKBONE}lift.weight"]
    if inducers is None or inducers.dim() != 4 or hidden is None or hidden.dim() != 2 or lift.dim() != 2:
        raise InputError("does not fit a GECCO model: inducers (1, heads, m, c) and an MLP in layer 0 are missing")
    if lift.shape[1] != 3:
        raise InputError(
            f"GECCO's conditional models read an image; expected a lift of 3 numbers, got {lift.shape[1]}"
        )
    width = lift.shape[0]
    return SetTransformerConfig(
        width=width,
        depth=1 + max(layers),
        num_heads=inducers.shape[1],
        num_inducers=inducers.shape[2],
        mlp_ratio=max(hidden.shape[0] // max(width, 1), 1),
        activation="gaussian" if f"{first}mlp.1.alpha" in weights else "relu",
        last_norm=f"{_BACKBONE}lower.1.weight" in weights,
    )


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys; merge the linear functions of all of a layer's norms; what is left over keeps its name."""
    out: dict[str, Tensor] = {}
    norms: dict[int, dict[str, Tensor]] = {}
    for key, value in weights.items():
        name = key.removeprefix(_BACKBONE)
        match = _LAYER.fullmatch(name)
        if match is None or not key.startswith(_BACKBONE):
            out[re.sub(r"^lower\.1\.", "lower.", name) if key.startswith(_BACKBONE) else key] = value
            continue
        number, part = int(match[1]), match[2]
        layer = f"layers.{number}"
        if part.rpartition(".")[0].rpartition(".")[0] in _NORMS:
            norms.setdefault(number, {})[part] = value
        elif part == "broadcast.pool.inducers" and value.dim() == 4 and len(value) == 1:
            out[f"{layer}.inducers"] = value[0]
        elif part in ("broadcast.unpool.in_proj_weight", "broadcast.unpool.in_proj_bias"):
            kind, third = part.rpartition("_")[2], len(value) // 3
            out[f"{layer}.query.{kind}"], out[f"{layer}.key_value.{kind}"] = value[:third], value[third:]
        else:
            out[f"{layer}.{_NAMES[part]}" if part in _NAMES else key] = value
    for number, parts in norms.items():
        for kind in ("weight", "bias"):
            wanted = [f"{norm}.{row}.{kind}" for norm in _NORMS for row in ("scale", "bias")]
            if missing := [name for name in wanted if name not in parts]:
                raise InputError(f"does not fit a GECCO model; missing in layer {number}: {missing}")
            out[f"layers.{number}.modulation.{kind}"] = torch.cat([parts.pop(name) for name in wanted])
        out |= {f"{_BACKBONE}inner.layers.{number}.{name}": value for name, value in parts.items()}
    return out
