"""Chairs, benches and sofas. They face -z; the floor is y = 0; meters."""

from __future__ import annotations

import itertools

import numpy as np

from pcdiff.data.procedural.geometry import (
    MicroBatches,
    Surface,
    beam,
    box,
    loft,
    plate,
    revolve,
    rounded_outline,
    tube,
    turn,
)


def _four_legs(
    rng: np.random.Generator, height: float, width: float, depth: float, thickness: float, splay: float
) -> list[Surface]:
    """Return round or square legs at the corners of a rectangle, spreading toward the floor by `splay`."""
    columns = 8 if rng.random() < 0.5 else 4
    slim = rng.uniform(0.6, 1.0)
    legs = []
    for x in (-width / 2, width / 2):
        for z in (-depth / 2, depth / 2):
            foot = (x * (1 + splay), 0.0, z * (1 + splay))
            legs.append(tube(np.array([foot, (x, height, z)]), [slim * thickness / 2, thickness / 2], columns))
    return legs


def _add_base(parts: MicroBatches, rng: np.random.Generator, height: float, width: float, depth: float) -> None:
    """Add the support of a seat at `height`: legs, a pedestal or sled runners."""
    style = rng.random()
    thickness = rng.uniform(0.028, 0.048)
    inner_x, inner_z = width - 1.4 * thickness, depth - 1.4 * thickness
    if style < 0.62:
        splay = rng.choice([0.0, 0.0, 0.1, 0.2])
        parts.add(*_four_legs(rng, height, inner_x, inner_z, thickness, splay))
        if rng.random() < 0.4:  # stretchers between the legs
            y = rng.uniform(0.25, 0.45) * height
            x, z = (0.5 * inner * (1 + splay * (1 - y / height)) for inner in (inner_x, inner_z))
            parts.add_mirrored(beam((x, y, -z), (x, y, z), 0.6 * thickness))
            parts.add(beam((-x, y, z), (x, y, z), 0.6 * thickness), beam((-x, y, -z), (x, y, -z), 0.6 * thickness))
    elif style < 0.84:
        column = rng.uniform(0.022, 0.035)
        parts.add(tube(np.array([(0, 0.05, 0), (0, height, 0)]), [column, column], 10))
        if rng.random() < 0.6:  # an office star
            reach, arms = 0.5 * width * rng.uniform(1.0, 1.2), 5
            for k in range(arms):
                angle = 2 * np.pi * (k + 0.25) / arms
                end = (reach * np.cos(angle), 0.045, reach * np.sin(angle))
                parts.add(tube(np.array([(0, 0.08, 0), end]), [0.028, 0.018], 6))
                parts.add(tube(np.array([(end[0], 0.0, end[2]), (end[0], 0.05, end[2])]), [0.025, 0.025], 8))
        else:
            foot = 0.5 * width * rng.uniform(0.75, 0.95)
            parts.add(revolve([(foot, 0), (foot, 0.015), (0.3 * foot, 0.035), (column, 0.07)]))
    else:
        r = 0.4 * thickness
        x, z = inner_x / 2, inner_z / 2
        path = np.array([(x, height, -z), (x, r, -z), (x, r, z), (x, height, z)])
        for start, end in itertools.pairwise(path):
            parts.add_mirrored(tube(np.array([start, end]), [r, r], 8))


def _back(rng: np.random.Generator, width: float, height: float) -> list[Surface]:
    """Return an upright back of a chair, standing on y = 0 in the plane z = 0."""
    style = rng.choice(["solid", "slats", "ladder", "rounded", "frame"])
    thickness = rng.uniform(0.025, 0.05)
    post = rng.uniform(0.028, 0.042)
    x = 0.5 * (width - post)
    if style == "solid":
        gap = rng.choice([0.0, 0.12])
        panel = box((width, height * (1 - gap), thickness), (0, height * (1 + gap) / 2, 0))
        return (
            [panel]
            if gap == 0
            else [panel, *(beam((s * x, 0, 0), (s * x, gap * height, 0), post) for s in (-1, 1))]
        )
    if style == "rounded":
        outline = rounded_outline(width, height, rng.uniform(2.2, 5.0)) + np.array([0, 0.55 * height])
        return [plate(outline, -thickness / 2, thickness / 2, axis="z")]
    posts = [beam((s * x, 0, 0), (s * x, height, 0), post) for s in (-1, 1)]
    if style == "frame":  # two posts, a pad between them
        pad = box((width - 2.2 * post, rng.uniform(0.5, 0.75) * height, 0.6 * post), (0, 0.6 * height, 0))
        return [*posts, pad, beam((-x, height, 0), (x, height, 0), post)]
    bars = int(rng.integers(3, 6))
    if style == "ladder":
        levels = np.linspace(0.3, 1.0, bars) * height
        return posts + [beam((-x, y, 0), (x, y, 0), 1.3 * post, 0.6 * post) for y in levels]
    rail = 0.9 * height
    uprights = [beam((u, 0.1 * height, 0), (u, rail, 0), 0.6 * post) for u in np.linspace(-x, x, bars + 2)[1:-1]]
    rails = [beam((-x, y, 0), (x, y, 0), 1.2 * post) for y in (0.12 * height, height)]
    return posts + uprights + rails


