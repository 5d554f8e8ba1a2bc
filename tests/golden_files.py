"""Golden files: found by pattern, skipped aloud where absent, and settings that only their numbers tell."""

import json

import numpy as np
import pytest
import torch

from pcdiff.diffusion import build_process, discrete_process


def found(golden, *patterns):
    """Return the files of these patterns, or skip, naming what is absent."""
    paths = sorted(path for pattern in patterns for path in golden.glob(pattern))
    if not paths:
        pytest.skip(f"no {' or '.join(patterns)} under {golden}")
    return paths


def tables(golden, pattern):
    """Return the arrays of every file of a pattern, by its name, or skip."""
    return {path.stem: dict(np.load(path)) for path in found(golden, pattern)}


def load(golden, pattern):
    """Return the arrays of the one file of a pattern, or skip."""
    (table,) = tables(golden, pattern).values()
    return table


def tensors(golden, pattern):
    """Return the one file's numbers as tensors and its texts as they are, or skip."""
    return {
        key: torch.from_numpy(np.asarray(v)) if v.dtype.kind in "fi" else str(v)
        for key, v in load(golden, pattern).items()
    }


def arrays_of(path):
    """Return as tensors what was recorded of a checkpoint, `<name>_io.npz` beside it."""
    return {key: torch.as_tensor(v) for key, v in np.load(path.with_name(f"{path.stem}_io.npz")).items()}


def classes_of(io):
    """Return the classes `(B,)` that a net was asked with, or None."""
    return next((io[key] for key in ("y", "class_labels", "classes", "labels") if key in io), None)


def adm_settings(path):
    """Return ADM's constructor arguments beside a checkpoint, with those that the note about its making holds."""
    settings = json.loads(path.with_suffix(".json").read_text())
    note = settings.get("_note", {})
    return {**({"conv_resample": note["conv_resample"]} if "conv_resample" in note else {}), **settings}


def chain_length(table):
    """Return T of ADM's table: its loss RESCALED_KL is T times KL, both in float32."""
    stems = [key.removesuffix(".RESCALED_KL.loss") for key in table if key.endswith(".RESCALED_KL.loss")]
    if not stems:
        pytest.skip("no RESCALED_KL beside KL: the chain's length is not told")
    ratio = float(
        np.median(np.concatenate([table[f"{s}.RESCALED_KL.loss"] / table[f"{s}.KL.loss"] for s in stems]))
    )
    assert abs(ratio / round(ratio) - 1) < 1e-6
    return round(ratio)


def etas(table, suffix):
    """Return the etas of ADM's DDIM runs of a file, from keys `ddim.eta<eta>.<suffix>`."""
    names = [key.removeprefix("ddim.eta").removesuffix(f".{suffix}") for key in table if key.endswith(f".{suffix}")]
    return sorted(float(name) for name in names if name.replace(".", "").isdigit())


def solver_error(table, state, evaluations, order_stages=6):
    """Return what an adaptive solver may be off: the tolerances' share of each of its steps, added up.

    A step's error is at most `atol + rtol |x|` by the solver's own estimate, in root mean square over the state;
    one coordinate has at most sqrt(size) of it, and a step takes `order_stages` evaluations at least. Between two
    components of a mixture the flow pulls states apart: it may stretch an early error tenfold.
    """
    size = float(state.abs().max())
    each = float(table["atol"]) + float(table["rtol"]) * size
    return 10 * each * max(1, int(evaluations) / order_stages) * state[0].numel() ** 0.5


def adm_chain(schedule, steps):
    """Build ADM's chain: its linear betas are DDPM's of a thousand steps, scaled to the length."""
    return discrete_process(schedule, steps, 0.1 / steps, 20 / steps)


def score_sde_process(kind, table):
    """Build score_sde's process of a file's settings."""
    names = ("sigma_min", "sigma_max") if kind == "ve" else ("beta_min", "beta_max")
    scales = {"num_scales": int(table["N"])} if "N" in table else {}
    return build_process(kind, **scales, **{name: float(table[name]) for name in names})
