"""Images through the same diffusion core as clouds: nets, data, other people's checkpoints, and the commands."""
