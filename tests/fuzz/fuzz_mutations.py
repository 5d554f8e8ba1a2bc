"""Mutations of sound files: each a pure function of its random generator and the bytes."""

import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = (0, 1, -1, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 10**9, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"0", b"-1", b"nan", b"inf", b"1e400", b"1e39", b"99999999999999999999", b"9" * 5000, b"[" * 3000, b"{", b"}",
    b"\"", b"\n", b"\r", b"\0", b"\t", b"#", b",", b"\x1b[2J", b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"true",
    b" ", b"/", b"%s",
)  # fmt: skip
VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 1.5, -0.5, 1e308, float("nan"), float("inf"), 10**9, 10**12, 2**63, 10**30,
    "", "x", "a\nb\x1b[2J", "9" * 5000, "\ud800", [], [1], [[]], [0, -1], [10**9], ["a"], {}, {"a": 1}, {"": None},
    [None] * 3, [1] * 10_000,
)  # fmt: skip


def mutated(rng: random.Random, content: bytes, further: tuple[Mutation, ...] = ()) -> bytes:
    """Return a content with one to four mutations, of bytes or of what the format holds."""
    if further and rng.random() < 0.6:
        content = rng.choice(further)(rng, content)
        if rng.random() < 0.7:
            return content
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(_BYTES)(rng, content)
    return content


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _write(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    piece = rng.choice((rng.randbytes(rng.randrange(1, 9)), rng.choice(WORDS)))
    return content[:place] + piece + content[place + rng.choice((0, len(piece))) :]


def _number(rng: random.Random, content: bytes) -> bytes:
    """Overwrite a word with a number at which sizes and signs turn."""
    form = rng.choice(("<b", "<H", ">H", "<I", ">I", "<Q", ">Q", "<f", "<d"))
    size = struct.calcsize(form)
    if len(content) < size:
        return content
    place = rng.randrange(len(content) - size + 1)
    number = rng.choice(NUMBERS)
    if form[1] not in "fd":
        number &= (1 << (8 * size)) - 1
        form = form.replace("b", "B")
    return content[:place] + struct.pack(form, number) + content[place + size :]


def _digits(rng: random.Random, content: bytes) -> bytes:
    """Put another number where digits stand."""
    places = [i for i, byte in enumerate(content[:20_000]) if 48 <= byte <= 57]
    if not places:
        return content
    start = end = rng.choice(places)
    while end < len(content) and 48 <= content[end] <= 57:
        end += 1
    word = rng.choice((str(rng.choice(NUMBERS)).encode(), rng.choice(WORDS)))
    return content[:start] + word + content[end:]


def _move(rng: random.Random, content: bytes) -> bytes:
    """Copy or take out a piece."""
    if not content:
        return content
    first = rng.randrange(len(content))
    last = min(len(content), first + rng.choice((1, 8, 64, 512)))
    if rng.random() < 0.5:
        return content[:first] + content[last:]
    place = rng.randrange(len(content))
    return content[:place] + content[first:last] + content[place:]


_BYTES: tuple[Mutation, ...] = (_cut, _flip, _write, _number, _digits, _move)


def changed_value(rng: random.Random, tree: object) -> object:
    """Return a JSON tree in which one value, or one key, is another."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(sorted(tree))
        kind = rng.random()
        if kind < 0.05:
            return {k: v for k, v in tree.items() if k != key}
        if kind < 0.1:
            return {**tree, rng.choice(("x", "", "a\nb", key.upper())): rng.choice(VALUES)}
        return {**tree, key: changed_value(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.6:
        place = rng.randrange(len(tree))
        return [*tree[:place], changed_value(rng, tree[place]), *tree[place + 1 :]]
    if isinstance(tree, bool | int | float) and rng.random() < 0.3:
        return rng.choice((tree + 1, -tree, tree * 10**6, float(tree), str(tree), 10**8))
    return rng.choice(VALUES)


def json_value(rng: random.Random, content: bytes) -> bytes:
    """Change a value of JSON text."""
    try:
        tree = json.loads(content)
    except ValueError:
        return content
    if rng.random() < 0.05:
        text = json.dumps(tree)
        return text.replace(":", ":" + '{"a":' * 2000, 1).encode()
    return json.dumps(changed_value(rng, tree)).encode()


def safetensors_facts(rng: random.Random, content: bytes) -> bytes:
    """Change a value in the header of a safetensors file: the layout, or the JSON in its metadata."""
    try:
        size = struct.unpack_from("<Q", content)[0]
        header = json.loads(content[8 : 8 + size])
    except (ValueError, struct.error):
        return content
    metadata = header.get("__metadata__", {})
    if "json" in metadata and rng.random() < 0.85:
        header["__metadata__"] = {**metadata, "json": json_value(rng, metadata["json"].encode()).decode()}
    else:
        header = changed_value(rng, header)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + content[8 + size :]


def zip_member(rng: random.Random, content: bytes) -> bytes:
    """Change a member of a zip, its checksum with it, or its name."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # damaged already
        return content
    place = rng.randrange(len(members)) if members else 0
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for k, (name, data) in enumerate(members):
            if k == place:
                if rng.random() < 0.15:
                    name = rng.choice(("", "a\nb.png", "../up.png", "\x1b[2J.png", name + "/", name * 50))
                else:
                    data = mutated(rng, data, (json_value,) if name.endswith(".json") else ())
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def gzip_inside(rng: random.Random, content: bytes) -> bytes:
    """Change what a gzip file holds."""
    try:
        return gzip.compress(mutated(rng, gzip.decompress(content)), 1)
    except Exception:  # no gzip file, or damaged already
        return content


def journal_settings(rng: random.Random, content: bytes) -> bytes:
    """Change the second line, which is JSON, or bytes of it."""
    first, line, rest = (*content.split(b"\n", 2), b"", b"")[:3]
    return first + b"\n" + rng.choice((json_value, mutated))(rng, line) + b"\n" + rest
