"""Rockets and missiles, standing on y = 0."""

from __future__ import annotations

import numpy as np

from pcdiff.data.procedural.geometry import MicroBatches, plate, revolve, turn


def _body_of_revolution(radius: float, low: float, high: float, nose: float) -> list[tuple[float, float]]:
    """Return the profile of a cylinder with an ogive on top."""
    t = np.linspace(0, 1, 9)
    ogive = [(radius * np.sqrt(max(1 - s**2, 0.0004)) ** 1.3, high - nose + nose * s) for s in t]
    return [(radius, low), *ogive]


def rocket(rng: np.random.Generator) -> MicroBatches:
    """Build one rocket or missile: stages, fins, nozzle, sometimes boosters."""
    parts = MicroBatches()
    radius, height = rng.uniform(0.045, 0.085), 1.0
    nose = rng.uniform(0.14, 0.28)
    base = rng.uniform(0.03, 0.08)
    profile = _body_of_revolution(radius, base, height, nose)
    if rng.random() < 0.4:  # a thinner upper stage
        joint, upper = rng.uniform(0.45, 0.6), radius * rng.uniform(0.6, 0.8)
        top = _body_of_revolution(upper, joint + 0.06, height, nose)
        profile = [(radius, base), (radius, joint), (upper, joint + 0.05), *top]
    parts.add(revolve(profile, columns=24))
    parts.add(revolve([(0.75 * radius, 0.0), (0.45 * radius, base)], columns=16, caps=False))
    fins = int(rng.integers(3, 5))
    span, chord = rng.uniform(0.8, 1.8) * radius, rng.uniform(0.12, 0.24)
    tip, sweep = rng.uniform(0.3, 0.8) * chord, rng.uniform(-0.02, 0.1)
    outline = np.array([(0.95 * radius, base), (0.95 * radius, base + chord), (radius + span, base - sweep + tip)])
    outline = np.concatenate([outline, [(radius + span, base - sweep)]])
    fin = plate(outline, -0.004, 0.004, axis="z")
    for k in range(fins):
        parts.add(turn(fin, "y", 2 * np.pi * k / fins))
    boosters = int(rng.choice([0, 0, 0, 2, 4]))
    size, tall = rng.uniform(0.45, 0.65) * radius, rng.uniform(0.4, 0.6)
    for k in range(boosters):
        angle = 2 * np.pi * k / boosters + np.pi / fins
        away = 1.02 * (radius + size)
        place = (away * np.cos(angle), 0.0, away * np.sin(angle))
        parts.add(revolve(_body_of_revolution(size, 0.02, tall, 0.1), place, columns=16))
    return parts
