"""Checkpoints: whole or not at all, bit for bit, and every damage an `InputError` that names the file."""

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from small_models import small_model, small_run

import pcdiff
from pcdiff.config import to_json
from pcdiff.errors import InputError
from pcdiff.runtime.atomic_write import replacing
from pcdiff.training import checkpoint

SMALL = {
    "latent_dim": 6,
    "encoder_widths": (8, 16),
    "encoder_head_widths": (8,),
    "flow_depth": 2,
    "flow_hidden_dim": 8,
    "net_widths": (8, 16, 8),
    "num_steps": 4,
}


def model_tensors(model, prefix="model."):
    return {f"{prefix}{name}": value for name, value in model.state_dict().items()}


def metadata(kind="flow", **more):
    return {"config": json.loads(to_json(small_run(SMALL | {"kind": kind}))), "step": 3, **more}


def make(kind="flow", seed=0):
    torch.manual_seed(seed)
    return small_model(SMALL | {"kind": kind})


@pytest.fixture
def saved(tmp_path):
    """Return a run's folder with `last`, and the model in it."""
    model = make()
    checkpoint.save(tmp_path / "checkpoints" / "last.safetensors", model_tensors(model), metadata())
    return tmp_path, model


def same_weights(model, other):
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def folder_is(folder, *names):
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("kind", ["flow", "gaussian", "autoencoder"])
def test_round_trip_bit_for_bit(kind, tmp_path):
    model, path = make(kind), tmp_path / "deep" / "er" / "model.safetensors"
    facts = metadata(kind, best={"score": 0.1 + 0.2}, dataset={"name": "Möbel ☂"})
    checkpoint.save(path, model_tensors(model), facts)
    loaded = pcdiff.load(path)
    assert type(loaded) is type(model)
    assert loaded.config == small_run(SMALL | {"kind": kind}).model
    assert same_weights(loaded, model)
    assert loaded.metadata == facts
    assert not loaded.training
    assert folder_is(path.parent, path.name)


def test_every_dtype_shape_and_layout_survives(tmp_path):
    tensors = {
        "optimizer.0.step": torch.tensor(7.0),
        "half": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
        "strided": torch.arange(12.0).view(3, 4).T,
        "count": torch.tensor([1, 2**40]),
        "empty": torch.zeros(0, 3),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    checkpoint.save(tmp_path / "a.safetensors", tensors, {"step": 1})
    back, facts = checkpoint.read(tmp_path / "a.safetensors")
    assert facts == {"step": 1}
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert torch.equal(back[name].nan_to_num(nan=5.0), tensor.nan_to_num(nan=5.0))


def test_only_the_asked_prefixes_are_read(tmp_path):
    tensors = {"model.a": torch.zeros(1), "ema.a": torch.ones(1), "optimizer.0.a": torch.ones(1)}
    checkpoint.save(tmp_path / "a.safetensors", tensors, {})
    assert checkpoint.read(tmp_path / "a.safetensors", ("model.", "ema."))[0].keys() == {"model.a", "ema.a"}


def test_the_moving_average_is_preferred(tmp_path):
    model, average = make(seed=0), make(seed=1)
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, model_tensors(model) | model_tensors(average, "ema."), metadata())
    assert same_weights(pcdiff.load(path), average)
    assert same_weights(pcdiff.load(path, ema=False), model)


def test_a_runs_folder_gives_best_where_there_is_one(saved):
    folder, last = saved
    assert same_weights(pcdiff.load(folder), last)
    best = make(seed=5)
    checkpoint.save(folder / "checkpoints" / "best.safetensors", model_tensors(best), metadata())
    assert same_weights(pcdiff.load(str(folder)), best)
    assert same_weights(pcdiff.load(folder, which="best"), best)
    assert same_weights(pcdiff.load(folder, which="last"), last)


