"""Sizes of a model of clouds: encoder, latent prior, denoising net and chain."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """What is built: encoder, prior, denoising chain. The defaults are DPM's (field names as in the paper)."""

    kind: Literal["flow", "gaussian", "autoencoder"] = "flow"
    """Latent prior: `flow` (normalizing flow), `gaussian` (KL to N(0, I)), or `autoencoder` (plain code)."""
    latent_dim: int = 256
    """Size F of the shape latent."""
    encoder_widths: tuple[int, ...] = (128, 128, 256, 512)
    """Output widths of PointNet's pointwise layers."""
    encoder_head_widths: tuple[int, ...] = (256, 128)
    """Hidden widths of PointNet's heads for mean and log-variance."""
    flow: Literal["coupling", "cnf"] = "coupling"
    """The flow prior: `coupling` (affine coupling layers, the paper's) or `cnf` (continuous flow, an ODE)."""
    flow_depth: int = 14
    """Coupling layers of the flow prior (layers)."""
    flow_hidden_dim: int = 256
    """Hidden width of a coupling layer."""
    cnf_widths: tuple[int, ...] = (256, 256)
    """Hidden widths of the continuous flow's velocity."""
    cnf_time: float = 0.5
    """Time that the continuous flow runs from latent to base."""
    cnf_trace: Literal["rademacher", "gaussian", "exact"] = "rademacher"
    """Trace of the continuous flow in training: estimated with one probe of signs or normal numbers, or exact."""
    cnf_tolerance: float = 1e-5
    """Relative and absolute tolerance of the continuous flow's solver."""
    net_widths: tuple[int, ...] = (128, 256, 512, 256, 128)
    """Hidden widths of the pointwise denoising net."""
    residual: bool = True
    """Add the denoising net's input to its output."""
    frequencies: int = 0
    """Octaves of sines and cosines fed to the denoising net beside each coordinate; the paper has none."""
    time_input: Literal["beta", "index", "log_snr"] = "beta"
    """How the denoising net is told the time: beta_t (the paper), t, or the log signal-to-noise ratio over 4."""
    num_steps: int = 100
    """Length T of the diffusion chain (steps)."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the chain's variances grow."""
    beta_1: float = 1e-4
    """First variance of the linear schedule."""
    beta_T: float = 0.02
    """Last variance of the linear schedule."""
