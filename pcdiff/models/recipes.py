"""Denoisers as the papers have them, of any net over any data `(B, *dims)`, in one call each."""

from torch import nn

from pcdiff.diffusion import NetDenoiser, build_process, parametrization


def edm_denoiser(
    net: nn.Module, sigma_data: float = 0.5, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> NetDenoiser:
    """Return EDM's preconditioned denoiser (Karras et al., 2022, table 1).

    Train it on the objective `edm` or `regression` at `log_normal` times; sample with `heun` in 18 steps.

    Args:
        net: `net(x, c_noise, cond) -> out`, like `x`.
        sigma_data: standard deviation of the data.
        sigma_min: smallest noise level of the sampler.
        sigma_max: largest noise level.

    Example:
        >>> from pcdiff.diffusion import Sampler
        >>> clouds = Sampler("heun", num_steps=18)(edm_denoiser(net), (4, 64, 3))
    """
    process = build_process("edm", sigma_min=sigma_min, sigma_max=sigma_max)
    return NetDenoiser(net, process, parametrization("edm", sigma_data=sigma_data), "edm")


def flow_matching_denoiser(net: nn.Module, time_input: str = "t") -> NetDenoiser:
    """Return a net that predicts the velocity of rectified flow (Liu et al., 2023; Lipman et al., 2023).

    Train it on the objective `flow`; sample with `heun` and `variable="t"`.

    Args:
        net: `net(x, tau, cond) -> dx/dt`, like `x`.
        time_input: what tau is, a key of `pcdiff.diffusion.TIME_INPUTS`.
    """
    return NetDenoiser(net, build_process("rectified_flow"), "velocity", time_input)


def ddpm_denoiser(net: nn.Module, num_steps: int = 1000, schedule: str = "linear") -> NetDenoiser:
    """Return a net that predicts the noise in a DDPM chain (Ho et al., 2020); it receives the step from 0.

    Train it on the objective `simple`; sample with `ancestral`, or `ddim` in fewer steps.

    Args:
        net: `net(x, step, cond) -> eps`, like `x`.
        num_steps: length of the chain.
        schedule: how its variances grow, `linear` or `cosine`.
    """
    return NetDenoiser(net, build_process("ddpm", num_steps=num_steps, schedule=schedule), "eps", "step")