@pytest.mark.parametrize("which", ["auto", "best", "last"])
def test_a_folder_without_checkpoints(which, tmp_path):
    with pytest.raises(InputError, match="no checkpoint") as caught:
        pcdiff.load(tmp_path, which=which)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file(tmp_path):
    for call in (checkpoint.read, pcdiff.load):
        with pytest.raises(InputError, match=r"no such file|no such checkpoint") as caught:
            call(tmp_path / "gone.safetensors")
        assert "gone.safetensors" in str(caught.value)


def named(path):
    return pytest.raises(InputError, match=f"^{path.name}|/{path.name}")


def test_truncated_anywhere(saved, tmp_path):
    path = saved[0] / "checkpoints" / "last.safetensors"
    whole, cut = path.read_bytes(), tmp_path / "cut.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    lengths = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1, *range(0, len(whole), 4096)}
    assert len(lengths) > 10
    for length in sorted(lengths):
        cut.write_bytes(whole[:length])
        for call in (checkpoint.read, pcdiff.load):
            with named(cut) as caught:
                call(cut)
            assert "\n" not in str(caught.value)


def test_a_damaged_header_is_never_another_exception(saved, tmp_path):
    """Flip bits all over the header: the file loads or is refused, by name."""
    path = saved[0] / "checkpoints" / "last.safetensors"
    whole, damaged = path.read_bytes(), tmp_path / "damaged.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    refusals = []
    for position in range(0, header, 29):
        for flip in (0x01, 0x80):
            damaged.write_bytes(whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :])
            try:
                pcdiff.load(damaged)
            except InputError as error:
                refusals.append(str(error))
    assert len(refusals) > 50
    assert all("damaged.safetensors" in refusal for refusal in refusals)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"PK\x03\x04 no zip", b"{}" * 100, b"\xff" * 64])
def test_garbage_is_refused(content, tmp_path):
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    with named(path):
        pcdiff.load(path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (str(Path(os.environ["PCDIFF_TEST_BOMB"])),))


def test_pickles_are_refused_and_never_run(tmp_path, monkeypatch):
    crater = tmp_path / "crater"
    monkeypatch.setenv("PCDIFF_TEST_BOMB", str(crater))
    pickled, torch_file = tmp_path / "model.pkl", tmp_path / "model.pt"
    pickled.write_bytes(pickle.dumps(Bomb()))
    torch.save({"state_dict": Bomb()}, torch_file)
    for path in (pickled, torch_file):
        with named(path):
            pcdiff.load(path)
    assert not crater.exists()


def test_a_folder_in_a_files_place(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(InputError, match=r"a\.safetensors"):
        checkpoint.read(tmp_path / "a.safetensors")


def test_another_programs_safetensors(tmp_path):
    path = tmp_path / "other.safetensors"
    for facts in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata=facts)
        with pytest.raises(InputError, match=r"other\.safetensors: expected a pcdiff-1 checkpoint, got format"):
            pcdiff.load(path)


@pytest.mark.parametrize("facts", [{}, {"json": "{oops"}, {"json": "3"}, {"json": "null"}])
def test_metadata_that_is_no_json_object(facts, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"model.a": torch.zeros(2)}, path, metadata={"format": checkpoint.FORMAT, **facts})
    with named(path):
        checkpoint.read(path)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"config": None},
        {"config": {"model": 3}},
        {"config": {"color": 1}},
        {"config": {"model": {"latent_dim": "six"}}},
        {"config": {"model": {"latent_dim": 0}}},
        {"config": {"model": {"beta_T": 1.5}}},
        {"config": {"model": {"kind": "vqvae"}}},
        {"config": {"model": {"encoder_widths": []}}},
    ],
)
def test_metadata_without_a_usable_config(facts, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, model_tensors(make()), facts)
    with named(path):
        pcdiff.load(path)


