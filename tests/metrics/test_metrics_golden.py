"""The peers' own numbers: set metrics, JSD, normalization and F-score, for every case in the golden folder."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch

from pcdiff.metrics import (
    coverage,
    f_score,
    jsd_legacy,
    mmd,
    normalize_bbox,
    normalize_unit,
    one_nna,
    reconstruction_scores,
)
from pcdiff.metrics._blocks import in_order
from pcdiff.metrics.emd_search import emd_neighbors
from pcdiff.metrics.generation import scores_of
from pcdiff.metrics.jsd import cell_counts, sphere_grid
from pcdiff.ops import nearest, pairwise

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def cases(golden):
    found = sorted((golden / "3d" / "metrics").glob("*.npz"))
    if not found:
        pytest.skip(f"no case in {golden / '3d' / 'metrics'}")
    return {path.stem: (np.load(path), json.loads(path.with_suffix(".json").read_text())) for path in found}


def _tensor(array):
    return torch.from_numpy(np.array(array))


def _close(ours, theirs):
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-9)


def _check_set_metrics(across, rr, ss, expected, suffix):
    """`expected` in the peers' naming: acc_t concerns the references, acc_f the samples."""
    test = one_nna(across, rr, ss)
    _close(mmd(across), expected[f"lgan_mmd{suffix}"])
    _close(mmd(across.T), expected[f"lgan_mmd_smp{suffix}"])
    _close(coverage(across).share, expected[f"lgan_cov{suffix}"])
    prefix = f"1-NN{suffix}-" if suffix else "1nn_"
    _close(test.accuracy, 100 * expected[f"{prefix}acc"])
    _close(test.reference, 100 * expected[f"{prefix}acc_t"])
    _close(test.samples, 100 * expected[f"{prefix}acc_f"])
    assert test.ties == 0


def test_set_metrics_from_clouds_equal_the_peers(cases):
    checked = 0
    for arrays, expected in cases.values():
        samples, reference = _tensor(arrays["sample"]), _tensor(arrays["ref"])
        matrices = [
            pairwise(samples, reference).cpu().numpy(),
            pairwise(reference).cpu().numpy(),
            pairwise(samples).cpu().numpy(),
        ]
        for key in (key for key in expected if "compute_all_metrics" in key):
            _check_set_metrics(*matrices, expected[key], "-CD")
            checked += 1
    assert checked


def test_emd_scores_by_search_equal_the_peers(cases):
    checked = 0
    for arrays, expected in cases.values():
        samples, reference = _tensor(arrays["sample"]), _tensor(arrays["ref"])
        neighbors, effort = emd_neighbors(samples, reference, in_order, "EMD", lambda pairs: None)
        scores = scores_of(neighbors)
        assert effort.solved <= effort.pairs
        for key in (key for key in expected if "exact_emd" in key and "compute_all_metrics" in key):
            theirs = expected[key]
            _close(scores.mmd, theirs["lgan_mmd-EMD"])
            _close(scores.coverage.share, theirs["lgan_cov-EMD"])
            _close(scores.one_nna.accuracy, 100 * theirs["1-NN-EMD-acc"])
            _close(scores.one_nna.reference, 100 * theirs["1-NN-EMD-acc_t"])
            _close(scores.one_nna.samples, 100 * theirs["1-NN-EMD-acc_f"])
            checked += 1
    assert checked


def test_set_metrics_from_matrices_equal_the_peers(cases):
    checked = 0
    for arrays, expected in cases.values():
        for key in (key for key in expected if key.startswith("metrics_from_") and key.endswith("_matrices")):
            kind = key.removeprefix("metrics_from_").removesuffix("_matrices")
            across, rr, ss = (arrays[f"{kind}_{name}"] for name in ("Mrs", "Mrr", "Mss"))
            _check_set_metrics(across.T, rr, ss, expected[key], "")
            checked += 1
        for key in (key for key in expected if "exact_emd" in key and "compute_all_metrics" in key):
            across, rr, ss = (arrays[f"emd_l2_{name}"] for name in ("Mrs", "Mrr", "Mss"))
            _check_set_metrics(across.T, rr, ss, expected[key], "-EMD")
            checked += 1
    assert checked


