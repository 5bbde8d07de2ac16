"""Converts arguments to requests. Values that the API cannot represent are refused, naming the field."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, Unpack, cast, get_args

from google.protobuf.message import Message

from octavo.client.arguments import (
    CacheModeName,
    CallArguments,
    Classify,
    ClassifyTokens,
    DocumentArguments,
    Embed,
    EmbedArguments,
    EmbedSparse,
    InputTypeName,
    PriorityName,
    Rank,
    RankArguments,
    Redact,
    SegmentArguments,
    Segmentation,
    Task,
)
from octavo.client.errors import DocumentTooLarge, FieldViolation, InvalidArgument
from octavo.v1 import inference_pb2 as pb

DIGEST_BYTES = 16
"""Of a segment's digest."""

T = TypeVar("T")
Request = TypeVar("Request", bound=Message)

STREAM_TASKS: Mapping[str, Task] = {"embed": Embed(segment_vectors=True)}
"""Default tasks of a stream."""

PROCESS_TASKS: Mapping[str, Task] = {"embed": Embed()}
"""Default tasks of `process`."""

PART_BYTES = 900_000
"""Maximum text in one message of ProcessDocuments, which may have 1 MiB."""


def segment_request(text: str, max_bytes: int, arguments: SegmentArguments) -> pb.SegmentRequest:
    """A request for the segments of `text`."""
    task, call = split(Embed, arguments)
    return pb.SegmentRequest(
        document=document(text, max_bytes), options=call_options(**call), embed=embed_options(task)
    )


def embed_request(text: str, max_bytes: int, arguments: EmbedArguments) -> pb.EmbedRequest:
    """A request for the vectors of `text`."""
    task, call = split(Embed, arguments)
    return pb.EmbedRequest(
        documents=[document(text, max_bytes)], options=call_options(**call), embed=embed_options(task)
    )


def task_request(
    request: type[Request], kind: type[Task], text: str, max_bytes: int, arguments: CallArguments
) -> Request:
    """A request for one task on `text`, whose options are in the field named as its kind."""
    options, call = split(kind, arguments)
    name, message = task_options(options)
    return request(document=document(text, max_bytes), options=call_options(**call), **{name: message})


def rank_request(query: str, texts: Sequence[str], max_bytes: int, arguments: RankArguments) -> pb.RankRequest:
    """A request to rank `texts`."""
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of str, not a single str")
    given = dict(arguments)
    top_k = _count("top_k", cast("int | None", given.pop("top_k", None)))
    task, call = split(Rank, cast("CallArguments", {"query": query, **given}))
    _, options = task_options(task)
    return pb.RankRequest(
        documents=[document(text, max_bytes) for text in texts],
        options=call_options(**call),
        rank=options,
        top_k=top_k,
    )


def analyze_request(
    text: str, tasks: Mapping[str, Task], max_bytes: int, **call: Unpack[DocumentArguments]
) -> pb.AnalyzeRequest:
    """A request for several tasks on `text`."""
    return pb.AnalyzeRequest(document=document(text, max_bytes), options=call_options(**call), tasks=task_list(tasks))


def stream_request(
    text: str, tasks: Mapping[str, Task] | None, max_bytes: int, **call: Unpack[DocumentArguments]
) -> pb.StreamSegmentsRequest:
    """A request for several tasks on `text`, streamed segment by segment."""
    tasks = STREAM_TASKS if tasks is None else tasks
    return pb.StreamSegmentsRequest(
        document=document(text, max_bytes), options=call_options(**call), tasks=task_list(tasks)
    )


def process_start(
    tasks: Mapping[str, Task] | None, *, segments: bool, **call: Unpack[CallArguments]
) -> pb.ProcessDocumentsRequest:
    """The first message of a stream. Segments are returned if requested, or if a task returns their vectors."""
    tasks = PROCESS_TASKS if tasks is None else tasks
    segments = segments or any(
        isinstance(task, Embed | EmbedSparse) and task.segment_vectors for task in tasks.values()
    )
    start = pb.ProcessStart(options=call_options(**call), tasks=task_list(tasks), return_segments=segments)
    return pb.ProcessDocumentsRequest(start=start)


def split(kind: type[T], arguments: CallArguments) -> tuple[T, DocumentArguments]:
    """Separate a task's options from those of the call, which chooses the model."""
    own = {field.name for field in fields(kind)} - {"model"}  # type: ignore[arg-type]
    task = kind(**{name: value for name, value in arguments.items() if name in own})
    return task, cast("DocumentArguments", {name: value for name, value in arguments.items() if name not in own})


def document_parts(number: str, text: str) -> Iterator[pb.ProcessDocumentsRequest]:
    """Split a checked document into messages."""
    data = text.encode()
    start = 0
    while start + PART_BYTES < len(data):
        end = start + PART_BYTES
        while data[end] & 0xC0 == 0x80:  # do not split a character  # noqa: PLR2004 - UTF-8's continuation bytes
            end -= 1
        yield _part(number, data[start:end], more=True)
        start = end
    yield _part(number, data[start:], more=False)


def _part(number: str, data: bytes, *, more: bool) -> pb.ProcessDocumentsRequest:
    return pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=number, text=data.decode(), more=more))


def document(text: str, max_bytes: int) -> pb.Document:
    """Convert `text`. Raises as `check_document` does."""
    check_document(text, max_bytes)
    return pb.Document(text=text)


