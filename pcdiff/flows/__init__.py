"""Normalizing flows: `flow(z) -> (w, log_det)`, `flow.inverse(w) -> (z, log_det)`, `flow.log_prob(z)`."""

from pcdiff.flows.cnf import ContinuousFlow
from pcdiff.flows.coupling import CouplingFlow
from pcdiff.flows.flow import Flow, standard_normal_log_prob

FLOWS: dict[str, type[Flow]] = {"coupling": CouplingFlow, "cnf": ContinuousFlow}

__all__ = ["FLOWS", "ContinuousFlow", "CouplingFlow", "Flow", "standard_normal_log_prob"]
