"""The peers' nets as plain formulas over their own names of weights, sharing no code with ours.

Every function takes a state dict in the peer's names, the peer's settings, and the inputs, in any precision.
"""

import math

import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "mish": F.mish,
    "elu": F.elu,
    "lrelu": lambda x: F.leaky_relu(x, 0.2),
}


class Weights:
    """A state dict read layer by layer."""

    def __init__(self, state, dtype):
        self.state = {key: v.to(dtype) if v.is_floating_point() else v for key, v in state.items()}

    def has(self, name):
        """Return whether a layer is there."""
        return f"{name}.weight" in self.state

    def conv(self, name, x, dilation=1, stride=1):
        """Apply a convolution of odd size that keeps the size, or with a stride divides it."""
        weight = self.state[f"{name}.weight"]
        weight = weight.view(*weight.shape, *[1] * (4 - weight.dim()))  # 1x1 ones may be matrices
        pad = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, pad, dilation)

    def linear(self, name, x):
        """Apply a linear layer."""
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def group_norm(self, name, x, groups, eps=1e-5):
        """Normalize in groups of channels."""
        parts = x.reshape(len(x), groups, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, correction=0, keepdim=True) + eps).sqrt()
        scale, shift = (self.state[f"{name}.{leaf}"][:, None, None] for leaf in ("weight", "bias"))
        return parts.view_as(x) * scale + shift


