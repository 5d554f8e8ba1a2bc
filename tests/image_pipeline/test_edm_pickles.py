"""EDM's network pickles: nets and preconditionings come back, and nothing in a pickle runs."""

import builtins
import io
import os
import pickle

import edm_pickles
import pytest
import torch

from image_pipeline.interop import edm, native, persistence
from image_pipeline.nets import build_model
from pcdiff.diffusion import ClassifierFreeGuidance, sample
from pcdiff.errors import InputError

SIZE = 8
SHAPE = {"img_resolution": SIZE, "in_channels": 3, "out_channels": 3}
DHARIWAL = SHAPE | {
    "model_channels": 64,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "label_dim": 3,
}
SONG = SHAPE | {
    "augment_dim": 9,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "label_dim": 3,
}
NCSNPP = SONG | {
    "label_dim": 0,
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
SKIP = NCSNPP | {"encoder_type": "skip", "decoder_type": "skip"}
EDM = {"sigma_data": 0.5, "sigma_min": 0, "sigma_max": float("inf")}
VP = {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5}
VE = {"sigma_min": 0.02, "sigma_max": 100}
IDDPM = {"C_1": 0.001, "C_2": 0.008, "M": 1000}
CASES = {
    "edm adm": ("EDMPrecond", "DhariwalUNet", DHARIWAL, EDM),
    "edm song": ("EDMPrecond", "SongUNet", SKIP, EDM),
    "vp": ("VPPrecond", "SongUNet", SONG, VP),
    "ve": ("VEPrecond", "SongUNet", NCSNPP, VE),
    "iddpm": ("iDDPMPrecond", "DhariwalUNet", DHARIWAL | {"out_channels": 6, "label_dim": 0}, IDDPM),
}


def net_of(kind, arguments):
    torch.manual_seed(0)
    net = build_model(edm.NETS[kind](arguments)[0])
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
        if getattr(net.config, "null_class", False):
            net.class_embed.weight[-1] = 0  # no class adds nothing
    return net.eval()


@pytest.fixture(params=sorted(CASES))
def snapshot(request, tmp_path):
    preconditioning, kind, arguments, attributes = CASES[request.param]
    net = net_of(kind, arguments)
    weights = edm_pickles.their_weights(net, kind, SIZE)
    if kind == "DhariwalUNet":  # of training alone: what the net is told of augmentations
        weights["map_augment.weight"] = torch.randn(8, 9)
    path = edm_pickles.write(
        tmp_path / "network-snapshot-000100.pkl", weights, preconditioning, kind, arguments, attributes
    )
    return path, net, preconditioning


def denoised(kind, net, x, sigma):
    """D(x; sigma) by the columns of table 1 of Karras et al. (2022)."""
    s = sigma[:, None, None, None]
    if kind == "EDMPrecond":
        total = s.square() + 0.25
        out = net(x / total.sqrt(), sigma.log() / 4)
        return 0.25 / total * x + 0.5 * s / total.sqrt() * out
    if kind == "VPPrecond":
        t = ((0.01 + 2 * 19.9 * (1 + sigma.square()).log()).sqrt() - 0.1) / 19.9
        return x - s * net(x / (1 + s.square()).sqrt(), 999 * t)
    if kind == "VEPrecond":
        return x + s * net(x, (sigma / 2).log())
    raise AssertionError(kind)


def test_the_denoiser_is_the_papers(snapshot):
    path, net, kind = snapshot
    model = edm.load(path)
    assert (model.image_shape, model.data_range) == ((3, SIZE, SIZE), (-1.0, 1.0))
    x = 2 * torch.randn(3, 3, SIZE, SIZE)
    process = model.denoiser.process
    with torch.no_grad():
        if kind == "iDDPMPrecond":
            t = torch.tensor([1, 400, 900])
            alpha, sigma = (v.float() for v in process.scales(t))
            out = net(x, t - 1)
            expected = (x - sigma[:, None, None, None] * out[:, :3]) / alpha[:, None, None, None]
            assert model.denoiser.variance == "learned_range"
            torch.testing.assert_close(model.denoiser(x, t), expected, rtol=1e-4, atol=1e-4)
            return
        sigma = torch.tensor([0.05, 1.0, 20.0])
        t = process.t_of_log_snr(-2 * sigma.double().log())
        alpha = process.alpha(t).float()[:, None, None, None]
        got = model.denoiser(alpha * x, t)
        torch.testing.assert_close(got, denoised(kind, net, x, sigma), rtol=1e-3, atol=1e-3)


def test_it_samples_with_and_without_classes(snapshot):
    path, _, _ = snapshot
    model = edm.load(path)
    denoiser, cond = model.denoiser, None
    if model.num_classes:
        cond = torch.tensor([0, 2])
        denoiser = ClassifierFreeGuidance(denoiser, torch.tensor([model.num_classes]), scale=2.0)
    steps = 3
    with torch.no_grad():
        out = sample(denoiser, (2, *model.image_shape), cond=cond, sampler="heun", num_steps=steps)
    assert out.isfinite().all()


def test_it_goes_through_our_own_format(snapshot, tmp_path):
    model = edm.load(snapshot[0])
    native.save(tmp_path / "ours.safetensors", model)
    again = native.load(tmp_path / "ours.safetensors")
    x, t = torch.randn(2, 3, SIZE, SIZE), model.denoiser.process.time_grid(3)[:2]
    with torch.no_grad():
        assert torch.equal(again.denoiser(x, t), model.denoiser(x, t))
    assert (again.ema, again.num_classes) == (True, model.num_classes)


def test_keys_left_over_and_missing_are_listed(tmp_path):
    net = net_of("SongUNet", SONG)
    weights = edm_pickles.their_weights(net, "SongUNet", SIZE)
    weights["extra.weight"] = weights.pop("map_layer0.weight")
    path = edm_pickles.write(tmp_path / "net.pkl", weights, "VPPrecond", "SongUNet", SONG, VP)
    with pytest.raises(InputError, match=r"left over: \['extra.weight'\], missing: \['map_layer0.weight'\]"):
        edm.load(path)


@pytest.mark.parametrize(
    ("arguments", "attributes", "message"),
    [
        (SONG | {"model_depth": 3}, VP, r"SongUNet has unknown arguments \['model_depth'\]"),
        ({k: v for k, v in SONG.items() if k != "in_channels"}, VP, "its settings do not fit"),
        (SONG, VP | {"M": 500}, "must count 1000 steps, got M = 500"),
        (SONG, {}, "its settings do not fit"),
        (SONG | {"encoder_type": "dense"}, VP, "encoder must be one of"),
    ],
)
def test_misfits(arguments, attributes, message, tmp_path):
    weights = edm_pickles.their_weights(net_of("SongUNet", SONG), "SongUNet", SIZE)
    path = edm_pickles.write(tmp_path / "net.pkl", weights, "VPPrecond", "SongUNet", arguments, attributes)
    with pytest.raises(InputError, match=message) as caught:
        edm.load(path)
    assert "\n" not in str(caught.value)


class Runs:
    """What a hostile pickle does: call any function while it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    told = tmp_path / "ran"
    path = tmp_path / "hostile.pkl"
    for function, arguments in (
        (os.system, (f"touch {told}",)),
        (exec, (f"open({str(told)!r}, 'w').close()",)),
        (builtins.open, (str(told), "w")),
        (getattr, ("a", "upper")),
        (torch.load, (str(told),)),
    ):
        path.write_bytes(pickle.dumps({"ema": Runs(function, *arguments)}))
        with pytest.raises(InputError, match=r"refused to open: it asks for .*, which could run code"):
            edm.load(path)
        assert not told.exists()


def test_code_inside_a_tensors_bytes_does_not_run(tmp_path):
    told = tmp_path / "ran"
    inner = io.BytesIO()
    torch.save(Runs(os.system, f"touch {told}"), inner, _use_new_zipfile_serialization=False)
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"ema": Runs(torch.storage._load_from_bytes, inner.getvalue())}))
    with pytest.raises(InputError, match="a tensor's numbers are damaged, or could run code"):
        edm.load(path)
    assert not told.exists()


def test_the_source_in_a_pickle_is_not_run(tmp_path, monkeypatch):
    """The project's own unpickler executes this text; here the network comes without it."""
    told = tmp_path / "ran"
    monkeypatch.setattr(edm_pickles, "SOURCE", f"open({str(told)!r}, 'w').close()")
    weights = edm_pickles.their_weights(net_of("SongUNet", SONG), "SongUNet", SIZE)
    path = edm_pickles.write(tmp_path / "net.pkl", weights, "VPPrecond", "SongUNet", SONG, VP)
    edm.load(path)
    assert not told.exists()


def test_tensors_cannot_reach_past_their_numbers(tmp_path):
    storage = torch.arange(4.0).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    rebuild = torch._utils._rebuild_tensor_v2
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(Runs(rebuild, typed, 1, (3,), (1,), False, None)))
    assert persistence.read(path).tolist() == [1.0, 2.0, 3.0]
    path.write_bytes(pickle.dumps(Runs(rebuild, typed, 2, (1000,), (1,), False, None)))
    with pytest.raises(InputError, match="truncated, damaged or no network pickle"):
        persistence.read(path)


def test_other_and_damaged_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        edm.load(tmp_path / "none.pkl")
    path = tmp_path / "net.pkl"
    for content, message in (
        (pickle.dumps({"ema": 3}), "expected a network of .* under 'ema', got int"),
        (pickle.dumps([1, 2]), "got list"),
        (b"", "truncated, damaged or no network pickle"),
        (b"\x80\x04hello", "truncated, damaged or no network pickle"),
        (pickle.dumps({"ema": list(range(1000))})[:-200], "truncated, damaged or no network pickle"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            edm.load(path)


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """An instruction that writes attributes reaches stand-ins made for this file alone."""
    # BUILD on the class itself: state (None, {"arguments": 1}) would overwrite the property
    hostile = b"\x80\x04ctorch.nn.modules.container\nModuleDict\n" + b"N}\x8c\x09argumentsK\x01s\x86" + b"b."
    path = tmp_path / "hostile.pkl"
    path.write_bytes(hostile)
    with pytest.raises(InputError):
        edm.load(path)
    assert isinstance(persistence.Record.arguments, property)
