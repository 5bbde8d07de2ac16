"""From the wire to the server's own words: every option checked, every default filled in."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from chunking import Cutting, CuttingError, Frame, OffsetError, Policy, Ruler, Unit
from encoder.heads.pooled import PooledHead
from octavo.v1 import inference_pb2 as pb
from server.errors import DocumentTooLarge, FingerprintMismatch, InvalidCall, ReplyTooLarge
from server.inference.call import CacheMode, Call
from server.inference.known import DIGEST_BYTES, KnownDigests
from server.inference.models import CROSS_ENCODE, Catalogue, ServedModel, fitted, least_tokens, window_of
from server.inference.tasks import (
    ClassifyTask,
    ClassifyTokensTask,
    CrossEncodeTask,
    EmbedSparseTask,
    EmbedTask,
    RankTask,
    RedactTask,
    Task,
)
from server.inference.tasks.embed import DataTypeName
from server.inference.tasks.rank import MAX_PASSAGES, PASSAGES, RankMethod
from server.inference.tasks.redact import MASK
from server.inference.tasks.tokens import Aggregation, entity_labels
from server.limits import Context
from server.types import Pool, PoolingName, Priority, Trained

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
RANK_METHODS: tuple[RankMethod | None, ...] = (None, "dense", "sparse", "fused", "cross-encoder")
AGGREGATIONS: tuple[Aggregation, ...] = ("max", "simple", "first", "average", "max")
MAX_MASK_BYTES = 256
MAX_QUERY_BYTES = 16_384
MAX_KNOWN_DIGESTS = 32_768  # of a call or document: 512 KiB


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a call (see `server.config.schema.ServerSettings`)."""

    max_document_bytes: int
    max_reply_bytes: int
    max_documents: int
    max_tasks: int
    default_deadline_seconds: float


def calls_of(
    options: pb.CallOptions,
    tasks: Sequence[pb.Task],
    text: str,
    catalogue: Catalogue,
    around: Context,
    default_priority: Priority = Priority.INTERACTIVE,
    path: str = "tasks[{}].",
) -> Sequence[Call]:
    """The calls of a request, one for each trunk, in the order of their first tasks.

    The tasks' spans measure `text`; `path` is where the request has its i-th task.

    Raises:
        UnknownModel, PermissionDenied, FingerprintMismatch, InvalidCall: the option at fault is named.
    """
    default = catalogue.resolve(options.model, around.client)
    unit = offset_unit(options)
    _check_spans(tasks, path)
    passes: dict[tuple[str, bytes], list[tuple[ServedModel, Task[Any]]]] = {}  # by trunk, and a cross-encoder's query
    for i, task in enumerate(tasks):
        field = path.format(i)
        model = catalogue.for_task(_needed(task, field), task.model, default, around.client)
        wanted = _task(task, field, model, text, unit)
        query = wanted.frame.head.tobytes() if isinstance(wanted, CrossEncodeTask) else b""
        passes.setdefault(((model.trunk or model).name, query), []).append((model, wanted))
    known = known_digests(options.known_segment_digests, "options.known_segment_digests")
    calls = tuple(_call(options, served, around, default_priority).knowing(known) for served in passes.values())
    if options.expected_fingerprint and options.expected_fingerprint != fingerprint_of(calls):
        raise FingerprintMismatch(f"this call's fingerprint is {fingerprint_of(calls)}, not the expected one")
    return calls


def known_digests(packed: bytes, field: str) -> KnownDigests:
    """The digests of segments that the caller holds."""
    if len(packed) % DIGEST_BYTES:
        raise InvalidCall(field, f"digests have {DIGEST_BYTES} bytes each; {len(packed):,} bytes are no whole number")
    if len(packed) > MAX_KNOWN_DIGESTS * DIGEST_BYTES:
        raise InvalidCall(field, f"at most {MAX_KNOWN_DIGESTS:,} digests of {DIGEST_BYTES} bytes")
    return KnownDigests.unpacked(packed)


def check_known(options: pb.CallOptions, tasks: Sequence[pb.Task], path: str = "tasks[{}].") -> None:
    """Refuse embed tasks that have nothing to return, or not all that they need, for a caller that sends digests."""
    if not options.known_segment_digests:
        return
    for i, task in enumerate(tasks):
        field = f"{path.format(i)}embed"
        if task.embed.spans:
            raise InvalidCall(f"{field}.spans", "spans do not go with known_segment_digests")
        if task.WhichOneof("kind") == "embed" and not task.embed.return_segment_vectors:
            why = "with known_segment_digests, segment vectors are all that an embed task returns: set it"
            raise InvalidCall(f"{field}.return_segment_vectors", why)


