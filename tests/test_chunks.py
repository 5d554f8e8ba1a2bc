"""Chunks: a sample depends on its chunk's stream and its place there, not on how many are drawn, or by whom."""

import pytest
import torch

from pcdiff.runtime import distributed, rng
from pcdiff.runtime.chunks import Chunks, chunk_noise
from pcdiff.runtime.resumable import ResultCache, ResumableMap
from pcdiff.runtime.stopping import Stopped

SIZE = 4


def drawer(count, steps=3, calls=None):
    """Return a `draw` whose samples are sums of noise over the steps of a sampler."""
    chunks = Chunks(count, SIZE)

    def draw(k, progress):
        noise = chunk_noise(SIZE, chunks.rows_in(k), rng.generator(7, "chunk", k))
        x = torch.zeros(chunks.rows_in(k), 2, 3)
        for step in range(steps):
            x = x + noise(x)
            if progress is not None:
                progress(step + 1, steps)
        if calls is not None:
            calls.append(k)
        return x

    return chunks, draw


def test_sizes():
    assert [len(Chunks(n, SIZE)) for n in (0, 1, 4, 5, 9)] == [0, 1, 1, 2, 3]
    chunks = Chunks(9, SIZE)
    assert [chunks.rows_in(k) for k in range(3)] == [4, 4, 1]
    assert [chunks.rows(k) for k in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 9)]


@pytest.mark.parametrize("count", [1, 4, 6, 11])
def test_fewer_samples_are_the_first_of_more(count):
    (few, draw), (more, draw_more) = drawer(count), drawer(16)
    assert torch.equal(few.all_drawn(draw), more.all_drawn(draw_more)[:count])


def test_the_noise_is_the_streams_own():
    """A whole chunk is drawn at each call, however few samples take of it."""
    stream = rng.generator(1, "noise")
    whole = torch.cat([torch.randn(SIZE, 5, generator=stream) for _ in range(2)])
    noise = chunk_noise(SIZE, 1, rng.generator(1, "noise"))
    x = torch.zeros(1, 5)
    assert torch.equal(torch.cat([noise(x), noise(x)]), whole[[0, SIZE]])
    twice = chunk_noise(SIZE, 2, rng.generator(1, "noise"), repeats=3)(torch.zeros(6, 5))
    assert torch.equal(twice, whole[:2].repeat(3, 1))


@pytest.mark.parametrize("size", [2, 5])
def test_processes_share_the_chunks(monkeypatch, size):
    (chunks, draw), calls = drawer(11), []
    alone = chunks.all_drawn(draw)
    chunks, draw = drawer(11, calls=calls)
    monkeypatch.setattr(distributed, "world_size", lambda: size)
    monkeypatch.setattr(distributed, "broadcast", lambda value: value)
    # every process's share of a round, as its peers would send it; here all ranks are played by one
    rounds = iter(range(0, len(chunks), size))

    def gather(mine):
        first = next(rounds)
        others = [(draw(k, None).numpy(),) for k in range(first + 1, min(first + size, len(chunks)))]
        return [mine, *others, *[()] * (size - 1 - len(others))]

    monkeypatch.setattr(distributed, "gather", gather)
    assert torch.equal(chunks.all_drawn(draw), alone)
    assert calls == [0, 1, 2]


def test_what_was_stopped_goes_on_with_the_next_chunk(tmp_path):
    (chunks, draw), calls = drawer(11), []
    whole = chunks.all_drawn(draw)
    chunks, draw = drawer(11, calls=calls)

    def check():
        if calls == [0]:
            raise Stopped

    with ResultCache(tmp_path / "journal", {}) as journal, pytest.raises(Stopped):
        list(chunks.drawn(draw, ResumableMap(journal), check=check))
    with ResultCache(tmp_path / "journal", {}) as journal:
        assert torch.equal(torch.cat(list(chunks.drawn(draw, ResumableMap(journal)))), whole)
    assert calls == [0, 1, 2]


def test_progress_counts_the_steps_of_all_chunks():
    seen = []
    chunks, draw = drawer(11)
    chunks.all_drawn(draw, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(step, 9) for step in range(1, 10)]
