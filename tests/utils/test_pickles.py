"""Pickles read without executing code."""

import collections
import os
import pickle
import resource
import struct

import numpy as np
import pytest

from ohem_d2.utils.pickles import load_pickle

MARK = "ran"


class Call:
    """Pickled as a call of a function, and a state."""

    def __init__(self, function, *arguments, state=None):
        self.value = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.value


@pytest.fixture
def load(tmp_path):
    """Load a value by its pickle, or bytes as a pickle."""

    def load(value, protocol=4):
        content = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
        (tmp_path / "a.pkl").write_bytes(content)
        return load_pickle(tmp_path / "a.pkl")

    return load


@pytest.fixture(autouse=True)
def memory():
    """A limit on the memory of this process: 1 GiB more than it has."""
    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.eye(3, dtype=np.float16)),
        np.zeros((0, 4), np.float32),
        np.array(5.0),
        np.array(["a", "bcd"]),
        np.array([np.zeros(2), np.ones(3)], dtype=object),
        np.float32(3.5),
        np.int64(-7),
        np.bool_(True),
        collections.OrderedDict(b=1, a=[2.5, None, (True, "x", b"\xff")]),
        {"blobs": {1: b"ab"}, ("a", 1): 10**30},
    ],
    ids=repr,
)
def test_arrays_numbers_text_and_containers_are_read_as_by_the_standard_library(load, value, protocol):
    found, expected = load(value, protocol), pickle.loads(pickle.dumps(value, protocol))
    assert type(found) is type(expected) and repr(found) == repr(expected)
    if isinstance(value, np.ndarray):
        assert found.dtype == expected.dtype and found.flags.f_contiguous == expected.flags.f_contiguous


RECONSTRUCT, SCALAR = np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0]
FROMBUFFER = np.zeros(1).__reduce_ex__(5)[0]
FLOAT, TUPLE1, LONG_BINPUT = np.dtype("f4"), b"\x85", b"r"


@pytest.mark.parametrize(
    "value",
    [
        Call(os.system, f"touch {MARK}"),
        {"model": {"w": Call(eval, f"open({MARK!r}, 'w')")}},
        collections.OrderedDict(a=Call(getattr, "text", "upper")),
        np.array([Call(os.system, f"touch {MARK}")], dtype=object),
        Call(RECONSTRUCT, Call(os.system, f"touch {MARK}"), (0,), b"b"),
        Call(
            RECONSTRUCT,
            np.ndarray,
            (0,),
            b"b",
            state=(1, (1,), Call(os.system, f"touch {MARK}"), False, b"a"),
        ),
        b"\x80\x02cos\nsystem\nX\x08\0\0\0touch ran\x85R.",
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch ran'\no.",
        b"\x80\x04\x8c\x0bos.__dict__\x8c\x06system\x93.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_nothing_runs(load, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="it holds .*cannot run code|it holds an object that could run"
    ) as caught:
        load(value)
    assert not os.path.exists(MARK) and "\n" not in str(caught.value)


def nested_key(depth, reduce=False):
    """A dict with a key of nested tuples: hashing it ends the process."""
    if reduce:
        return b"\x80\x02ccollections\nOrderedDict\n](N" + TUPLE1 * depth + b"K\x01\x86e\x85R."
    return b"\x80\x02}N" + TUPLE1 * depth + b"K\x01s."


def array_state(shape, dtype, content):
    return Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, content))


def dtype_state(*state):
    return Call(np.dtype, "V8", False, True, state=state)


MEGABYTE = b"a" * 2**20  # pickled once
CLAIM = b"\x80\x05\x8e" + struct.pack("<Q", 2**40)  # so many bytes are to come
TEXT = b"\x80\x02X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x000c_codecs\nencode\nq\x010]"


