"""Configs of runs made by pcdiff 0.1, whose models were one chain, one net and one encoder: read as today's."""

from typing import Any

_OPTIONS = {
    "encoder": {"encoder_widths": "widths", "encoder_head_widths": "head_widths"},
    "net": {"net_widths": "widths", "residual": "residual", "frequencies": "frequencies"},
    "coupling": {"flow_depth": "depth", "flow_hidden_dim": "hidden_dim"},
    "cnf": {
        "cnf_widths": "widths",
        "cnf_time": "time_length",
        "cnf_trace": "trace",
        "cnf_tolerance": "tolerance",
    },
    "gaussian": {},
}
_PROCESS = ("time_input", "num_steps", "schedule", "beta_1", "beta_T")
_FIRST = {"flow", *_PROCESS, *(name for options in _OPTIONS.values() for name in options)}

FIRST_KINDS = {"flow": "coupling", "gaussian": "gaussian"}
"""Kinds of models that are now a latent's priors."""

RENAMED_FLAGS = {
    "--flow": "--prior",
    "--encoder-widths": "--encoder.widths",
    "--encoder-head-widths": "--encoder.head-widths",
    "--net-widths": "--net.widths",
    "--residual": "--net.residual",
    "--no-residual": "--net.no-residual",
    "--frequencies": "--net.frequencies",
    "--flow-depth": "--prior.depth",
    "--flow-hidden-dim": "--prior.hidden-dim",
    "--cnf-widths": "--prior.widths",
    "--cnf-time": "--prior.time-length",
    "--cnf-trace": "--prior.trace",
    "--cnf-tolerance": "--prior.tolerance",
    "--time-input": "--process.time-input",
    "--num-steps": "--process.num-steps",
    "--schedule": "--process.schedule",
    "--beta-1": "--process.beta-1",
    "--beta-T": "--process.beta-T",
    "--objective": "--objectives",
    "--process": "--process.name",
    "--predicts": "--process.predicts",
    "--sampler": "--sampling.sampler",
    "--guidance": "--sampling.guidance",
}
"""Short names of flags, most of them those of 0.1, each with the full name of today."""


def of_today(values: Any) -> Any:
    """Return a run's JSON config in today's layout; what is in it already, or is no config, comes back as it is."""
    if not isinstance(values, dict) or not isinstance(model := values.get("model", {}), dict):
        return values
    objective = values.get("objective", {})
    kind = model.get("kind")
    named = isinstance(kind, str) and kind in FIRST_KINDS
    first = "process" not in values and (set(model) & _FIRST or named)
    if isinstance(objective, dict) and "objective" in objective:
        objective = dict(objective)
        values = values | {"objective": objective}
        objective["objectives"] = [objective.pop("objective")]
    if not first:
        return values
    kind = "flow" if kind is None else kind
    flow = model.get("flow", "coupling") if kind != "gaussian" else "gaussian"
    known = _OPTIONS.get(flow, {}) if isinstance(flow, str) else {}
    today = {
        "kind": {"flow": "latent", "gaussian": "latent"}.get(kind, kind) if isinstance(kind, str) else kind,
        "prior": flow,
        "encoder_options": _renamed(model, _OPTIONS["encoder"]),
        "net_options": _renamed(model, _OPTIONS["net"]),
        "prior_options": _renamed(model, known),
    }
    rest = {name: value for name, value in model.items() if name not in _FIRST and name != "kind"}
    process = {"name": "ddpm", "schedule": "linear", "num_steps": 100, "beta_1": 1e-4, "beta_T": 0.02}
    process |= {"time_input": "beta"} | {name: model[name] for name in _PROCESS if name in model}
    return values | {"model": rest | today, "process": process}


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {new: values[old] for old, new in names.items() if old in values}
