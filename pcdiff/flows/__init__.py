"""Priors of the latent: normalizing flows and a diffusion, `flow(z) -> (w, log_det)`, `flow.inverse(w) -> (z,
log_det)`, `flow.log_prob(z)`, `flow.sample(w)`. A new prior is one file and one line here.
"""

from pcdiff.flows.base import Flow, standard_normal_log_prob
from pcdiff.flows.cnf import ContinuousConfig, ContinuousFlow
from pcdiff.flows.coupling import CouplingConfig, CouplingFlow
from pcdiff.flows.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from pcdiff.flows.standard_normal import StandardNormal
from pcdiff.registry import Registry

PRIORS: Registry[type[Flow]] = Registry(
    "prior",
    {"coupling": CouplingFlow, "cnf": ContinuousFlow, "diffusion": DiffusionPrior, "gaussian": StandardNormal},
)

__all__ = [
    "PRIORS",
    "ContinuousConfig",
    "ContinuousFlow",
    "CouplingConfig",
    "CouplingFlow",
    "DiffusionPrior",
    "DiffusionPriorConfig",
    "Flow",
    "StandardNormal",
    "standard_normal_log_prob",
]