def refuse_known_digests(options: pb.CallOptions, instead: str, field: str = "options") -> None:
    """Refuse digests in a call that would not use them; `instead` is what to do."""
    if options.known_segment_digests:
        raise InvalidCall(f"{field}.known_segment_digests", f"this call does not take them: {instead}")


def fingerprint_of(calls: Sequence[Call]) -> str:
    """The fingerprint of all results of a request."""
    if len(calls) == 1:
        return calls[0].fingerprint
    return hashlib.blake2b("".join(call.fingerprint for call in calls).encode(), digest_size=16).hexdigest()


def _call(
    options: pb.CallOptions,
    served: Sequence[tuple[ServedModel, Task[Any]]],
    around: Context,
    default_priority: Priority,
) -> Call:
    """The call of tasks whose models have one trunk."""
    named = served[0][0]
    model, tasks = named.trunk or named, tuple(task for _, task in served)
    cutting = _cutting(options, model)
    prefix = model.prefixes[_choice(INPUT_TYPES, options.input_type, "options.input_type")]
    frame = tasks[0].frame if isinstance(tasks[0], CrossEncodeTask) else model.tokenizer.frame(prefix)
    window = window_of(options.window if options.HasField("window") else None, model)
    priority = _choice(PRIORITIES, options.priority, "options.priority")
    return Call(
        around.request_id,
        around.client,
        around.client.plan.cap(priority or default_priority),
        around.deadline,
        model,
        named,
        fitted(cutting, model.runner.encoder.max_tokens - len(frame)),
        frame,
        window,
        _choice(CACHE_MODES, options.cache_mode, "options.cache_mode"),
        tasks,
        model.fingerprint(cutting, window, tasks),
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


def rank_tasks(options: pb.RankOptions, model: str) -> Sequence[pb.Task]:
    """The tasks of a Rank: one for each method, with the model that the call names, if it names one.

    Methods that are fused choose models as tasks do, and keep more passages than are answered.
    """
    if options.method != pb.RANK_METHOD_FUSED:
        return [pb.Task(name="rank", rank=options, model=model)]
    passages_of(options, "rank")
    methods = {"dense": pb.RANK_METHOD_DENSE, "sparse": pb.RANK_METHOD_SPARSE}
    return [
        pb.Task(name=name, rank=pb.RankOptions(query=options.query, method=method, passages=MAX_PASSAGES))
        for name, method in methods.items()
    ]


def passages_of(options: pb.RankOptions, field: str) -> int:
    """The number of best passages of a document."""
    passages = options.passages if options.HasField("passages") else PASSAGES
    if passages > MAX_PASSAGES:
        raise InvalidCall(f"{field}.passages", f"a document has at most {MAX_PASSAGES} passages")
    return passages


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


def check_reply(size: int, limits: Limits, advice: str) -> None:
    """Refuse, before anything is computed, a reply that its reader might not be allowed to read."""
    if size > limits.max_reply_bytes:
        raise ReplyTooLarge("", f"the reply would have {size:,} bytes, over {limits.max_reply_bytes:,}: {advice}")


def check_message(size: int) -> None:
    """Refuse a stream with a message over what contract and clients allow: if it is foreseen, before computing."""
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


def _kind(task: pb.Task, path: str) -> str:
    kind: str | None = task.WhichOneof("kind")
    if kind is None:
        kinds = ", ".join(field.name for field in pb.Task.DESCRIPTOR.oneofs_by_name["kind"].fields)
        raise InvalidCall(f"{path}kind", f"set one of: {kinds}")
    return kind


def _needed(task: pb.Task, path: str) -> str:
    """The kind of task that a model must support for this one."""
    kind = _kind(task, path)
    if kind != "rank":
        return kind
    match _choice(RANK_METHODS, task.rank.method, f"{path}rank.method"):
        case None:
            return "rank"
        case "dense":
            return "embed"
        case "sparse":
            return "embed_sparse"
        case "cross-encoder":
            return CROSS_ENCODE
        case "fused":
            raise InvalidCall(f"{path}rank.method", "ranks of documents are fused: use Rank")


def _task(task: pb.Task, path: str, model: ServedModel, text: str, unit: Unit) -> Task[Any]:
    match task.WhichOneof("kind"):
        case "classify_tokens":
            return _classify_tokens_task(task.name, task.classify_tokens, f"{path}classify_tokens", model)
        case "redact":
            return _redact_task(task, f"{path}redact", model)
        case "classify":
            return _classify_task(task, f"{path}classify", model)
        case "embed_sparse":
            return _embed_sparse_task(task, model)
        case "rank":
            return _rank_task(task, f"{path}rank", model)
        case _:
            return _embed_task(task, f"{path}embed", model, text, unit)


def _classify_tokens_task(
    name: str, options: pb.ClassifyTokensOptions, field: str, model: ServedModel
) -> ClassifyTokensTask:
    head, labels = _head_of(model)
    known = entity_labels(labels)
    for i, label in enumerate(options.labels):
        if label not in known:
            raise InvalidCall(f"{field}.labels[{i}]", f"{model.name} has the labels {', '.join(known)}")
    aggregation = _choice(AGGREGATIONS, options.aggregation, f"{field}.aggregation")
    return ClassifyTokensTask(
        name,
        head,
        labels,
        model.tokenizer,
        aggregation,
        frozenset(options.labels),
        _score(options.min_score, f"{field}.min_score"),
    )


def _redact_task(task: pb.Task, field: str, model: ServedModel) -> RedactTask:
    options = task.redact
    mask = options.mask if options.HasField("mask") else MASK
    if len(mask.encode()) > MAX_MASK_BYTES:
        raise InvalidCall(f"{field}.mask", f"a mask has at most {MAX_MASK_BYTES} bytes")
    return RedactTask(_classify_tokens_task(task.name, options.entities, f"{field}.entities", model), mask)


def _classify_task(task: pb.Task, field: str, model: ServedModel) -> ClassifyTask:
    head = model.head
    assert head  # since it supports the task
    options = task.classify
    readout = head if isinstance(head, PooledHead) else None
    return ClassifyTask(
        task.name,
        Pool(readout.pooling) if readout else Trained(head.digest),
        head.digest,
        head.facts.labels,
        readout=readout,
        multi_label=head.facts.multi_label,
        top_k=options.top_k,
        min_score=_score(options.min_score, f"{field}.min_score"),
        segments=options.return_segments,
    )


def _embed_sparse_task(task: pb.Task, model: ServedModel) -> EmbedSparseTask:
    head, _ = _head_of(model)
    options = task.embed_sparse
    return EmbedSparseTask(
        task.name,
        head,
        model.runner.encoder.architecture.vocabulary,
        vocabulary=model.tokenizer.vocabulary if options.return_tokens else (),
        top_k=options.top_k,
        segment_vectors=options.return_segment_vectors,
    )


def _rank_task(task: pb.Task, field: str, model: ServedModel) -> RankTask | CrossEncodeTask:
    options, passages = task.rank, passages_of(task.rank, field)
    if len(options.query.encode()) > MAX_QUERY_BYTES:
        raise InvalidCall(f"{field}.query", f"a query has at most {MAX_QUERY_BYTES:,} bytes")
    method = RANK_METHODS[options.method]
    if method == "cross-encoder" or (method is None and model.is_cross_encoder):
        head, _ = _head_of(model)
        return CrossEncodeTask(task.name, _pair_frame(options.query, f"{field}.query", model), head, passages)
    sparse = method == "sparse" or (method is None and "embed_sparse" in model.tasks)
    vectors = _embed_sparse_task(task, model) if sparse else replace(model.embed_task(task.name), normalize=True)
    return RankTask(
        task.name,
        options.query,
        f"{field}.query",
        model.tokenizer.frame(model.prefixes["query"]),
        vectors,
        passages,
    )


def _pair_frame(query: str, field: str, model: ServedModel) -> Frame:
    frame, empty = (model.tokenizer.pair_frame(first) for first in (query, ""))
    most = model.runner.encoder.max_tokens // 2 - len(empty)
    if not 0 < (tokens := len(frame) - len(empty)) <= most:
        raise InvalidCall(field, f"{model.name} takes queries of 1 to {most} tokens, not {tokens}")
    return frame


def _head_of(model: ServedModel) -> tuple[Trained, tuple[str, ...]]:
    assert model.head  # since it supports the task
    return Trained(model.head.digest), model.head.facts.labels


def _score(score: float, field: str) -> float:
    if not 0 <= score <= 1:
        raise InvalidCall(field, "a score is between 0 and 1")
    return score


def _embed_task(task: pb.Task, field: str, model: ServedModel, text: str, unit: Unit) -> EmbedTask:
    options = task.embed
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
    if not len(edges):  # as in most calls, each of which would pay for the rest
        return edges
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
