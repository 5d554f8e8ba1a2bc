"""Guitars, acoustic and electric. They stand upright, facing -z."""

from __future__ import annotations

import numpy as np

from pcdiff.data.procedural.geometry import MicroBatches, box, loft, plate, tube, wheel


def guitar(rng: np.random.Generator) -> MicroBatches:
    """Build one acoustic or electric guitar: a waisted body, neck, headstock, pegs and bridge."""
    parts = MicroBatches()
    acoustic = rng.random() < 0.55
    lower, upper = rng.uniform(0.36, 0.42), rng.uniform(0.27, 0.31)
    waist, tall = rng.uniform(0.21, 0.25), rng.uniform(0.45, 0.52)
    depth = rng.uniform(0.085, 0.12) if acoustic else rng.uniform(0.035, 0.05)
    knots = [0.0, 0.03, 0.12, 0.28, 0.42, 0.56, 0.7, 0.82, 0.92, 0.975, 1.0]
    widths = [0.2 * lower, 0.5 * lower, 0.86 * lower, lower, 0.9 * lower, 1.05 * waist, 0.93 * upper]
    widths += [upper, 0.85 * upper, 0.55 * upper, 0.25 * upper]
    y = np.linspace(0, 1, 30)
    half = 0.5 * np.interp(y, knots, widths)
    right, left = half.copy(), half.copy()
    if not acoustic or rng.random() < 0.3:  # a cutaway on one side, a horn on the other
        cut = np.clip((y - 0.8) / 0.2, 0, 1)
        right = right * (1 - 0.75 * cut**0.7)
        right = np.maximum(right, 0.03)
    sections = np.empty((len(y), 4, 3))
    sections[..., 1] = (y * tall)[:, None]
    sections[:, [0, 3], 0], sections[:, [1, 2], 0] = -left[:, None], right[:, None]
    sections[:, :2, 2], sections[:, 2:, 2] = -depth / 2, depth / 2
    parts.add(loft(sections))
    if not acoustic:  # two horns beside the neck
        horn = rng.uniform(0.06, 0.11)
        outline = [(-0.12, 0.8 * tall), (-0.05, 0.93 * tall), (-0.09, tall + horn), (-0.135, 0.95 * tall)]
        parts.add(plate(np.array(outline), -depth / 2, depth / 2, axis="z"))

    neck, scale = rng.uniform(0.045, 0.058), rng.uniform(0.36, 0.46)
    front = -depth / 2 - 0.008
    nut = tall + scale
    parts.add(box((neck, nut - 0.62 * tall, 0.03), (0, (nut + 0.62 * tall) / 2, front)))
    head, flare = rng.uniform(0.14, 0.18), rng.uniform(1.35, 1.7)
    narrow, wide = neck / 2, flare * neck / 2
    outline = [(-narrow, nut), (narrow, nut), (wide, nut + head), (-wide, nut + head)]
    parts.add(plate(np.array(outline), front - 0.008, front + 0.012, axis="z"))
    sides = (-1, 1) if rng.random() < 0.65 else (-1,)
    bass = not acoustic and rng.random() < 0.3  # four strings, not six
    pegs = (2 if bass else 3) * (1 if len(sides) == 2 else 2)
    for s in sides:
        for k in range(pegs):
            level = nut + head * (k + 0.6) / pegs
            edge = 0.5 * neck * (1 + (flare - 1) * (k + 0.6) / pegs)
            peg = np.array([(s * edge, level, front), (s * (edge + 0.03), level, front)])
            parts.add(tube(peg, [0.008, 0.012], 6))
    parts.add(box((rng.uniform(0.12, 0.17), 0.03, 0.014), (0, 0.24 * tall, -depth / 2 - 0.005)))
    if acoustic:  # the rosette round the sound hole
        vertices, faces = wheel(0.052, 0.006, (0, 0, 0))
        parts.add((vertices[:, [1, 2, 0]] + np.array([0, 0.55 * tall, -depth / 2 - 0.002]), faces))
    else:
        for level in np.linspace(0.36, 0.58, int(rng.integers(1, 4))):
            parts.add(box((0.09, 0.022, 0.012), (0, level * tall, -depth / 2 - 0.004)))
    return parts
