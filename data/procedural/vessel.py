"""Vessels: sailing boats, cargo ships, warships, liners and motor yachts. The bow points along -z."""

from __future__ import annotations

import numpy as np

from pcdiff.data.procedural.geometry import MicroBatches, Surface, beam, box, loft, plate, revolve, tube


def _hull(
    rng: np.random.Generator, width: float, draught: float, freeboard: float, bow: float, full: float
) -> Surface:
    """Return a decked hull of length 1 along z, the water line at y = 0.

    `bow` is the share of the length over which it narrows, `full` how much of its width the stern keeps.
    """
    fraction = np.linspace(0, 1, 22) ** 1.2
    entry = np.clip(fraction / bow, 0.0, 1)
    half = 0.5 * width * (1 - (1 - entry) ** 2) ** 0.8
    half *= 1 - (1 - full) * np.clip((fraction - 0.7) / 0.3, 0, 1) ** 2
    half = np.maximum(half, 0.012 * width)
    sheer = freeboard * (1 + rng.uniform(0.3, 0.7) * (1 - entry) ** 2)
    depth = draught * (1 - 0.75 * (1 - entry) ** 2)
    rake = rng.uniform(0.04, 0.1) * (1 - entry) ** 2  # the stem leans forward above the water
    sections = np.empty((len(fraction), 7, 3))
    spots = [(0.0, -1.0), (0.62, -0.85), (0.9, -0.2), (1.0, 1.0)]
    ring = [*spots, *((-x, y) for x, y in spots[:0:-1])]
    for k, (x, y) in enumerate(ring):
        sections[:, k, 0] = x * half
        sections[:, k, 1] = np.where(y > 0, y * sheer, y * depth)
        sections[:, k, 2] = fraction - 0.5 - rake * (y + 1) / 2
    return loft(sections)


def _sailing_boat(rng: np.random.Generator) -> MicroBatches:
    parts = MicroBatches()
    width, deck = rng.uniform(0.22, 0.3), rng.uniform(0.06, 0.09)
    parts.add(_hull(rng, width, rng.uniform(0.06, 0.1), deck, 0.6, rng.uniform(0.6, 0.8)))
    first, masts = rng.uniform(0.85, 1.2), int(rng.choice([1, 1, 2]))
    for k in range(masts):
        tall = first * (1 - 0.25 * k)
        z = (-0.08, 0.24)[k] if masts == 2 else rng.uniform(-0.1, 0.0)
        parts.add(tube(np.array([(0, deck, z), (0, deck + tall, z)]), [0.012, 0.007], 8))
        boom, foot = rng.uniform(0.26, 0.42) / masts**0.5, deck + 0.08
        parts.add(beam((0, foot, z), (0, foot, z + boom), 0.012))
        # Outlines in (z, y): the main sail behind the mast, and a jib in front of the first.
        main = np.array([(z, foot), (z + boom, foot), (z, deck + 0.97 * tall)])
        parts.add(plate(main, -0.003, 0.003, axis="x"))
        if k == 0:
            hoist = rng.uniform(0.6, 0.85)
            jib = np.array([(z - 0.02, deck + hoist * tall), (z - 0.03, deck + 0.08), (-0.47, deck + 0.05)])
            parts.add(plate(jib, -0.003, 0.003, axis="x"))
    keel = np.array([(-0.08, -0.03), (0.12, -0.03), (0.1, -0.2), (0.0, -0.2)])
    parts.add(plate(keel, -0.01, 0.01, axis="x"), box((0.45 * width, 0.04, 0.25), (0, deck + 0.02, 0.12)))
    return parts


