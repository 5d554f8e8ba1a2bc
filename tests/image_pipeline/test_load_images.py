"""Every layout gives back the pixels and labels that were written into it."""

import builtins
import pickle

import numpy as np
import pytest
import torch
from image_files import (
    cifar_binary,
    cifar_python,
    class_folders,
    idx,
    labels,
    lsun_lmdb,
    pictures,
    png,
    stylegan_zip,
)
from PIL import Image

from image_pipeline.data import ImageIdentity, load_images
from pcdiff.errors import InputError


def holds(dataset, images, classes):
    everything = dataset.images[torch.arange(len(dataset))]
    assert everything.dtype == torch.uint8
    assert tuple(dataset.images.shape) == images.shape == everything.shape
    assert np.array_equal(everything.numpy(), images)
    if classes is None:
        assert dataset.labels is None
        assert dataset.num_classes is None
    else:
        assert np.array_equal(dataset.labels.numpy(), classes)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("write", [cifar_binary, cifar_python])
def test_cifar(tmp_path, write, fine):
    made = write(tmp_path / "cifar", fine)
    for split in ("train", "test"):
        dataset = load_images(tmp_path / "cifar", split)
        holds(dataset, *made[split])
        assert dataset.num_classes == (100 if fine else 10)
        assert dataset.resident
    holds(
        load_images(tmp_path / "cifar", "all"), *map(np.concatenate, zip(made["train"], made["test"], strict=True))
    )


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_cifars_pickle_in_every_protocol(tmp_path, protocol):
    made = cifar_python(tmp_path / "cifar", False, protocol)
    holds(load_images(tmp_path / "cifar", "test"), *made["test"])
    assert load_images(tmp_path / "cifar").class_names[3] == "class3"


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}, protocol=protocol))
    with pytest.raises(InputError, match=r"test_batch: refused to open: it asks for .*exec, which could run code"):
        load_images(tmp_path, "test")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist(tmp_path, ending):
    made = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        x, y = pictures(6, 1, 28, seed=len(split)), labels(6)
        idx(tmp_path / f"{prefix}-images-idx3-ubyte{ending}", x[:, 0])
        idx(tmp_path / f"{prefix}-labels-idx1-ubyte{ending}", y)
        made[split] = x, y
    for split in made:
        holds(load_images(tmp_path, split), *made[split])


@pytest.mark.parametrize("channels", [1, 3])
def test_class_folders(tmp_path, channels):
    x, y = class_folders(tmp_path, channels=channels)
    dataset = load_images(tmp_path, "all")
    holds(dataset, x, y)
    assert dataset.class_names == ("cat", "dog")
    assert not dataset.resident
    train, test = (load_images(tmp_path, split) for split in ("train", "test"))
    assert sorted(train.images.names + test.images.names) == dataset.images.names
    assert len(test) == 1


def test_imagenets_own_split(tmp_path):
    x, y = class_folders(tmp_path / "train")
    v, w = class_folders(tmp_path / "val", per_class=2)
    holds(load_images(tmp_path), x, y)
    holds(load_images(tmp_path, "test"), v, w)
    assert load_images(tmp_path).identity == load_images(tmp_path, "test").identity
    assert "own folders: 4 test, 8 train" in load_images(tmp_path).identity.splits


def test_ffhq_and_celeba_have_no_classes(tmp_path):
    x = pictures(6, side=8)
    for i in range(6):
        png(tmp_path / "ffhq" / f"{i // 3:05d}" / f"{i:05d}.png", x[i])
        png(tmp_path / "celeba" / "img_align_celeba" / f"{i:06d}.png", x[i])
    for name in ("ffhq", "celeba"):
        holds(load_images(tmp_path / name, "all"), x, None)
    holds(load_images(tmp_path / "ffhq", "all", labels="folders"), x, np.repeat([0, 1], 3))


@pytest.mark.parametrize("with_labels", [False, True])
def test_stylegan_zip(tmp_path, with_labels):
    x, y = stylegan_zip(tmp_path / "a.zip", with_labels=with_labels)
    holds(load_images(tmp_path / "a.zip", "all"), x, y if with_labels else None)
    holds(load_images(tmp_path / "a.zip", "all", labels="none"), x, None)
    some = load_images(tmp_path / "a.zip", "all").images
    assert np.array_equal(some[3].numpy(), x[3])
    assert np.array_equal(some[2:5].numpy(), x[2:5])


def test_lsun(tmp_path):
    pytest.importorskip("lmdb")
    x = lsun_lmdb(tmp_path / "church_outdoor_train_lmdb")
    v = lsun_lmdb(tmp_path / "church_outdoor_val_lmdb", count=3)
    holds(load_images(tmp_path / "church_outdoor_train_lmdb", "all"), x, None)
    train, test = load_images(tmp_path), load_images(tmp_path, "test")
    holds(train, x, None)
    holds(test, v, None)
    assert train.identity == test.identity
    copy = pickle.loads(pickle.dumps(train.images))
    assert torch.equal(copy[2], train.images[2])


