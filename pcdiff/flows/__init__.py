"""Normalizing flows: `flow(z) -> (w, log_det)`, `flow.inverse(w) -> (z, log_det)`, `flow.log_prob(z)`."""

from pcdiff.flows.coupling import CouplingFlow, standard_normal_log_prob

__all__ = ["CouplingFlow", "standard_normal_log_prob"]