def chair(rng: np.random.Generator) -> MicroBatches:
    """Build one chair, armchair or stool."""
    parts = MicroBatches()
    stool = rng.random() < 0.1
    width, depth = rng.uniform(0.4, 0.54), rng.uniform(0.4, 0.5)
    height = rng.uniform(0.55, 0.75) if stool else rng.uniform(0.4, 0.48)
    thickness = rng.uniform(0.03, 0.09)
    seat_power = rng.choice([2.5, 8.0, 30.0])
    _add_base(
        parts, rng, height, width * (0.8 if seat_power < 3 else 1.0), depth * (0.8 if seat_power < 3 else 1.0)
    )
    parts.add(plate(rounded_outline(width, depth, seat_power, 28), height, height + thickness))
    if stool:
        return parts
    top = height + thickness
    tall = rng.uniform(0.38, 0.62)
    lean = rng.uniform(0.03, 0.22)
    hinge = (0, top, depth / 2 - 0.025)
    back_width = width * rng.uniform(0.86, 1.0)
    for vertices, faces in _back(rng, back_width, tall):
        parts.add(turn((vertices + hinge, faces), "x", lean, about=hinge))
    if rng.random() < 0.4:
        arm, x = rng.uniform(0.17, 0.24), width / 2
        front = -depth / 2 + rng.uniform(0.04, 0.12)
        rear = depth / 2 - 0.02 + np.sin(lean) * arm
        bar = rng.uniform(0.03, 0.05)
        parts.add_mirrored(
            beam((x, top + arm, front - 0.03), (x, top + arm, rear), 1.3 * bar, 0.7 * bar),
            beam((x, top - thickness / 2, front), (x, top + arm, front), 0.8 * bar),
        )
    return parts


def bench(rng: np.random.Generator) -> MicroBatches:
    """Build one park or indoor bench, long along x."""
    parts = MicroBatches()
    width, depth, height = rng.uniform(1.2, 1.8), rng.uniform(0.38, 0.5), rng.uniform(0.4, 0.48)
    plank = rng.uniform(0.025, 0.045)
    slats = int(rng.choice([1, 3, 4, 5]))
    pitch = depth / slats
    for k in range(slats):
        z = -depth / 2 + pitch * (k + 0.5)
        parts.add(box((width, plank, pitch * (1.0 if slats == 1 else 0.74)), (0, height + plank / 2, z)))
    x = width / 2 * rng.uniform(0.72, 0.95)
    legs = rng.choice(["posts", "panels", "arches"])
    bar = rng.uniform(0.05, 0.08)
    if legs == "posts":
        for z in (-depth / 2 + bar / 2, depth / 2 - bar / 2):
            parts.add_mirrored(beam((x, 0, z), (x, height, z), bar))
        parts.add_mirrored(beam((x, height - bar / 2, -depth / 2), (x, height - bar / 2, depth / 2), 0.8 * bar))
    elif legs == "panels":
        parts.add_mirrored(box((bar, height, 0.9 * depth), (x, height / 2, 0)))
    else:
        for z in (-0.55 * depth, 0.55 * depth):
            parts.add_mirrored(beam((x, 0, z), (x, height, 0.5 * z), bar))
        parts.add_mirrored(beam((x, 0.45 * height, -0.4 * depth), (x, 0.45 * height, 0.4 * depth), 0.7 * bar))
    if rng.random() < 0.3:
        return parts
    tall, lean = rng.uniform(0.32, 0.48), rng.uniform(0.08, 0.25)
    hinge = (0, height + plank, depth / 2 - 0.02)
    back = []
    if rng.random() < 0.6:
        levels = int(rng.integers(2, 5))
        strip = tall / levels
        back += [box((width, 0.68 * strip, plank), (0, strip * (k + 0.6), 0)) for k in range(levels)]
    else:
        bars = int(rng.integers(9, 15))
        back += [beam((u, 0, 0), (u, tall, 0), 0.9 * plank) for u in np.linspace(-0.48, 0.48, bars) * width]
        back.append(box((width, 1.6 * plank, 1.2 * plank), (0, tall, 0)))
    back += [beam((s * x, -0.02, 0.5 * plank), (s * x, tall, 0.5 * plank), 0.7 * bar) for s in (-1, 1)]
    for vertices, faces in back:
        parts.add(turn((vertices + hinge, faces), "x", lean, about=hinge))
    if rng.random() < 0.55:
        arm = rng.uniform(0.18, 0.25)
        x, top = width / 2 - bar / 2, height + plank
        rear = depth / 2 + np.sin(lean) * arm
        parts.add_mirrored(
            beam((x, top + arm, -depth / 2), (x, top + arm, rear), bar, 0.7 * bar),
            beam((x, top, -depth / 2 + bar), (x, top + arm, -depth / 2 + bar), 0.7 * bar),
        )
    return parts