def test_a_truncated_lmdb_is_refused_before_it_crashes(tmp_path):
    pytest.importorskip("lmdb")
    lsun_lmdb(tmp_path / "a", count=40)
    file = tmp_path / "a" / "data.mdb"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    refused("truncated: data.mdb has .* bytes of", tmp_path / "a")
    file.write_bytes(data[:100])
    refused("truncated or no lmdb", tmp_path / "a")


@pytest.mark.parametrize(("module", "extra"), [("lmdb", "lmdb"), ("sklearn", "images")])
def test_an_absent_extra_says_how_to_install_it(tmp_path, monkeypatch, module, extra):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    (tmp_path / "data.mdb").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=rf"pip install 'pcdiff\[{extra}\]'"):
        load_images(tmp_path if module == "lmdb" else "digits")


def test_digits_are_split_once_and_for_all():
    pytest.importorskip("sklearn")
    parts = {split: load_images("digits", split) for split in ("train", "test", "all")}
    assert [len(parts[split]) for split in parts] == [1498, 299, 1797]
    together = torch.cat([parts["train"].images, parts["test"].images]).flatten(1)
    assert torch.equal(together.sum(dim=0), parts["all"].images.flatten(1).sum(dim=0))
    assert len({part.identity for part in parts.values()}) == 1
    assert torch.bincount(parts["test"].labels).min() >= 15
    assert int(parts["all"].images.max()) == 255


def test_resize_and_crop(tmp_path):
    wide = np.zeros((3, 6, 10), np.uint8)
    wide[:, :, 2:8] = 200  # the central square
    png(tmp_path / "a.png", wide)
    plain = load_images(tmp_path, "all", size=6)
    assert torch.equal(plain.images[0], torch.full((3, 6, 6), 200, dtype=torch.uint8))
    assert load_images(tmp_path, "all", crop=4).images.shape == (1, 3, 4, 4)
    # a checkerboard of single pixels shrinks to its mean, not to some of its pixels
    board = np.indices((8, 8)).sum(axis=0) % 2 * 255
    png(tmp_path / "board" / "b.png", board[None].astype(np.uint8))
    for filter in ("lanczos", "box", "bilinear", "bicubic"):
        shrunk = load_images(tmp_path / "board", "all", size=2, filter=filter).images[0].double()
        assert (shrunk - 127.5).abs().max() < 16
    a = load_images(tmp_path, "all", size=4).identity
    assert a.fingerprint != load_images(tmp_path, "all", size=2).identity.fingerprint
    assert ImageIdentity.from_dict(a.to_dict()) == a
    with pytest.raises(InputError, match="must have the keys"):
        ImageIdentity.from_dict({"name": "a"})


def test_fingerprints_follow_the_content(tmp_path):
    class_folders(tmp_path)
    before = load_images(tmp_path, "all").identity.fingerprint
    assert load_images(tmp_path, "train").identity.fingerprint == before
    png(tmp_path / "cat" / "000.png", pictures(1, side=8, seed=5)[0])
    assert load_images(tmp_path, "all").identity.fingerprint != before


def decode_all(*args, **kwargs):
    dataset = load_images(*args, **kwargs)
    return dataset.images[torch.arange(len(dataset))]


def complaint(*args):
    try:
        decode_all(*args)
    except InputError as error:
        return str(error)
    return None


def refused(match, *args, **kwargs):
    with pytest.raises(InputError, match=match) as raised:
        decode_all(*args, **kwargs)
    assert "\n" not in str(raised.value)


def test_bad_places_and_arguments(tmp_path):
    refused("does not exist; give a folder, a zip, or one of: digits", tmp_path / "none")
    refused("holds no image", tmp_path)
    (tmp_path / "a.tar").write_bytes(b"x")
    refused("unknown layout; expected a folder or a .zip", tmp_path / "a.tar")
    (tmp_path / "a.zip").write_bytes(b"PK nonsense")
    refused("truncated or no zip", tmp_path / "a.zip")
    refused("split must be one of train, test, all, got 'val'", "digits", "val")
    refused("unknown filter 'nearest'; known are lanczos", "digits", filter="nearest")
    refused("size must be at least 1, got 0", "digits", size=0)
    refused("channels must be 1 or 3, got 4", "digits", channels=4)
    png(tmp_path / "a.png", pictures(1, side=8)[0])
    refused("which 1 images are too few for; give 6 or more", tmp_path)
    refused("smaller than the crop of 9", tmp_path, "all", crop=9)
    refused("unknown labels rule 'guess'", tmp_path, "all", labels="guess")
    refused("labels by names need class_index.png", tmp_path, "all", labels="names")
    refused("labels by folders need every image in the folder", tmp_path, "all", labels="folders")
    refused("dataset.json is absent", tmp_path, "all", labels="json")
    (tmp_path / "dataset.json").write_text('{"labels": [["a.png", 1.5]]}')
    refused("must give a.png a class number below 1,000,000, got 1.5", tmp_path, "all")
    (tmp_path / "dataset.json").write_text("[")
    refused("dataset.json: not JSON", tmp_path, "all")


