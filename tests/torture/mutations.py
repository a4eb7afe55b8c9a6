"""Changes to valid files, drawn at random, as damage and malice make them.

A mutation takes the content of a file and a generator of random numbers, and returns the new content.
"""

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import yaml

__all__ = ["IN_JSON", "IN_PICKLE", "IN_SAFETENSORS", "IN_TEXT", "IN_YAML", "IN_ZIP", "Mutation", "mutate"]

Mutation = Callable[[bytes, random.Random], bytes]

_NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**62,
    2**63 - 1,
    -(2**63),
)
# What stands in place of a value of JSON or YAML.
_VALUES = (
    None, True, False, 0, -1, 0.5, -1e300, 1e308, 10**30, 2**63, float("nan"), float("inf"),
    "", " ", "\0", "x" * 3000, "\ud800", "../../etc/passwd", "/etc/passwd", "é\u202e", "a\nb", "{split}",
    "${HOME}", "-1", "1e999", "[1, 2]", [], [[]], {}, {"": None}, {"id": 1}, [None], [0] * 2000,
    [float("nan")] * 4, [1e300] * 4, ["1", "2", "3", "4"],
)  # fmt: skip
# What stands in place of a word of a text.
_WORDS = (
    "", "0", "-1", "1e999", "nan", "inf", "99999999999999999999", "null", "true", "[", "]", "{", "}",
    "[" * 2000, "<a>" * 2000, ":", "-", "&a", "*a", "<<: *a", "!!python/object/apply:os.system", "!!binary",
    "%YAML 9", "? ", "|", ">", '"', "'", ",", "<", "&lt;", "&x;", "]]>", "<!ENTITY x 'y'>", "\0", "\ufeff",
    "é", "\ud800", "\u2028", "\t", "..", "/", "1_0", "0x1F", "2001-01-01", "=", "~",
)  # fmt: skip