def test_the_grid_is_the_peers(cases):
    checked = 0
    for _, expected in cases.values():
        for key in expected:
            if found := re.fullmatch(r"grid(\d+)_in_sphere_cells", key):
                grid = sphere_grid(int(found[1]))
                assert len(grid) == expected[key]
                assert hashlib.sha256(grid.tobytes()).hexdigest() == expected[f"grid{found[1]}_sha256_float32"]
                checked += 1
    assert checked


def test_jsd_and_its_counts_equal_the_peers(cases):
    checked = 0
    for arrays, expected in cases.values():
        for form, values in expected["jsd"].items():
            suffix = "_half" if form == "half_sphere" else ""
            samples, reference = arrays[f"sample{suffix}"], arrays[f"ref{suffix}"]
            resolutions = {}
            for key in values:
                if found := re.fullmatch(r"jsd_res(\d+)_in_sphere(_True)?", key):
                    resolution = int(found[1])
                    _close(jsd_legacy(samples, reference, resolution=resolution), values[key])
                    resolutions[len(sphere_grid(resolution))] = resolution
            counted = resolutions[values["n_cells"]]
            for clouds, name in ((samples, "sample"), (reference, "ref")):
                np.testing.assert_array_equal(cell_counts(clouds, counted), arrays[f"jsd_counts_{name}_{form}"])
            # The peers' own check of the reference: every other cloud against the rest.
            _close(jsd_legacy(reference[::2], reference[1::2], counted), values["jsd_self_split"])
            checked += 1
    assert checked


def test_f_score_equals_the_peers(cases):
    checked = 0
    for arrays, expected in cases.values():
        for pair, by_threshold in expected["fscore_pvd"].items():
            for threshold, values in by_threshold.items():
                if not isinstance(values, dict):
                    continue
                a, b = (_tensor(arrays[f"fs_{pair}_{side}"]).double() for side in "ab")
                there, back = (found.squared_distance.numpy() for found in (nearest(a, b), nearest(b, a)))
                np.testing.assert_allclose(there, arrays[f"fs_{pair}_dist1"], rtol=1e-4, atol=1e-9)
                np.testing.assert_allclose(back, arrays[f"fs_{pair}_dist2"], rtol=1e-4, atol=1e-9)
                whole = reconstruction_scores(reconstructions=a, reference=b, threshold=float(threshold), emd=False)
                np.testing.assert_allclose(whole["per_cloud"]["F-score"], values["fscore"], rtol=1e-5)
                for i in range(len(a)):
                    ours = f_score(there[i], back[i], float(threshold))
                    theirs = [values[name][i] for name in ("fscore", "precision_1", "precision_2")]
                    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
                    checked += 1
    assert checked


def test_f_scores_at_several_thresholds_equal_the_peers(cases):
    checked = 0
    for arrays, expected in cases.values():
        for pair, by_threshold in expected["fscore_pvd"].items():
            theirs = {float(key): entry["fscore"] for key, entry in by_threshold.items() if isinstance(entry, dict)}
            a, b = (_tensor(arrays[f"fs_{pair}_{side}"]) for side in "ab")
            result = reconstruction_scores(reconstructions=a, reference=b, thresholds=tuple(theirs), emd=False)
            at = result["details"]["F-score"]["at"]
            assert {float(key) for key in at} == set(theirs)
            for key, values in at.items():
                _close(values["mean"], np.mean(theirs[float(key)]))
                _close(values["median"], np.median(theirs[float(key)]))
                checked += 1
    assert checked


def test_normalization_equals_the_peers(golden):
    found = sorted((golden / "3d").glob("*/misc/normalize_point_clouds.npz"))
    if not found:
        pytest.skip("no normalize_point_clouds.npz")
    for path in found:
        arrays = np.load(path)
        for name, normalize in (("shape_bbox", normalize_bbox), ("shape_unit", normalize_unit)):
            ours = normalize(arrays["raw"]).numpy()
            np.testing.assert_allclose(ours, arrays[name], rtol=1e-5, atol=1e-5 * np.abs(arrays[name]).max())
