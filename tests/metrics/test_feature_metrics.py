"""P-FID and P-IS: point-e's own numbers, the classifier's file, and the scores by evaluate."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.metrics import evaluate, pointnet2
from pcdiff.metrics.evaluation import check_metrics
from pcdiff.metrics.feature_metrics import p_fid, p_is

GOLDEN = Path(os.environ.get("PCDIFF_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
FILE = GOLDEN / "3d/nets/pointe/pointnet.pt"


def close(ours, expected, tolerance):
    ours = ours.detach().double().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-12)


@pytest.fixture(scope="module")
def io():
    if not FILE.is_file():
        pytest.skip(f"PCDIFF_GOLDEN: no {FILE}")
    return dict(np.load(FILE.with_name("pointnet_io.npz")))


@pytest.mark.golden
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_classifier_is_pointes(io, dtype):
    suffix, tolerance = {torch.float32: ("", 1e-4), torch.float64: ("_f64", 1e-7)}[dtype]
    net, clouds = pointnet2.load(FILE).to(dtype), torch.from_numpy(io["raw"])
    close(pointnet2.unit_ball(clouds.double()), io["normalised_f64"], 1e-7)
    with torch.no_grad():
        found = net(pointnet2.unit_ball(clouds.to(dtype)))
    close(found.features, io[f"features{suffix}"], tolerance)
    close(found.log_probabilities, io[f"log_probs{suffix}"], tolerance)
    close(found.log_probabilities.exp(), io[f"preds{suffix}"], tolerance)
    close(pointnet2.classify(net, clouds).features, io[f"features{suffix}"], tolerance)
    if dtype == torch.float32:
        with torch.no_grad():
            centers, h = net.sa1(torch.from_numpy(io["normalised"]), None)
            close(centers.mT, io["mid/sa1_xyz"], 0)
            stride = centers.shape[1] // io["mid/sa1_features"].shape[2]
            close(h[:, ::stride].mT, io["mid/sa1_features"], tolerance)


@pytest.mark.golden
def test_scores_of_features_are_pointes(io):
    for key in (key for key in io if key.startswith("fid/") and key.endswith("/value")):
        case = key.removesuffix("/value")
        a, b = (torch.from_numpy(io[f"{case}/{name}"]) for name in "ab")
        # a matrix root loses half of the digits where covariances are singular
        assert p_fid(a, b) == pytest.approx(float(io[key]), rel=1e-6, abs=1e-6)
    preds = torch.from_numpy(io["is/preds"])
    for key in (key for key in io if key.startswith("is/split")):
        assert p_is(preds.log(), int(key.removeprefix("is/split"))) == pytest.approx(float(io[key]), rel=1e-9)


@pytest.fixture
def small_file(tmp_path):
    torch.manual_seed(0)
    torch.save({"model_state_dict": pointnet2.PointNet2(4, 3).state_dict()}, tmp_path / "small.pt")
    return tmp_path / "small.pt"


def test_evaluate_has_the_scores_where_the_file_is_named(small_file, monkeypatch):
    monkeypatch.setenv(pointnet2.VARIABLE, str(small_file))
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20, 32, 3, generator=draw)
    result = evaluate(samples=a, reference=b, protocol="raw", metrics=["P-FID", "P-IS"], resamples=0)
    assert set(result["scores"]) == {"P-FID", "P-IS"}
    assert result["scores"]["P-FID"] > 0
    assert 1 <= result["scores"]["P-IS"] <= 3
    assert len(result["details"]["P-FID"]["sha256"]) == 16
    same = evaluate(samples=a, reference=a, protocol="raw", metrics=["P-FID"], resamples=0)
    assert same["scores"]["P-FID"] == pytest.approx(0, abs=1e-6)
    assert not {"P-FID", "P-IS"} & set(check_metrics(None))  # they need a file: only where they are named


def test_a_file_that_is_not_there_or_another(tmp_path, small_file, monkeypatch):
    monkeypatch.delenv(pointnet2.VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"P-FID's classifier: put point-e's pointnet\.pt at .*PCDIFF_POINTNET"):
        pointnet2.find_weights()
    monkeypatch.setenv(pointnet2.VARIABLE, str(tmp_path / "none.pt"))
    with pytest.raises(InputError, match=r"no file .*none\.pt \(from PCDIFF_POINTNET\)"):
        pointnet2.find_weights()
    weights = torch.load(small_file, weights_only=True)["model_state_dict"]
    for changed, message in (
        (weights | {"extra": torch.ones(1)}, r"left over: \['extra'\]"),
        ({"a": torch.ones(1)}, "no weights of PointNet"),
        (weights | {"fc1.bias": torch.ones(1)}, r"fc1\.bias is \(1,\), not \(32,\)"),
    ):
        torch.save({"model_state_dict": changed}, tmp_path / "bad.pt")
        with pytest.raises(InputError, match=message):
            pointnet2.load(tmp_path / "bad.pt")
    with pytest.raises(InputError, match="cloud 1 has zero extent"):
        pointnet2.unit_ball(torch.stack([torch.randn(4, 3), torch.ones(4, 3)]))


def test_the_border_belongs_to_the_ball_and_the_first_fills():
    x = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [1, 0, 0], [0.5, 0, 0]]])
    found = pointnet2.first_within(x, x[:, :2], 1.0, 4)
    assert found[0].tolist() == [[0, 2, 3, 0], [1, 1, 1, 1]]
    assert pointnet2.first_within(x, x[:, :1], 1.0, 6)[0, 0].tolist() == [0, 2, 3, 0, 0, 0]
