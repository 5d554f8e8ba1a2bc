"""What a pickle may cost before anything in it is built: its memo, a table whose size the file names."""

import pickle
import pickletools
from typing import BinaryIO

_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}


def check_memo(file: BinaryIO) -> None:
    """Refuse a pickle that puts an object at a memo index that no sound one reaches.

    The unpickler makes its memo as long as the largest index, so that a few bytes can ask for gigabytes. A sound
    pickle numbers its objects from 0, each of which takes a byte or more.

    Args:
        file: a pickle, read from its start and left there.

    Raises:
        pickle.UnpicklingError: an index is beyond the file's size. All else is left to the unpickler.
    """
    size = file.seek(0, 2)
    file.seek(0)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in _PUTS and argument > size:
                raise pickle.UnpicklingError(f"memo index {argument} in a file of {size} bytes")
    except pickle.UnpicklingError:
        raise
    except Exception:  # a damaged pickle, which the unpickler describes
        pass
    finally:
        file.seek(0)
