"""The picture of samples and their neighbors, and text that must fit."""

import numpy as np
import pytest
from PIL import Image

from pcdiff.errors import InputError
from pcdiff.viz import render_cloud, render_grid, save_neighbors

CLOUDS = np.random.default_rng(0).normal(size=(9, 40, 3))
SETTINGS = {"size": 48, "supersample": 1}


def _saved(tmp_path, *rows, **settings):
    return np.asarray(Image.open(save_neighbors(tmp_path / "near.png", *rows, **SETTINGS, **settings)))


def _cells(picture, rows, columns, below):
    """The cells of a picture without title: each row has a line above and, with labels, one below."""
    pitch, above = picture.shape[0] // rows, picture.shape[0] // rows - 48 - below
    return [
        [picture[r * pitch + above : r * pitch + above + 48, c * 48 : (c + 1) * 48] for c in range(columns)]
        for r in range(rows)
    ]


def test_each_sample_stands_above_its_neighbors(tmp_path):
    picture = _saved(tmp_path, CLOUDS[:2], list(CLOUDS[2:4]), CLOUDS[4:6])
    for row, cells in enumerate(_cells(picture, 3, 2, below=0)):
        for column, cell in enumerate(cells):
            expected = render_cloud(CLOUDS[2 * row + column], 48, elevation=38, supersample=1)
            np.testing.assert_array_equal(cell, expected)
    assert [file.name for file in tmp_path.iterdir()] == ["near.png"]


def test_without_training_clouds_there_are_two_rows(tmp_path):
    two = _saved(tmp_path, CLOUDS[:2], CLOUDS[2:4])
    three = _saved(tmp_path, CLOUDS[:2], CLOUDS[2:4], CLOUDS[4:6])
    np.testing.assert_array_equal(two, three[: len(two)])
    assert 3 * len(two) == 2 * len(three)


def test_labels_of_one_row_stand_under_that_row(tmp_path):
    below = round(1.5 * 14)
    picture = _saved(tmp_path, CLOUDS[:2], CLOUDS[2:4], CLOUDS[4:6], train_labels=["0.01", ""])
    pitch = picture.shape[0] // 3
    strips = [
        [picture[(r + 1) * pitch - below : (r + 1) * pitch, c * 48 : c * 48 + 48] for c in (0, 1)] for r in range(3)
    ]
    inked = [[bool((strip < 200).any()) for strip in row] for row in strips]
    assert inked == [[False, False], [False, False], [True, False]]


def test_title_and_view_are_passed_on(tmp_path):
    plain = _saved(tmp_path, CLOUDS[:2], CLOUDS[2:4])
    titled = _saved(tmp_path, CLOUDS[:2], CLOUDS[2:4], title="Near")
    np.testing.assert_array_equal(titled[-len(plain) :], plain)
    assert (titled[: len(titled) - len(plain)] < 200).any()
    assert (_saved(tmp_path, CLOUDS[:2], CLOUDS[2:4], elevation=-10) != plain).any()


@pytest.mark.parametrize("text", ["W" * 12, "a label much too long for the cell it stands under", "i" * 60])
def test_long_text_stays_in_its_place(text):
    grid = render_grid(CLOUDS[:3], 3, ["", text, ""], title=4 * text, row_titles=[3 * text], **SETTINGS)
    labels = grid[-round(1.5 * 14) :]
    assert (labels[:, 48:96] < 200).any()
    assert (labels[:, :48] == 255).all()
    assert (labels[:, 96:] == 255).all()
    assert (grid[: -48 - round(1.5 * 14), -2:] == 255).all()  # title and row title end before the edge


def test_short_text_is_set_as_ever():
    first = render_grid(CLOUDS[:2], 2, ["a", "b"], **SETTINGS)
    other = render_grid(CLOUDS[:2], 2, ["a", "b" * 40], **SETTINGS)
    np.testing.assert_array_equal(first[:, :48], other[:, :48])


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ((CLOUDS, CLOUDS), {}, "samples must hold 1 to 8 clouds, got 9; pick those to show"),
        (([], []), {}, "samples must hold 1 to 8 clouds, got 0"),
        ((CLOUDS[:2], CLOUDS[:1]), {}, "nearest_reference must hold one cloud for each of the 2 samples, got 1"),
        ((CLOUDS[:2], CLOUDS[:2], CLOUDS[:3]), {}, "nearest_train must hold one cloud .* got 3"),
        ((CLOUDS[:2], CLOUDS[:2]), {"sample_labels": ["a"]}, "labels of samples must be one for each of the 2"),
        ((CLOUDS[:2], CLOUDS[:2]), {"train_labels": ["a", "b"]}, "train_labels needs nearest_train"),
        ((CLOUDS[:1], CLOUDS[:1] * np.nan), {}, r"clouds\[1\]: points must be finite"),
    ],
)
def test_errors(rows, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        save_neighbors(tmp_path / "near.png", *rows, **SETTINGS, **settings)
    assert not list(tmp_path.iterdir())


def test_a_picture_must_be_a_png(tmp_path):
    with pytest.raises(InputError, match=r"path must end in \.png"):
        save_neighbors(tmp_path / "near.jpg", CLOUDS[:1], CLOUDS[:1])
