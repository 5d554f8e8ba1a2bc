"""Denoisers: what a net's output means, what it is conditioned on, and how it is guided."""
