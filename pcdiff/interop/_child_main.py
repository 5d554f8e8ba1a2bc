"""What the child process of `pcdiff.interop.child_process` runs: it walks through files that may crash a library.

What a file is and its path come as a line of JSON, and a line of JSON goes back: what is wrong, as [whether the
library reports it, text], or null. It ends with its parent, or after a minute without a request.
"""

import sys

sys.path.pop(0)  # this folder, whose modules are none of the libraries'

import json
import math
import os
import select

_IDLE = 60.0  # seconds
_WHOLE = 64 << 20  # bytes of a data set that is read to its end; of a larger one the first and the last row
_MOST_COMPRESSED = 1100
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # by HDF5's registered numbers
_VALUES = 10_000  # of an lmdb that are touched, spread evenly


def hdf5(path: str) -> tuple[bool, str] | None:
    """Go through an HDF5 file as its reader will; return what is wrong, and whether h5py reports it, or None."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found: list[h5py.Dataset] = []
            file.visititems(lambda name, entry: found.append(entry) if isinstance(entry, h5py.Dataset) else None)
            for entry in found:
                wrong = _wrong(entry)
                if wrong is not None:
                    return False, wrong
    except Exception as error:  # of damaged files h5py raises anything
        text = str(error).strip() or type(error).__name__
        return True, text.splitlines()[0]
    return None


def _wrong(entry) -> str | None:
    settings = entry.id.get_create_plist()
    for k in range(settings.get_nfilters()):
        number, _, _, name = settings.get_filter(k)
        if number not in _FILTERS:
            known = ", ".join(_FILTERS.values())
            return f"{entry.name}: packed by the filter {name!r} ({number}); pack it by one of {known}, or by none"
    if entry.shape is None or entry.dtype.kind != "f":
        return None
    stored, promised = entry.id.get_storage_size(), math.prod(entry.shape) * entry.dtype.itemsize
    if promised > stored * _MOST_COMPRESSED:
        return None  # its reader refuses it without reading
    if entry.chunks is not None:
        chunks = entry.id.get_num_chunks()
        for k in range(min(chunks, 1000)):
            entry.id.get_chunk_info(k)
    if promised <= _WHOLE:
        entry[()]
    elif entry.shape:
        entry[0], entry[-1]
    return None


def lmdb(path: str) -> tuple[bool, str] | None:
    """Go through an lmdb environment: all keys, and the ends of some values; return what is wrong, or None."""
    import lmdb as library

    try:
        environment = library.open(path, readonly=True, lock=False, readahead=False)
        promised = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if os.path.getsize(os.path.join(path, "data.mdb")) < promised:
            return None  # its reader refuses it without reading
        with environment, environment.begin(buffers=True) as transaction:
            keys = [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
            for key in keys[:: max(1, len(keys) // _VALUES)]:
                value = transaction.get(key)
                if value:
                    value[0], value[-1]
    except Exception as error:  # the parent reports what it receives
        return True, (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


_LOOKS = {"hdf5": hdf5, "lmdb": lmdb}


def main() -> None:
    """Answer until the parent is gone."""
    while select.select([sys.stdin], [], [], _IDLE)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        kind, path = json.loads(line)
        print(json.dumps(_LOOKS[kind](path)), flush=True)


if __name__ == "__main__":
    main()
