"""Scalars on their way to TensorBoard, and a writer that fails."""

import threading

import torch
from script_tools import logged

from pcdiff.training import TensorBoardScalars


def test_what_is_logged_can_be_read_after_a_flush(tmp_path):
    scalars = TensorBoardScalars(tmp_path)
    scalars.add(1, "train", {"loss": torch.tensor(0.5), "skipped": 3})
    scalars.flush()
    assert logged(tmp_path, "train/loss") == [(1, 0.5)]
    assert logged(tmp_path, "train/skipped") == [(1, 3)]
    scalars.close()


def test_a_resumed_run_hides_what_it_does_again(tmp_path):
    for first, value in ((0, 1.0), (2, 2.0)):
        scalars = TensorBoardScalars(tmp_path, first)
        for step in range(first + 1, 5):
            scalars.add(step, "train", {"loss": value})
        scalars.close()
    # Both files may be of one second, but those of one process are in order.
    assert logged(tmp_path, "train/loss") == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_a_failing_writer_is_told_once_and_dropped(tmp_path, caplog):
    shown, hook = [], threading.excepthook

    def fail(writer, step):
        shown.append(step)
        raise OSError(28, "No space left on device")

    scalars = TensorBoardScalars(tmp_path)
    for step in (1, 2):
        scalars.show(fail, step)
        scalars.add(step, "train", {"loss": 1.0})
        scalars.flush()
    scalars.close()
    assert shown == [1]
    assert caplog.text.count("TensorBoard: cannot write (No space left on device)") == 1
    assert threading.excepthook is hook


def test_a_writer_whose_thread_fails_is_dropped_without_a_traceback(tmp_path, caplog, capfd):
    scalars = TensorBoardScalars(tmp_path / "gone")
    scalars.flush()  # the writer's thread has made its file
    for file in (tmp_path / "gone").iterdir():
        file.unlink()
    (tmp_path / "gone").rmdir()
    for step in range(1, 50):
        scalars.add(step, "train", {"loss": 1.0})
    scalars.flush()
    scalars.close()
    assert caplog.text.count("TensorBoard: cannot write (No such file or directory)") == 1
    assert capfd.readouterr().err == ""


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scalars = TensorBoardScalars(None)
    scalars.add(1, "train", {"loss": 1.0})
    scalars.flush()
    scalars.close()
    assert not list(tmp_path.iterdir())
