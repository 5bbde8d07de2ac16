"""A key names all that decides an entry: changing any field misses, and no two records meet in one encoding."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import HeadFields, Key, KeyMaker, Kind, LayoutFields, RunFields, SegmentFields, TokensFields
from cache import key as key_module
from cache.key import encode, encode_fields

MAKER = KeyMaker(b"s" * 32)
RUN = RunFields(
    tenant="acme",
    architecture="bert heads=12 eps=1e-12 gelu",
    layers=b"\1" * 32,
    cut=6,
    scheme="int8",
    numerics=b"\2" * 32,
    window=64,
)
LAYOUT = LayoutFields(
    token_types=np.array([0, 0, 0], np.int32), positions=np.array([0, 1, 2], np.int32), global_tokens=(0, 2)
)
SEGMENT = SegmentFields(LAYOUT, token_ids=np.array([101, 2023, 102], np.int32))
STATE = MAKER.state(RUN, SEGMENT)
HEAD = HeadFields(tenant="acme", head=b"\3" * 32, options='{"pooling":"mean"}')
TOKENS = TokensFields(
    tenant="acme", tokenizer=b"\4" * 32, library="tokenizers 1.0", cutting=1, before=b"Vor.", region="Grüße".encode()
)

CHANGES: dict[type, dict[str, list[Any]]] = {
    RunFields: {
        "tenant": ["acme2", "", "acm"],
        "architecture": ["bert heads=12 eps=1e-12 relu"],
        "layers": [b"\1" * 31 + b"\0", b"\1" * 31],
        "cut": [5, 0],
        "scheme": ["bf16"],
        "numerics": [b"\2" * 31 + b"\3"],
        "window": [None, 65, 0],
    },
    SegmentFields: {
        "layout": [replace(LAYOUT, global_tokens=(0,))],
        "token_ids": [np.array([101, 2024, 102]), np.array([101, 102]), np.array([101, 2023, 102, 0])],
    },
    LayoutFields: {
        "token_types": [np.array([0, 1, 0])],
        "positions": [np.array([1, 2, 3])],
        "global_tokens": [(), (0,), (0, 1)],
    },
    HeadFields: {
        "tenant": ["other"],
        "head": [b"\3" * 31 + b"\4"],
        "options": ['{"pooling":"cls"}'],
    },
    TokensFields: {
        "tenant": ["other"],
        "tokenizer": [b"\5" * 32],
        "library": ["tokenizers 1.1", "sentencepiece 1.0"],
        "cutting": [2],
        "before": [b"Vor", b""],
        "region": [b"Gruesse", b""],
    },
}


def make(record: RunFields | LayoutFields | SegmentFields | HeadFields | TokensFields, maker: KeyMaker = MAKER) -> Key:
    match record:
        case RunFields():
            return maker.state(record, SEGMENT)
        case LayoutFields():
            return maker.state(RUN, replace(SEGMENT, layout=record))
        case SegmentFields():
            return maker.state(RUN, record)
        case HeadFields():
            return maker.result(record, STATE)
        case TokensFields():
            return maker.tokens(record)


@pytest.mark.parametrize(
    ("record", "field"),
    [(record, field.name) for record in (RUN, LAYOUT, SEGMENT, HEAD, TOKENS) for field in fields(record)],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_changing_a_field_misses(record: Any, field: str) -> None:
    others = [make(replace(record, **{field: change})) for change in CHANGES[type(record)][field]]
    assert len({make(record), *others}) == 1 + len(others)


def test_another_state_gives_another_result() -> None:
    others = (STATE._replace(digest=b"\0" * 32), STATE._replace(kind=Kind.TOKENS))
    assert len({MAKER.result(HEAD, state) for state in (STATE, *others)}) == 3


def test_the_same_fields_give_the_same_key_whatever_the_integers_width() -> None:
    ids, types, positions = (np.array(numbers, np.int64) for numbers in ([101, 2023, 102], [0, 0, 0], [0, 1, 2]))
    wide = SegmentFields(LayoutFields(types, positions, (0, 2)), ids)
    assert make(wide) == make(SEGMENT) == KeyMaker(b"s" * 32).state(replace(RUN), replace(SEGMENT))


def test_integers_that_only_differ_beyond_32_bits_differ() -> None:
    low, high = (replace(SEGMENT, token_ids=np.array([5 + (add << 32)])) for add in (0, 1))
    assert make(low) != make(high)


def test_a_float_hidden_in_a_field_is_refused() -> None:
    with pytest.raises(TypeError, match="float"):
        make(replace(RUN, window=64.5))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="float64"):
        make(replace(LAYOUT, positions=np.array([0.5])))
    with pytest.raises(TypeError, match="63 bits"):
        make(replace(SEGMENT, token_ids=np.array([1 << 63], np.uint64)))


def test_another_secret_names_everything_otherwise() -> None:
    other = KeyMaker(b"t" * 32)
    assert all(make(record) != make(record, other) for record in (RUN, HEAD, TOKENS))
    assert MAKER.document("acme", b"text") != other.document("acme", b"text")


def test_a_secret_longer_than_a_blake2b_key_counts_whole_and_a_short_one_is_refused() -> None:
    assert make(RUN, KeyMaker(b"s" * 100 + b"a")) != make(RUN, KeyMaker(b"s" * 100 + b"b"))
    with pytest.raises(ValueError, match="32 bytes"):
        KeyMaker(b"short")


def test_a_new_key_format_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [make(record, KeyMaker(b"s" * 32)) for record in (RUN, HEAD, TOKENS)]
    monkeypatch.setattr(key_module, "KEY_FORMAT", key_module.KEY_FORMAT + 1)
    after = [make(record, KeyMaker(b"s" * 32)) for record in (RUN, HEAD, TOKENS)]
    assert not set(before) & set(after)


def test_documents_digest_depends_on_tenant_and_text_and_not_on_where_one_ends() -> None:
    digests = {MAKER.document(*pair) for pair in (("ab", b"c"), ("a", b"bc"), ("", b"abc"), ("ab", b"d"))}
    assert len(digests) == 4
    assert all(len(digest) == 16 for digest in digests)


def decode(encoded: bytes) -> tuple[Any, bytes]:
    """Read one value back: that this can be written proves that `encode` is injective."""
    letter, rest = encoded[:1], encoded[1:]
    if letter in b"NTF":
        return {b"N": None, b"T": True, b"F": False}[letter], rest
    size = int.from_bytes(rest[:8], "big")
    content, rest = rest[8 : 8 + size], rest[8 + size :]
    match letter:
        case b"I":
            return int.from_bytes(content, "big", signed=True), rest
        case b"S":
            return content.decode("utf-8", "surrogatepass"), rest
        case b"B":
            return content, rest
        case b"L":
            items = []
            while content:
                item, content = decode(content)
                items.append(item)
            return tuple(items), rest
        case b"a" | b"A":
            return list(np.frombuffer(content, {b"a": "<i4", b"A": "<i8"}[letter])), rest
    raise AssertionError(letter)


def plain(value: Any) -> Any:
    """Give a value a form in which 1 and True, or an array and its list, compare as the encoding must."""
    if isinstance(value, np.ndarray | list):
        return ("array", [int(number) for number in value])
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return (type(value).__name__, value)


integers = st.integers(-(2**63), 2**63 - 1)
arrays = st.lists(integers | st.integers(-5, 5), max_size=5).map(lambda numbers: np.array(numbers, np.int64))
text = st.text(st.characters(), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | text | st.binary(max_size=6) | arrays,
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@given(values)
def test_an_encoding_can_be_decoded_again(value: Any) -> None:
    decoded, rest = decode(encode(value))
    assert (plain(decoded), rest) == (plain(value), b"")


@given(st.tuples(text, text, st.binary(max_size=4), st.integers(0, 9), text), st.data())
def test_no_two_records_share_an_encoding(parts: tuple[Any, ...], data: st.DataObject) -> None:
    def record(tenant: str, architecture: str, layers: bytes, cut: int, scheme: str) -> bytes:
        return encode_fields(RunFields(tenant, architecture, layers, cut, scheme, b"", None))

    # The same characters, divided otherwise among neighbouring fields, are the likeliest to meet.
    joined = parts[0] + parts[1]
    place = data.draw(st.integers(0, len(joined)))
    other = (joined[:place], joined[place:], *parts[2:])
    assert (record(*parts) == record(*other)) == (parts == other)