def _cushion(size: tuple[float, float, float], center: tuple[float, float, float]) -> Surface:
    """Return a box with rounded edges."""
    width, height, depth = size
    outline = rounded_outline(width, depth, 8.0, 28)
    sections = np.empty((4, len(outline), 3))
    sections[..., [0, 2]] = outline * np.array([0.94, 1.0, 1.0, 0.94])[:, None, None]
    sections[..., 1] = (np.array([-0.5, -0.36, 0.36, 0.5]) * height)[:, None]
    return loft(sections + center)


def sofa(rng: np.random.Generator) -> MicroBatches:
    """Build one sofa: one to four seats, sometimes with a chaise."""
    parts = MicroBatches()
    seats = int(rng.choice([1, 2, 2, 3, 3, 3, 4]))
    width, depth = seats * rng.uniform(0.55, 0.68), rng.uniform(0.78, 0.92)
    legs = rng.choice([0.02, rng.uniform(0.08, 0.14)])
    base, cushion = rng.uniform(0.16, 0.22), rng.uniform(0.1, 0.15)
    thick = rng.uniform(0.16, 0.22)  # of the back
    tall = rng.uniform(0.48, 0.64)  # back above the base
    level = legs + base
    back_z = depth / 2 - thick / 2
    parts.add_solid_box((width, base, depth), (0, legs + base / 2, 0))
    parts.add_solid_box((width, tall, thick), (0, level + tall / 2, back_z))
    arms = rng.choice(["box", "round", "none"], p=[0.5, 0.35, 0.15])
    arm_width, arm = rng.uniform(0.14, 0.24), rng.uniform(0.26, 0.38)
    side = width / 2 + arm_width / 2
    if arms != "none":
        for s in (-1, 1):
            parts.add_solid_box((arm_width, base + arm, depth), (s * side, legs + (base + arm) / 2, 0))
        if arms == "round":
            roll = 0.62 * arm_width
            path = np.array([(side, level + arm, -depth / 2 - 0.02), (side, level + arm, depth / 2)])
            parts.add_mirrored(tube(path, [roll, roll], 14))
    half = width / 2 + (arm_width if arms != "none" else 0.0)
    for z in (-0.42 * depth, 0.42 * depth):
        parts.add_mirrored(box((0.05, legs, 0.05), (0.92 * half, legs / 2, z)))

    pitch, room = width / seats, depth - thick
    pillows = rng.random() < 0.5
    for k in range(seats):
        x = -width / 2 + pitch * (k + 0.5)
        parts.add(_cushion((0.98 * pitch, cushion, room), (x, level + cushion / 2, -thick / 2)))
        if pillows:
            upright, faces = turn(_cushion((0.95 * pitch, 0.1, 0.7 * tall), (0, 0, 0)), "x", np.pi / 2 + 0.1)
            place = np.array([x, level + cushion + 0.3 * tall, back_z - thick / 2 - 0.04])
            parts.add((upright + place, faces))
    # Hidden: the space between base and cushions, and between the cushions.
    seam = 0.025
    parts.hide(
        (-width / 2 + seam, level - seam, -depth / 2 + seam), (width / 2 - seam, level + 0.9 * cushion, back_z)
    )
    if seats >= 3 and rng.random() < 0.3:  # a chaise at one end
        s, reach = rng.choice([-1, 1]), rng.uniform(0.5, 0.7)
        x, z = s * (width - pitch) / 2, -depth / 2 - reach / 2
        parts.add_solid_box((pitch, base, reach), (x, legs + base / 2, z))
        parts.add(_cushion((0.97 * pitch, cushion, reach), (x, level + cushion / 2, z)))
    return parts
