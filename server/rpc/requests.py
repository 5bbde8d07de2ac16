"""From the wire to the server's own words: every option checked, every default filled in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from chunking import Cutting, CuttingError, OffsetError, Policy, Ruler, Unit
from octavo.v1 import inference_pb2 as pb
from server.errors import DocumentTooLarge, FingerprintMismatch, InvalidCall, ReplyTooLarge
from server.inference.call import CacheMode, Call
from server.inference.models import Catalogue, ServedModel, least_tokens, window_of
from server.inference.tasks import EmbedTask
from server.inference.tasks.embed import DataTypeName
from server.rpc.call_gate import Context
from server.types import PoolingName, Priority

T = TypeVar("T")

MAX_MESSAGE_BYTES = 1 << 20  # of a stream
MAX_SPANS = 4096  # of a call: each costs hidden * 8 bytes, and its turn in every segment, however small its vector is

# By enum number; None is the model's or the server's own choice.
POOLINGS: tuple[PoolingName | None, ...] = (None, "mean", "cls")
DATA_TYPES: tuple[DataTypeName, ...] = ("float32", "float32", "float16", "int8", "binary")
OFFSET_UNITS = (Unit.CODE_POINT, Unit.CODE_POINT, Unit.UTF16, Unit.UTF8)
POLICIES: tuple[Policy | None, ...] = (None, "content", "sentence", "fixed")
PRIORITIES = (None, Priority.INTERACTIVE, Priority.BULK)
CACHE_MODES = (
    CacheMode.READ_WRITE,
    CacheMode.READ_WRITE,
    CacheMode.READ_ONLY,
    CacheMode.REFRESH,
    CacheMode.BYPASS,
)
INPUT_TYPES: tuple[str, ...] = ("", "query", "passage")


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a call (see `server.config.schema.ServerSettings`)."""

    max_document_bytes: int
    max_reply_bytes: int
    max_documents: int
    max_tasks: int
    default_deadline_seconds: float


def call_of(
    options: pb.CallOptions,
    tasks: Sequence[pb.Task],
    text: str,
    catalogue: Catalogue,
    around: Context,
    default_priority: Priority = Priority.INTERACTIVE,
    path: str = "tasks[{}].",
) -> Call:
    """The call of a request; `text` is what its tasks' spans measure, `path` where the request has its i-th task.

    Raises:
        UnknownModel, PermissionDenied, FingerprintMismatch, InvalidCall: the option at fault is named.
    """
    model = catalogue.resolve(options.model, around.client)
    cutting = _cutting(options, model)
    window = window_of(options.window if options.HasField("window") else None, model)
    unit = offset_unit(options)
    priority = _choice(PRIORITIES, options.priority, "options.priority")
    _check_spans(tasks, path)
    wanted = tuple(_embed_task(task, path.format(i), model, text, unit) for i, task in enumerate(tasks))
    wanted = wanted or (model.embed_task(),)
    fingerprint = model.fingerprint(cutting, window, wanted)
    if options.expected_fingerprint and options.expected_fingerprint != fingerprint:
        raise FingerprintMismatch(f"this call's fingerprint is {fingerprint}, not the expected one")
    prefix = model.prefixes[_choice(INPUT_TYPES, options.input_type, "options.input_type")]
    return Call(
        around.request_id,
        around.client,
        around.client.plan.cap(priority or default_priority),
        around.deadline,
        model,
        cutting,
        prefix,
        window,
        _choice(CACHE_MODES, options.cache_mode, "options.cache_mode"),
        wanted,
        fingerprint,
    )


def tasks_of(tasks: Sequence[pb.Task], limits: Limits) -> Sequence[pb.Task]:
    """The tasks of a request that must have some."""
    if not 0 < len(tasks) <= limits.max_tasks:
        raise InvalidCall("tasks", f"a call has 1 to {limits.max_tasks} tasks")
    names = [task.name for task in tasks]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InvalidCall(f"tasks[{i}].name", "the names of a call's tasks differ")
    return tasks


def texts_of(documents: Sequence[pb.Document], field: str, limits: Limits) -> list[str]:
    """The texts of documents.

    Raises:
        DocumentTooLarge: together they are over `max_document_bytes` of UTF-8.
    """
    texts = [document.text for document in documents]
    size = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
    if size > limits.max_document_bytes:
        raise DocumentTooLarge(field, f"{size:,} bytes of text; this server takes {limits.max_document_bytes:,} a call")
    return texts


