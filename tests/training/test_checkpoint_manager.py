"""Which checkpoints stay, and which is gone back to where one is damaged."""

import os
from pathlib import Path

import pytest
import torch
from small_training import last, trainer

from pcdiff.errors import InputError
from pcdiff.training import CheckpointManager


def save(manager, step):
    manager.save({"model.w": torch.full((3,), float(step))}, {"step": step})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_ones_stay(keep, tmp_path):
    manager = CheckpointManager(tmp_path, keep)
    for step in (5, 10, 15, 20, 20):
        save(manager, step)
    older = [f"step-{step:08d}.safetensors" for step in (10, 15)[3 - keep :]]
    assert names(tmp_path) == sorted(["last.safetensors", *older])
    path, tensors, metadata = CheckpointManager(tmp_path, keep).newest()
    assert (path.name, metadata["step"], float(tensors["model.w"][0])) == ("last.safetensors", 20, 20)


def test_without_links_the_file_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(95, "not supported")))
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    save(manager, 2)
    assert names(tmp_path) == ["last.safetensors", "step-00000001.safetensors"]
    monkeypatch.setattr(
        "pcdiff.training.checkpoint.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(InputError, match="full"):
        save(manager, 3)
    assert CheckpointManager(tmp_path).newest()[2]["step"] == 2
    assert names(tmp_path) == ["last.safetensors", "step-00000001.safetensors", "step-00000002.safetensors"]


def test_drafts_of_killed_processes_go(tmp_path):
    (tmp_path / ".last.safetensors.k3_q.safetensors").write_bytes(b"half")
    save(CheckpointManager(tmp_path), 1)
    assert names(tmp_path) == ["last.safetensors"]


def test_a_folder_that_turns_read_only_is_told_like_a_full_disk(tmp_path, monkeypatch):
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    save(manager, 2)
    refuse = OSError(30, "Read-only file system", "step-1")
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: (_ for _ in ()).throw(refuse))
    with pytest.raises(InputError, match=r"step-1: cannot change \(Read-only file system\)"):
        save(manager, 3)
    assert CheckpointManager(tmp_path).newest()[2]["step"] == 2


def test_truncated_at_every_kilobyte_it_goes_back_and_says_so(tmp_path, caplog):
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        manager.save({"model.w": torch.randn(4000)}, {"step": step})
    whole = manager.path("last").read_bytes()
    for size in range(0, len(whole), 1024):
        caplog.clear()
        manager.path("last").write_bytes(whole[:size])
        path, _, metadata = CheckpointManager(tmp_path).newest()
        assert (path.name, metadata["step"]) == ("step-00000001.safetensors", 1)
        assert "last.safetensors: truncated" in caplog.text
        assert "going back to" in caplog.text


def test_a_flipped_bit_is_damage_too(tmp_path, caplog):
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    save(manager, 2)
    content = bytearray(manager.path("last").read_bytes())
    content[-3] ^= 1
    manager.path("last").write_bytes(content)
    assert CheckpointManager(tmp_path).newest()[2]["step"] == 1
    assert "damaged: model.w is not what was written" in caplog.text


def test_where_all_are_damaged_the_first_is_named(tmp_path):
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        save(manager, step)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"last\.safetensors: truncated"):
        manager.newest()
    with pytest.raises(InputError, match="no such checkpoint"):
        CheckpointManager(tmp_path / "nothing").newest()


def test_a_run_that_went_back_ends_as_if_nothing_had_happened(tmp_path):
    trainer(tmp_path / "whole", max_iters=12).fit()
    trainer(tmp_path / "damaged", max_iters=8).fit()
    file = tmp_path / "damaged" / "checkpoints" / "last.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    again = trainer(tmp_path / "damaged", max_iters=12)
    again.restore()
    assert again.step == 4
    again.fit()
    whole, damaged = last(tmp_path / "whole")[0], last(tmp_path / "damaged")[0]
    assert all(torch.equal(whole[k], damaged[k]) for k in whole)
    assert names(tmp_path / "damaged" / "checkpoints") == ["last.safetensors", "step-00000008.safetensors"]
