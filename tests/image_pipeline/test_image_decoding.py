"""Images as cameras and instruments write them: turned by EXIF, 16 bits, floats; alike on every path."""

import numpy as np
import pytest
import torch
from PIL import Image
from script_tools import script

from image_pipeline.commands.inpaint import read_mask
from image_pipeline.data import load_images
from image_pipeline.data.image_files import read_images
from pcdiff.errors import InputError

HEIGHT, WIDTH = 4, 6
VIEW = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) * 10
# EXIF 2.3, tag 274: which side of the view the stored first row is, and the first column
SIDES = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
SIDES |= {5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"}


def stored(view, orientation):
    """Return the array that a viewer turns into `view`, place by place."""
    first_row, first_column = SIDES[orientation].split()
    rows, columns = view.shape
    upright = first_row in ("top", "bottom")
    array = np.empty(view.shape if upright else view.shape[::-1], view.dtype)
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            y, x = (i, j) if upright else (j, i)
            y = rows - 1 - y if "bottom" in (first_row, first_column) else y
            x = columns - 1 - x if "right" in (first_row, first_column) else x
            array[i, j] = view[y, x]
    return array


def save_turned(path, view, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(stored(view, orientation)).save(path, exif=exif, **options)


@pytest.mark.parametrize("ending", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", SIDES)
def test_every_orientation_on_every_path(tmp_path, orientation, ending):
    options = {"lossless": True} if ending == "webp" else {}
    path = tmp_path / "in" / f"a.{ending}"
    save_turned(path, VIEW, orientation, **options)
    np.testing.assert_array_equal(read_images(path, (1, HEIGHT, WIDTH) if ending != "webp" else None)[0, 0], VIEW)
    held = load_images(tmp_path / "in", "all")
    assert held.identity.shape[1:] == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(held.images[0][0], VIEW)


def test_prepare_and_dump_write_what_viewers_show(tmp_path):
    for orientation in SIDES:
        save_turned(tmp_path / "in" / f"{orientation}.png", VIEW, orientation)
    prepare = ["prepare", "--source", tmp_path / "in", "--output", tmp_path / "a.zip"]
    assert script("image_pipeline/__main__.py", *prepare) == 0
    assert (
        script("image_pipeline/__main__.py", "dump", "--source", tmp_path / "in", "--output", tmp_path / "out") == 0
    )
    for place in ("a.zip", "out"):
        images = load_images(tmp_path / place, "all").images
        assert len(images) in (7, 8)  # dump takes one split
        for image in images[torch.arange(len(images))]:
            np.testing.assert_array_equal(image[0], VIEW)


def test_a_mask_is_read_as_viewers_show_it(tmp_path):
    mask = (VIEW > 100).astype(np.uint8) * 255
    save_turned(tmp_path / "in" / "m.png", mask, 6)
    np.testing.assert_array_equal(read_mask(str(tmp_path / "in" / "m.png"), (1, HEIGHT, WIDTH)), mask > 0)
    Image.fromarray(mask.astype(np.uint16) * 257).save(tmp_path / "m16.png")
    np.testing.assert_array_equal(read_mask(str(tmp_path / "m16.png"), (1, HEIGHT, WIDTH)), mask > 0)


def test_a_damaged_exif_block_turns_nothing(tmp_path):
    Image.fromarray(VIEW).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09no directory")
    np.testing.assert_array_equal(read_images(tmp_path / "a.png", None)[0, 0], VIEW)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_rounded_to_the_nearest_level(tmp_path, ending):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"a.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 256 256 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    expected = np.rint(values / 257.0)  # 65535 = 255 x 257
    for images in (
        read_images(path, None),
        read_images(path, (3, 256, 256)),
        load_images(tmp_path / "in", "all").images,
    ):
        np.testing.assert_array_equal(images[0][0], expected)


def test_floats_from_0_to_1_and_no_others(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.tiff"
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(path)
    for images in (read_images(path, None), load_images(tmp_path / "in", "all").images):
        np.testing.assert_array_equal(images[0][0], np.rint(values.astype(float) * 255))
    for wrong, match in (
        (255 * values, "got 0 to 255; scale them"),
        (np.where(values > 0.5, np.nan, 0), "got nan"),
    ):
        Image.fromarray(wrong.astype(np.float32)).save(path)
        with pytest.raises(InputError, match=r"a\.tiff: floats must lie from 0 to 1, " + match):
            read_images(path, None)
        with pytest.raises(InputError, match=r"a\.tiff: floats must lie from 0 to 1, " + match):
            load_images(tmp_path / "in", "all").images[0]


def test_integers_of_32_bits_are_refused_everywhere(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "in" / "a.tiff")
    for read in (
        lambda: read_images(tmp_path / "in" / "a.tiff", (1, 8, 8)),
        lambda: load_images(tmp_path / "in", "all"),
    ):
        with pytest.raises(
            InputError, match=r"8 or 16 bits a channel, or floats from 0 to 1, got Pillow's mode I$"
        ):
            read()


def test_reported_images(reports):
    (gray,) = reports.glob("08-*/*.png")
    images = read_images(gray, (1, 8, 8))
    assert float(images.float().mean()) == pytest.approx(127.0, abs=0.5)
    assert len(images.unique()) == 64
    (phone,) = reports.glob("09-*/*.jpg")
    with Image.open(phone) as image:
        flat = np.asarray(image)
        assert image.getexif()[0x0112] == 6
    np.testing.assert_array_equal(read_images(phone, None)[0, 0], np.rot90(flat, -1))
    np.testing.assert_array_equal(load_images(phone.parent, "all").images[0][0], np.rot90(flat, -1))
