"""Image batches: a pure function of (seed, step), whose slices put together are the whole."""

import numpy as np
import pytest
import torch
from image_files import class_folders

from image_pipeline.data import ImageBatches, ImageDataset, ImageIdentity, load_images, to_bytes, to_range
from pcdiff.errors import InputError

IDENTITY = ImageIdentity("made", (1, 2, 3), "none", "none", "0")


def made(count=11, labeled=True):
    """Images whose first pixel is their number and whose rows rise from left to right."""
    images = torch.zeros(count, 1, 2, 3, dtype=torch.uint8) + torch.tensor([0, 1, 2], dtype=torch.uint8)
    images += torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    numbers = torch.arange(count) if labeled else None
    return ImageDataset(images, numbers, tuple(map(str, range(count))) if labeled else (), "train", IDENTITY)


def test_every_image_once_per_epoch_with_its_label():
    batches = ImageBatches(made(), 4, seed=1, data_range="unit")
    seen = [batches(step) for step in range(11)]
    for batch in seen:
        assert torch.equal((batch.images[:, 0, 0, 0] * 255).round().long(), batch.labels)
    orders = torch.cat([batch.labels for batch in seen]).view(4, 11)
    assert (orders.sort(dim=1).values == torch.arange(11)).all()
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert batches.steps_per_epoch == 11 / 4


@pytest.mark.parametrize("kind", ["resident", "lazy"])
def test_a_resumed_run_sees_the_same_batches(kind, tmp_path):
    class_folders(tmp_path)
    dataset = made() if kind == "resident" else load_images(tmp_path, "all")
    settings = {"batch_size": 4, "flip": True, "dequantize": True, "augment": 0.5}
    whole = ImageBatches(dataset, seed=3, **settings)
    run = [whole(step) for step in range(8)]
    resumed = ImageBatches(dataset, seed=3, **settings)
    for step in (5, 6, 7, 2):
        for again, before in zip(resumed(step), run[step], strict=True):
            assert torch.equal(again, before)
    assert not torch.equal(ImageBatches(dataset, seed=4, **settings)(5).images, run[5].images)


def test_decoded_ahead_equals_resident(tmp_path):
    x, y = class_folders(tmp_path)
    lazy = load_images(tmp_path, "all")
    resident = ImageDataset(torch.from_numpy(x), torch.from_numpy(y), lazy.class_names, "all", lazy.identity)
    settings = {"batch_size": 3, "seed": 0, "flip": True, "dequantize": True, "augment": 0.5}
    a, b = ImageBatches(lazy, **settings), ImageBatches(resident, **settings)
    for step in (0, 1, 2, 7, 8):
        for mine, theirs in zip(a(step), b(step), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", ["resident", "lazy"])
def test_slices_are_the_batch(kind, tmp_path):
    class_folders(tmp_path)
    dataset = made() if kind == "resident" else load_images(tmp_path, "all")
    batches = ImageBatches(dataset, batch_size=6, seed=0, flip=True, dequantize=True, augment=0.5)
    for step in range(5):
        parts = [batches(step, slice(first, first + 2)) for first in (0, 2, 4)]
        assert all(len(part.images) == 2 for part in parts)
        for name, whole in batches(step)._asdict().items():
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), whole)


@pytest.mark.parametrize(("data_range", "low", "high"), [("unit", 0, 1), ("symmetric", -1, 1)])
def test_ranges(data_range, low, high):
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    dataset = ImageDataset(images, None, (), "train", IDENTITY)
    batch = ImageBatches(dataset, 1, 0, data_range=data_range)(0)
    assert batch.labels is None
    expected = torch.tensor([0, 0.2, 1]) * (high - low) + low
    torch.testing.assert_close(batch.images.flatten(), expected)
    assert torch.equal(to_range(images, data_range), batch.images)
    assert torch.equal(to_bytes(batch.images, data_range), images)
    assert to_bytes(batch.images + 9, data_range).min() == 255
    for call in (to_range, to_bytes):
        with pytest.raises(InputError, match="unknown data_range 'half'; known are unit, symmetric"):
            call(images, "half")


def test_dequantized_images_stay_in_their_level_and_fill_it():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    batches = ImageBatches(ImageDataset(images, None, (), "a", IDENTITY), 1, 0, data_range="unit", dequantize=True)
    drawn = torch.cat([batches(step).images for step in range(200)]).double() * 256
    inside = drawn - images.double()
    assert inside.min() >= 0
    assert inside.max() <= 1
    # a uniform draw: mean 1/2 and variance 1/12 over 51,200 draws
    assert abs(float(inside.mean()) - 0.5) < 5 * (1 / 12 / inside.numel()) ** 0.5
    assert abs(float(inside.var()) - 1 / 12) < 0.001


def test_half_of_the_images_are_mirrored_whole():
    batches = ImageBatches(made(), 50, 0, flip=True, data_range="unit")
    drawn = torch.cat([batches(step).images for step in range(40)]) * 255
    steps = (drawn[..., 1:] - drawn[..., :-1]).round()
    rising, falling = ((steps == sign).flatten(1).all(dim=1) for sign in (1, -1))
    assert bool((rising ^ falling).all())
    assert abs(float(rising.double().mean()) - 0.5) < 5 * 0.5 / len(drawn) ** 0.5


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = ImageBatches(made(), 2, 7, flip=True, dequantize=True)(3).images
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, ImageBatches(made(), 2, 7, flip=True, dequantize=True)(3).images)


def test_an_image_that_broke_meanwhile_is_named(tmp_path):
    class_folders(tmp_path)
    batches = ImageBatches(load_images(tmp_path, "all"), 8, 0)
    (tmp_path / "dog" / "002.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"dog/002.png: cannot be read as an image"):
        batches(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"data_range": "half"}, "unknown data_range 'half'; known are unit, symmetric"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(InputError, match=message):
        ImageBatches(made(), **{"batch_size": 4, "seed": 0, **changes})
    with pytest.raises(InputError, match="step must not be negative"):
        ImageBatches(made(), 4, 0)(-1)


def test_a_labels_dtype_fits_an_embedding():
    assert ImageBatches(made(), 4, 0)(0).labels.dtype == torch.int64
    assert np.array_equal(ImageBatches(made(), 4, 0).indices(0), ImageBatches(made(), 4, 0)(0).labels)