def test_mixed_and_unreadable_images(tmp_path):
    png(tmp_path / "a.png", pictures(1, side=8)[0])
    png(tmp_path / "b.png", pictures(1, side=12)[0])
    refused("b.png is 12 x 12 where a.png is 8 x 8; give a size", tmp_path, "all")
    assert load_images(tmp_path, "all", size=8).images[torch.tensor([1, 0])].shape == (2, 3, 8, 8)
    data = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    refused("b.png: cannot be read as an image", tmp_path, "all", size=8)
    (tmp_path / "b.png").write_bytes(b"hello")
    refused(r"b.png: cannot be read as an image \(no image\)", tmp_path, "all", size=8)


def test_truncated_batches(tmp_path):
    cifar_binary(tmp_path / "binary", False)
    file = tmp_path / "binary" / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    refused("data_batch_2.bin: truncated or no CIFAR-10 file", tmp_path / "binary")
    file.write_bytes(bytes([11]) * 3073)
    refused(r"labels must be in 0\.\.9, got up to 11", tmp_path / "binary")
    cifar_python(tmp_path / "python", True)
    file = tmp_path / "python" / "train"
    file.write_bytes(file.read_bytes()[:-200])
    refused("train: truncated, damaged or no pickle", tmp_path / "python")
    file.write_bytes(pickle.dumps([1, 2]))
    refused("train: must hold a dict, got list", tmp_path / "python")
    idx(tmp_path / "idx" / "train-images-idx3-ubyte.gz", pictures(3, 1, 28)[:, 0])
    refused("no train-labels-idx1-ubyte", tmp_path / "idx")
    idx(tmp_path / "idx" / "train-labels-idx1-ubyte", labels(2))
    refused("has 3 images and train-labels-idx1-ubyte 2", tmp_path / "idx")
    file = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-30])
    refused("train-images-idx3-ubyte.gz: truncated or damaged", tmp_path / "idx")


def test_an_absent_split_is_named(tmp_path):
    cifar_binary(tmp_path / "cifar", False)
    (tmp_path / "cifar" / "test_batch.bin").unlink()
    refused("has no test files; it has train", tmp_path / "cifar", "test")
    class_folders(tmp_path / "folders" / "train")
    refused("has no test folder; it has train", tmp_path / "folders", "test")


@pytest.mark.parametrize("seed", range(4))
def test_damage_anywhere_is_one_clear_line(tmp_path, seed):
    """Cut or change files at random: they load, or they are refused in one line."""
    draws = np.random.default_rng(seed)
    cifar_python(tmp_path / "python", False)
    idx(tmp_path / "idx" / "t10k-images-idx3-ubyte.gz", pictures(3, 1, 28)[:, 0])
    idx(tmp_path / "idx" / "t10k-labels-idx1-ubyte", labels(3))
    class_folders(tmp_path / "folders", per_class=1)
    stylegan_zip(tmp_path / "a.zip")
    for place, file in (
        ("python", "test_batch"),
        ("idx", "t10k-images-idx3-ubyte.gz"),
        ("idx", "t10k-labels-idx1-ubyte"),
        ("folders", "cat/000.png"),
        ("a.zip", ""),
    ):
        path = tmp_path / place / file
        good = path.read_bytes()
        for _ in range(25):
            bad = bytearray(good[: draws.integers(len(good))] if draws.random() < 0.3 else good)
            for at in draws.integers(max(len(bad), 1), size=3):
                if at < len(bad):
                    bad[at] = draws.integers(256)
            path.write_bytes(bytes(bad))
            said = complaint(tmp_path / place, "all" if place in ("folders", "a.zip") else "test")
            assert said is None or (place in said and "\n" not in said)
        path.write_bytes(good)


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path):
    x, y = class_folders(tmp_path / "images")
    (tmp_path / "images" / "dog" / "loop").symlink_to(tmp_path / "images", target_is_directory=True)
    holds(load_images(tmp_path / "images", "all"), x, y)


