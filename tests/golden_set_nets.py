"""Checkpoints of the peers' formats with settings of our own choice, and what the plain account makes of them."""

import json

import numpy as np
import torch
from plain_nets import abarankab as plain_abarankab
from plain_nets import adm as plain_adm
from plain_nets import refinenet as plain_refinenet

from image_pipeline.interop import abarankab, adm, adm_config, diffusers
from image_pipeline.interop.imported import Imported
from image_pipeline.interop.refinenet_names import refinenet_names
from image_pipeline.interop.weights import names_of
from image_pipeline.nets import build_model
from pcdiff.diffusion import NetDenoiser, discrete_process
from pcdiff.nets import UNet, UNetConfig

ABARANKAB = {
    "img_channels": 1,
    "base_channels": 8,
    "channel_mults": [1, 2],
    "num_res_blocks": 1,
    "time_emb_dim": 12,
    "time_emb_scale": 1.0,
    "num_classes": 4,
    "dropout": 0.1,
    "attention_resolutions": [1],
    "norm": "gn",
    "num_groups": 4,
    "initial_pad": 1,
    "activation": "relu",
}
ADM = {
    "image_size": 8,
    "in_channels": 1,
    "model_channels": 32,
    "out_channels": 2,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 1],
    "num_classes": 3,
    "num_heads": 2,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "_note": {"conv_resample": False, "dropout": 0},
}
REFINENET = {
    "data": {"image_size": 16, "channels": 1, "logit_transform": False, "rescaled": False},
    "model": {
        "ngf": 4,
        "num_classes": 5,
        "sigma_begin": 3.0,
        "sigma_end": 0.05,
        "sigma_dist": "geometric",
        "normalization": "InstanceNorm++",
        "nonlinearity": "swish",
    },
}


def in_their_names(net, names):
    """Return random weights of a net under the peer's names, of a size at which every branch counts."""
    draw, state = torch.Generator().manual_seed(3), {}
    for ours, value in net.state_dict().items():
        noise = torch.randn(value.shape, generator=draw)
        if value.dim() > 1:
            new = noise / max(1, value[0].numel()) ** 0.5
        else:
            new = (1.0 if ours.endswith(("weight", "gamma", "alpha")) else 0.0) + 0.2 * noise
        parts = value.chunk(len(names[ours])) if ours == "sigmas" else new.chunk(len(names[ours]))
        state |= {theirs: part.clone() for theirs, part in zip(names[ours], parts, strict=True)}
    return state


