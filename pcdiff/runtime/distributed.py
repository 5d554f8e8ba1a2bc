"""The processes of one job, as `torchrun` starts them: their ranks, and the messages between them.

Everything works in a single process too, where nothing is sent.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pcdiff.errors import InputError, WorkFailed
from pcdiff.runtime.stopping import Stopped

T = TypeVar("T")
Item = TypeVar("Item")
Found = TypeVar("Found")

# How long a process waits for another that runs: rank 0 may be validating. One that exits is noticed at once.
_PATIENCE = timedelta(hours=6)


class PeerLost(WorkFailed):
    """Another process of the job died or left."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of a `torchrun` job for as long as this lasts; alone, do nothing.

    Tensors on a GPU travel by NCCL, all others between the CPUs by gloo.

    Raises:
        PeerLost: another process died or left in the middle of an exchange.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, number, size = next(dist.rendezvous("env://"))
    # What a restarted job stores must not be taken for what its dead predecessor did, addresses above all.
    store = dist.PrefixStore(f"start-{_starts()}", store)
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=_PATIENCE)
    try:
        with _noticing_lost_peers():
            yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's number, 0 for the one that writes."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return this process's number on its machine, to choose a GPU by."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return how many processes have joined."""
    return dist.get_world_size() if dist.is_initialized() else 1


def restarted() -> bool:
    """Return whether `torchrun` has started this job again after a process died (`--max-restarts`)."""
    return _starts() > 0


def may_restart() -> bool:
    """Return whether `torchrun` would start this job again."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def _starts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def gather(value: T) -> list[T]:
    """Return every process's value, by rank, to every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """Return rank 0's value to every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def agreed(mine: bool) -> bool:
    """Return on every process whether the flag is set on any."""
    return any(gather(mine))


@contextmanager
def refused_together() -> Iterator[None]:
    """Let every process raise the `InputError` that any of them raised in this block, so that none waits for it."""
    mine = None
    try:
        yield
    except InputError as error:
        mine = str(error)
    refused = next((text for text in gather(mine) if text is not None), None)
    if refused is not None:
        raise InputError(refused)


@contextmanager
def _noticing_lost_peers() -> Iterator[None]:
    """Turn the transport's errors into `PeerLost`."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        lost = isinstance(error, dist.DistError) or "gloo" in text.lower() or "NCCL" in text
        if not lost:
            raise
        raise PeerLost(f"process {rank()} lost the others ({text.strip().splitlines()[0]})") from None


def mean(values: Tensor) -> Tensor:
    """Return the mean of every process's `values`, to every process."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def share_out(items: Sequence[Item], compute: Callable[[Sequence[Item]], Found]) -> list[Found]:
    """Return `compute(share)` of every process's share of the items, by rank, to every process.

    Args:
        items: the same in every process; the process of rank r computes every `world_size()`-th from the r-th on.
        compute: what is done with a share, which may be empty.

    Raises:
        Stopped: `compute` raised it in any process; all raise it, so that none waits for one that has left.
    """
    try:
        mine, stopped = compute(items[rank() :: world_size()]), False
    except Stopped:
        mine, stopped = None, True
    if agreed(stopped):
        raise Stopped
    return gather(mine)


class Agreement:
    """What all processes decide together once a step, without waiting: a step's votes are heard at the next one.

    A signal or a time limit reaches processes at different steps; by this they stop at the same one.

    Example:
        >>> agreed = Agreement()
        >>> highest = agreed(0)  # alone: one's own vote, at once
    """

    def __init__(self) -> None:
        # A group of its own: gradients on their way must not be taken for votes.
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if world_size() > 1 else None
        self._votes = torch.zeros((), dtype=torch.long)
        self._underway: Any = None

    def __call__(self, vote: int) -> int:
        """Hand in a vote; return the highest of all processes' last ones."""
        if self._group is None:
            return vote
        highest = 0
        if self._underway is not None:
            self._underway.wait()
            highest = int(self._votes)
        self._votes.fill_(vote)
        self._underway = dist.all_reduce(self._votes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return highest

    def close(self) -> None:
        """Hear the last votes, so that none is under way when the processes part."""
        if self._underway is not None:
            self._underway.wait()
            self._underway = None
