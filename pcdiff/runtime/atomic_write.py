"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pcdiff.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; the file written there replaces `path` when the block succeeds.

    A block that fails leaves the previous file as it was and no other file.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.

    Example:
        >>> with replacing("scores.json") as draft:
        ...     draft.write_text("{}")
    """
    path = Path(path)
    draft: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        draft = Path(name)
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o666 & ~umask)  # mkstemp's own mode shuts colleagues out
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"{path}: cannot write ({error.strerror or error}); what was there is untouched") from None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