def attention(qkv, heads, by_head, rounded=False):
    """Return softmax(q k^T / sqrt(c)) v of rows `qkv (B, 3 C, P)`, which stand head by head or q, k, v first.

    `rounded` has the softmax in float32, as ADM's code has it in every precision.
    """
    batch, rows, pixels = qkv.shape
    width = rows // (3 * heads)
    shape = (batch, heads, 3, width, pixels) if by_head else (batch, 3, heads, width, pixels)
    q, k, v = qkv.view(shape).unbind(2 if by_head else 1)
    share = q.transpose(2, 3) @ k / math.sqrt(width)  # (B, heads, P, P)
    share = (share.float() if rounded else share).softmax(dim=3).to(v.dtype)
    return (v @ share.transpose(2, 3)).reshape(batch, rows // 3, pixels)


def waves(t, dim, sin_first, dtype):
    """Return sines and cosines of t over frequencies 10000^(-i / half): in float32 as all these nets have them."""
    half = dim // 2
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    parts = angles.sin(), angles.cos()
    return torch.cat(parts if sin_first else parts[::-1], dim=1).to(dtype)


def abarankab(state, unet, x, t, y=None):
    """abarankab/DDPM's UNet (Ho et al., 2020, with a bias of the class in every block)."""
    w, act = Weights(state, x.dtype), ACTIVATIONS[unet["activation"]]
    groups, pad = unet["num_groups"], unet["initial_pad"]
    told = waves(t * unet["time_emb_scale"], unet["base_channels"], True, x.dtype)
    told = w.linear("time_mlp.3", F.silu(w.linear("time_mlp.1", told)))

    def block(name, x):
        h = w.conv(f"{name}.conv_1", act(w.group_norm(f"{name}.norm_1", x, groups)))
        h = h + w.linear(f"{name}.time_bias", act(told))[:, :, None, None]
        if unet["num_classes"] is not None:
            h = h + w.state[f"{name}.class_bias.weight"][y][:, :, None, None]
        h = w.conv(f"{name}.conv_2.1", act(w.group_norm(f"{name}.norm_2", h, groups)))
        x = h + (w.conv(f"{name}.residual_connection", x) if w.has(f"{name}.residual_connection") else x)
        if w.has(f"{name}.attention.to_qkv"):
            qkv = w.conv(f"{name}.attention.to_qkv", w.group_norm(f"{name}.attention.norm", x, groups))
            found = attention(qkv.flatten(2), 1, by_head=False).view_as(x)
            x = x + w.conv(f"{name}.attention.to_out", found)
        return x

    h = w.conv("init_conv", F.pad(x, (pad,) * 4))
    skips, index = [h], 0
    while any(key.startswith(f"downs.{index}.") for key in state):
        name = f"downs.{index}"
        h = w.conv(f"{name}.downsample", h, stride=2) if w.has(f"{name}.downsample") else block(name, h)
        skips.append(h)
        index += 1
    h, index = block("mid.1", block("mid.0", h)), 0
    while any(key.startswith(f"ups.{index}.") for key in state):
        name = f"ups.{index}"
        if w.has(f"{name}.upsample.1"):
            h = w.conv(f"{name}.upsample.1", h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        else:
            h = block(name, torch.cat([h, skips.pop()], dim=1))
        index += 1
    h = w.conv("out_conv", act(w.group_norm("out_norm", h, groups)))
    return h[:, :, pad : h.shape[2] - pad, pad : h.shape[3] - pad]


def adm(state, settings, x, t, y=None, rounded=False):
    """guided-diffusion's UNet (Dhariwal & Nichol, 2021), of two dimensions; `rounded` is attention's."""
    w, dims = Weights(state, x.dtype), settings["model_channels"]
    shifts = settings["use_scale_shift_norm"]
    told = w.linear("time_embed.2", F.silu(w.linear("time_embed.0", waves(t, dims, False, x.dtype))))
    if settings["num_classes"] is not None:
        told = told + w.state["label_emb.weight"][y]

    def resized(h, way):
        return F.avg_pool2d(h, 2) if way == "down" else h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def block(name, x, way=None):
        h = F.silu(w.group_norm(f"{name}.in_layers.0", x, 32))
        if way is not None:
            h, x = resized(h, way), resized(x, way)
        h = w.conv(f"{name}.in_layers.2", h)
        told_here = w.linear(f"{name}.emb_layers.1", F.silu(told))[:, :, None, None]
        if shifts:
            scale, shift = told_here.chunk(2, dim=1)
            h = w.group_norm(f"{name}.out_layers.0", h, 32) * (1 + scale) + shift
        else:
            h = w.group_norm(f"{name}.out_layers.0", h + told_here, 32)
        h = w.conv(f"{name}.out_layers.3", F.silu(h))
        return h + (w.conv(f"{name}.skip_connection", x) if w.has(f"{name}.skip_connection") else x)

    def attend(name, x):
        heads = settings["num_heads"]
        if settings["num_head_channels"] != -1:
            heads = x.shape[1] // settings["num_head_channels"]
        qkv = w.conv(f"{name}.qkv", w.group_norm(f"{name}.norm", x, 32).flatten(2)[..., None])[..., 0]
        found = attention(qkv, heads, not settings["use_new_attention_order"], rounded)
        return x + w.conv(f"{name}.proj_out", found[..., None])[..., 0].view_as(x)

    def step(name, h, way):
        """Run one entry of input_blocks or output_blocks: block, attention, resampling, in whatever is there."""
        for k in range(3):
            here = f"{name}.{k}"
            if w.has(f"{here}.in_layers.0"):
                moves = k > 0 or (way == "down" and settings["resblock_updown"] and name in halving)
                h = block(here, h, way if moves else None)
            elif w.has(f"{here}.qkv"):
                h = attend(here, h)
            elif w.has(f"{here}.op"):
                h = w.conv(f"{here}.op", h, stride=2)
            elif w.has(f"{here}.conv"):
                h = w.conv(f"{here}.conv", resized(h, "up"))
            elif name in halving and way == "down" and k == 0:
                h = resized(h, "down")
            elif name in doubling and way == "up" and k == 1 + w.has(f"{name}.1.qkv"):
                h = resized(h, "up")
        return h

    blocks, levels = settings["num_res_blocks"], len(settings["channel_mult"])
    halving = {f"input_blocks.{(level + 1) * (blocks + 1)}" for level in range(levels - 1)}
    doubling = {f"output_blocks.{(level + 1) * (blocks + 1) - 1}" for level in range(levels - 1)}
    h = w.conv("input_blocks.0.0", x)
    skips = [h]
    for index in range(1, levels * (blocks + 1)):
        h = step(f"input_blocks.{index}", h, "down")
        skips.append(h)
    h = block("middle_block.2", attend("middle_block.1", block("middle_block.0", h)))
    for index in range(levels * (blocks + 1)):
        h = step(f"output_blocks.{index}", torch.cat([h, skips.pop()], dim=1), "up")
    return w.conv("out.2", F.silu(w.group_norm("out.0", h, 32)))


def refinenet(state, config, x, labels):
    """NCSN, NCSNv2, their deeper variants and both norms (Song & Ermon, 2019 and 2020)."""
    w, act = Weights(state, x.dtype), ACTIVATIONS[config["model"].get("nonlinearity", "elu").lower()]
    conditional, kind = "normalizer.embed.weight" in state, config["model"].get("normalization", "InstanceNorm++")

    def norm(name, x):
        if f"{name}.embed.weight" not in w.state and f"{name}.alpha" not in w.state:
            return x  # NCSNv2's refine blocks
        if conditional:
            factors = w.state[f"{name}.embed.weight"][labels][:, :, None, None]
            parts = factors.chunk(1 if kind == "VarianceNorm" else 3, dim=1)
            named = dict(zip(("gamma", "alpha", "beta"), parts, strict=False))
        else:
            known = [key for key in ("alpha", "gamma", "beta") if f"{name}.{key}" in w.state]
            named = {key: w.state[f"{name}.{key}"][:, None, None] for key in known}
        if kind == "VarianceNorm":
            return named["gamma" if conditional else "alpha"] * x / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
        means = x.mean((2, 3), keepdim=True)
        h = (x - means) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        means = (means - means.mean(1, keepdim=True)) / (means.var(1, keepdim=True) + 1e-5).sqrt()
        return named["gamma"] * (h + named["alpha"] * means) + named["beta"]

    def residual(name, x, dilation):
        halved = w.has(f"{name}.conv2.conv")
        h = w.conv(f"{name}.conv1", act(norm(f"{name}.normalize1", x)), dilation)
        last = f"{name}.conv2.conv" if halved else f"{name}.conv2"
        h = w.conv(last, act(norm(f"{name}.normalize2", h)), dilation)
        shortcut = f"{name}.shortcut.conv" if halved else f"{name}.shortcut"
        x = w.conv(shortcut, x, dilation) if w.has(shortcut) else x
        return F.avg_pool2d(h + x, 2) if halved else h + x

    def units(name, x):
        k = 1
        while w.has(f"{name}.{k}_1_conv"):
            h = x
            for j in (1, 2):
                h = w.conv(f"{name}.{k}_{j}_conv", act(norm(f"{name}.{k}_{j}_norm", h)))
            x, k = x + h, k + 1
        return x

    def refine(name, xs):
        hs = [units(f"{name}.adapt_convs.{i}", x) for i, x in enumerate(xs)]
        if len(hs) > 1:
            size = hs[0].shape[2:]
            parts = [w.conv(f"{name}.msf.convs.{i}", norm(f"{name}.msf.norms.{i}", h)) for i, h in enumerate(hs)]
            parts = [F.interpolate(p, size=size, mode="bilinear", align_corners=True) for p in parts]
            hs = [sum(parts)]
        h = path = act(hs[0])
        for i in range(2):
            path = norm(f"{name}.crp.norms.{i}", path)
            path = F.avg_pool2d(path, 5, 1, 2) if conditional else F.max_pool2d(path, 5, 1, 2)
            path = w.conv(f"{name}.crp.convs.{i}", path)
            h = h + path
        return units(f"{name}.output_convs", h)

    numbers = [n for n in ("1", "2", "3", "31", "4", "5") if f"res{n}.0.conv1.weight" in state]
    dilations = [1] * (len(numbers) - 2) + [2, 4]
    h = w.conv("begin_conv", x if config["data"].get("rescaled") else 2 * x - 1)
    found = []
    for number, dilation in zip(numbers, dilations, strict=True):
        for k in range(2):
            h = residual(f"res{number}.{k}", h, dilation)
        found.append(h)
    order = [n for n in ("1", "2", "31", "3", "4", "5") if f"refine{n}.crp.convs.0.weight" in state]
    h = refine(f"refine{order[0]}", [found.pop()])
    for number in order[1:]:
        h = refine(f"refine{number}", [found.pop(), h])
    h = w.conv("end_conv", act(norm("normalizer", h)))
    return h if conditional else h / w.state["sigmas"][labels][:, None, None, None]
