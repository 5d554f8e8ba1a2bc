"""PVD's and TIGER's golden files: each checkpoint with the model that we make of it, and what was recorded."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from golden_files import found
from torch import Tensor

from pcdiff.config import ProcessConfig
from pcdiff.interop import pvd
from pcdiff.models import PointCloudModel
from pcdiff.nets import PVCNNConfig


def net_config(settings: dict[str, Any], completion: bool = False) -> PVCNNConfig:
    """Return our config of the constructor arguments and block tables of PVD's (or TIGER's) net."""
    made, branch = settings["constructor"], settings.get("branch")
    wider = made.get("width_multiplier", 1)
    down, up = made["sa_blocks"], made["fp_blocks"]
    conv = [block[0] or (0, 0, 0) for block in down]
    back = [block[1] or (0, 0, 0) for block in up]
    config = PVCNNConfig(
        down_channels=tuple(int(wider * width) for width, _, _ in conv),
        down_blocks=tuple(count for _, count, _ in conv),
        down_resolutions=tuple(resolution for _, _, resolution in conv),
        centers=tuple(block[1][0] for block in down),
        radii=tuple(block[1][1] for block in down),
        neighbors=tuple(block[1][2] for block in down),
        down_widths=tuple(_text(block[1][3], wider) for block in down),
        up_widths=tuple(_text(block[0], wider) for block in up),
        up_blocks=tuple(count for _, count, _ in back),
        up_resolutions=tuple(resolution for _, _, resolution in back),
        time_dim=made["embed_dim"],
        head_width=int(128 * wider),
        dropout=made["dropout"],
        attention_levels=(1,) if made["use_att"] else (),
        global_attention=made["use_att"] and branch is None,
        gate_after_attention=not completion,
    )
    if branch is None:
        return config
    sizes = {"branch_width": branch["hidden_size"], "branch_heads": branch["num_heads"]}
    return replace(config, branch_depth=branch["depth"], **sizes)


def _text(values: list[int], wider: float) -> str:
    return ",".join(str(int(wider * value)) for value in values)


def chain_config(schedule: dict[str, Any]) -> ProcessConfig:
    """Return our chain of PVD's `schedule_type` (linear, or warm0.1: the share of the rise), ends and length."""
    kind = schedule["schedule_type"]
    warm = re.fullmatch(r"warm([\d.]+)", kind)
    config = ProcessConfig(
        name="ddpm",
        schedule="warm" if warm else kind,
        num_steps=schedule["time_num"],
        beta_1=schedule["beta_start"],
        beta_T=schedule["beta_end"],
        time_input="step",
    )
    return replace(config, warm=float(warm[1])) if warm else config


@dataclass
class Case:
    """One checkpoint.

    Attributes:
        name: such as `pvd/gen`.
        settings: its JSON.
        weights: its state dict by PVD's names.
        io: what was recorded.
    """

    name: str
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    io: dict[str, Any]

    @property
    def given(self) -> int:
        """How many points stay clean: of completion alone."""
        return self.settings["constructor"].get("svpoints", 0)

    def model(self, dtype: torch.dtype = torch.float32, schedule: str = "long_schedule") -> PointCloudModel:
        """Return our model of it, with its own chain of that name."""
        chain = self.settings.get(schedule, {"schedule_type": "linear", **_TIGERS})
        model = pvd.from_weights(self.weights, chain_config(chain), net_config(self.settings, bool(self.given)))
        model.denoiser.variance = {"fixedlarge": "large"}.get(
            self.settings["constructor"].get("model_var_type"), "small"
        )
        return model.to(dtype)

    def condition(self, clouds: Tensor) -> dict[str, Tensor] | None:
        """Return what our net is conditioned on for clouds `(B, N, 3)`: the first points, of completion."""
        return {"given": clouds[:, : self.given]} if self.given else None

    def clouds(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return recorded clouds `(..., 3, N)` as ours, `(..., N, 3)`."""
        return self.io[name].transpose(-1, -2).to(dtype).contiguous()


_TIGERS = {"beta_start": 1e-4, "beta_end": 0.02, "time_num": 1000}


def case_of(golden, name):
    """Return the checkpoint of that name, or skip."""
    (path,) = found(golden, f"3d/nets/{name}.pt")
    weights = torch.load(path, weights_only=True)["model_state"]
    return Case(name, json.loads(path.with_suffix(".json").read_text()), weights, recorded(path))


def recorded(path):
    """Return the arrays beside a checkpoint: numbers as tensors, names as they are."""
    arrays = np.load(path.with_name(f"{path.stem}_io.npz"))
    return {key: arrays[key] if arrays[key].dtype.kind == "U" else torch.from_numpy(arrays[key]) for key in arrays}


def close(ours: Tensor, theirs: Tensor, rtol: float) -> None:
    """Compare within rtol of the largest value."""
    assert ours.shape == theirs.shape
    error = (ours.to(theirs.dtype) - theirs).abs().max()
    assert error <= rtol * theirs.abs().max(), float(error / theirs.abs().max())