@pytest.mark.parametrize(
    "value",
    [
        Call(np.dtype, "V2000000000"),
        Call(SCALAR, Call(np.dtype, "V2000000000")),
        Call(SCALAR, Call(np.dtype, "(30000,30000)f8")),
        Call(SCALAR, FLOAT),
        Call(SCALAR, np.dtype(object), b"a" * 8),
        Call(np.dtype, [("a", "f4")]),
        dtype_state(3, "|", (FLOAT, (10**9,)), None, None, 8, 1, 0),
        array_state((10**9,), FLOAT, b""),
        array_state((-1, -1), FLOAT, b"abcd"),
        array_state((2,), np.dtype(object), b"a" * 16),
        Call(np.ndarray, (10**9,)),
        Call(RECONSTRUCT, np.ndarray, (10**9,), b"d"),
        Call(FROMBUFFER, np.zeros(1), FLOAT, (2,), "C"),
        Call(FROMBUFFER, b"a" * 8, Call(np.dtype, "O"), (1,), "C"),
        Call(bytearray, 10**10),
        Call(bytes, 10**10),
        nested_key(300_000),
        nested_key(300_000, reduce=True),
        b"\x80\x02}(N" + TUPLE1 * 300_000 + b"K\x01u.",
        b"(N" + TUPLE1 * 300_000 + b"K\x01d.",
        [array_state((2**18,), FLOAT, MEGABYTE) for _ in range(2000)],
        b"\x80\x02]N" + TUPLE1 * 300_000 + b"K\x01\x86ad.",
        b"\x80\x04\x8f(N" + TUPLE1 * 300_000 + b"\x90.",
        TEXT + b"(" + b"h\x01h\x00X\x06\0\0\0latin1\x86R" * 10_000 + b"e.",
        CLAIM + b"a.",
    ],
)  # fmt: skip
def test_nothing_ends_the_process_or_fills_the_memory(load, value):
    with pytest.raises(ValueError) as caught:
        load(value)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 300 and ("MemoryError" not in text or value == CLAIM + b"a.")


def test_a_memo_takes_no_more_than_it_holds(load):
    assert load(b"\x80\x04N" + LONG_BINPUT + b"\xff\xff\xff\x07.") is None


def test_flags_of_a_dtype_are_not_believed(load):
    """With flag 1, NumPy would take eight bytes of the array for the address of an object."""
    array = load(array_state((1,), dtype_state(3, "|", None, None, None, 8, 1, 1), b"\x01" * 8))
    assert array.dtype == np.dtype("V8") and not array.dtype.hasobject


def test_an_array_is_filled_once(load):
    state = (1, (1,), FLOAT, False, b"abcd")
    content = pickle.dumps(Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=state), 2)
    again = content[:-1] + content[content.index(b"(K\x01") : -1] + b"."
    with pytest.raises(ValueError, match="a state of array"):
        load(again)


@pytest.mark.parametrize("content", [b"", b"junk\n", b"\x80\x04}q\x00X\x05", pickle.dumps([1] * 9)[:-3]])
def test_what_is_no_pickle_is_an_error_of_one_line(load, content):
    with pytest.raises(ValueError) as caught:
        load(content)
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05\x8e" + struct.pack("<Q", 2**40),  # bytes
        b"\x80\x05\x96" + struct.pack("<Q", 2**40),  # a bytearray
        b"\x80\x04\x95" + struct.pack("<Q", 2**40),  # a frame
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40),  # text
    ],
    ids=["bytes", "bytearray", "frame", "text"],
)
def test_a_claimed_length_is_not_allocated(load, content):
    with pytest.raises(ValueError) as caught:
        load(content)
    assert "MemoryError" not in str(caught.value)


def test_an_array_of_objects_is_not_larger_than_its_values(load):
    array = np.array([None, 1], dtype=object)
    state = array.__reduce__()[2]
    hostile = Call(*array.__reduce__()[:1], *array.__reduce__()[1], state=(state[0], (2**29,), *state[2:]))
    with pytest.raises(ValueError, match=r"an array of shape \(536870912,\) with 2 values"):
        load(hostile)
