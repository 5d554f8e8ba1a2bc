"""Priors of the latent: normalizing flows, `flow(z) -> (w, log_det)`, `flow.inverse(w) -> (z, log_det)`,
`flow.log_prob(z)`. A new prior is one file and one line here.
"""

from pcdiff.flows.base import Flow, standard_normal_log_prob
from pcdiff.flows.cnf import ContinuousConfig, ContinuousFlow
from pcdiff.flows.coupling import CouplingConfig, CouplingFlow
from pcdiff.flows.standard_normal import StandardNormal
from pcdiff.registry import Registry

PRIORS: Registry[type[Flow]] = Registry(
    "prior", {"coupling": CouplingFlow, "cnf": ContinuousFlow, "gaussian": StandardNormal}
)

__all__ = [
    "PRIORS",
    "ContinuousConfig",
    "ContinuousFlow",
    "CouplingConfig",
    "CouplingFlow",
    "Flow",
    "StandardNormal",
    "standard_normal_log_prob",
]
