"""The bar on the terminal."""

import io

import pytest
from tqdm import tqdm

from pcdiff.runtime.progress import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    shown = Terminal()
    at_once = {"file": shown, "mininterval": 0, "delay": 0}
    monkeypatch.setattr("pcdiff.runtime.progress.tqdm", lambda **options: tqdm(**options | at_once))
    return shown


def test_a_bar_counts_up_and_starts_anew_with_the_next_part(terminal):
    with bar("sampling", "step") as progress:
        for _ in range(2):
            for k in range(3):
                progress(k + 1, 3)
    text = terminal.getvalue()
    assert "sampling" in text
    assert text.count("3/3") == 2
    assert "4/3" not in text


def test_other_processes_show_nothing(terminal, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with bar("sampling", "step") as progress:
        progress(1, 2)
    assert not terminal.getvalue()
