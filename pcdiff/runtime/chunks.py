"""Samples drawn in chunks of one size, which do not depend on one another.

Chunk k takes its random numbers from a stream of its own, `rng.generator(seed, what, k)`, and always the numbers of
a whole chunk. So a sample is the same however many are asked for, by whichever process, and after whatever stop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcdiff.runtime import distributed
from pcdiff.runtime.progress import Progress, estimated_seconds, part_of
from pcdiff.runtime.resumable import ResumableMap
from pcdiff.runtime.stopping import Stop, watched

DrawChunk = Callable[[int, Progress | None], Tensor]
"""`draw(k, progress)` returns chunk k's samples, on the CPU, and calls `progress(done, total)` after each step."""


@dataclass(frozen=True)
class Chunks:
    """`count` samples, the first `size` in chunk 0, and so on; the last chunk may be shorter.

    Example:
        >>> chunks = Chunks(5, size=2)
        >>> [len(range(*rows.indices(5))) for rows in map(chunks.rows, range(len(chunks)))]
        [2, 2, 1]
    """

    count: int
    size: int

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def rows(self, k: int) -> slice:
        """Return which samples chunk `k` holds."""
        return slice(k * self.size, min((k + 1) * self.size, self.count))

    def rows_in(self, k: int) -> int:
        """Return how many samples chunk `k` holds."""
        return min(self.size, self.count - k * self.size)

    def drawn(
        self,
        draw: DrawChunk,
        work: ResumableMap,
        name: str = "chunks",
        check: Callable[[], object] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """Yield every chunk, in order, to every process; the processes share the drawing.

        Args:
            draw: one chunk.
            work: shares the chunks, and keeps those that are finished.
            name: of this piece of work.
            check: called after each step of a draw, which it ends by raising `Stopped`.
            progress: called as `progress(done, total)` with the steps of all chunks.

        Raises:
            Stopped: `work` has to stop, or `check` raised it, in any process; all raise it.
        """

        def chunk(k: int) -> tuple[np.ndarray]:
            moved = part_of(progress, k, len(self))
            return (draw(k, moved if check is None else watched(moved, check)).numpy(),)

        for (samples,) in work.map(name, range(len(self)), chunk):
            yield torch.from_numpy(samples)

    def all_drawn(self, draw: DrawChunk, stop: Stop | None = None, progress: Progress | None = None) -> Tensor:
        """Return all samples `(count, ...)`; nothing is kept of what is stopped.

        Args:
            draw: one chunk.
            stop: asked after each step.
            progress: as in `drawn`.

        Raises:
            Stopped: `stop` said so, in any process; all raise it.
        """
        check = None if stop is None else stop.check
        return torch.cat(list(self.drawn(draw, ResumableMap(stop=stop), check=check, progress=progress)))

    def seconds(self, draw: DrawChunk) -> float:
        """Estimate the seconds that all chunks take, shared by the processes, from a few steps of the first."""
        first = estimated_seconds(lambda progress: draw(0, progress))
        return first * self.count / self.rows_in(0) / min(distributed.world_size(), len(self))


def chunk_noise(size: int, count: int, generator: torch.Generator, repeats: int = 1) -> Callable[[Tensor], Tensor]:
    """Return what draws noise for the first `count` samples of a chunk of `size`.

    A whole chunk's numbers are drawn at every call, so that the stream continues at the same place for any `count`.

    Args:
        size: samples in a whole chunk.
        count: samples that are drawn.
        generator: the chunk's stream.
        repeats: how often the batch holds the samples, one after the other, with the same noise each.
    """

    def noise(x: Tensor) -> Tensor:
        whole = torch.randn(size, *x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)[:count]
        return whole if repeats == 1 else whole.repeat(repeats, *[1] * (x.dim() - 1))

    return noise
