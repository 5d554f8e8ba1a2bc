"""Clouds and statistics as the peers load them: DPM's and PC15k's golden files, and the real data."""

import json

import h5py
import numpy as np
import pytest
import torch
from golden_files import found

from pcdiff.data import shapenet
from pcdiff.data.shapenet import load_clouds
from pcdiff.errors import InputError
from pcdiff.metrics import PROTOCOLS

CHAIR = shapenet.NAME_TO_SYNSET["chair"]
MODES = ("None", "global_unit", "shape_unit", "shape_bbox", "shape_half", "shape_34")


@pytest.mark.golden
def test_normalization_agrees_with_dpm(golden):
    records = found(golden, "3d/*/dataset/loader_golden.json")
    compared = 0
    for record in records:
        orders, stored = json.loads(record.read_text()), np.load(record.with_suffix(".npz"))
        (path,) = record.parent.glob("*.hdf5")
        keys = [k for k, entry in orders.items() if isinstance(entry, dict) and "order_id" in entry]
        assert keys
        for key in keys:
            names, split = key.split("/")
            order = list(zip(orders[key]["order_cate"], map(str, orders[key]["order_id"]), strict=True))
            for mode in MODES:
                ours = {"None": "none", "global_unit": "global_unit_legacy_dpm"}.get(mode, mode)
                dataset = load_clouds(path, names.split("+"), split, ours)
                place = {entry: i for i, entry in enumerate(zip(dataset.categories, dataset.ids, strict=True))}
                assert sorted(place) == sorted(order)
                rows = [place[entry] for entry in order]
                prefix = f"{key}/{mode}"
                np.testing.assert_allclose(dataset.shift[rows], stored[f"{prefix}/shift"], rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(dataset.scale[rows], stored[f"{prefix}/scale"], rtol=1e-6)
                for name in ("pointcloud", "pointcloud_first16"):
                    if f"{prefix}/{name}" in stored:
                        expected = stored[f"{prefix}/{name}"]
                        points = dataset.points[rows][:, : expected.shape[1]]
                        np.testing.assert_allclose(points, expected, rtol=1e-5, atol=2e-6)
                        compared += 1
            train = load_clouds(path, names.split("+"), "train", "none").points.double()
            ours = load_clouds(path, names.split("+"), split, "global_unit")
            np.testing.assert_allclose(ours.scale.flatten(), train.std().item(), rtol=1e-6)
            assert not np.isclose(ours.scale[0].item(), stored[f"{names}/stats_std"], rtol=1e-6)  # theirs leaks
    assert compared


@pytest.mark.golden
def test_pc15k_points_and_statistics_agree_with_pointflow(golden):
    records = found(golden, "3d/pc15k/loader_golden.json")
    compared = 0
    for record in records:
        info, stored = json.loads(record.read_text()), np.load(record.with_suffix(".npz"))
        roots = [f.parent.parent.parent for f in record.parent.glob("*/*/train/*.npy")]
        for key, config in info["configs"].items():
            if config["peer"] != "PointFlow" or f"{key}/train_first8" not in stored:
                continue
            split = key.split("/")[2]
            categories = sorted({synset for synset, _ in config["order"]})
            dataset = load_clouds(roots[0], categories, split, "none")
            synsets = [shapenet.NAME_TO_SYNSET[name] for name in dataset.categories]
            place = {entry: i for i, entry in enumerate(zip(synsets, dataset.ids, strict=True))}
            rows = [place[(synset, name.split("/")[-1])] for synset, name in config["order"]]
            assert sorted(rows) == list(range(len(dataset)))
            raw = dataset.points[rows].double().numpy()
            mean, std = (stored[f"{key}/all_points_{name}"].astype(np.float64) for name in ("mean", "std"))
            cut = config["train_len"]
            for part, points in (("train", raw[:, :cut]), ("test", raw[:, cut : cut + config["test_len"]])):
                normalized = (points - mean) / std
                np.testing.assert_allclose(normalized[:, :8], stored[f"{key}/{part}_first8"], rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(normalized[:, -2:], stored[f"{key}/{part}_last2"], rtol=1e-5, atol=1e-5)
                compared += 1
            if split == "train" and f"{key}/global_std_f64" in stored:
                # PointFlow's std is over the split's every coordinate with ddof 0; ours has ddof 1.
                ours = load_clouds(roots[0], categories, "train", "global_unit").scale[0].item()
                expected = stored[f"{key}/global_std_f64"]
                np.testing.assert_allclose(ours * np.sqrt(1 - 1 / raw.size), expected, rtol=1e-6)
    assert compared


@pytest.mark.golden
def test_global_and_the_reference_points_agree_with_pointflow_pvd_and_lion(golden):
    records = found(golden, "3d/pc15k/loader_golden.json")
    peers, chosen_by = set(), set()
    for record in records:
        info, stored = json.loads(record.read_text()), np.load(record.with_suffix(".npz"))
        (root,) = {file.parent.parent.parent for file in record.parent.glob("*/*/train/*.npy")}
        for key, config in info["configs"].items():
            # One mean per axis and one std for all clouds; the other configs are modes of the peers' own.
            if (config["mean_shape"], config["std_shape"]) != ([1, 1, 3], [1, 1, 1]):
                continue
            categories, split = sorted({synset for synset, _ in config["order"]}), key.split("/")[2]
            dataset = load_clouds(root, categories, split, "global")
            for name, ours in (("mean", dataset.shift), ("std", dataset.scale)):
                expected = np.broadcast_to(stored[f"{key}/all_points_{name}"], ours.shape)
                np.testing.assert_allclose(ours, expected, rtol=1e-5)
                if f"{key}/global_{name}_f64" in stored:  # the peers' float32 sums put right
                    expected = np.broadcast_to(stored[f"{key}/global_{name}_f64"], ours.shape)
                    np.testing.assert_allclose(ours, expected, rtol=1e-6)
            synsets = [shapenet.NAME_TO_SYNSET[name] for name in dataset.categories]
            place = {entry: i for i, entry in enumerate(zip(synsets, dataset.ids, strict=True))}
            rows = [place[(synset, name.split("/")[-1])] for synset, name in config["order"]]
            first = stored[f"{key}/train_first8"]
            np.testing.assert_allclose(dataset.points[rows][:, :8], first, rtol=1e-5, atol=1e-5)
            raw = load_clouds(root, categories, split, "none").points[rows][:, :8]
            back = dataset.denormalize_generated(torch.from_numpy(first))
            torch.testing.assert_close(back, raw, rtol=1e-5, atol=2e-6)
            peers.add(config["peer"])
            # What the peers compare with: LION its first part of a cloud, the others the second.
            protocol, part = {"LION": ("pointflow-lion", "train")}.get(config["peer"], ("pointflow", "test"))
            if config[f"{part}_len"] == PROTOCOLS[protocol].points:
                chosen = PROTOCOLS[protocol].choose_points(dataset.points[rows])
                assert chosen.shape[1] == config[f"{part}_len"]
                for name, points in (("first8", chosen[:, :8]), ("last2", chosen[:, -2:])):
                    np.testing.assert_allclose(points, stored[f"{key}/{part}_{name}"], rtol=1e-5, atol=1e-5)
                chosen_by.add(config["peer"])
    assert peers
    if peers != chosen_by:
        pytest.skip(f"no clouds of as many points as the protocols take, of {sorted(peers - chosen_by)}")


def test_real_chairs(shared_data):
    (path,) = shared_data.glob("modelnet10/chair*.hdf5")
    dataset = load_clouds(path, "chair", "test", "shape_bbox")
    with h5py.File(path, "r") as file:
        expected = file[CHAIR]["test"][...]
    assert dataset.points.abs().amax().item() == pytest.approx(1.0, abs=1e-5)
    back = dataset.denormalize(dataset.points, range(len(dataset)))
    np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_real_bodies(shared_data):
    folder = shared_data / "points_cc0"
    dataset = load_clouds(folder, "human", "val")
    assert dataset.ids == sorted(file.stem for file in (folder / "human" / "val").glob("*.npy"))
    assert dataset.identity.categories == ("human",)
    with pytest.raises(InputError, match=r"category airplane .* is a ShapeNet category but .*human"):
        load_clouds(folder, "airplane", "train")
