"""Counter-based randomness: a draw depends on the seed and on what it is for, never on what was drawn before."""

import hashlib

import torch


def generator(seed: int, *keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends on `seed` and `keys` alone.

    A training step that takes its noise from `generator(seed, "noise", step)` gives the same numbers whether the
    run was stopped before that step or not, so a resumed run needs no saved generator state.

    Args:
        seed: the run's seed.
        keys: what the draw is for: a name, a step, an index.
        device: where the draws are made.

    Returns:
        A fresh generator on `device`.
    """
    return torch.Generator(device=device).manual_seed(number(seed, *keys))


def number(seed: int, *keys: int | str) -> int:
    """Return 64 bits, signed, that depend on `seed` and `keys` alone."""
    text = ":".join(str(key) for key in (seed, *keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
