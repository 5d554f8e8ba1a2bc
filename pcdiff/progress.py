"""A bar on the terminal for work that takes a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from pcdiff import distributed


@contextmanager
def bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a `progress(done, total)` that moves a bar with the time left, on the process that prints.

    Fewer done than before means that the next part has begun, say the next chunk of clouds: the bar starts anew.

    Example:
        >>> with bar("sampling", "step") as progress:
        ...     clouds = model.sample(32, 2048, progress=progress)
    """
    # None: shown on a terminal only. Input that is refused at once is not preceded by a bar.
    hidden = True if distributed.rank() > 0 else None
    with tqdm(unit=unit, unit_scale=unit == "pair", desc=what, leave=False, disable=hidden, delay=0.5) as shown:

        def progress(done: int, total: int) -> None:
            if done < shown.n:
                shown.reset()
            shown.total = total
            shown.update(done - shown.n)

        yield progress