def test_a_wrong_model_lists_keys_and_shapes(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, model_tensors(make("flow")), metadata("gaussian"))
    with pytest.raises(InputError, match=r"left over: \['prior\.layers\.0.*missing: \[\], shapes: \[\]") as caught:
        pcdiff.load(path)
    assert str(path) in str(caught.value)
    checkpoint.save(path, model_tensors(make("gaussian")), metadata("flow"))
    with pytest.raises(InputError, match=r"left over: \[\], missing: \['prior\.layers\.0.*shapes: \[\]"):
        pcdiff.load(path)
    tensors = model_tensors(make())
    tensors["model.denoiser.net.layers.0.bias"] = torch.zeros(9)
    checkpoint.save(path, tensors, metadata())
    with pytest.raises(
        InputError, match=r"missing: \[\], shapes: \['denoiser\.net\.layers\.0\.bias \(9,\) not \(8,\)'"
    ):
        pcdiff.load(path)


def test_weights_that_do_not_fit_leave_the_model_as_it_was(tmp_path):
    model, before = make(), make()
    with pytest.raises(InputError, match="does not fit"):
        checkpoint.load_weights(
            model, model_tensors(make(seed=3)) | {"model.more": torch.zeros(1)}, "model.", "here"
        )
    assert same_weights(model, before)


def failing(error, written=b""):
    def fail(*arguments, **options):
        for argument in arguments:
            if isinstance(argument, str | os.PathLike) and written:
                Path(argument).write_bytes(written)
        raise error

    return fail


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("pcdiff.runtime.atomic_write.os.replace", OSError(errno.EIO, os.strerror(errno.EIO))),
        ("pcdiff.runtime.atomic_write.os.fsync", OSError(errno.EIO, os.strerror(errno.EIO))),
        ("pcdiff.runtime.atomic_write.tempfile.mkstemp", OSError(errno.EROFS, os.strerror(errno.EROFS))),
        ("pcdiff.runtime.atomic_write.tempfile.mkstemp", PermissionError(errno.EACCES, os.strerror(errno.EACCES))),
        ("pcdiff.training.checkpoint.save_file", FULL),
        (
            "pcdiff.training.checkpoint.save_file",
            SafetensorError("I/O error: No space left on device (os error 28)"),
        ),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_no_other(target, error, saved, monkeypatch):
    folder, model = saved
    path = folder / "checkpoints" / "last.safetensors"
    before = path.read_bytes()
    monkeypatch.setattr(target, failing(error, written=b"half a checkpoint" if "save_file" in target else b""))
    with named(path) as caught:
        checkpoint.save(path, model_tensors(make(seed=9)), metadata())
    monkeypatch.undo()
    assert "cannot write" in str(caught.value)
    assert (getattr(error, "strerror", None) or "No space left on device") in str(caught.value)
    assert path.read_bytes() == before
    assert folder_is(path.parent, path.name)
    assert same_weights(pcdiff.load(folder), model)


def test_a_failed_first_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pcdiff.training.checkpoint.save_file", failing(FULL, written=b"half"))
    with pytest.raises(InputError, match="No space left"):
        checkpoint.save(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})
    assert folder_is(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("mine")])
def test_other_failures_pass_through_and_leave_the_old_file(error, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text("old")

    def write():
        with replacing(path) as draft:
            draft.write_text("new, but only half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert folder_is(tmp_path, path.name)


def test_unwritable_metadata_leaves_the_old_file(saved):
    path = saved[0] / "checkpoints" / "last.safetensors"
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.save(path, {"a": torch.zeros(1)}, {"step": object()})
    assert path.read_bytes() == before
    assert folder_is(path.parent, path.name)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "a.safetensors", tmp_path / "file" / "deeper" / "a.safetensors"):
        with pytest.raises(InputError, match=r"a\.safetensors: cannot write"):
            checkpoint.save(path, {"a": torch.zeros(1)}, {})


def test_a_read_only_folder(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")  # what a read-only folder says to anyone but root

    monkeypatch.setattr("pcdiff.runtime.atomic_write.tempfile.mkstemp", refuse)
    with pytest.raises(InputError, match=r"a\.safetensors: cannot write \(Permission denied\)"):
        checkpoint.save(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_colleagues_may_read_what_the_umask_lets_them(tmp_path):
    old = os.umask(0o027)
    try:
        checkpoint.save(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})
    finally:
        os.umask(old)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
