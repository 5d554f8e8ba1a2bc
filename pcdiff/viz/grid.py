"""Many clouds on one picture, with titles and labels, saved as PNG."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pcdiff.errors import InputError, OutOfRange
from pcdiff.runtime.atomic_write import replacing
from pcdiff.viz.render import render_cloud

_DARK_INKS = (45, 48, 56), (105, 110, 120)  # of titles and labels, on light paper
_LIGHT_INKS = (232, 234, 238), (170, 175, 184)


def render_grid(
    clouds,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    size: int = 256,
    *,
    title: str | None = None,
    row_titles: Sequence[str] | None = None,
    **settings,
) -> np.ndarray:
    """Render clouds side by side, row after row, and return the picture, `(H, W, 3)` uint8.

    Text too long for its place is set smaller until it fits. The font has Latin letters only, no × and no ³.

    Args:
        clouds: `(n, P, 3)` array or tensor, or a sequence of `(P, 3)` clouds of any sizes.
        columns: clouds in a row; None takes a nearly square grid, at most 8 wide.
        labels: one short text under each cloud.
        size: pixels of each cell.
        title: one line above the grid.
        row_titles: one line above each row.
        **settings: passed on to `render_cloud` (azimuth, elevation, up, color, ...).

    Raises:
        InputError: for no clouds, a wrong count of labels or row titles, or a bad cloud (its index is named).
    """
    clouds = list(clouds)
    if not clouds:
        raise InputError("clouds must hold at least one cloud, got none")
    if columns is None:
        columns = min(8, math.ceil(math.sqrt(len(clouds))))
    if columns < 1:
        raise OutOfRange("columns", "at least 1", columns)
    columns = min(columns, len(clouds))
    rows = math.ceil(len(clouds) / columns)
    if labels is not None and len(labels) != len(clouds):
        raise InputError(f"labels must be one for each of the {len(clouds)} clouds, got {len(labels)}")
    if row_titles is not None and len(row_titles) != rows:
        raise InputError(f"row_titles must be one for each of the {rows} rows, got {len(row_titles)}")

    line = max(14, size // 12)
    top = round(2.0 * line) if title else 0
    above = round(1.7 * line) if row_titles else 0
    below = round(1.5 * line) if labels else 0
    pitch = above + size + below
    background = settings.get("background", (1.0, 1.0, 1.0))
    paper = tuple(round(255 * channel) for channel in background)
    sheet = Image.new("RGB", (columns * size, top + rows * pitch), paper)
    draw = ImageDraw.Draw(sheet)
    ink, pale_ink = _DARK_INKS if sum(paper) > 3 * 127 else _LIGHT_INKS
    if title:
        font = _font(title, line * 1.15, sheet.width - 1.2 * line)
        draw.text((line * 0.6, top * 0.55), title, fill=ink, font=font, anchor="lm")
    for index, cloud in enumerate(clouds):
        row, column = divmod(index, columns)
        x, y = column * size, top + row * pitch
        if row_titles and column == 0:
            font = _font(row_titles[row], line, sheet.width - 1.2 * line)
            draw.text((line * 0.6, y + above * 0.55), row_titles[row], fill=ink, font=font, anchor="lm")
        try:
            cell = render_cloud(cloud, size, **settings)
        except InputError as error:
            raise InputError(f"clouds[{index}]: {error}") from None
        sheet.paste(Image.fromarray(cell), (x, y + above))
        if labels:
            middle = (x + size / 2, y + above + size + below * 0.4)
            font = _font(labels[index], line * 0.8, size * 0.96)
            draw.text(middle, labels[index], fill=pale_ink, font=font, anchor="mm")
    return np.asarray(sheet)


def save_grid(path: str | os.PathLike, clouds, columns: int | None = None, **settings) -> Path:
    """Write `render_grid(clouds, columns, **settings)` to `path` as PNG and return the path.

    The file appears whole or not at all.

    Raises:
        InputError: if `path` does not end in `.png` or its folder cannot be made, and as `render_grid`.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"path must end in .png, got {path}")
    image = Image.fromarray(render_grid(clouds, columns, **settings))
    with replacing(path) as draft:
        image.save(draft, format="PNG", optimize=True)
    return path


def _font(text: str, pixels: float, width: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font `pixels` high, or as much smaller as lets `text` fit into `width`, 1 pixel at the least."""
    font = ImageFont.load_default(size=pixels)
    while font.getlength(text) > width and pixels > 1:
        # Advance widths are rounded to whole pixels when the font is small, so one proportional step may not do.
        pixels = max(1.0, min(pixels - 0.25, pixels * width / font.getlength(text)))
        font = ImageFont.load_default(size=pixels)
    return font
