"""FID's Inception: names and shapes of the standard file, wiring, resize, and where the file is looked for."""

import hashlib

import numpy as np
import plain_inception
import pytest
import torch

from image_pipeline.metrics import FeatureNetIdentity, inception_weights, open_feature_net
from image_pipeline.metrics.inception import InceptionV3, resize_like_tensorflow
from image_pipeline.metrics.inception_weights import fill, find_inception_weights, load_inception
from pcdiff.errors import InputError

# Every convolution of pt_inception-2015-12-05-6726825d.pth: block, name and the shape of its weight.
A = """branch1x1 64 {i} 1 1, branch5x5_1 48 {i} 1 1, branch5x5_2 64 48 5 5, branch3x3dbl_1 64 {i} 1 1,
branch3x3dbl_2 96 64 3 3, branch3x3dbl_3 96 96 3 3, branch_pool {p} {i} 1 1"""
B = """branch3x3 384 288 3 3, branch3x3dbl_1 64 288 1 1, branch3x3dbl_2 96 64 3 3, branch3x3dbl_3 96 96 3 3"""
C = """branch1x1 192 768 1 1, branch7x7_1 {p} 768 1 1, branch7x7_2 {p} {p} 1 7, branch7x7_3 192 {p} 7 1,
branch7x7dbl_1 {p} 768 1 1, branch7x7dbl_2 {p} {p} 7 1, branch7x7dbl_3 {p} {p} 1 7, branch7x7dbl_4 {p} {p} 7 1,
branch7x7dbl_5 192 {p} 1 7, branch_pool 192 768 1 1"""
D = """branch3x3_1 192 768 1 1, branch3x3_2 320 192 3 3, branch7x7x3_1 192 768 1 1, branch7x7x3_2 192 192 1 7,
branch7x7x3_3 192 192 7 1, branch7x7x3_4 192 192 3 3"""
E = """branch1x1 320 {i} 1 1, branch3x3_1 384 {i} 1 1, branch3x3_2a 384 384 1 3, branch3x3_2b 384 384 3 1,
branch3x3dbl_1 448 {i} 1 1, branch3x3dbl_2 384 448 3 3, branch3x3dbl_3a 384 384 1 3, branch3x3dbl_3b 384 384 3 1,
branch_pool 192 {i} 1 1"""
STEM = """Conv2d_1a_3x3 32 3 3 3, Conv2d_2a_3x3 32 32 3 3, Conv2d_2b_3x3 64 32 3 3, Conv2d_3b_1x1 80 64 1 1,
Conv2d_4a_3x3 192 80 3 3"""
BLOCKS = [
    *(("Mixed_5b", A, 192, 32), ("Mixed_5c", A, 256, 64), ("Mixed_5d", A, 288, 64), ("Mixed_6a", B, 0, 0)),
    *(("Mixed_6b", C, 0, 128), ("Mixed_6c", C, 0, 160), ("Mixed_6d", C, 0, 160), ("Mixed_6e", C, 0, 192)),
    *(("Mixed_7a", D, 0, 0), ("Mixed_7b", E, 1280, 0), ("Mixed_7c", E, 2048, 0)),
]


def standard_shapes():
    lines = STEM.replace("\n", " ").split(",")
    for block, table, inputs, p in BLOCKS:
        lines += [f"{block}.{line.strip()}" for line in table.format(i=inputs, p=p).replace("\n", " ").split(",")]
    shapes = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for line in lines:
        name, *shape = line.split()
        shapes[f"{name}.conv.weight"] = tuple(map(int, shape))
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (int(shape[0]),)
    return shapes