def images(seed, *shape):
    """Return standard normal images."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def save_io(path, **arrays):
    """Write what was recorded beside a checkpoint."""
    np.savez(path, **{key: np.asarray(value) for key, value in arrays.items()})


def write_abarankab(folder, name="abarankab_other", size=6, steps=7, **changes):
    """Write a GaussianDiffusion's state, its settings, and its outputs, chain and sampling."""
    folder.mkdir(parents=True, exist_ok=True)
    unet = ABARANKAB | changes
    net = UNet(abarankab._unet_config(unet))
    weights = in_their_names(net, names_of(net, abarankab._modules(net), abarankab.PARTS))
    average = {key: 0.9 * value for key, value in weights.items()}
    betas = torch.linspace(2e-3, 0.15, steps, dtype=torch.float64)
    bars = torch.cumprod(1 - betas, 0)
    state = {f"model.{key}": v for key, v in weights.items()} | {
        f"ema_model.{key}": v for key, v in average.items()
    }
    torch.save(state | {"betas": betas.float()}, folder / f"{name}.pth")
    (folder / f"{name}.json").write_text(json.dumps({"unet": unet, "img_size": size, "timesteps": steps}))

    x, t = images(1, 3, unet["img_channels"], size, size).double(), torch.tensor([0, steps // 2, steps - 1])
    y = torch.arange(3) % unet["num_classes"] if unet["num_classes"] else None

    def denoised(x, t):
        coefficient = (betas / (1 - bars).sqrt())[t].view(-1, 1, 1, 1)
        return (x - coefficient * plain_abarankab(average, unet, x, t, y)) / (1 - betas[t]).sqrt().view(-1, 1, 1, 1)

    noise, chain = images(2, steps - 1, *x.shape).double(), images(3, *x.shape).double()
    start = chain
    for step in reversed(range(steps)):
        chain = denoised(chain, torch.full((3,), step))
        if step:
            chain = chain + betas[step].sqrt() * noise[steps - 1 - step]
    recorded = {
        "x": x,
        "out_model": plain_abarankab(weights, unet, x, t, y),
        "out_ema": plain_abarankab(average, unet, x, t, y),
        "remove_noise_ema": denoised(x, t),
        "alphas_cumprod": bars,
        "sample_init": start,
        "sample_noise": noise,
        "sample": chain,
    }
    whole = {"t": t, "betas": betas} | ({} if y is None else {"y": y})
    save_io(folder / f"{name}_io.npz", **{key: value.float() for key, value in recorded.items()}, **whole)


def write_adm(folder, name="guided_other", **changes):
    """Write a bare state dict of guided-diffusion's UNet, its constructor arguments, and its outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = ADM | changes
    plain = {"conv_resample": settings["_note"]["conv_resample"], **settings}
    net = UNet(adm_config.unet_config(plain, settings["num_classes"]))
    weights = in_their_names(net, names_of(net, adm._unet_modules(net), adm.PARTS))
    torch.save(weights, folder / f"{name}.pt")
    (folder / f"{name}.json").write_text(json.dumps(settings))
    x, t = (
        images(4, 2, settings["in_channels"], settings["image_size"], settings["image_size"]),
        torch.tensor([3, 700]),
    )
    fractional, y = torch.tensor([0.5, 77.25]), None
    if settings["num_classes"]:
        y = torch.tensor([0, settings["num_classes"] - 1])
    exact = plain_adm(weights, settings, x.double(), t, y)
    save_io(
        folder / f"{name}_io.npz",
        x=x,
        timesteps=t,
        timesteps_fractional=fractional,
        out=exact.float(),
        out_fractional=plain_adm(weights, settings, x.double(), fractional, y).float(),
        # the peer's softmax is float32 in a float64 net too
        out_f64=plain_adm(weights, settings, x.double(), t, y, rounded=True),
        **({} if y is None else {"y": y}),
    )


def write_refinenet(folder, name, kind, variant, **changes):
    """Write a checkpoint of NCSNv2's or NCSN's code, its config, and its outputs.

    Args:
        folder: `ncsn` or `ncsnv2`.
        name: of the files.
        kind: `ncsn` or `ncsnv2`.
        variant: of the net.
        **changes: entries of `model` and `data`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {part: {k: changes.get(k, v) for k, v in REFINENET[part].items()} for part in ("data", "model")}
    data, model = config["data"], config["model"]
    options = {
        "num_channels": data["channels"],
        "centered": data["rescaled"],
        "nf": model["ngf"],
        "num_scales": model["num_classes"],
        "nonlinearity": model["nonlinearity"],
        "normalization": model["normalization"],
        "variant": variant,
    }
    ratio = (model["sigma_end"] / model["sigma_begin"]) ** (1 / (model["num_classes"] - 1))
    sigmas = model["sigma_begin"] * ratio ** torch.arange(model["num_classes"], dtype=torch.float64)
    if kind == "ncsnv2":
        options |= {"sigma_min": model["sigma_end"], "sigma_max": model["sigma_begin"]}
    net = build_model(kind, **options)
    weights = in_their_names(net, refinenet_names(net))
    if kind == "ncsnv2":
        weights["sigmas"] = sigmas.float()
    average = {key: 0.9 * value for key, value in weights.items() if key != "sigmas"}
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    torch.save([wrapped, {}, 0, 0, average], folder / f"{name}.pth")
    (folder / f"{name}.json").write_text(json.dumps(config))
    x, labels = images(5, 2, data["channels"], data["image_size"], data["image_size"]), torch.tensor([0, 3])
    recorded = {}
    for key, state in (("out_model", weights), ("out_ema", weights | average)):
        exact = plain_refinenet(state, config, x.double(), labels)
        recorded |= {key: exact.float(), f"{key}_f64": exact}
    save_io(folder / f"{name}_io.npz", x=x, labels=labels, sigmas=sigmas.float(), **recorded)


def write_diffusers(folder, name="unet_other", center=True, learned=True):
    """Write a bare model folder of diffusers, one that centers its input, and its outputs by one that does not."""
    config = UNetConfig(
        in_channels=1,
        out_channels=2 if learned else 1,
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        norm_groups=4,
        scale_shift_norm=False,
        num_classes=3,
    )
    net = UNet(config).eval()
    names = diffusers._names(net)
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=draw)
    assert names
    variance = "learned_range" if learned else "large"
    model = Imported(
        NetDenoiser(net, discrete_process("linear", 1000), "eps", "step", variance), (-1, 1), (1, 8, 8), ""
    )
    diffusers.save(model, folder / f"{name}_pipeline")
    source, bare = folder / f"{name}_pipeline" / "unet", folder / name
    bare.mkdir()
    settings = json.loads((source / "config.json").read_text()) | {"center_input_sample": center}
    (bare / "config.json").write_text(json.dumps(settings))
    (source / diffusers.WEIGHTS).rename(bare / diffusers.WEIGHTS)
    for path in sorted((folder / f"{name}_pipeline").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / f"{name}_pipeline").rmdir()
    x, t, y = images(7, 2, 1, 8, 8), torch.tensor([3, 700]), torch.tensor([2, 0])
    with torch.no_grad():
        exact = net.double()(2 * x.double() - 1 if center else x.double(), t, y)
    save_io(folder / f"{name}_io.npz", x=x, timesteps=t, class_labels=y, out=exact.float(), out_f64=exact)
