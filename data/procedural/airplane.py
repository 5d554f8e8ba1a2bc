"""Airplanes: airliners, business jets, propeller planes, gliders and fighters. The nose points along -z."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pcdiff.data.procedural.geometry import MicroBatches, Surface, ellipsoid, loft, tube

# A thin closed lens, as (chord fraction, half-thickness).
_FOIL = np.array([[0, 0], [0.12, 0.8], [0.4, 1], [0.75, 0.5], [1, 0], [0.75, -0.5], [0.4, -1], [0.12, -0.8]])


def _blade(
    root: tuple, root_chord: float, tip: tuple, tip_chord: float, thickness: float, upright: bool = False
) -> Surface:
    """Return a wing or fin from the leading edge at the root to that at the tip; the chord runs along +z."""
    sections = np.empty((2, len(_FOIL), 3))
    for section, edge, chord in zip(sections, (root, tip), (root_chord, tip_chord), strict=True):
        section[:] = edge
        section[:, 2] += _FOIL[:, 0] * chord
        section[:, 0 if upright else 1] += _FOIL[:, 1] * thickness * chord
    return loft(sections, cap_start=False)


def _add_fuselage(
    parts: MicroBatches, rng: np.random.Generator, radius: float, nose: float, tail: float, rise: float
) -> None:
    """Add a round body from z = -0.5 to 0.5 with a nose and a tail cone of the given lengths."""
    front = (1 - np.cos(np.linspace(0, np.pi / 2, 7))) * nose  # dense where the nose is blunt
    back = np.linspace(1 - tail, 1, 6)
    along = np.concatenate([front, back])
    taper = np.clip((along - (1 - tail)) / tail, 0, 1)
    profile = np.sqrt(np.clip(1 - (1 - np.minimum(along / nose, 1)) ** 2, 0.0016, 1))
    profile *= 1 - (1 - rng.uniform(0.12, 0.22)) * taper**1.5
    path = np.stack([np.zeros_like(along), rise * radius * taper**1.5, along - 0.5], axis=1)
    parts.add(tube(path, radius * profile, columns=14))
    core = 0.7 * radius  # the box inside the round middle: hides the wing roots
    parts.hide((-core, -core, nose - 0.5), (core, core, 0.5 - tail))


def _pod(center: tuple, radius: float, length: float) -> Surface:
    """Return an engine nacelle with an open inlet."""
    x, y, z = center
    path = np.array([[x, y, z], [x, y, z + 0.3 * length], [x, y, z + length]])
    return tube(path, [0.88 * radius, radius, 0.6 * radius], columns=10, caps=False)


def _add_propeller(add: Callable[..., None], rng: np.random.Generator, center: tuple, radius: float) -> None:
    """Add two to four blades and a spinner, through `parts.add` or `parts.add_mirrored`."""
    x, y, z = center
    blades, phase = rng.integers(2, 5), rng.uniform(0, np.pi)
    for k in range(blades):
        angle = phase + 2 * np.pi * k / blades
        tip = (x + radius * np.cos(angle), y + radius * np.sin(angle), z)
        add(tube(np.array([(x, y, z), tip]), [0.05 * radius, 0.09 * radius], 4, flatten=0.3))
    add(ellipsoid((0.16 * radius, 0.16 * radius, 0.22 * radius), center, 6, 8))


def _add_tail(
    parts: MicroBatches,
    rng: np.random.Generator,
    style: str,
    radius: float,
    rise: float,
    sweep: float,
    scale: float,
) -> None:
    """Add fin and stabilizers at the end of the body: conventional, T, or twin fins."""
    span, chord = scale * rng.uniform(0.15, 0.2), rng.uniform(0.11, 0.15)
    height, fin_chord = scale * rng.uniform(0.14, 0.2), rng.uniform(0.13, 0.18)
    lean = sweep * rng.uniform(0.9, 1.2) + 0.1
    end = 0.5 - rng.uniform(0.01, 0.03)
    base = rise * radius * 0.8
    thickness = 0.035
    z = end - fin_chord
    if style == "twin":
        x = rng.uniform(0.6, 1.0) * radius + 0.02
        out = rng.uniform(0.0, 0.05)
        foot, tip = (x, base, z), (x + out, base + 0.85 * height, z + 0.85 * height * lean)
        parts.add_mirrored(_blade(foot, fin_chord, tip, 0.5 * fin_chord, thickness, upright=True))
    else:
        foot, tip = (0, base + 0.3 * radius, z), (0, base + height, z + height * lean)
        parts.add(_blade(foot, fin_chord, tip, rng.uniform(0.45, 0.65) * fin_chord, thickness, upright=True))
    if style == "T":
        root = (0.0, base + height, z + height * lean - 0.02)
    else:
        root = (0.25 * radius, base, end - chord)
    tip = (span, root[1] + rng.uniform(0.0, 0.1) * span, root[2] + span * sweep)
    parts.add_mirrored(_blade(root, chord, tip, rng.uniform(0.4, 0.6) * chord, thickness))


@dataclass
class _Wing:
    """One of a pair of wings; lengths in units of the fuselage."""

    root: tuple[float, float, float]  # leading edge
    chord: float  # at the root
    span: float  # x of the tip
    sweep: float  # slope of the leading edge
    taper: float  # tip chord / root chord
    dihedral: float

    def at(self, fraction: float) -> tuple[tuple[float, float, float], float]:
        """Return leading edge and chord at a fraction of the way to the tip."""
        x, y, z = self.root
        out = fraction * (self.span - x)
        edge = (x + out, y + self.dihedral * out, z + self.sweep * out)
        return edge, self.chord * (1 + fraction * (self.taper - 1))

    def surface(self) -> Surface:
        """Return its skin, open where it meets the body."""
        (root, root_chord), (tip, tip_chord) = self.at(0.0), self.at(1.0)
        return _blade(root, root_chord, tip, tip_chord, 0.045)


def _jet(rng: np.random.Generator, business: bool) -> MicroBatches:
    parts = MicroBatches()
    radius = rng.uniform(0.045, 0.058) if business else rng.uniform(0.042, 0.062)
    rise = rng.uniform(0.3, 0.6)
    _add_fuselage(parts, rng, radius, rng.uniform(0.09, 0.16), rng.uniform(0.28, 0.38), rise)
    high = not business and rng.random() < 0.15
    wing = _Wing(
        root=(
            0.6 * radius,
            0.7 * radius if high else -0.55 * radius,
            rng.uniform(-0.08, 0.0) if business else rng.uniform(-0.16, -0.08),
        ),
        chord=rng.uniform(0.17, 0.24),
        span=rng.uniform(0.4, 0.52),
        sweep=rng.uniform(0.3, 0.5) if high else rng.uniform(0.4, 0.7),
        taper=rng.uniform(0.22, 0.35),
        dihedral=rng.uniform(-0.08, -0.02) if high else rng.uniform(0.05, 0.13),
    )
    parts.add_mirrored(wing.surface())
    tail = "T" if business or rng.random() < 0.12 else "conventional"
    _add_tail(parts, rng, tail, radius, rise, wing.sweep, rng.uniform(0.85, 1.1))
    size = rng.uniform(0.4, 0.55) * radius
    length = size * rng.uniform(4.2, 5.5)
    if tail == "T":
        parts.add_mirrored(_pod((radius + 1.15 * size, 0.45 * radius, rng.uniform(0.2, 0.26)), size, length))
        return parts
    for fraction in (0.3, 0.6) if rng.random() < 0.35 else (rng.uniform(0.28, 0.36),):
        (x, y, z), chord = wing.at(fraction)
        front = (x, y - 1.35 * size, z - 0.55 * length)
        pylon_foot = (x, front[1] + 0.8 * size, front[2] + 0.3 * length)
        parts.add_mirrored(
            _pod(front, size, length),
            _blade(pylon_foot, 0.6 * length, (x, y, z), 0.5 * chord, 0.04, upright=True),
        )
    return parts


def _propeller_plane(rng: np.random.Generator) -> MicroBatches:
    parts = MicroBatches()
    radius, rise = rng.uniform(0.055, 0.075), rng.uniform(0.2, 0.5)
    _add_fuselage(parts, rng, radius, rng.uniform(0.12, 0.2), rng.uniform(0.5, 0.62), rise)
    high = rng.random() < 0.5
    wing = _Wing(
        root=(0.6 * radius, 0.95 * radius if high else -0.6 * radius, rng.uniform(-0.28, -0.2)),
        chord=rng.uniform(0.17, 0.23),
        span=rng.uniform(0.5, 0.66),
        sweep=rng.uniform(0.0, 0.08),
        taper=rng.uniform(0.6, 1.0),
        dihedral=rng.uniform(0.0, 0.04) if high else rng.uniform(0.06, 0.12),
    )
    parts.add_mirrored(wing.surface())
    _add_tail(parts, rng, "conventional", radius, rise, rng.uniform(0.1, 0.3), rng.uniform(0.95, 1.25))
    cabin = (0.75 * radius, 0.8 * radius, rng.uniform(0.13, 0.18))
    parts.add(ellipsoid(cabin, (0, 0.75 * radius, -0.12), 8, 12))
    disc = rng.uniform(0.1, 0.13)
    if rng.random() < 0.35:
        (x, y, z), chord = wing.at(rng.uniform(0.28, 0.36))
        path = np.array([(x, y, z - 0.08), (x, y, z), (x, y, z + 0.8 * chord)])
        parts.add_mirrored(tube(path, [0.022, 0.03, 0.01]))
        _add_propeller(parts.add_mirrored, rng, (x, y, z - 0.085), disc)
    else:
        _add_propeller(parts.add, rng, (0, 0, -0.51), disc)
    return parts


def _glider(rng: np.random.Generator) -> MicroBatches:
    parts = MicroBatches()
    radius, rise = rng.uniform(0.045, 0.055), rng.uniform(0.2, 0.6)
    _add_fuselage(parts, rng, radius, rng.uniform(0.18, 0.25), rng.uniform(0.55, 0.68), rise)
    wing = _Wing(
        root=(0.6 * radius, 0.6 * radius, rng.uniform(-0.22, -0.16)),
        chord=rng.uniform(0.1, 0.13),
        span=rng.uniform(0.72, 0.9),
        sweep=rng.uniform(0.0, 0.05),
        taper=rng.uniform(0.35, 0.6),
        dihedral=0.05,
    )
    parts.add_mirrored(wing.surface())
    tail = "T" if rng.random() < 0.6 else "conventional"
    _add_tail(parts, rng, tail, radius, rise, 0.15, rng.uniform(0.8, 1.0))
    return parts


def _fighter(rng: np.random.Generator) -> MicroBatches:
    parts = MicroBatches()
    radius = rng.uniform(0.045, 0.06)
    _add_fuselage(parts, rng, radius, rng.uniform(0.32, 0.42), rng.uniform(0.12, 0.2), 0.0)
    delta = rng.random() < 0.5
    chord = rng.uniform(0.42, 0.52) if delta else rng.uniform(0.3, 0.38)
    wing = _Wing(
        root=(0.6 * radius, -0.1 * radius, 0.44 - chord if delta else rng.uniform(-0.08, 0.0)),
        chord=chord,
        span=rng.uniform(0.28, 0.36),
        sweep=rng.uniform(1.05, 1.3) if delta else rng.uniform(0.65, 0.9),
        taper=rng.uniform(0.08, 0.2),
        dihedral=rng.uniform(-0.05, 0.03),
    )
    parts.add_mirrored(wing.surface())
    tail = "twin" if rng.random() < 0.5 else "conventional"
    _add_tail(parts, rng, tail, radius, 0.0, rng.uniform(0.55, 0.8), rng.uniform(0.85, 1.0))
    canopy = (0.55 * radius, 0.6 * radius, rng.uniform(0.09, 0.12))
    parts.add(ellipsoid(canopy, (0, 0.85 * radius, rng.uniform(-0.24, -0.18)), 8, 12))
    intake = rng.uniform(0.6, 0.75) * radius
    path = np.array([(1.1 * radius, -0.2 * radius, start) for start in (-0.1, 0.1, 0.47)])
    parts.add_mirrored(tube(path, [0.9 * intake, intake, 0.75 * intake], 8))
    return parts


def airplane(rng: np.random.Generator) -> MicroBatches:
    """Build one airplane."""
    style = rng.random()
    if style < 0.55:
        return _jet(rng, business=False)
    if style < 0.68:
        return _jet(rng, business=True)
    if style < 0.84:
        return _propeller_plane(rng)
    if style < 0.89:
        return _glider(rng)
    return _fighter(rng)
