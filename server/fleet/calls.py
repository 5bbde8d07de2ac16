"""What a fleet reads of a call: where its document belongs, how much it is, and what its answer cost."""

import hashlib
from typing import Any, Final

from google.protobuf.message_factory import GetMessageClass

from octavo.v1 import inference_pb2
from octavo.v1 import inference_pb2 as pb
from server.errors import InvalidCall
from server.fleet.affinity import affinity_key
from server.v1.messages import parse

SERVICE: Final = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
PROCESS_DOCUMENTS: Final = f"/{SERVICE.full_name}/ProcessDocuments"
STREAM_SEGMENTS: Final = f"/{SERVICE.full_name}/StreamSegments"
KEY_CHARACTERS: Final = 1 << 17  # of a text: enough windows, and hashed in a few milliseconds
BYTES_OF_TOKEN: Final = 4  # of English; others' loads are off by the same factor on all replicas

_REQUESTS: Final[dict[str, Any]] = {
    f"/{SERVICE.full_name}/{method.name}": GetMessageClass(method.input_type).FromString
    for method in SERVICE.methods
    if not method.client_streaming
}
_INFO: Final = pb.AnalyzeResponse.DESCRIPTOR.fields_by_name["info"].number << 3 | 2
_SUMMARY: Final = pb.StreamSegmentsResponse.DESCRIPTOR.fields_by_name["summary"].number << 3 | 2


def place_of(method: str, request: bytes) -> tuple[int, int]:
    """The key of a call's documents, and about how many tokens they are.

    The key is that of the first document's id, else the least of the texts. A call without a document, or one that a
    replica will refuse, has a key of its bytes.
    """
    try:
        message = parse(request, _REQUESTS.get(method))
    except InvalidCall:
        message = request
    if isinstance(message, bytes):
        return id_key(request), 0
    documents = message.documents if hasattr(message, "documents") else [message.document]
    tokens = sum(len(document.text) for document in documents) // BYTES_OF_TOKEN
    if not documents:
        return id_key(request), 0
    if documents[0].id:
        return id_key(documents[0].id.encode()), tokens
    return min(text_key(document.text) for document in documents), tokens


def text_key(text: str) -> int:
    """The key of a document without a name."""
    return affinity_key(text[:KEY_CHARACTERS])


def id_key(name: bytes) -> int:
    """The key of what has no text, or a name."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def charge_of(method: str, response: bytes) -> int | None:
    """The tokens charged for a call, as its last message says; None if that does not say."""
    if method == STREAM_SEGMENTS:
        if not response or response[0] != _SUMMARY:
            return None
        return pb.StreamSegmentsResponse.FromString(response).summary.info.usage.charged_tokens
    # `info` is the first field of all unary replies of InferenceService: the rest, which may be long, stays unread.
    if method not in _REQUESTS or not response or response[0] != _INFO:
        return None
    size = shift = 0
    for place in range(1, len(response)):
        size |= (response[place] & 0x7F) << shift
        shift += 7
        if response[place] < 0x80:  # noqa: PLR2004 - a varint's last byte
            return pb.ReplyInfo.FromString(response[place + 1 : place + 1 + size]).usage.charged_tokens
    return None
