"""The Python client: `Client` for threads and `AsyncClient` for asyncio.

with Client("127.0.0.1:50051") as client:
    result = client.embed(text)
    result.vector, result.segments, result.usage
"""

from octavo.client.aio import AsyncClient
from octavo.client.arguments import Embed, Segmentation
from octavo.client.errors import (
    Cancelled,
    DeadlineExceeded,
    DocumentsFailed,
    DocumentTooLarge,
    FailedPrecondition,
    FieldViolation,
    FingerprintMismatch,
    IncompleteStream,
    InvalidArgument,
    NotFound,
    OctavoError,
    PermissionDenied,
    ReplyTooLarge,
    ResourceExhausted,
    ServerError,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)
from octavo.client.results import (
    Analysis,
    Embedding,
    EmbedResult,
    Model,
    ModelRef,
    Segment,
    SegmentationResult,
    SegmentResult,
    StreamHeader,
    StreamSummary,
    Timings,
    Usage,
)
from octavo.client.retry import Retry
from octavo.client.streams import AsyncSegmentStream, SegmentStream
from octavo.client.sync import Client

__all__ = [
    "Analysis",
    "AsyncClient",
    "AsyncSegmentStream",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "DocumentTooLarge",
    "DocumentsFailed",
    "Embed",
    "EmbedResult",
    "Embedding",
    "FailedPrecondition",
    "FieldViolation",
    "FingerprintMismatch",
    "IncompleteStream",
    "InvalidArgument",
    "Model",
    "ModelRef",
    "NotFound",
    "OctavoError",
    "PermissionDenied",
    "ReplyTooLarge",
    "ResourceExhausted",
    "Retry",
    "Segment",
    "SegmentResult",
    "SegmentStream",
    "Segmentation",
    "SegmentationResult",
    "ServerError",
    "StreamHeader",
    "StreamSummary",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "UnknownModel",
    "Usage",
]
