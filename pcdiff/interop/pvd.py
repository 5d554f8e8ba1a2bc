"""Open the checkpoints of alexzhou907/PVD (Zhou, Du & Wu, ICCV 2021) and of TIGER (Ren et al., CVPR 2024).

Such a file is `{"epoch": ..., "model_state": ..., "optimizer_state": ...}`; it is opened without running any code
in it. Its settings are not in it: those of the published nets are taken, and the chain is the category's.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from pcdiff.config import DataConfig, ModelConfig, ProcessConfig, RunConfig, to_json
from pcdiff.config.pvd_presets import CHAINS, TIGER_NET
from pcdiff.errors import InputError
from pcdiff.models import PointCloudModel, build_model
from pcdiff.nets import PVCNNConfig
from pcdiff.nets.given_points import WithGivenPoints
from pcdiff.runtime.memory_limit import built_for
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.torch_files import check_named_tensors, load_without_code

PVD = PVCNNConfig()
GIVEN = 200
"""Points of a cloud that PVD's completion is given, of 2048."""

_VOXELS = {
    "0": "conv1",
    "1": "norm1",
    "4": "conv2",
    "5": "norm2",
    "6": "attention",
    "7.fc.0": "gate.squeeze",
    "7.fc.2": "gate.excite",
}
_FIRST_CONVOLUTION_ATTENDS = re.compile(r"sa_layers\.(\d+)\.0\.voxel_layers\.6\.q\.weight")
_RULES = [
    (
        r"sa_layers\.(\d+)\.(\d+)\.voxel_layers\.(\d(?:\.fc\.\d)?)",
        lambda m: f"down.{m[1]}.blocks.{m[2]}.{_VOXELS[m[3]]}",
    ),
    (
        r"fp_layers\.(\d+)\.(\d+)\.voxel_layers\.(\d(?:\.fc\.\d)?)",
        lambda m: f"up.{m[1]}.blocks.{_before(m[2])}.{_VOXELS[m[3]]}",
    ),
    (r"sa_layers\.(\d+)\.(\d+)\.point_features\.layers", r"down.\1.blocks.\2.points"),
    (r"fp_layers\.(\d+)\.(\d+)\.point_features\.layers", lambda m: f"up.{m[1]}.blocks.{_before(m[2])}.points"),
    (r"sa_layers\.(\d+)\.(?:\d+\.)?mlps\.0\.layers", r"down.\1.abstraction.mlp"),
    (r"fp_layers\.(\d+)\.(?:0\.)?mlp\.layers", r"up.\1.propagation.mlp"),
    (r"global_att", "attention"),
    (r"classifier\.0\.layers", "head.0"),
    (r"classifier", "head"),
    (r"embedf", "time"),
    (r"t_mask_op", "gate.mask"),
    (r"conv_remap", "gate.conv"),
    (r"tf_remap", "gate.transformer"),
    (r"feature_adjust", "gate.out"),
    (r"transformer\.proj", "branch.embed"),
    (r"transformer\.t_embedder\.mlp", "branch.time"),
    (r"transformer\.FinalLayer\.linear", "branch.out"),
    (r"transformer\.FinalLayer\.adaLN_modulation\.1", "branch.modulation"),
    (r"transformer\.blocks\.(\d+)\.attn\.pe_proj_1", r"branch.blocks.\1.bias.first"),
    (r"transformer\.blocks\.(\d+)\.attn\.pe_proj_2", r"branch.blocks.\1.bias.second"),
    (r"transformer\.blocks\.(\d+)\.attn\.(qkv|proj)", r"branch.blocks.\1.\2"),
    (r"transformer\.blocks\.(\d+)\.mlp\.fc1", r"branch.blocks.\1.mlp.0"),
    (r"transformer\.blocks\.(\d+)\.mlp\.fc2", r"branch.blocks.\1.mlp.2"),
    (r"transformer\.blocks\.(\d+)\.adaLN_modulation\.1", r"branch.blocks.\1.modulation"),
]
_COMPILED = [(re.compile(rf"{pattern}(?=\.)"), ours) for pattern, ours in _RULES]


