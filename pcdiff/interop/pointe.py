"""Open the checkpoints of openai/point-e (Nichol et al., 2022): clouds with colors, from CLIP or from nothing.

Such a file is a plain state dict; it is opened without running any code in it. Kind and sizes are read off the
names and shapes; heads, and how time and condition enter, are those of the released files unless told.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pcdiff.config import (
    DataConfig,
    ModelConfig,
    ProcessConfig,
    RunConfig,
    SamplingConfig,
    to_json,
    with_part,
)
from pcdiff.diffusion import Denoiser, Sampler
from pcdiff.diffusion.denoisers.guidance import ClassifierFreeGuidance
from pcdiff.diffusion.denoisers.whole_steps import WholeSteps
from pcdiff.errors import InputError
from pcdiff.models.default_sampling import default_sampling, sampler_of
from pcdiff.models.direct import Direct
from pcdiff.nets import SetTransformer, SetTransformerConfig
from pcdiff.runtime.memory_limit import built_for
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.precision import autocast
from pcdiff.runtime.torch_files import check_named_tensors, load_without_code, put_weights

STEPS = 1024
SCALES = (2.0, 2.0, 2.0, 0.007843137255, 0.007843137255, 0.007843137255)
BIASES = (0.0, 0.0, 0.0, -1.0, -1.0, -1.0)
"""From coordinates and colors of 0 to 255 to the numbers that are diffused: `x * scale + bias`."""
GRID_TOKENS = 256
_BLOCK = re.compile(r"backbone\.resblocks\.(\d+)\.(.+)")
_IN_BLOCK = {
    "attn.c_qkv": "qkv",
    "attn.c_proj": "proj",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.0",
    "mlp.c_proj": "mlp.2",
}
_OUTSIDE = {
    "time_embed.c_fc": "time_embed.0",
    "time_embed.c_proj": "time_embed.2",
    "ln_pre": "norm_in",
    "ln_post": "norm_out",
    "input_proj": "lift",
    "output_proj": "lower",
    "clip_embed": "cond_embed",
    "clip_embed.0": "token_embed.0",
    "clip_embed.1": "token_embed.1",
    "cond_point_proj": "point_embed",
}


class PointE(Direct):
    """point-e's diffusion of points with colors, drawn as its sampler draws them.

    A code is what CLIP says of an image or a text: a vector `(768,)`, or a grid `(256, 1024)` of an image; codes of
    zeros stand for nothing said. `decode` gives coordinates, `decode_channels` colors beside them. An up-sampler
    draws further points beside given ones (`upsample`).

    Attributes:
        has_grid: whether the code is a grid.
        is_upsampler: whether it needs points to begin with.
    """

    point_dim = len(SCALES)

    def __init__(self, net: SetTransformer, process: ProcessConfig, sampling: SamplingConfig, sigma_max: float):
        super().__init__(process=process, sampling=sampling, net=net)
        self.has_grid, self.is_upsampler = net.config.token_dim > 0, net.config.point_tokens
        self.denoiser = WholeSteps(self.denoiser, 0.001, sigma_max, clip=(-1.0, 1.0))
        self.register_buffer("scales", torch.tensor(SCALES, dtype=torch.float64), persistent=False)
        self.register_buffer("biases", torch.tensor(BIASES, dtype=torch.float64), persistent=False)

    @property
    def net(self) -> SetTransformer:
        """The net."""
        net = self.denoiser.denoiser.net
        assert isinstance(net, SetTransformer)
        return net

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one code; `(0,)` where there is none."""
        return (GRID_TOKENS, self.net.config.token_dim) if self.has_grid else (self.net.cond_dim,)

    def compile(self, **options: Any) -> None:
        """Compile the net in place (torch.compile)."""
        self.net.compile(**options)

    def sample_latent(
        self,
        num_samples: int,
        generator: torch.Generator | None = None,
        truncate_std: float | None = None,
        labels: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Return codes of zeros, which stand for nothing said; nothing is drawn."""
        super().sample_latent(num_samples, generator, truncate_std, labels, guidance)
        return self.blank_codes(num_samples)

    def blank_codes(self, count: int) -> Tensor:
        """Return `count` codes of zeros."""
        return torch.zeros(count, *self.code_shape, device=self.device)

    def conditioned(
        self, z: Tensor, labels: Tensor | None = None, guidance: float | None = None
    ) -> tuple[Denoiser, Any]:
        """Return the denoiser for codes with what its net is conditioned on.

        Raises:
            InputError: the codes have another shape, or the model is an up-sampler, which needs points too.
        """
        if self.is_upsampler:
            raise InputError("point-e's up-sampler draws further points of given ones: call upsample")
        return self._conditioned(self._conditions(z), guidance)

    def _conditions(self, z: Tensor, points: Tensor | None = None) -> dict[str, Tensor]:
        if z.shape[1:] != self.code_shape:
            raise InputError(f"codes must be (B, {', '.join(map(str, self.code_shape))}), got {tuple(z.shape)}")
        given = {"tokens" if self.has_grid else "vector": z} if z.numel() or self.has_grid else {}
        return given if points is None else given | {"points": points}

    def _conditioned(self, cond: dict[str, Tensor], guidance: float | None) -> tuple[Denoiser, Any]:
        if guidance in (None, 1.0):
            return self.denoiser, cond or None
        if not cond:
            raise InputError(f"guidance stresses a condition, and this point-e model has none, got {guidance:g}")
        null = {name: torch.zeros_like(value) for name, value in cond.items()}
        return ClassifierFreeGuidance(self.denoiser, null, guidance), cond

    def decode(self, z: Tensor, num_points: int, **options: Any) -> Tensor:
        """Return coordinates `(B, num_points, 3)`; arguments as for `PointCloudModel.decode`, codes `(B, ...)`.

        point-e's nets were trained on 1024 points; other numbers work, but are not what it was made for.
        """
        return self.decode_channels(z, num_points, **options)[..., :3]

    def decode_channels(self, z: Tensor, num_points: int, **options: Any) -> Tensor:
        """Return coordinates and colors, 0 to 255 where the model keeps to them, `(B, num_points, 6)`."""
        return self.unscaled(super().decode(z, num_points, **options))

    def upsample(
        self,
        points: Tensor,
        num_points: int,
        z: Tensor | None = None,
        guidance: float | None = None,
        settings: Sampler | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw further points beside given ones.

        Args:
            points: given coordinates and colors `(B, M, 6)`; point-e has M = 1024.
            num_points: new points; 3072 in point-e.
            z: codes, where the model takes some; zeros by default.
            guidance: of the code and the points; 1 is none, point-e's way.
            settings: how they are drawn; the model's own way by default.
            **options: `generator`, `noise`, `x_init`, `callback`, `progress` and `report` of
                `pcdiff.diffusion.sample`.

        Returns:
            The given points and behind them the new ones, `(B, M + num_points, 6)`.

        Raises:
            InputError: the model is no up-sampler, or shapes do not fit.
        """
        if not self.is_upsampler:
            raise InputError(
                "this point-e model draws clouds from nothing or a code; an up-sampler draws further points"
            )
        if points.dim() != 3 or points.shape[2] != self.point_dim:
            raise InputError(f"points must be (B, M, {self.point_dim}), got {tuple(points.shape)}")
        cond = self._conditions(self.blank_codes(len(points)) if z is None else z, self.scaled(points))
        denoiser, cond = self._conditioned(cond, guidance)
        settings = settings or sampler_of(default_sampling(self.denoiser.process, self.sampling_config))
        shape = None if "x_init" in options else (len(points), num_points, self.point_dim)
        new = settings(denoiser, shape, cond=cond, **options)
        return torch.cat([points, self.unscaled(new).to(points.dtype)], dim=1)

    def further_points(
        self,
        x: Tensor,
        num_points: int,
        *,
        num_steps: int | None = None,
        grid: str | None = None,
        precision: str = "fp32",
        **options: Any,
    ) -> Tensor:
        """Draw further points `(B, num_points, 3)` beside given coordinates `(B, M, 3)`, taken to be gray.

        What `pcdiff upsample` asks for; see `upsample` and `PointCloudModel.decode` for the arguments.
        """
        if x.dim() != 3 or x.shape[2] != 3:
            raise InputError(f"clouds must be (n, N, 3), got {tuple(x.shape)}")
        gray = torch.full_like(x, 127.5)
        plan = {name: value for name, value in (("num_steps", num_steps), ("grid", grid)) if value is not None}
        own = default_sampling(self.denoiser.process, replace(self.sampling_config, **plan))
        with autocast(precision, x.device):
            dense = self.upsample(torch.cat([x, gray], dim=2), num_points, settings=sampler_of(own), **options)
        return dense[:, x.shape[1] :, :3]

    def scaled(self, points: Tensor) -> Tensor:
        """Return what is diffused of coordinates and colors `(B, N, 6)`."""
        # rounded first, as the up-samplers' files hold them
        return points * self.scales.float().to(points) + self.biases.to(points)

    def unscaled(self, x: Tensor) -> Tensor:
        """Return coordinates and colors of what is diffused, `(B, N, 6)`."""
        return (x - self.biases.to(x)) / self.scales.to(x)


def load(
    path: str | Path,
    num_heads: int | None = None,
    time_as: Literal["token", "added"] = "token",
    cond_as: Literal["token", "added"] = "token",
) -> PointE:
    """Rebuild a point-e model from its state dict: base (unconditional, CLIP vector or grid), or up-sampler.

    Args:
        path: such as `base_40m_uncond.pt`.
        num_heads: of the attention; one for 64 channels by default, as in all released files.
        time_as: how the time enters; a token in all released files.
        cond_as: how a vector enters, likewise.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        InputError: the file is missing, truncated, damaged, would run code, or is no such model; keys left over or
            missing are listed.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected a point-e checkpoint (.pt)")
    weights = load_without_code(path)
    if not fits(weights):
        raise InputError(
            f"{path}: expected a state dict with backbone.resblocks.* and input_proj, as point-e saves it"
        )
    check_named_tensors(weights, str(path))
    try:
        return from_weights(weights, num_heads, time_as, cond_as)
    except InputError as error:
        raise error.within(path) from None


def fits(weights: Any) -> bool:
    """Tell whether what a file holds is laid out as point-e's diffusion models are."""
    return isinstance(weights, Mapping) and {"input_proj.weight", "output_proj.weight", "ln_pre.weight"} <= set(
        weights
    )


def from_weights(
    weights: Mapping[str, Tensor],
    num_heads: int | None = None,
    time_as: Literal["token", "added"] = "token",
    cond_as: Literal["token", "added"] = "token",
) -> PointE:
    """Rebuild a model from a state dict; arguments and errors as for `load`."""
    net = net_from_weights(weights, num_heads, time_as, cond_as)
    if net.point_dim != len(SCALES):
        raise InputError(f"expected points with colors, {len(SCALES)} channels, got {net.point_dim}")
    for name, known in (("channel_scales", SCALES), ("channel_biases", BIASES)):
        if name in weights and not torch.allclose(weights[name].double(), torch.tensor(known, dtype=torch.float64)):
            raise InputError(f"{name} must be {known}, got {weights[name].tolist()}")
    upsampler = net.config.point_tokens
    process = ProcessConfig(name="ddpm", num_steps=STEPS, time_input="step", schedule="cosine")
    if upsampler:
        rates = {"beta_1": 1e-4 * 1000 / STEPS, "beta_T": 0.02 * 1000 / STEPS}
        process = ProcessConfig(name="ddpm", num_steps=STEPS, time_input="step", schedule="linear", **rates)
    sampling = SamplingConfig(sampler="heun", num_steps=64, grid="edm", churn=None if upsampler else 3.0)
    model = PointE(net, process, sampling, sigma_max=160.0 if upsampler else 120.0)
    run = RunConfig(
        preset="own",
        sample_points=3072 if upsampler else 1024,
        model=with_part(ModelConfig(kind="direct"), "net", "set_transformer", **vars(net.config)),
        process=process,
        sampling=sampling,
        data=DataConfig(normalization="none"),
    )
    model.metadata = {"config": json.loads(to_json(run))}
    return model.eval()


def net_from_weights(
    weights: Mapping[str, Tensor],
    num_heads: int | None = None,
    time_as: Literal["token", "added"] = "token",
    cond_as: Literal["token", "added"] = "token",
) -> SetTransformer:
    """Rebuild the net alone, of any number of channels; arguments and errors as for `load`."""
    lift, vector, grid = (weights.get(f"{name}.weight") for name in ("input_proj", "clip_embed", "clip_embed.0"))
    layers = [int(match[1]) for key in weights if (match := _BLOCK.fullmatch(key))]
    if lift is None or lift.dim() != 2 or not layers:
        raise InputError("does not fit a point-e model: input_proj.weight (width, channels) or blocks are missing")
    width = lift.shape[0]
    config = SetTransformerConfig(
        attention="full",
        width=width,
        depth=1 + max(layers),
        num_heads=max(width // 64, 1) if num_heads is None else num_heads,
        mlp_ratio=4,
        activation="gelu",
        time_as=time_as,
        cond_as=cond_as,
        cond_unit_norm=vector is not None,
        token_dim=0 if grid is None else len(grid),
        point_tokens="cond_point_proj.weight" in weights,
        learned_variance=True,
    )
    cond_dim = vector.shape[1] if vector is not None and vector.dim() == 2 else 0
    net = built_for(weights, lambda: SetTransformer(config, cond_dim, lift.shape[1]))
    put_weights(net, translate(weights, config.num_heads), "a point-e model")
    return net.eval()


def translate(weights: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Rename the keys, and order the rows of each attention's first matrix as ours; the rest keeps its name."""
    out: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key in ("channel_scales", "channel_biases"):
            continue
        place, _, kind = key.rpartition(".")
        if match := _BLOCK.fullmatch(place):
            name = _IN_BLOCK.get(match[2])
            if name == "qkv" and len(value) % (3 * num_heads) == 0:
                # theirs: head by head its queries, keys and values; ours: all queries, all keys, all values
                value = value.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)
            out[key if name is None else f"layers.{match[1]}.{name}.{kind}"] = value
        else:
            out[f"{_OUTSIDE[place]}.{kind}" if place in _OUTSIDE else key] = value
    return out
