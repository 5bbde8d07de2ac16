import numpy as np
import pytest

from cache import Key, Kind
from cache import entry as entry_module
from cache.entry import DTYPES, HEADER_BYTES, Array, Entry, check_storable, decode, encode
from cache.errors import CorruptEntryError, ExpiredEntryError, OldFormatError
from tests.cache.helpers import TAG, key

NOW = 1_000.0
SEALING_KEY = b"sealing key".ljust(32)


def stored(array: Array, name: Key, expires_at: float = NOW + 1) -> bytearray:
    header, content = encode(Entry(name, TAG.encode(name.kind), NOW, expires_at, array), SEALING_KEY)
    assert len(header) == HEADER_BYTES
    return bytearray(header + content)


@pytest.mark.parametrize("dtype", sorted(dtype.str for dtype in DTYPES.values()))
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 3, 4), (1, 2, 3, 4)])
def test_an_array_comes_back_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    content = bytes(b & 1 for b in np.random.default_rng(0).bytes(size))
    array = np.frombuffer(content, dtype).reshape(shape)
    entry = decode(memoryview(stored(array, key(1))), key(1), NOW, SEALING_KEY)
    assert (entry.array.dtype, entry.array.shape, entry.array.tobytes()) == (array.dtype, shape, content)
    assert (entry.tag, entry.stored_at, entry.expires_at) == (TAG.encode(Kind.STATE), NOW, NOW + 1)
    assert not entry.array.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, [("a", "<f4")]),
        np.zeros(2, ">f4"),
        np.zeros(2, "<c8"),
        np.array(["text"]),
        np.zeros((1, 1, 1, 1, 1)),
    ],
    ids=lambda array: f"{array.dtype} {array.ndim}",
)
def test_what_the_format_cannot_hold_is_refused(array: Array) -> None:
    with pytest.raises(TypeError, match="cannot be stored"):
        check_storable(array)


def test_every_flipped_bit_is_seen() -> None:
    good = stored(np.arange(8, dtype="<u2"), key(1))
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptEntryError, OldFormatError)):
            decode(memoryview(bad), key(1), NOW, SEALING_KEY)


def test_every_truncation_is_seen() -> None:
    good = stored(np.arange(8, dtype="<u2"), key(1))
    for size in range(len(good)):
        with pytest.raises(CorruptEntryError):
            decode(memoryview(good)[:size], key(1), NOW, SEALING_KEY)


def test_another_keys_valid_value_is_refused() -> None:
    good = memoryview(stored(np.arange(8, dtype="<u2"), key(1)))
    for other in (key(2), key(1, Kind.RESULT)):
        with pytest.raises(CorruptEntryError, match="another key"):
            decode(good, other, NOW, SEALING_KEY)


def test_a_value_lives_to_its_headers_end() -> None:
    value = memoryview(stored(np.arange(8, dtype="<u2"), key(1), expires_at=NOW + 1))
    assert decode(value, key(1), NOW + 0.9, SEALING_KEY).array.size == 8
    with pytest.raises(ExpiredEntryError):
        decode(value, key(1), NOW + 1, SEALING_KEY)


def test_another_format_is_told_apart_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_module, "FORMAT", 0)
    old = memoryview(stored(np.arange(8, dtype="<u2"), key(1)))
    monkeypatch.undo()
    with pytest.raises(OldFormatError, match="format 0"):
        decode(old, key(1), NOW, SEALING_KEY)


def test_the_first_formats_shorter_header_is_an_old_format() -> None:
    with pytest.raises(OldFormatError, match="format 1"):
        decode(memoryview(b"octv\x01\x00".ljust(192, b"\0")), key(1), NOW, SEALING_KEY)


def test_an_entry_of_another_secret_is_refused() -> None:
    forged = stored(np.arange(8, dtype="<u2"), key(1))
    with pytest.raises(CorruptEntryError, match="MAC"):
        decode(memoryview(forged), key(1), NOW, bytes(32))


def test_no_two_entries_share_a_key_of_the_mac() -> None:
    """GMAC under a repeated key and nonce would reveal the key, so an entry that is written again has another nonce."""
    first, second = (stored(np.arange(8, dtype="<u2"), key(1)) for _ in range(2))
    assert first[:HEADER_BYTES] != second[:HEADER_BYTES]
    assert first[-16:] == second[-16:]  # the content
    assert len({bytes(stored(np.arange(8, dtype="<u2"), key(1))[72:96]) for _ in range(100)}) == 100


def test_the_mac_binds_the_key() -> None:
    """An entry with its key's field rewritten is refused, though the rest of it is valid."""
    moved = stored(np.arange(8, dtype="<u2"), key(1))
    at = moved.index(bytes(key(1)))
    moved[at : at + 33] = bytes(key(2))
    with pytest.raises(CorruptEntryError, match="MAC"):
        decode(memoryview(moved), key(2), NOW, SEALING_KEY)