class _Ship(MicroBatches):
    """A hull and the structures on its deck."""

    def __init__(self, rng: np.random.Generator, widths: tuple, deck: float, bow: float) -> None:
        super().__init__()
        self.width, self.deck = rng.uniform(*widths), deck * rng.uniform(0.9, 1.2)
        self.add(_hull(rng, self.width, rng.uniform(0.05, 0.07), self.deck, bow, rng.uniform(0.7, 0.92)))

    def block(self, share: float, tall: float, long: float, y: float, z: float) -> float:
        """Add a deck house of a share of the ship's width on y, and return the height of its roof."""
        self.add_solid_box((share * self.width, tall, long), (0, y + tall / 2, z))
        return y + tall

    def funnel(self, y: float, z: float, radius: float, tall: float) -> None:
        """Add an open, slightly raked funnel."""
        path = np.array([(0, y, z), (0, y + tall, z + 0.15 * tall)])
        self.add(tube(path, [radius, 0.9 * radius], 12, caps=False))

    def mast(self, y: float, z: float, tall: float) -> None:
        """Add a thin upright pole."""
        self.add(tube(np.array([(0, y, z), (0, y + tall, z)]), [0.008, 0.005], 6))


def _cargo_ship(rng: np.random.Generator) -> MicroBatches:
    ship = _Ship(rng, (0.14, 0.18), 0.06, 0.2)
    house = rng.uniform(0.3, 0.38)
    roof = ship.block(0.85, rng.uniform(0.1, 0.16), 0.09, ship.deck, house)
    ship.block(1.0, 0.025, 0.05, roof, house)
    ship.funnel(ship.deck, house + 0.08, 0.022, rng.uniform(0.1, 0.14))
    bays = int(rng.integers(4, 7))
    bay = 0.58 / bays
    for k in range(bays):
        ship.block(0.88, rng.integers(1, 4) * 0.035, 0.85 * bay, ship.deck, -0.32 + bay * (k + 0.5))
    return ship


def _warship(rng: np.random.Generator) -> MicroBatches:
    ship = _Ship(rng, (0.1, 0.13), 0.05, 0.5)
    roof = ship.block(0.7, 0.06, rng.uniform(0.3, 0.4), ship.deck, 0.02)
    roof = ship.block(0.55, 0.05, rng.uniform(0.1, 0.14), roof, -0.08)
    ship.mast(roof, -0.06, rng.uniform(0.1, 0.16))
    ship.funnel(ship.deck + 0.06, 0.1, 0.024, 0.08)
    for z in (-0.27, 0.32) if rng.random() < 0.6 else (-0.3, -0.2, 0.3):
        ship.add(revolve([(0.034, 0), (0.034, 0.03), (0.024, 0.04)], (0, ship.deck, z), columns=14))
        barrel = np.array([(0.01, ship.deck + 0.03, z), (0.01, ship.deck + 0.04, z + np.sign(z) * 0.11)])
        ship.add_mirrored(tube(barrel, [0.005, 0.004], 6))
    return ship


def _liner(rng: np.random.Generator) -> MicroBatches:
    ship = _Ship(rng, (0.12, 0.15), 0.06, 0.35)
    roof, long = ship.deck, rng.uniform(0.62, 0.7)
    for level in range(int(rng.integers(2, 4))):
        roof = ship.block(0.92 - 0.1 * level, 0.04, long - 0.1 * level, roof, 0.03)
    funnels = int(rng.integers(1, 4))
    for k in range(funnels):
        ship.funnel(roof, 0.02 + 0.12 * (k - (funnels - 1) / 2), 0.026, rng.uniform(0.08, 0.11))
    ship.mast(ship.deck, -0.38, 0.16)
    ship.mast(ship.deck, 0.4, 0.14)
    return ship


def _yacht(rng: np.random.Generator) -> MicroBatches:
    ship = _Ship(rng, (0.22, 0.28), 0.08, 0.55)
    roof = ship.block(0.72, rng.uniform(0.06, 0.09), rng.uniform(0.42, 0.52), ship.deck, 0.08)
    roof = ship.block(0.58, rng.uniform(0.05, 0.07), rng.uniform(0.22, 0.3), roof, 0.06)
    side = 0.2 * ship.width
    ship.add_mirrored(beam((side, roof, 0.1), (side, roof + 0.06, 0.12), 0.012))
    ship.add(beam((-side, roof + 0.06, 0.12), (side, roof + 0.06, 0.12), 0.015))
    return ship


_VESSELS = (_sailing_boat, _cargo_ship, _warship, _liner, _yacht)


def vessel(rng: np.random.Generator) -> MicroBatches:
    """Build one vessel: sailing boat, cargo ship, warship, liner or motor yacht."""
    return _VESSELS[rng.integers(len(_VESSELS))](rng)