def offset_unit(options: pb.CallOptions) -> Unit:
    """What the call's spans count."""
    return _choice(OFFSET_UNITS, options.offset_unit, "options.offset_unit")


def check_reply(size: int, limits: Limits) -> None:
    """Refuse, before anything is computed, a reply that its reader might not be allowed to read."""
    if size > limits.max_reply_bytes:
        raise ReplyTooLarge(
            "", f"the reply would have {size:,} bytes, over {limits.max_reply_bytes:,}: use StreamSegments"
        )


def check_message(size: int) -> None:
    """Refuse, before anything is computed, a stream with a message over what contract and clients allow."""
    if size > MAX_MESSAGE_BYTES:
        raise ReplyTooLarge("tasks", f"a message would have {size:,} bytes, over {MAX_MESSAGE_BYTES:,}: ask for less")


def _cutting(options: pb.CallOptions, model: ServedModel) -> Cutting:
    if not options.HasField("segmentation"):
        return model.cutting
    wanted, field, default = options.segmentation, "options.segmentation", model.cutting
    policy = _choice(POLICIES, wanted.policy, f"{field}.policy") or default.policy
    most = wanted.max_tokens if wanted.HasField("max_tokens") else default.max_tokens
    if most > model.budget:
        raise InvalidCall(f"{field}.max_tokens", f"{model.name} takes at most {model.budget} tokens a segment")
    least = wanted.min_tokens if wanted.HasField("min_tokens") else min(default.min_tokens, least_tokens(most))
    try:
        return Cutting(policy, most, least)
    except CuttingError as error:
        raise InvalidCall(f"{field}.{error.field}", str(error)) from error


def _check_spans(tasks: Sequence[pb.Task], path: str) -> None:
    spans = 0
    for i, task in enumerate(tasks):
        spans += len(task.embed.spans)
        if spans > MAX_SPANS:
            raise InvalidCall(f"{path.format(i)}embed.spans", f"a call has at most {MAX_SPANS:,} spans")


def _embed_task(task: pb.Task, path: str, model: ServedModel, text: str, unit: Unit) -> EmbedTask:
    if not task.HasField("embed"):
        raise InvalidCall(f"{path}kind", "set one of: embed")
    options, field = task.embed, f"{path}embed"
    default = model.embed_task(task.name)
    normalize = options.normalize if options.HasField("normalize") else default.normalize
    data_type = _choice(DATA_TYPES, options.data_type, f"{field}.data_type")
    if data_type == "int8" and not normalize:
        raise InvalidCall(f"{field}.data_type", "only normalised vectors can have 8-bit values")
    dimensions = options.dimensions if options.HasField("dimensions") else default.dimensions
    if not 0 < dimensions <= default.dimensions:
        raise InvalidCall(f"{field}.dimensions", f"{model.name} has 1 to {default.dimensions} dimensions")
    pooling: PoolingName | None = _choice(POOLINGS, options.pooling, f"{field}.pooling")
    return EmbedTask(
        name=task.name,
        pooling=pooling or default.pooling,
        normalize=normalize,
        dimensions=dimensions,
        data_type=data_type,
        segment_vectors=options.return_segment_vectors,
        spans=_spans(options.spans, f"{field}.spans", text, unit),
    )


def _spans(spans: Sequence[pb.Span], field: str, text: str, unit: Unit) -> NDArray[np.int64]:
    edges = np.array([(span.start, span.end) for span in spans], np.int64).reshape(-1, 2)
    if wrong := np.flatnonzero(edges[:, 0] >= edges[:, 1]).tolist():
        raise InvalidCall(f"{field}[{wrong[0]}]", "a span's start is less than its end")
    order = np.argsort(edges, axis=None)  # a ruler goes forward alone
    try:
        edges.reshape(-1)[order] = Ruler(text, unit).points(edges.reshape(-1)[order])
    except OffsetError as error:
        raise InvalidCall(field, str(error)) from error
    return edges


def _choice(choices: tuple[T, ...], number: int, field: str) -> T:
    if not 0 <= number < len(choices):
        raise InvalidCall(field, f"{number} is none of this version's values")
    return choices[number]