def mutate(content: bytes, rng: random.Random, mutations: tuple[Mutation, ...]) -> bytes:
    """`content` after one mutation or a few, of `mutations` and those of bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice((*_BYTES, *mutations))(content, rng)
    return content


def _place(content: bytes, rng: random.Random) -> int:
    """A position in `content`, often near one of its ends, where headers lie."""
    size = len(content)
    return rng.choice(
        (rng.randint(0, size), min(size, rng.randint(0, 64)), max(0, size - rng.randint(0, 64)))
    )


def _length(rng: random.Random) -> int:
    return int(2 ** rng.uniform(0, 10))


def _flip(content: bytes, rng: random.Random) -> bytes:
    place = _place(content, rng)
    flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in content[place : place + 1])
    return content[:place] + flipped + content[place + 1 :]


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _delete(content: bytes, rng: random.Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + content[place + _length(rng) :]


def _duplicate(content: bytes, rng: random.Random) -> bytes:
    place = _place(content, rng)
    block = content[place : place + _length(rng)]
    return content[:place] + block * rng.choice((2, 2, 2, 100)) + content[place + len(block) :]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.randbytes(_length(rng)) + content[place:]


def _number(content: bytes, rng: random.Random) -> bytes:
    """Overwrite 1 to 8 bytes with an extreme integer, as for a length or an offset."""
    place, size = _place(content, rng), rng.choice((1, 2, 4, 8))
    number = (rng.choice(_NUMBERS) % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))
    return content[:place] + number + content[place + size :]


_BYTES: tuple[Mutation, ...] = (_flip, _truncate, _delete, _duplicate, _insert, _number)


def _replace_word(content: bytes, rng: random.Random) -> bytes:
    words = list(re.finditer(rb"[\w.+-]+|[^\w\s]", content))
    if not words:
        return content
    word, new = rng.choice(words), rng.choice(_WORDS).encode(errors="surrogatepass")
    return content[: word.start()] + new + content[word.end() :]


def _shuffle_lines(content: bytes, rng: random.Random) -> bytes:
    """Delete, repeat or move a line."""
    lines = content.splitlines(keepends=True) or [b""]
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.choice((0, 1, 2))):
        lines.insert(rng.randint(0, len(lines)), line)
    return b"".join(lines)


def _recode(content: bytes, rng: random.Random) -> bytes:
    """The same text in another encoding, with letters beyond ASCII."""
    text = content.decode(errors="replace").replace("a", "ä", 3)
    return text.encode(rng.choice(("latin1", "utf-16", "utf-32", "cp1252", "utf-8-sig")), errors="replace")


IN_TEXT = (_replace_word, _replace_word, _shuffle_lines, _recode)


def _change_tree(tree: Any, rng: random.Random) -> Any:
    """`tree` with a value replaced, removed, repeated or wrapped; or one of its keys changed."""
    places: list[tuple[Any, Any]] = [([tree], 0)]
    for parent, key in places:
        child = parent[key]
        if isinstance(child, dict | list):
            places += [(child, k) for k in (child if isinstance(child, dict) else range(len(child)))]
    parent, key = rng.choice(places)
    kind = rng.choice(("value", "value", "value", "remove", "repeat", "wrap", "key", "other"))
    if kind == "value":
        parent[key] = rng.choice(_VALUES)
    elif kind == "remove":
        del parent[key]
    elif kind == "repeat" and isinstance(parent, list):
        parent += [parent[key]] * rng.choice((1, 100))
    elif kind == "wrap":
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"x": parent[key]}
    elif kind == "key" and isinstance(parent, dict):
        new = rng.choice(("", "x", "id", "_BASE_", "__metadata__", str(key) * 2))
        parent[new] = parent.pop(key)
    else:
        parent[key] = json.loads(json.dumps(rng.choice(places)[0]))  # a part from elsewhere
    return places[0][0][0] if places[0][0] else None


def _in_json(content: bytes, rng: random.Random) -> bytes:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return json.dumps(_change_tree(tree, rng)).encode()


def _in_yaml(content: bytes, rng: random.Random) -> bytes:
    try:
        tree = yaml.safe_load(content)
        return yaml.safe_dump(_change_tree(tree, rng), sort_keys=False).encode(errors="surrogatepass")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return content


def _in_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A change in the header, whose length is made to fit."""
    size = int.from_bytes(content[:8], "little")
    header = _in_json(content[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def _in_zip(content: bytes, rng: random.Random) -> bytes:
    """A change inside a member, whose checksum is made to fit, so that its reader sees it; or of a name."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError, zlib.error):
        return content
    if not members:
        return content
    chosen = rng.randrange(len(members))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for number, (info, data) in enumerate(members):
            name = info.filename
            if number == chosen:
                change = rng.choice((*_BYTES, _number, _pickle_number, "name", "drop"))
                if change == "drop":
                    continue
                name = rng.choice(("x", "../x", name * 2)) if change == "name" else name
                data = data if change == "name" else change(data, rng)
            archive.writestr(name, data, info.compress_type)
    return written.getvalue()


def _pickle_number(content: bytes, rng: random.Random) -> bytes:
    """Another integer in a pickle, such as that of a shape, or another opcode."""
    places = [m.start() for m in re.finditer(rb"[KMJ]|\x8a", content)]
    if not places:
        return content
    place = rng.choice(places)
    skipped = {b"K": 2, b"M": 3, b"J": 5}.get(content[place : place + 1], 2)
    number = rng.choice(_NUMBERS)
    packed = number.to_bytes(9, "little", signed=True)
    opcode = rng.choice((b"\x8a" + bytes([len(packed)]) + packed, b"N", b"]", b")", b"}", b"\x88"))
    return content[:place] + opcode + content[place + skipped :]


IN_JSON = (_in_json, _in_json, _in_json, _replace_word)
IN_YAML = (_in_yaml, _in_yaml, _in_yaml, *IN_TEXT)
IN_SAFETENSORS = (_in_safetensors, _in_safetensors)
IN_ZIP = (_in_zip, _in_zip, _in_zip)
IN_PICKLE = (_pickle_number, _pickle_number)
