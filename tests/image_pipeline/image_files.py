"""Small data sets in every layout, made by the tests themselves."""

import gzip
import json
import pickle
import struct
import zipfile

import numpy as np
from PIL import Image


def pictures(count, channels=3, side=32, seed=0):
    """Return random uint8 images `(n, C, H, W)`."""
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), np.uint8)


def labels(count, classes=10, seed=1):
    return np.random.default_rng(seed).integers(0, classes, count)


def png(path, image):
    """Write uint8 `(C, H, W)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy()).save(path)


def cifar_binary(folder, fine):
    """Write CIFAR-10 (or -100 where `fine`) records; return split -> images and labels."""
    folder.mkdir(parents=True)
    made = {}
    files = (
        {"train": ["train.bin"], "test": ["test.bin"]}
        if fine
        else {"train": ["data_batch_1.bin", "data_batch_2.bin"], "test": ["test_batch.bin"]}
    )
    for split, names in files.items():
        parts = []
        for i, name in enumerate(names):
            x, y = pictures(5, seed=i), labels(5, 100 if fine else 10, seed=len(split) + i)
            records = b"".join(
                (bytes([7]) if fine else b"") + bytes([int(c)]) + image.tobytes()
                for image, c in zip(x, y, strict=True)
            )
            (folder / name).write_bytes(records)
            parts.append((x, y))
        made[split] = tuple(np.concatenate(p) for p in zip(*parts, strict=True))
    return made


def cifar_python(folder, fine, protocol=2):
    """Write CIFAR's pickles with the byte keys that Python 2 leaves."""
    folder.mkdir(parents=True)
    made, key = {}, b"fine_labels" if fine else b"labels"
    files = {"train": "train", "test": "test"} if fine else {"train": "data_batch_1", "test": "test_batch"}
    for split, name in files.items():
        x, y = pictures(6, seed=len(split)), labels(6, 100 if fine else 10)
        batch = {b"data": x.reshape(6, -1), key: y.tolist(), b"batch_label": b"a batch", b"filenames": [b"a"] * 6}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
        made[split] = x, y
    count, meta = (100, "meta") if fine else (10, "batches.meta")
    names = [f"class{i}".encode() for i in range(count)]
    (folder / meta).write_bytes(pickle.dumps({b"fine_label_names" if fine else b"label_names": names}, protocol=2))
    return made


def idx(path, array):
    data = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def class_folders(root, per_class=4, classes=("cat", "dog"), side=8, channels=3):
    """Write `root/class/i.png`; return images and labels in the order of the sorted names."""
    x = pictures(per_class * len(classes), channels, side)
    for c, name in enumerate(classes):
        for i in range(per_class):
            png(root / name / f"{i:03d}.png", x[c * per_class + i])
    return x, np.repeat(np.arange(len(classes)), per_class)


def stylegan_zip(path, count=9, side=8, with_labels=True):
    """Write a zip as StyleGAN's and EDM's tools do."""
    x, y = pictures(count, side=side), labels(count, 3)
    names = [f"00000/img{i:08d}.png" for i in range(count)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, x, strict=True):
            with archive.open(name, "w") as file:
                Image.fromarray(image.transpose(1, 2, 0).copy()).save(file, "PNG")
        table = [[name, int(c)] for name, c in zip(names, y, strict=True)] if with_labels else None
        archive.writestr("dataset.json", json.dumps({"labels": table}))
    return x, y


def lsun_lmdb(folder, count=7, side=8):
    """Write an environment of WebP images, as LSUN has them (lossless here)."""
    import io

    import lmdb

    x = pictures(count, side=side)
    env = lmdb.open(str(folder), map_size=1 << 22)
    with env.begin(write=True) as transaction:
        for i, image in enumerate(x):
            buffer = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0).copy()).save(buffer, "WEBP", lossless=True)
            transaction.put(f"{i:040x}".encode(), buffer.getvalue())
    env.close()
    return x