def load(path: str | Path, category: str | None = None, net: PVCNNConfig | None = None) -> PointCloudModel:
    """Rebuild a PVD or TIGER generator, or PVD's model of completion, from its checkpoint.

    Args:
        path: a `*.pth` or `*.pt`.
        category: whose chain it was trained on, airplane, chair or car; by default the one that the file's name has
            as a word, or else its folder's.
        net: what the net is built of, where it is not as published.

    Returns:
        The model in evaluation mode, on the CPU. Its clouds are in PVD's normalization, `global`: the training
        clouds' mean and standard deviation, which the file does not hold.

    Raises:
        InputError: the file is missing, truncated, damaged, would run code, or is not PVD's; keys left over or
            missing are listed; or nothing tells the category.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected a PVD checkpoint (.pth)")
    checkpoint = load_without_code(path)
    if not fits(checkpoint):
        raise InputError(
            f"{path}: expected a dict with 'model_state' of sa_layers.* and fp_layers.*, as PVD saves it"
        )
    check_named_tensors(checkpoint["model_state"], f"{path}: model_state")
    chain = _chain(path, category)
    try:
        model = from_weights(checkpoint["model_state"], chain, net)
    except InputError as error:
        raise error.within(path) from None
    epoch = checkpoint.get("epoch")
    model.metadata["step"] = epoch if type(epoch) is int else None
    return model


def fits(checkpoint: Any) -> bool:
    """Tell whether what a file holds is laid out as PVD's and TIGER's checkpoints are."""
    weights = checkpoint.get("model_state") if isinstance(checkpoint, Mapping) else None
    return isinstance(weights, Mapping) and any("sa_layers." in str(key) for key in weights)


def _chain(path: Path, category: str | None) -> ProcessConfig:
    if category is not None:
        if category not in CHAINS:
            raise InputError(f"category must be one of {sorted(CHAINS)}, got {category!r}")
        return CHAINS[category]
    for name in (path.stem, path.absolute().parent.name):
        named = set(re.findall("[a-z]+", name.lower())) & set(CHAINS)
        if len(named) == 1:
            return CHAINS[named.pop()]
    raise InputError(
        f"{path}: does not say on which category's chain it was trained; "
        f"put one of {', '.join(CHAINS)} into its name"
    )


def from_weights(
    weights: Mapping[str, Tensor], process: ProcessConfig, net: PVCNNConfig | None = None
) -> PointCloudModel:
    """Rebuild a model from PVD's `model_state`.

    Args:
        weights: by PVD's names.
        process: what the net was trained on.
        net: what it is built of; as published by default.

    Raises:
        InputError: keys are left over or missing, or a shape does not fit.
    """
    names = {key: translate(key) for key in weights}
    net = published(weights) if net is None else net
    kind: Literal["direct", "completion"] = "direct" if net.gate_after_attention else "completion"
    run = RunConfig(
        preset="own",
        model=ModelConfig(kind=kind, num_given=GIVEN, net="pvcnn", net_options=net),
        process=process,
        data=DataConfig(normalization="global"),
    )
    model = built_for(weights, lambda: build_model(run))
    inner = net_of(model)
    own = inner.state_dict()
    left_over = sorted(key for key, name in names.items() if name not in own)
    missing = sorted(set(own) - set(names.values()))
    if left_over or missing:
        raise InputError(f"does not fit PVD's or TIGER's net; left over: {left_over}, missing: {missing}")
    for key, value in weights.items():
        # linear layers are convolutions of one place there
        if value.squeeze().shape != own[names[key]].squeeze().shape:
            expected = tuple(own[names[key]].shape)
            raise InputError(f"does not fit PVD's or TIGER's net: {key} is {tuple(value.shape)}, not {expected}")
    inner.load_state_dict({names[key]: value.reshape(own[names[key]].shape) for key, value in weights.items()})
    model.metadata = {"config": json.loads(to_json(run))}
    return model.eval()


def net_of(model: PointCloudModel) -> nn.Module:
    """Return a model's point-voxel net, which in a model of completion stands within another."""
    net: Any = model.denoiser.net
    return net.net if isinstance(net, WithGivenPoints) else net


def published(weights: Mapping[str, Tensor]) -> PVCNNConfig:
    """Return what the published net of this kind is built of: PVD's, PVD's of completion, or TIGER's."""
    keys = [_bare(key) for key in weights]
    if any(key.startswith("transformer.") for key in keys):
        return TIGER_NET
    attending = {match[1] for key in keys if (match := _FIRST_CONVOLUTION_ATTENDS.fullmatch(key))}
    gated = {level for level in attending if f"sa_layers.{level}.0.voxel_layers.7.fc.0.weight" in keys}
    # completion has no squeeze and excitation there, and drops half before its output
    return PVD if gated or not attending else replace(PVD, gate_after_attention=False, head_dropout=0.5)


def translate(key: str) -> str:
    """Return our name of one of PVD's or TIGER's keys; one that is unknown comes back as it is.

    Example:
        >>> translate("model.module.sa_layers.1.0.voxel_layers.7.fc.0.weight")
        'down.1.blocks.0.gate.squeeze.weight'
    """
    bare = _bare(key)
    for pattern, ours in _COMPILED:
        if match := pattern.match(bare):
            return (ours(match) if callable(ours) else match.expand(str(ours))) + bare[match.end() :]
    return bare


def _bare(key: str) -> str:
    return re.sub(r"^model\.(module\.)?", "", key)


def _before(index: str) -> int:
    """Return the index of a convolution in a level whose first module is another."""
    return int(index) - 1