def test_modes_of_images(tmp_path):
    gray = pictures(1, 1, 8)[0]
    png(tmp_path / "a.png", gray)
    png(tmp_path / "b.png", pictures(1, 3, 8)[0])
    assert load_images(tmp_path, "all").images.shape == (2, 3, 8, 8)
    assert np.array_equal(load_images(tmp_path, "all").images[0].numpy(), gray.repeat(3, axis=0))
    assert load_images(tmp_path, "all", channels=1).images[torch.arange(2)].shape == (2, 1, 8, 8)
    Image.fromarray(pictures(1, 4, 8)[0].transpose(1, 2, 0).copy(), "RGBA").save(tmp_path / "c.png")
    assert load_images(tmp_path, "all").images[torch.arange(3)].shape == (3, 3, 8, 8)
    Image.fromarray(np.full((8, 8), 257, np.int32)).save(tmp_path / "d.tiff")
    refused("d.tiff: must have 8 or 16 bits a channel, or floats from 0 to 1", tmp_path, "all")


def test_real_files(shared_data):
    cifar, fashion = shared_data / "cifar-10-batches-bin", shared_data / "fashion-mnist"
    if not (cifar.is_dir() and fashion.is_dir()):
        pytest.skip(f"PCDIFF_SHARED_DATA: no CIFAR-10 or Fashion-MNIST under {shared_data}")
    test = load_images(cifar, "test")
    assert test.num_classes == 10
    assert test.class_names[0] == "airplane"
    assert tuple(test.images.shape[1:]) == (3, 32, 32)
    means = test.images.double().mean(dim=(0, 2, 3)) / 255
    # CIFAR-10's own means
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=0.02, rtol=0)
    clothes = load_images(fashion, "test")
    assert tuple(clothes.images.shape) == (len(clothes.labels), 1, 28, 28)
    assert torch.equal(torch.bincount(clothes.labels), torch.full((10,), 1000))
    assert abs(float(clothes.images.double().mean()) / 255 - 0.2868) < 0.001


def test_arrays_are_a_data_set(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
    classes = rng.integers(0, 3, 12)
    np.savez(tmp_path / "adm.npz", images, classes)  # arr_0 and arr_1, as ADM writes its samples
    np.save(tmp_path / "bare.npy", images)
    whole = load_images(tmp_path / "adm.npz", "all")
    assert torch.equal(whole.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert whole.labels.tolist() == classes.tolist()
    parts = [load_images(tmp_path / "adm.npz", split) for split in ("train", "test")]
    assert [len(part) for part in parts] == [10, 2]  # one in six is held out
    assert len({part.identity.fingerprint for part in (whole, *parts)}) == 1
    bare = load_images(tmp_path / "bare.npy", "all", size=4, channels=1)
    assert (bare.images.shape, bare.labels, bare.num_classes) == ((12, 1, 4, 4), None, None)
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    assert torch.equal(bare.images[:1], load_images(tmp_path, "all", size=4, channels=1).images[[0]])


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (np.zeros(3, np.int64), r"arr_1 must be classes \(12,\) from 0, got int64 \(3,\)"),
        (np.full(12, -1), r"arr_1 must be classes \(12,\) from 0"),
        (np.zeros(12), r"arr_1 must be classes \(12,\) from 0, got float64"),
    ],
)
def test_arrays_with_odd_classes_are_refused(tmp_path, second, says):
    np.savez(tmp_path / "x.npz", np.zeros((12, 4, 4, 1), np.uint8), second)
    with pytest.raises(InputError, match=says):
        load_images(tmp_path / "x.npz")


def test_channels_turn_arrays_as_they_turn_files(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "color.npy", images)
    gray = load_images(tmp_path / "color.npy", "all", channels=1)
    # ITU-R 601-2, in the 16 bits of Pillow's own integers
    luma = (images.astype(np.int64) @ [19595, 38470, 7471] + 0x8000) >> 16
    assert np.array_equal(gray.images[:, 0].numpy(), luma)
    assert gray.identity.preprocessing == "none, to grey"
    digits, color = load_images("digits", "test"), load_images("digits", "test", channels=3)
    assert torch.equal(color.images, digits.images.expand(-1, 3, -1, -1))
    assert color.identity.fingerprint != digits.identity.fingerprint
    assert load_images("digits", "test", channels=1).identity == digits.identity  # as of today's runs


def test_images_brought_to_more_pixels_say_so(tmp_path):
    np.save(tmp_path / "small.npy", np.zeros((6, 4, 4, 1), np.uint8))
    Image.new("L", (4, 4)).save(tmp_path / "0.png")
    for place in (tmp_path / "small.npy", tmp_path):
        assert load_images(place, "all").enlarged is None
        assert load_images(place, "all", size=2).enlarged is None
        assert "images of 4x4 are brought to 8x8 (center crop" in load_images(place, "all", size=8).enlarged
