"""Cars: sedans, hatchbacks, estates, vans, pickups and sports cars. The bonnet points along -z; meters."""

from __future__ import annotations

import numpy as np

from pcdiff.data.procedural.geometry import MicroBatches, box, loft, wheel

# Silhouettes as (fraction of the length from the nose, roof line between 0 = bonnet and 1 = roof), and the
# ranges of length, width, roof height, and bonnet height as a fraction of the roof height.
_STYLES = {
    "sedan": ([(0.28, 0), (0.42, 1), (0.68, 1), (0.84, 0.05)], (4.3, 5.0), (1.75, 1.9), (1.4, 1.5), 0.62),
    "hatchback": ([(0.26, 0), (0.4, 1), (0.84, 0.97), (0.98, 0.25)], (3.6, 4.2), (1.65, 1.8), (1.45, 1.6), 0.62),
    "estate": ([(0.27, 0), (0.4, 1), (0.93, 0.96), (0.99, 0.3)], (4.4, 5.0), (1.8, 1.95), (1.5, 1.75), 0.62),
    "van": ([(0.08, 0), (0.26, 1), (0.97, 1), (0.99, 0.5)], (4.4, 5.4), (1.85, 2.05), (1.9, 2.3), 0.5),
    "pickup": ([(0.27, 0), (0.37, 1), (0.55, 1), (0.59, 0.0)], (4.8, 5.6), (1.85, 2.05), (1.65, 1.9), 0.6),
    "sports": ([(0.36, 0), (0.53, 1), (0.64, 1), (0.92, 0.12)], (4.2, 4.7), (1.8, 2.0), (1.1, 1.25), 0.66),
}


def car(rng: np.random.Generator) -> MicroBatches:
    """Build one car: a single skin from bonnet to boot, four wheels, bumpers and mirrors."""
    parts = MicroBatches()
    style = rng.choice(list(_STYLES), p=[0.3, 0.18, 0.14, 0.12, 0.12, 0.14])
    line, lengths, widths, heights, low_share = _STYLES[style]
    length, width, height = (rng.uniform(*limits) for limits in (lengths, widths, heights))
    bonnet = height * (low_share + rng.uniform(-0.03, 0.03))
    radius = rng.uniform(0.29, 0.34) * (1.15 if style == "pickup" else 1.0)
    floor = 0.85 * radius
    waist = bonnet + rng.uniform(-0.01, 0.03)

    at, level = np.array(line).T
    at = at + rng.uniform(-0.015, 0.015, size=len(at))
    fraction = np.unique(np.concatenate([[0, 0.02, 0.08], at, np.linspace(0.1, 0.95, 14), [0.98, 1]]).clip(0, 1))
    roof = np.interp(fraction, at, level)
    nose = 1 - 0.22 * np.clip(1 - fraction / 0.1, 0, 1) ** 1.5  # the bonnet drops to the bumper
    tail = 1 - 0.12 * np.clip((fraction - 0.95) / 0.05, 0, 1) ** 1.5
    top = (bonnet + (height - bonnet) * roof) * nose * tail
    belt = np.minimum(np.full_like(top, waist) * nose * tail, top)
    plan = 1 - 0.14 * np.clip(1 - fraction / 0.12, 0, 1) ** 2 - 0.08 * np.clip((fraction - 0.9) / 0.1, 0, 1) ** 2
    half = width / 2 * plan
    # The glasshouse leans in as it rises; on the bonnet the top is nearly as wide as the sides.
    lean = 1 - 0.08 - rng.uniform(0.12, 0.2) * roof * (0.5 if style == "van" else 1.0)
    sections = np.empty((len(fraction), 10, 3))
    sections[..., 2] = (length * (fraction - 0.5))[:, None]
    sill = floor + 0.12
    ring = [(0.86, floor), (0.98, sill), (1.0, (sill + belt) / 2), (0.99, belt), (lean, top)]  # up the right side
    for k, (out, y) in enumerate(ring):
        x = out * half
        sections[:, k, 0], sections[:, 9 - k, 0] = x, -x
        sections[:, k, 1] = sections[:, 9 - k, 1] = y
    parts.add(loft(sections))
    parts.hide((-0.42 * width, floor + 0.02, -0.45 * length), (0.42 * width, 0.8 * bonnet, 0.45 * length))

    tread = rng.uniform(0.19, 0.25)
    axle = width / 2 - tread / 2 + 0.03
    front, rear = rng.uniform(0.17, 0.2), rng.uniform(0.77, 0.82)
    for place in (front, rear):
        parts.add_mirrored(wheel(radius, tread, (axle, radius, length * (place - 0.5))))
    for z in (-0.5 * length, 0.5 * length):
        parts.add(box((0.78 * width, 0.13, 0.1), (0, floor + rng.uniform(0.12, 0.2), z)))
    windscreen = length * (at[0] + 0.06 - 0.5)
    parts.add_mirrored(box((0.16, 0.11, 0.09), (width / 2 + 0.05, waist + 0.08, windscreen)))
    if style == "pickup":  # the walls of the bed
        start, end = at[3] + 0.01, 0.985
        depth = (end - start) * length
        rail, z = rng.uniform(0.12, 0.2), length * ((start + end) / 2 - 0.5)
        parts.add_mirrored(box((0.06, rail, depth), (0.93 * width / 2, bonnet + rail / 2, z)))
        parts.add(box((0.9 * width, rail, 0.06), (0, bonnet + rail / 2, length * (end - 0.5))))
    elif style == "sports" and rng.random() < 0.6:  # a rear wing
        z, y = 0.46 * length, waist + rng.uniform(0.12, 0.2)
        parts.add(box((0.85 * width, 0.03, 0.24), (0, y, z)))
        parts.add_mirrored(box((0.03, y - 0.8 * waist, 0.16), (0.3 * width, (y + 0.8 * waist) / 2, z)))
    return parts
