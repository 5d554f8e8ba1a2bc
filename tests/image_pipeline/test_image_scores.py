"""Whole scores: networks by name and file, statistics files, and processes that share the work."""

import json

import numpy as np
import pytest
import torch

from image_pipeline.data import ImageDataset, ImageIdentity
from image_pipeline.metrics import (
    FEATURE_NETS,
    FeatureNetIdentity,
    FeatureStatistics,
    dataset_statistics,
    inception_score,
    load_statistics,
    open_feature_net,
    save_statistics,
    score_images,
)
from image_pipeline.metrics.features import Features, Pixels
from image_pipeline.metrics.scores import extract
from pcdiff.errors import InputError
from pcdiff.metrics.entropy import splits_of
from pcdiff.runtime import distributed

IDENTITY = ImageIdentity("made", (3, 4, 4), "none", "none", "0")


def made(count, seed=0, low=0, high=256):
    images = torch.randint(low, high, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return ImageDataset(images.to(torch.uint8), None, (), "train", IDENTITY)


class Guesser(Pixels):
    """Pixels that also guess a class."""

    identity = FeatureNetIdentity("guesser", "")

    def __call__(self, images):
        features = super().__call__(images).features
        return Features(features, features[:, :6] * 5)


class Export(torch.nn.Module):
    def forward(self, x):
        rows = x.flatten(1).float() / 255
        return rows[:, :10], rows[:, 10:14]


@pytest.fixture
def exported(tmp_path):
    batch = torch.export.Dim("batch")
    net = torch.export.export(Export(), (made(3).images,), dynamic_shapes={"x": {0: batch}})
    torch.export.save(net, tmp_path / "mine.pt2")
    return tmp_path / "mine.pt2"


def test_all_scores_in_one_result():
    samples, reference = made(60, 1), made(80, 2)
    found = score_images(samples.images, reference, Guesser(), kid_subset_size=20, batch_size=7)
    entries = json.loads(json.dumps(found.to_dict()))
    assert entries["feature_net"] == {"name": "guesser", "sha256": ""}
    assert (entries["num_samples"], entries["num_reference"]) == (60, 80)
    assert entries["reference"] == {**IDENTITY.to_dict(), "split": "train"}
    assert set(entries["kid"]) == {"mean", "std", "num_subsets", "subset_size"}
    rows = [d.images.flatten(1).double() / 255 for d in (samples, reference)]
    means, covs = [r.mean(dim=0) for r in rows], [torch.cov(r.T) for r in rows]
    root = torch.linalg.eigvals(covs[0] @ covs[1]).sqrt().real.sum()
    expected = (means[0] - means[1]).square().sum() + covs[0].trace() + covs[1].trace() - 2 * root
    assert entries["fid"] == pytest.approx(float(expected), rel=1e-5)
    only = score_images(samples.images, reference, Guesser(), metrics=["is"]).to_dict()
    assert "fid" not in only
    assert only["inception_score"] == entries["inception_score"]
    whole = inception_score(Guesser()(samples.images).logits)
    assert entries["inception_score"] == pytest.approx(whole.to_dict(), rel=1e-12)


def test_the_same_set_scores_best():
    reference = made(50)
    for name in ("pixels", "random"):
        net = open_feature_net(name)
        same = score_images(reference.images, reference, net, ["fid", "prc"])
        other = score_images(made(50, 3, high=40).images, reference, net, ["fid", "prc"])
        assert abs(same.fid) < 1e-6
        assert same.prc.f_score == 1
        assert other.fid > 0.1
        assert other.prc.precision < 0.5


def test_random_features_are_the_same_everywhere():
    a, b = open_feature_net("random"), open_feature_net("random")
    images = made(3).images
    assert a.identity == b.identity
    assert torch.equal(a(images).features, b(images).features)
    assert a(images).features.shape == (3, 224)
    gray = images[:, :1]
    assert torch.equal(a(gray).features, a(gray.expand(-1, 3, -1, -1)).features)


def test_a_network_from_a_file(exported):
    net = open_feature_net(exported)
    assert net.identity.name == "mine.pt2"
    assert len(net.identity.sha256) == 16
    found = score_images(made(30).images, made(40, 1), net, kid_subset_size=10)
    assert found.to_dict()["feature_net"] == net.identity.to_dict()
    with pytest.raises(InputError, match=r"does not take uint8 images \(2, 3, 8, 8\)"):
        net(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    exported.write_bytes(b"junk")
    with pytest.raises(InputError, match=r"mine.pt2: cannot be opened as an exported network"):
        open_feature_net(exported)


@pytest.mark.parametrize("size", [2, 9])  # of seven batches: with nine processes two have none
def test_processes_share_the_work(monkeypatch, size):
    images, net = made(50).images, Guesser()
    splits = splits_of(len(images), 3)
    alone = extract(images, net, 8, True, splits)
    shares = []

    class Sent(Exception):
        pass

    def send(share):
        shares.append(share)
        raise Sent

    monkeypatch.setattr(distributed, "world_size", lambda: size)
    monkeypatch.setattr(distributed, "agreed", lambda stopped: stopped)  # none is
    monkeypatch.setattr(distributed, "gather", send)
    for rank in range(size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        with pytest.raises(Sent):
            extract(images, net, 8, True, splits, share_out=distributed.share_out)
    monkeypatch.setattr(distributed, "gather", lambda share: shares)
    together = extract(images, net, 8, True, splits, share_out=distributed.share_out)
    assert torch.equal(together.features, alone.features)
    assert together.classes.score().mean == pytest.approx(alone.classes.score().mean, rel=1e-12)
    assert together.moments.count == 50
    torch.testing.assert_close(together.moments.covariance(), alone.moments.covariance(), rtol=1e-12, atol=1e-15)


def test_statistics_files(tmp_path):
    reference, net = made(40), open_feature_net("pixels")
    made_here = dataset_statistics(reference, net, batch_size=11)
    save_statistics(tmp_path / "a.npz", made_here)
    read = load_statistics(tmp_path / "a.npz")
    assert (read.count, read.feature_net) == (40, net.identity)
    assert read.dataset == {**IDENTITY.to_dict(), "split": "train"}
    assert torch.equal(read.covariance, made_here.covariance)
    samples = made(30, 1).images
    direct = score_images(samples, reference, net, ["fid"])
    stored = score_images(samples, read, net, ["fid"])
    assert stored.fid == pytest.approx(direct.fid, rel=1e-9)
    assert stored.to_dict().keys() == direct.to_dict().keys()
    assert stored.reference == direct.reference
    with pytest.raises(InputError, match=r"statistics are of feature network pixels \(no weights\), got random"):
        score_images(samples, read, open_feature_net("random"), ["fid"])
    with pytest.raises(InputError, match="kid needs the reference's images"):
        score_images(samples, read, net, ["fid", "kid"])


def test_pytorch_fids_files(tmp_path):
    made_here = dataset_statistics(made(40), open_feature_net("pixels"))
    np.savez(tmp_path / "fid.npz", mu=made_here.mean.numpy(), sigma=made_here.covariance.numpy())
    read = load_statistics(tmp_path / "fid.npz")
    assert (read.count, read.feature_net, read.dataset) == (None, None, None)
    found = score_images(made(30, 1).images, read, open_feature_net("pixels"), ["fid"])
    assert found.to_dict()["num_reference"] is None


def test_bad_statistics_files(tmp_path):
    with pytest.raises(InputError, match="no statistics file there"):
        load_statistics(tmp_path / "none.npz")
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="truncated, damaged or not statistics"):
        load_statistics(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", mu=np.zeros(3))
    with pytest.raises(InputError, match=r"not statistics with mu and sigma .*sigma"):
        load_statistics(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"must be \(D,\) and sigma \(D, D\)"):
        load_statistics(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", mu=np.array([object()]), sigma=np.zeros((1, 1)))
    with pytest.raises(InputError, match="truncated, damaged or not statistics"):
        load_statistics(tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"must end in \.npz"):
        save_statistics(tmp_path / "e.npy", FeatureStatistics(torch.zeros(1), torch.zeros(1, 1)))


def test_errors():
    reference, net = made(10), open_feature_net("pixels")
    for call, message in (
        (lambda: open_feature_net("vgg"), f"unknown feature network vgg; known are {', '.join(FEATURE_NETS)}"),
        (lambda: open_feature_net("pixels", weights="a.pth"), "weights are for inception only"),
        (
            lambda: score_images(reference.images, reference, net, ["fvd"]),
            "unknown metric 'fvd'; known are fid, kid",
        ),
        (lambda: score_images(reference.images, reference, net, []), "unknown metric 'none'"),
        (lambda: score_images(reference.images, reference, net), "pixels gives no logits"),
        (lambda: score_images(reference.images[:0], reference, net, ["fid"]), "at least 1, got 0"),
        (lambda: score_images(reference.images, reference, net, ["kid"]), "subset_size must be in 2..10"),
        (lambda: net(reference.images.float()), "images must be uint8"),
    ):
        with pytest.raises(InputError, match=message):
            call()