def check_document(text: str, max_bytes: int) -> None:
    """Raise DocumentTooLarge, or InvalidArgument for a lone surrogate."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as fault:
        raise _invalid("document.text", f"lone surrogate at character {fault.start:,}") from None
    if size > max_bytes:
        raise DocumentTooLarge(
            f"the document has {size:,} bytes of UTF-8, more than this client's limit of {max_bytes:,}",
            reason="DOCUMENT_TOO_LARGE",
        )


def call_options(
    *,
    model: str | None = None,
    expected_fingerprint: str | None = None,
    segmentation: Segmentation | None = None,
    window: int | None = None,
    input_type: InputTypeName | None = None,
    cache_mode: CacheModeName | None = None,
    priority: PriorityName | None = None,
    known_segments: Sequence[bytes] = (),
) -> pb.CallOptions:
    """The options of every call. Offsets are in code points, which index a Python string."""
    return pb.CallOptions(
        model=model or "",
        expected_fingerprint=expected_fingerprint or "",
        offset_unit=pb.OFFSET_UNIT_CODE_POINT,
        cache_mode=_enum("options.cache_mode", "CACHE_MODE", pb.CacheMode.keys(), cache_mode),
        priority=_enum("options.priority", "PRIORITY", pb.Priority.keys(), priority),
        segmentation=None if segmentation is None else _segmentation(segmentation),
        window=_count("options.window", window),
        known_segment_digests=_digests(known_segments),
        input_type=_enum("options.input_type", "INPUT_TYPE", pb.InputType.keys(), input_type),
    )


def _digests(digests: Sequence[bytes]) -> bytes:
    if any(len(digest) != DIGEST_BYTES for digest in digests):
        raise _invalid("options.known_segment_digests", f"a digest has {DIGEST_BYTES} bytes")
    return b"".join(digests)


def task_list(tasks: Mapping[str, Task]) -> list[pb.Task]:
    """Convert tasks, keeping their order."""
    if not tasks:
        raise _invalid("tasks", "at least one is required")
    named = ((name, task, *task_options(task)) for name, task in tasks.items())
    return [pb.Task(name=name, model=task.model or "", **{kind: message}) for name, task, kind, message in named]


def task_options(task: Task) -> tuple[str, Any]:
    """The name of a task's kind, as in `Task.kind`, and its options."""
    match task:
        case Embed():
            return "embed", embed_options(task)
        case ClassifyTokens():
            return "classify_tokens", _entity_options(task, "classify_tokens")
        case Redact():
            return "redact", pb.RedactOptions(entities=_entity_options(task, "redact.entities"), mask=task.mask)
        case Classify():
            return "classify", pb.ClassifyOptions(
                top_k=_count("classify.top_k", task.top_k), min_score=task.min_score, return_segments=task.segments
            )
        case EmbedSparse():
            return "embed_sparse", pb.EmbedSparseOptions(
                top_k=_count("embed_sparse.top_k", task.top_k),
                return_tokens=task.tokens,
                return_segment_vectors=task.segment_vectors,
            )
        case Rank():
            return "rank", pb.RankOptions(
                query=task.query,
                method=_enum("rank.method", "RANK_METHOD", pb.RankMethod.keys(), task.method),
                passages=_count("rank.passages", task.passages),
            )
    raise TypeError(f"a task must be one of {', '.join(kind.__name__ for kind in get_args(Task))}, not {task!r}")


def embed_options(task: Embed) -> pb.EmbedOptions:
    """Convert an Embed task."""
    options = pb.EmbedOptions(
        pooling=_enum("embed.pooling", "POOLING", pb.Pooling.keys(), task.pooling),
        dimensions=_count("embed.dimensions", task.dimensions),
        data_type=_enum("embed.data_type", "DATA_TYPE", pb.DataType.keys(), task.data_type),
        return_segment_vectors=task.segment_vectors,
        spans=[
            pb.Span(start=_count("embed.spans", start), end=_count("embed.spans", end)) for start, end in task.spans
        ],
    )
    if task.normalize is not None:
        options.normalize = task.normalize
    return options


def _entity_options(task: ClassifyTokens | Redact, field: str) -> pb.ClassifyTokensOptions:
    if isinstance(task.labels, str):
        raise _invalid(f"{field}.labels", "must be a sequence of labels, not a single string")
    return pb.ClassifyTokensOptions(
        aggregation=_enum(f"{field}.aggregation", "AGGREGATION", pb.Aggregation.keys(), task.aggregation),
        labels=task.labels,
        min_score=task.min_score,
    )


def _segmentation(chosen: Segmentation) -> pb.Segmentation:
    policies = pb.SegmentationPolicy.keys()
    return pb.Segmentation(
        policy=_enum("options.segmentation.policy", "SEGMENTATION_POLICY", policies, chosen.policy),
        max_tokens=_count("options.segmentation.max_tokens", chosen.max_tokens),
        min_tokens=_count("options.segmentation.min_tokens", chosen.min_tokens),
    )


def _enum(field: str, prefix: str, members: Sequence[str], value: str | None) -> str | None:
    """The name of the enum member for `value`, as accepted by protobuf's constructors."""
    if value is None:
        return None
    member = f"{prefix}_{str(value).upper()}"
    if member not in members[1:]:  # the first is UNSPECIFIED
        known = ", ".join(each.removeprefix(f"{prefix}_").lower() for each in members[1:])
        raise _invalid(field, f"{value!r} is not one of {known}")
    return member


def _count(field: str, value: int | None) -> int | None:
    if value is not None and not 0 <= value < 2**32:
        raise _invalid(field, f"{value} is not between 0 and 4,294,967,295")
    return value


def _invalid(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}: {description}", reason="INVALID_OPTION", violations=[FieldViolation(field, description)]
    )
