"""Checkpoints in the form of score_sde and NCSN, of tiny nets of our own, for the tests of their loaders."""

import copy
import dataclasses
import functools
import os

import numpy as np
import torch

from image_pipeline.interop import score_sde
from image_pipeline.interop.refinenet_names import refinenet_names
from image_pipeline.interop.unet_names import unet_names
from image_pipeline.nets import MODELS, build_model

LEVELS = {"sigma_min": 0.01, "sigma_max": 2.0, "num_scales": 6}
UNET = {
    "nf": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.1,
    "nonlinearity": "Swish",
    "resamp_with_conv": True,
    "scale_by_sigma": False,
    "conditional": True,
    **LEVELS,
    "beta_min": 0.1,
    "beta_max": 5.0,
}
PLUS = {
    "resblock_type": "BigGAN",
    "fir": True,
    "fir_kernel": (1, 3, 3, 1),
    "skip_rescale": True,
    "progressive": "none",
    "progressive_input": "residual",
    "progressive_combine": "sum",
    "embedding_type": "positional",
    "init_scale": 0.0,
}
REFINE = {"nf": 4, "nonlinearity": "elu", "normalization": "InstanceNorm++", **LEVELS}
# by what is tested: the config's model section, the kind of process, and whether training is continuous
NETS = {
    "ddpm": ({"name": "ddpm", **UNET, "nf": 32, "num_scales": 8}, "vpsde", False),
    "ddpm without convolutions": ({"name": "ddpm", **UNET, "nf": 32, "resamp_with_conv": False}, "subvpsde", True),
    "ncsnpp, levels": ({"name": "ncsnpp", **UNET, **PLUS, "scale_by_sigma": True}, "vesde", False),
    "ncsnpp, skips": (
        {
            "name": "ncsnpp",
            **UNET,
            **PLUS,
            "progressive": "output_skip",
            "progressive_input": "input_skip",
            "progressive_combine": "cat",
            "embedding_type": "fourier",
            "fourier_scale": 4,
            "scale_by_sigma": True,
        },
        "vesde",
        True,
    ),
    "ncsnpp, residual, ddpm blocks": (
        {"name": "ncsnpp", **UNET, **PLUS, "progressive": "residual", "resblock_type": "ddpm"},
        "vpsde",
        True,
    ),
    "ncsn": ({"name": "ncsn", **REFINE}, "vesde", False),
    "ncsnv2_128": ({"name": "ncsnv2_128", **REFINE}, "vesde", False),
    "ncsnv2_256": ({"name": "ncsnv2_256", **REFINE}, "vesde", False),
}


def config_of(name):
    model, sde, continuous = NETS[name]
    centered = sde != "vesde"
    return {
        "model": dict(model),
        "data": {"image_size": 8, "num_channels": 2, "centered": centered},
        "training": {"sde": sde, "continuous": continuous},
    }


def net_of(config):
    """Build the net that a config speaks of, with weights off their start."""
    model = config["model"]
    ours, fields = score_sde.NETS[model["name"]]
    keys = {field.name for field in dataclasses.fields(MODELS[ours].Config)}
    fields = {**fields, **{k: v for k, v in {**model, **config["data"]}.items() if k in keys}}
    fields |= {k: v.lower() for k, v in fields.items() if isinstance(v, str) and k != "normalization"}
    torch.manual_seed(0)
    net = build_model(ours, **fields)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return net.eval()


def in_their_form(net, names):
    """Return the net's tensors under the file's names: stacked ones apart, matrices of "NIN" turned."""
    out = {}
    for ours, tensor in net.state_dict().items():
        for theirs, part in zip(names[ours], tensor.chunk(len(names[ours])), strict=True):
            out[theirs] = part.flatten(1).t() if theirs.endswith(".W") and part.dim() > 1 else part
    return out


def their_names(net, config):
    if hasattr(net, "middle"):
        return unet_names(net, config["model"].get("resblock_type", "ddpm").lower() == "biggan")
    return refinenet_names(net)


def checkpoint_of(name):
    """Return a fresh copy of what `_checkpoint_of` made."""
    return copy.deepcopy(_checkpoint_of(name))


@functools.cache
def _checkpoint_of(name):
    """Return a config, its net, and a checkpoint of it as score_sde saves one; the average is twice the weights."""
    config = config_of(name)
    net = net_of(config)
    weights = in_their_form(net, their_names(net, config))
    if config["model"]["name"] != "ncsn":
        table = np.geomspace(LEVELS["sigma_max"], LEVELS["sigma_min"], config["model"]["num_scales"])
        weights["sigmas"] = torch.from_numpy(table)
    trained = [v for k, v in weights.items() if k != "sigmas" and not (v.dim() == 1 and k.endswith(".W"))]
    checkpoint = {
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(2e-4)}]},
        "model": {f"module.{key}": value.clone() for key, value in weights.items()},
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": [2 * value for value in trained]},
        "step": 3,
    }
    return config, net, checkpoint


class Runs:
    """Pickles to a call that makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)
