"""Augmentations: each moves an image as its name says, as often as asked, and its label is right."""

import math

import pytest
import torch

from image_pipeline.data.augmentation import augment, draw_augmentation, labels_of

SIZE = 32
NAMES = "mirrored upended scale angle stretch along right down".split()


def done(**given):
    return torch.tensor([[float(given.get(name, 0)) for name in NAMES]])


def blob(place=lambda x, y: (x, y)):
    """An uneven blob off the center; `place` says where a point of the result comes from. And what is inside."""
    axis = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
    x, y = place(*torch.meshgrid(axis, axis, indexing="xy"))
    image = torch.exp(-((x - 4).square() / 30 + (y + 3).square() / 12)).float()[None, None]
    return image, torch.maximum(x.abs(), y.abs()) < SIZE / 2 - 2


def turned(angle, x, y):
    return math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y


def stretched(x, y):
    """Where a point comes from when all is twice as long and half as wide along a line at 0.7."""
    x, y = turned(-0.7, x, y)
    return turned(0.7, x / 2, y * 2)


CASES = {
    "mirrored": (done(mirrored=1), lambda x, y: (-x, y)),
    "upended": (done(upended=1), lambda x, y: (x, -y)),
    "larger": (done(scale=2.5), lambda x, y: (x / 2**0.5, y / 2**0.5)),
    "smaller": (done(scale=-2.5), lambda x, y: (x * 2**0.5, y * 2**0.5)),
    "turned": (done(angle=0.9), lambda x, y: turned(-0.9, x, y)),
    "stretched": (done(stretch=5, along=0.7), stretched),
    "moved": (done(right=0.6, down=-0.4), lambda x, y: (x - 0.6 * SIZE / 8, y + 0.4 * SIZE / 8)),
    "turned, then moved": (done(angle=2.0, right=1), lambda x, y: turned(-2.0, x - SIZE / 8, y)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_moves_the_image(case):
    what, place = CASES[case]
    image, (expected, inside) = blob()[0], blob(place)
    got = augment(image, what)
    # stretched, the blob is but a pixel wide
    atol = 0.04 if case == "stretched" else 0.01
    torch.testing.assert_close(got[..., inside], expected[..., inside], rtol=0, atol=atol)
    assert (expected - image)[..., inside].abs().max() > 0.2


def test_what_comes_from_outside_is_mirrored():
    ramp = torch.arange(SIZE, dtype=torch.float32).expand(1, 1, SIZE, SIZE)
    got = augment(ramp, done(right=1))[0, 0, SIZE // 2]
    torch.testing.assert_close(got[6:-2], ramp[0, 0, 0, 2:-6], rtol=0, atol=0.01)
    torch.testing.assert_close(got[:3], torch.tensor([4.0, 3.0, 2.0]), rtol=0, atol=0.1)


def test_rows_that_are_not_moved_keep_their_numbers():
    images = torch.rand(3, 2, 8, 8)
    got = augment(images, torch.cat([done(), done(scale=1), done(mirrored=1)]))
    assert torch.equal(got[0], images[0])
    assert not torch.equal(got[1], images[1])
    assert torch.equal(got[2], images[2].flip(-1))


def test_the_net_is_told_what_was_done():
    assert torch.equal(labels_of(done()), torch.zeros(1, 9))
    every = done(mirrored=1, upended=1, scale=0.3, angle=math.pi / 2, stretch=2, along=math.pi / 6, right=4, down=5)
    expected = [1, 1, 0.3, -1, 1, 2 * math.cos(math.pi / 6), 1, 4, 5]
    torch.testing.assert_close(labels_of(every)[0], torch.tensor(expected))


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_each_happens_as_often_as_asked(probability):
    count = 4000
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_augmentation(probability, generator) for _ in range(count)])
    happened = (drawn != 0).double().mean(dim=0)
    expected = torch.full((8,), probability, dtype=torch.float64)
    expected[0] = 0.5
    expected[1] = expected[5] = probability / 2
    assert ((happened - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt()).all()
    if probability == 1:
        assert abs(float(drawn[:, 2].std()) - 1) < 0.05
        assert float(drawn[:, 3].abs().max()) <= math.pi
        assert abs(float(drawn[:, 3].std()) - math.pi / 3**0.5) < 0.06