@pytest.fixture(scope="module")
def net():
    """A network whose every weight matters: activations of about one throughout, batch norms jittered."""
    net = InceptionV3(FeatureNetIdentity("made", "0"))
    draws = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith("conv.weight"):
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=draws)
        elif name.endswith(("bn.bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=draws)
        elif name.endswith(("bn.weight", "running_var")):
            tensor.uniform_(0.8, 1.2, generator=draws)
    return net


def test_the_state_dict_is_the_standard_files(net):
    own = {k: tuple(v.shape) for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert own == standard_shapes()
    assert sum(p.numel() for p in net.parameters()) == 21_785_568 + 1008 * 2049  # torchvision's count without heads


def test_the_wiring(net):
    images = torch.randint(0, 256, (2, 3, 299, 299), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    weights = net.state_dict()
    expected = plain_inception.features(weights, (images.float() - 128) / 128)
    found = net(images)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found.features, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.logits, found.features @ weights["fc.weight"].T)


def test_it_never_trains(net):
    net.train()
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    small = torch.randint(0, 256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    both = net(small).features
    torch.testing.assert_close(net(small[:1]).features, both[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(small.expand(-1, 3, -1, -1)).features, both)
    with pytest.raises(InputError, match="images must be uint8"):
        net(small.float())


@pytest.mark.parametrize(("size", "side"), [((32, 32), 299), ((5, 8), 13), ((13, 9), 13), ((20, 31), 13)])
def test_resize_against_loops(size, side):
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    x = images.numpy()
    expected = np.zeros((2, 1, side, side))
    places = [[np.float32(i) * (np.float32(n) / np.float32(side)) for i in range(side)] for n in size]
    for row, v in enumerate(places[0]):
        top, low = int(v), min(int(v) + 1, size[0] - 1)
        for column, h in enumerate(places[1]):
            left, right = int(h), min(int(h) + 1, size[1] - 1)
            a, b = float(v) - top, float(h) - left
            upper = x[..., top, left] * (1 - b) + x[..., top, right] * b
            lower = x[..., low, left] * (1 - b) + x[..., low, right] * b
            expected[..., row, column] = upper * (1 - a) + lower * a
    found = resize_like_tensorflow(images, side)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-9)


def test_resize_keeps_the_upper_left_corner_and_identity():
    images = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_like_tensorflow(images, 6), images)
    assert torch.equal(resize_like_tensorflow(images, 12)[..., ::2, ::2], images)
    # shrinking takes single pixels, it does not smooth
    assert torch.equal(resize_like_tensorflow(images, 3), images[..., ::2, ::2])


def test_where_the_file_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("PCDIFF_INCEPTION", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    with pytest.raises(InputError, match=f"put pt_inception-2015-12-05-6726825d.pth .* into {folder}"):
        find_inception_weights()
    folder.mkdir(parents=True)
    for name in ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"):
        (folder / name).write_bytes(b"not it")
        assert find_inception_weights() == folder / name
    with pytest.raises(InputError, match=r"SHA-256 begins with 6726825d, got [0-9a-f]{8}; fetch it again"):
        open_feature_net("inception")
    monkeypatch.setenv("PCDIFF_INCEPTION", str(tmp_path / "mine.pth"))
    with pytest.raises(InputError, match=r"no file .*mine.pth \(from PCDIFF_INCEPTION\)"):
        find_inception_weights()
    (tmp_path / "mine.pth").write_bytes(b"")
    assert find_inception_weights() == tmp_path / "mine.pth"
    assert find_inception_weights(folder / name) == folder / name
    with pytest.raises(InputError, match="no file elsewhere"):
        find_inception_weights("elsewhere")


def test_a_standard_file_opens(net, tmp_path, monkeypatch):
    # float16, to keep the file small; and without the counters, as old versions of torch wrote it
    stored = {k: v.half() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "weights.pth"
    torch.save(stored, path)
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(inception_weights, "SHA256_PREFIX", sha256[:8])
        opened = load_inception(path)
    finally:
        path.unlink()
    assert opened.identity == FeatureNetIdentity("inception-2015-12-05", sha256[:16])
    for name, tensor in stored.items():
        assert torch.equal(opened.state_dict()[name], tensor.float())


def test_other_weights_are_refused(net):
    good = net.state_dict()
    for bad, message in (
        (
            {k: v for k, v in good.items() if k != "Mixed_6c.branch7x7_2.bn.bias"},
            "has no Mixed_6c.branch7x7_2.bn.bias",
        ),
        ({**good, "AuxLogits.fc.bias": torch.zeros(1)}, "has AuxLogits.fc.bias, which Inception has not"),
        ({**good, "fc.bias": torch.zeros(1000)}, r"fc.bias must be \(1008,\), got \(1000,\)"),
        ([1], "must hold a dict of tensors, got list"),
    ):
        with pytest.raises(InputError, match=message):
            fill(net, bad, "a.pth")
