"""From bytes to a message: what its sender could make dear is refused unparsed."""

from collections.abc import Callable
from typing import Any

import pytest

from octavo.v1 import inference_pb2 as pb
from server.errors import InvalidCall, Malformed
from server.v1.messages import MOST_FIELDS, UNCHECKED_BYTES, check_fields, parse

EMPTY_DOCUMENT = b"\x0a\x00"  # field 1 of an EmbedRequest, of no bytes


def unparsed(_: bytes) -> Any:
    raise AssertionError("it was parsed")


def guarded(kind: Any, deserializer: Callable[[bytes], Any]) -> Any:
    """A deserialiser that counts as `kind`'s."""

    class Bound:
        DESCRIPTOR = kind.DESCRIPTOR

        def parse(self, data: bytes) -> Any:
            return deserializer(data)

    return Bound().parse


def test_a_million_empty_documents_are_refused_unparsed() -> None:
    assert pb.EmbedRequest.FromString(EMPTY_DOCUMENT * 3) == pb.EmbedRequest(documents=[pb.Document()] * 3)
    with pytest.raises(InvalidCall, match="fields"):
        parse(EMPTY_DOCUMENT * 1_000_000, guarded(pb.EmbedRequest, unparsed))


def test_nested_messages_count_too() -> None:
    spans = [pb.Span(start=i, end=i + 1) for i in range(MOST_FIELDS)]
    request = pb.EmbedRequest(documents=[pb.Document(text="x" * UNCHECKED_BYTES)], embed=pb.EmbedOptions(spans=spans))
    with pytest.raises(InvalidCall, match="fields"):
        parse(request.SerializeToString(), pb.EmbedRequest.FromString)


def test_the_largest_sensible_requests_pass() -> None:
    documents = [pb.Document(id=f"d{i}", text="x" * 1000) for i in range(256)]
    spans = [pb.Span(start=i, end=i + 500) for i in range(4096)]
    for request in (
        pb.EmbedRequest(documents=documents),
        pb.EmbedRequest(documents=documents[:1] * 80, embed=pb.EmbedOptions(spans=spans)),
    ):
        data = request.SerializeToString()
        assert len(data) > UNCHECKED_BYTES
        assert parse(data, pb.EmbedRequest.FromString) == request


def test_every_field_is_counted_whatever_its_type() -> None:
    # A varint of two bytes, 64 bits, 32 bits, and bytes: fields that the contract does not have.
    fields = b"\xf8\x07\x96\x01", b"\xf9\x07" + b"8" * 8, b"\xfd\x07" + b"4" * 4, b"\xfa\x07\x03abc"
    check_fields(b"".join(fields), pb.EmbedRequest.DESCRIPTOR, 4)
    with pytest.raises(InvalidCall):
        check_fields(b"".join(fields), pb.EmbedRequest.DESCRIPTOR, 3)


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\xff", b"\xff" * 20, b"\x0a\x05abc", b"\x07\x07"])
def test_what_does_not_parse_is_malformed(data: bytes) -> None:
    padding = pb.EmbedRequest(documents=[pb.Document(text="x" * UNCHECKED_BYTES)]).SerializeToString()
    for bad in (data, padding + data):
        with pytest.raises(Malformed):
            parse(bad, pb.EmbedRequest.FromString)


def test_a_number_without_an_end_is_not_read_to_its_end() -> None:
    class Watched(bytes):
        reads = 0

        def __getitem__(self, at: Any) -> Any:
            type(self).reads += 1
            return super().__getitem__(at)

    check_fields(Watched(b"\xff" * 1_000_000), pb.EmbedRequest.DESCRIPTOR, MOST_FIELDS)
    assert Watched.reads < 20
    with pytest.raises(Malformed):
        parse(b"\xff" * 1_000_000, pb.EmbedRequest.FromString)
