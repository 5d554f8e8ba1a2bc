"""Tables, lamps, bottles and mugs. The floor is y = 0."""

from __future__ import annotations

import numpy as np

from pcdiff.data.procedural.geometry import (
    MicroBatches,
    beam,
    box,
    ellipsoid,
    plate,
    revolve,
    rounded_outline,
    tube,
)


def table(rng: np.random.Generator) -> MicroBatches:
    """Build one dining table, coffee table or desk."""
    parts = MicroBatches()
    style = rng.choice(["dining", "coffee", "desk", "round"], p=[0.4, 0.2, 0.2, 0.2])
    width, depth, height = {
        "dining": (rng.uniform(1.2, 1.9), rng.uniform(0.75, 1.0), rng.uniform(0.7, 0.78)),
        "coffee": (rng.uniform(0.9, 1.3), rng.uniform(0.5, 0.7), rng.uniform(0.35, 0.48)),
        "desk": (rng.uniform(1.2, 1.7), rng.uniform(0.6, 0.8), rng.uniform(0.7, 0.78)),
        "round": (rng.uniform(0.8, 1.3), 0.0, rng.uniform(0.6, 0.78)),
    }[style]
    depth = depth or width * rng.uniform(0.75, 1.0)
    slab = rng.uniform(0.025, 0.06)
    power = rng.uniform(2.0, 2.3) if style == "round" else rng.choice([8.0, 40.0])
    parts.add(plate(rounded_outline(width, depth, power, 36), height, height + slab))
    pedestal = style == "round" and rng.random() < 0.6
    if pedestal:
        column, foot = rng.uniform(0.03, 0.06), rng.uniform(0.22, 0.36) * width
        if rng.random() < 0.5:
            parts.add(revolve([(foot, 0), (foot, 0.02), (1.4 * column, 0.08), (column, 0.2), (column, height)]))
        else:
            parts.add(tube(np.array([(0, 0.12, 0), (0, height, 0)]), [column, column]))
            feet = int(rng.integers(3, 5))
            for k in range(feet):
                angle = 2 * np.pi * (k + 0.5) / feet
                end = (1.2 * foot * np.cos(angle), 0.02, 1.2 * foot * np.sin(angle))
                parts.add(tube(np.array([(0, 0.2, 0), end]), [0.03, 0.02], 6))
        return parts
    inset = 0.7 if style == "round" else rng.uniform(0.86, 0.97)
    leg = rng.uniform(0.04, 0.08)
    x, z = (inset * width - leg) / 2, (inset * depth - leg) / 2
    support = "legs" if style == "round" else rng.choice(["legs", "panels", "trestle"], p=[0.7, 0.15, 0.15])
    if support == "legs":
        splay, columns = rng.choice([1.0, 1.0, 1.12]), int(rng.choice([4, 8]))
        for side in (-z, z):
            path = np.array([(splay * x, 0, splay * side), (x, height, side)])
            parts.add_mirrored(tube(path, [rng.uniform(0.3, 0.5) * leg, 0.5 * leg], columns))
        if rng.random() < 0.5:  # an apron under the top
            drop = rng.uniform(0.06, 0.12)
            for side in (-z, z):
                parts.add(box((2 * x, drop, 0.02), (0, height - drop / 2, side)))
            parts.add_mirrored(box((0.02, drop, 2 * z), (x, height - drop / 2, 0)))
    elif support == "panels":
        parts.add_mirrored(box((0.04, height, 2 * z), (x, height / 2, 0)))
    else:
        parts.add_mirrored(
            beam((0.75 * x, 0, -z), (0.75 * x, height, 0.3 * z), leg),
            beam((0.75 * x, 0, z), (0.75 * x, height, -0.3 * z), leg),
        )
        parts.add(beam((-0.75 * x, 0.45 * height, 0), (0.75 * x, 0.45 * height, 0), leg))
    if style == "coffee" and support != "trestle" and rng.random() < 0.6:
        parts.add(box((2 * x, 0.02, 2 * z), (0, rng.uniform(0.25, 0.4) * height, 0)))
    if style == "desk":
        chest = rng.uniform(0.28, 0.4)
        tall = rng.uniform(0.5, 0.9) * height
        sides = (-1, 1) if rng.random() < 0.4 else (rng.choice([-1, 1]),)
        for s in sides:
            parts.add_solid_box((chest, tall, 1.9 * z), (s * (x - chest / 2), height - tall / 2, 0))
    return parts


