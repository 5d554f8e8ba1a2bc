"""Against numbers that the peers' own code, or an independent float64 implementation, produced."""

import numpy as np
import pytest
import torch

from pcdiff import ops

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def metric_cases(golden):
    files = sorted(golden.glob("3d/metrics/*.npz"))
    if not files:
        pytest.skip(f"no 3d/metrics/*.npz under {golden}")
    cases = {}
    for file in files:
        data = np.load(file)
        cases[file.stem] = {name: data[name] for name in data.files}
    return cases


def sets(case, letters):
    """Return the sets that a matrix `M<row letter><column letter>` compares."""
    chosen = [torch.from_numpy(case["sample" if letter == "s" else "ref"]) for letter in letters]
    return (chosen[0],) if letters[0] == letters[1] else tuple(chosen)


@pytest.mark.parametrize("letters", ["rs", "rr", "ss"])
def test_chamfer_matrices(metric_cases, letters):
    compared = 0
    for case in metric_cases.values():
        for suffix, dtype, rtol in [("", torch.float32, 1e-4), ("_f64", torch.float64, 1e-10)]:
            want = case.get(f"cd_M{letters}{suffix}")
            if want is None:
                continue
            got = ops.pairwise(*(s.to(dtype) for s in sets(case, letters)))
            # The peers' float32 form cancels: its own distance from float64 is up to 1e-7 absolute.
            np.testing.assert_allclose(got.numpy(), want, rtol=rtol, atol=5e-7 if suffix == "" else 1e-12)
            compared += 1
    assert compared, f"no cd_M{letters} in the golden files"


@pytest.mark.parametrize("letters", ["rs", "rr", "ss"])
def test_exact_emd_matrices(metric_cases, letters):
    """Whole matrices up to 30 solves of 512 points; a seeded draw of the pairs beyond, which take minutes."""
    compared = 0
    for name, case in metric_cases.items():
        want = case.get(f"emd_l2_M{letters}")
        if want is None:
            continue
        rows, columns = (*sets(case, letters), *sets(case, letters))[:2]
        budget = max(4, int(30 * (512 / rows.shape[1]) ** 2.5))
        pairs = [(i, j) for i in range(want.shape[0]) for j in range(want.shape[1])]
        draw = np.random.default_rng(sum(map(ord, name + letters))).permutation(len(pairs))[:budget]
        i, j = np.array([pairs[k] for k in draw]).T
        got = ops.emd(rows[i].double(), columns[j].double(), method="exact").cost
        np.testing.assert_allclose(got.numpy(), want[i, j], rtol=1e-9, atol=1e-12)
        compared += 1
    assert compared, f"no emd_l2_M{letters} in the golden files"


def test_nearest_distances_of_two_clouds(metric_cases):
    compared = 0
    for case in metric_cases.values():
        for name in [key[: -len("_dist1")] for key in case if key.startswith("fs_") and key.endswith("_dist1")]:
            a, b = torch.from_numpy(case[f"{name}_a"]), torch.from_numpy(case[f"{name}_b"])
            for x, y, k in [(a, b, 1), (b, a, 2)]:
                squared, index = ops.nearest(x, y)
                np.testing.assert_allclose(squared.numpy(), case[f"{name}_dist{k}"], rtol=1e-4, atol=5e-7)
                assert (index.numpy() == case[f"{name}_idx{k}"]).mean() > 0.99
                compared += 1
    assert compared, "no fs_*_dist1 in the golden files"