def _shade(bottom: float, top: float, low: float, high: float, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an open conical lampshade."""
    return revolve([(bottom, low), (top, high)], columns=columns, caps=False)


def lamp(rng: np.random.Generator) -> MicroBatches:
    """Build one table, floor, desk or hanging lamp."""
    parts = MicroBatches()
    style = rng.choice(["table", "floor", "desk", "hanging"], p=[0.4, 0.25, 0.17, 0.18])
    columns = int(rng.choice([4, 6, 28, 28]))
    if style in ("table", "floor"):
        height = rng.uniform(0.35, 0.55) if style == "table" else rng.uniform(1.2, 1.6)
        foot, stem = rng.uniform(0.09, 0.14) * (1.0 if style == "table" else 1.3), rng.uniform(0.01, 0.018)
        low = rng.uniform(0.55, 0.68) * height if style == "table" else rng.uniform(0.76, 0.84) * height
        if style == "table" and rng.random() < 0.6:  # a vase for a body
            belly = rng.uniform(0.06, 0.1)
            profile = [(0.8 * belly, 0), (0.8 * belly, 0.02), (0.55 * belly, 0.04), (belly, 0.4 * low)]
            profile += [(0.9 * belly, 0.6 * low), (0.35 * belly, 0.85 * low), (stem, 0.92 * low), (stem, low)]
            parts.add(revolve(profile))
        elif style == "floor" and rng.random() < 0.3:
            for k in range(3):
                angle = 2 * np.pi * k / 3
                end = (1.6 * foot * np.cos(angle), 0, 1.6 * foot * np.sin(angle))
                parts.add(tube(np.array([end, (0, 0.8 * low, 0)]), [0.014, 0.014], 8))
        else:
            parts.add(revolve([(foot, 0), (foot, 0.02), (0.3 * foot, 0.035), (stem, 0.05), (stem, low)]))
        parts.add(tube(np.array([(0, 0.8 * low, 0), (0, height, 0)]), [stem, 0.6 * stem], 8))
        bottom = rng.uniform(0.13, 0.19) * (1.0 if style == "table" else 1.25)
        parts.add(_shade(bottom, bottom * rng.uniform(0.45, 0.98), low, height, columns))
    elif style == "desk":
        foot = rng.uniform(0.08, 0.11)
        parts.add(revolve([(foot, 0), (foot, 0.015), (0.25 * foot, 0.035)]))
        rise, reach = rng.uniform(0.25, 0.35), rng.uniform(0.05, 0.14)
        elbow = np.array([0, 0.03 + rise, reach])
        head = elbow + np.array([0, rng.uniform(0.05, 0.16), -rng.uniform(0.22, 0.32)])
        for start, end in (((0, 0.03, 0), elbow), (elbow, head)):
            parts.add(tube(np.array([start, end]), [0.011, 0.011], 8))
        parts.add(ellipsoid((0.018,) * 3, elbow, 6, 8))
        mouth = rng.uniform(0.065, 0.085)
        path = head + np.array([(0, 0.03, 0.01), (0, 0.01, 0.003), (0, -0.11, -0.04)])
        parts.add(tube(path, [0.018, 0.035, mouth], 18, caps=False))
    else:
        cord, radius = rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.28)
        drop = radius * rng.uniform(0.7, 1.4)
        parts.add(tube(np.array([(0, drop, 0), (0, drop + cord, 0)]), [0.008, 0.008], 6))
        parts.add(revolve([(0.06, drop + cord), (0.05, drop + cord + 0.03)]))
        kind = rng.choice(["cone", "dome", "globe"])
        if kind == "cone":
            parts.add(_shade(radius, rng.uniform(0.15, 0.5) * radius, 0, drop, columns))
        elif kind == "globe":
            parts.add(ellipsoid((radius, drop / 2, radius), (0, drop / 2, 0), 14, 24))
        else:
            angle = np.linspace(0, 0.95 * np.pi / 2, 8)
            parts.add(revolve(np.stack([radius * np.cos(angle), drop * np.sin(angle)], 1), caps=False))
    return parts


def bottle(rng: np.random.Generator) -> MicroBatches:
    """Build one bottle: wine, beer, flask, jug or squeeze bottle."""
    parts = MicroBatches()
    radius, height = 1.0, rng.uniform(4.2, 7.2)
    neck = rng.uniform(0.26, 0.42)
    shoulder = rng.uniform(0.48, 0.72) * height
    slope = rng.uniform(0.3, 1.6)
    waist = rng.choice([1.0, 1.0, rng.uniform(0.8, 0.93)])
    top = min(shoulder + slope, 0.86 * height)
    t = np.linspace(0, 1, 7)[1:-1]
    curve = np.stack([neck + (radius - neck) * (0.5 + 0.5 * np.cos(np.pi * t)), shoulder + (top - shoulder) * t], 1)
    body = [(0.86 * radius, 0), (radius, 0.12), (radius, 0.25 * shoulder), (waist * radius, 0.55 * shoulder)]
    body += [(radius, 0.85 * shoulder), (radius, shoulder)]
    cap = height - rng.uniform(0.25, 0.5)
    lip = neck * rng.uniform(1.08, 1.35)
    profile = [*body, *curve, (neck, top), (neck, cap), (lip, cap), (lip, height)]
    square = rng.random() < 0.2
    flat = rng.choice([1.0, 1.0, 1.0, rng.uniform(0.5, 0.75)])
    parts.add(revolve(profile, columns=4 if square else 28, stretch=(1.0, flat)))
    if rng.random() < 0.12:
        x = radius * 0.9
        corners = [(x, 0.75 * shoulder), (1.9 * x, 0.8 * shoulder), (1.8 * x, top), (neck, 1.02 * top)]
        parts.add(tube(np.pad(corners, ((0, 0), (0, 1))), [0.16] * 4, 8))
    return parts


def mug(rng: np.random.Generator) -> MicroBatches:
    """Build one mug or cup: open at the top, the handle toward +x."""
    parts = MicroBatches()
    height = rng.uniform(1.6, 2.6)
    wall = rng.uniform(0.07, 0.12)
    foot, belly = rng.uniform(0.65, 1.02), rng.uniform(0.95, 1.1)
    outer = [(foot, 0), (0.5 * (foot + belly), 0.12 * height), (belly, 0.5 * height), (1.0, height)]
    inner = [(1.0 - wall, height), (belly - wall, 0.5 * height), (foot - wall, wall)]
    parts.add(revolve(outer + inner, columns=32))
    low, high = rng.uniform(0.15, 0.28) * height, rng.uniform(0.75, 0.9) * height
    reach, thick = rng.uniform(0.5, 0.8), rng.uniform(0.09, 0.14)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 11)
    power = rng.choice([1.0, 0.6, 0.35])  # a half circle, a D, nearly a square
    bend = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    x = 0.95 * belly + reach * np.abs(np.cos(angle)) ** power
    y = 0.5 * (low + high) + 0.5 * (high - low) * bend
    parts.add(tube(np.stack([x, y, np.zeros_like(x)], 1), [thick] * len(x), 10, flatten=rng.uniform(0.9, 1.5)))
    return parts
