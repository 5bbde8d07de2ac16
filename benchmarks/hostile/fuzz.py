"""Calls to all methods with random fields, mutated messages and aborted streams; reproducible by seed."""

import asyncio
import random
import struct
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import click
import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.figures import Figure, Figures
from benchmarks.hostile.wire import MOST_WINDOW, Connection, drive, frame
from benchmarks.served import serve
from octavo.v1 import inference_pb2, models_pb2
from server.kserve import messages

FAULTS = frozenset({"INTERNAL", "UNKNOWN"})
LOST = "LOST"
BY_PROTOCOL = "INTERNAL by protocol"
"""How gRPC itself, below the server, must end a call with a compressed frame and no encoding (its compression.md)."""

_FILES = (inference_pb2, models_pb2, health_pb2, reflection_pb2)
_IN_FLIGHT = 32
_DEADLINE_SECONDS = 10.0
_GRACE_SECONDS = 20.0  # after the deadline; a call that has not ended by then never will
_BATCH = 2_000  # calls between two lines of progress
_BROKEN = 0.05  # share of calls that break the framing below gRPC
_MUTATED = 0.3  # share of messages
_LEAVING = 0.1  # share of calls that are cancelled
_DEEPEST = 4
_MOST_REPEATED = 4
_LONGEST_TEXT = 2_000
_LONGEST_RUN = 200_000  # bytes
_OWN_FAULT = "Internal error from Core"  # what gRPC's client says when a call ends while it still sends; no status came
_COMPRESSED = b"\x01"  # a frame's first byte
_CODES = {str(code.value[0]): code.name for code in grpc.StatusCode}
_INTEGERS = (0, 1, 2, 3, 31, 32, 64, 510, 511, 4_096, (1 << 31) - 1)
_TEXTS = ("", " \n\t", "A sentence. ", "\x00\x07\u2028", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ", "[SEP] [CLS]", "e\u0301\u200d", "word ", "漢字")
MODELS = ("all-MiniLM-L6-v2", "splade-tiny", "reuters-r8", "sensitive-info-rampart")
_OUTPUTS = ("embeddings", "token_count", "labels", "entity_spans", "redacted", "sparse_rows", "scores", "none")
_PARAMETERS: dict[str, tuple[str, Sequence[Any]]] = {
    "input_type": ("string_param", ("query", "passage", "")),
    "truncate": ("string_param", ("NONE", "START", "END", "LEFT")),
    "embedding_type": ("string_param", ("float", "int8", "binary")),
    "dimensions": ("int64_param", (0, 1, 64, 384, 1 << 40, -1)),
    "top_k": ("int64_param", (0, 1, 1 << 62)),
    "min_score": ("double_param", (0.0, 0.5, 2.0, float("nan"))),
    "timeout": ("int64_param", (0, 1, 1_000, 10_000_000, -1)),
    "priority": ("uint64_param", (0, 1, 2, (1 << 64) - 1)),
}
_NAMES = ("", *MODELS, "all-MiniLM-L6-v2@1", "none", "octavo.v1.InferenceService", "embed", "x" * 300)


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A call: its messages as bytes, and how it is made.

    Attributes:
        leaves: seconds after which it is cancelled; None: it is not.
        tail: what follows the messages below gRPC's framing; None: the framing is whole.
    """

    method: str
    messages: tuple[bytes, ...]
    streams: tuple[bool, bool]
    leaves: float | None
    tail: bytes | None


def measure(calls: int, seed: int) -> Figures:
    """Send so many calls to a server in its default settings, with a model for each task, and count how they ended."""
    with serve(*(flag for name in MODELS for flag in ("--model", name))) as server:
        began = time.monotonic()
        ends = asyncio.run(send(server.address, (draw(seed, i) for i in range(calls)), calls))
        seconds = time.monotonic() - began
        alive = asyncio.run(send(server.address, [_plain()], 1))
        counted = sum(server.metric("octavo_requests_total", code=code) for code in sorted(FAULTS))
    faults = sum(ends[code] for code in FAULTS)
    return {
        "hostile_internal": Figure(ends[BY_PROTOCOL] + max(counted, faults), "calls", n=calls),
        "hostile_internal_by_protocol": Figure(ends[BY_PROTOCOL], "calls", n=calls),
        "hostile_fuzz_lost": Figure(ends[LOST] + (alive["OK"] != 1), "calls"),
        "hostile_fuzz_seconds": Figure(seconds, "s"),
        **{f"hostile_fuzz_ends.{code}": Figure(count, "calls") for code, count in sorted(ends.items())},
    }


async def send(address: str, calls: Iterable[Fuzzed], count: int) -> Counter[str]:
    """Make the calls, some of them at a time; how they ended, by the name of the status."""
    ends: Counter[str] = Counter()
    left = iter(calls)

    async def call_on(channel: grpc.aio.Channel) -> None:
        for call in left:
            ends[await _end(address, channel, call)] += 1
            if not (done := ends.total()) % _BATCH:
                click.echo(f"  {done:,} of {count:,}", err=True)

    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel, asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(call_on(channel))
    return ends


async def _end(address: str, channel: grpc.aio.Channel, call: Fuzzed) -> str:
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS + _GRACE_SECONDS):
            if call.tail is not None:
                return await asyncio.to_thread(_break_off, address, call)
            await _make(channel, call)
    except TimeoutError:
        return LOST
    except grpc.aio.AioRpcError as error:
        return "unsent" if error.details() == _OWN_FAULT else error.code().name
    except asyncio.CancelledError:
        if call.leaves is None:
            raise
        return "left"
    return "OK"


async def _make(channel: grpc.aio.Channel, call: Fuzzed) -> None:
    """Make a call with bytes, to its end."""
    untyped: Any = channel  # the type stubs know no methods without a serialiser
    many_requests, many_replies = call.streams
    kind = f"{'stream' if many_requests else 'unary'}_{'stream' if many_replies else 'unary'}"
    request: Any = iter(call.messages) if many_requests else call.messages[0]
    made = getattr(untyped, kind)(call.method)(request, timeout=_DEADLINE_SECONDS)
    if call.leaves is not None:
        asyncio.get_running_loop().call_later(call.leaves, made.cancel)
    if many_replies:
        async for _ in made:
            pass
    else:
        await made


def _break_off(address: str, call: Fuzzed) -> str:
    """Send a call whose last frame is damaged or cut off."""
    assert call.tail is not None
    connection = Connection(address, window=MOST_WINDOW)
    try:
        stream = connection.call(call.method, timeout=f"{_DEADLINE_SECONDS:g}S")
        connection.send(stream, b"".join(map(frame, call.messages)) + call.tail, end=True)
        if call.leaves is not None:
            drive([connection], call.leaves)
            connection.reset(stream)
            drive([connection], 0.01)
            return "left"
        drive([connection], _DEADLINE_SECONDS + 2.0, lambda: stream in connection.statuses)
        status = connection.statuses.get(stream, LOST if connection.open else "closed")
        code = _CODES.get(status, status)
        return BY_PROTOCOL if code == "INTERNAL" and call.tail.startswith(_COMPRESSED) else code
    finally:
        connection.close()


def draw(seed: int, number: int, methods: Sequence[MethodDescriptor] = ()) -> Fuzzed:
    """Draw the call of this number, to one of these methods or any: always the same one."""
    chance = random.Random(f"{seed}/{number}")
    method = chance.choice(methods or _methods())
    made = tuple(_bytes_of(method, chance, first=not i) for i in range(_count(method, chance)))
    leaves = chance.uniform(0, 0.05) if _happens(chance, _LEAVING) or _endless(method) else None
    tail = _tail(chance, made[-1]) if _happens(chance, _BROKEN) else None
    return Fuzzed(_path(method), made, (method.client_streaming, method.server_streaming), leaves, tail)


def _plain() -> Fuzzed:
    request = inference_pb2.EmbedRequest(documents=[inference_pb2.Document(text="A sentence.")])
    path = "/octavo.v1.InferenceService/Embed"
    return Fuzzed(path, (request.SerializeToString(),), (False, False), None, None)


@cache
def _methods() -> Sequence[MethodDescriptor]:
    services = [service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()]
    return [method for service in (*services, messages.SERVICE) for method in service.methods]


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _endless(method: MethodDescriptor) -> bool:
    return method.name == "Watch"


def _count(method: MethodDescriptor, chance: random.Random) -> int:
    return chance.randint(1, 8) if method.client_streaming else 1


def _bytes_of(method: MethodDescriptor, chance: random.Random, *, first: bool) -> bytes:
    message = GetMessageClass(method.input_type)()
    _fill(message, chance, _DEEPEST)
    if isinstance(message, inference_pb2.ProcessDocumentsRequest) and _happens(chance, 0.8):
        message = _in_order(chance, first=first)
    if isinstance(message, messages.ModelInferRequest) and _happens(chance, 0.8):
        _infer(message, chance)
    data = message.SerializeToString()
    return _mutated(data, chance) if _happens(chance, _MUTATED) else data


def _in_order(chance: random.Random, *, first: bool) -> inference_pb2.ProcessDocumentsRequest:
    """Give a stream's message the kind that belongs there, so that more than the first is read."""
    if first:
        tasks = [inference_pb2.Task(embed=inference_pb2.EmbedOptions())]
        return inference_pb2.ProcessDocumentsRequest(start=inference_pb2.ProcessStart(tasks=tasks))
    part = inference_pb2.DocumentPart(id=str(chance.randrange(100)), text=_text(chance), more=_happens(chance, 0.2))
    return inference_pb2.ProcessDocumentsRequest(document=part)


def _infer(message: Any, chance: random.Random) -> None:
    """Make a request of KServe's whole, so that more than its first field is read."""
    texts = [_text(chance).encode() for _ in range(chance.randint(1, 4))]
    message.Clear()
    message.model_name = chance.choice(MODELS)
    message.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    message.raw_input_contents.append(b"".join(struct.pack("<I", len(text)) + text for text in texts))
    for name in chance.sample(_OUTPUTS, chance.randrange(3)):
        message.outputs.add(name=name)
    for name, (field, values) in _PARAMETERS.items():
        if _happens(chance, 0.2):
            setattr(message.parameters[name], field, chance.choice(values))


def _fill(message: Message, chance: random.Random, depth: int) -> None:
    """Set some of a message's fields to anything of their type."""
    for field in message.DESCRIPTOR.fields:
        if _happens(chance, 0.35):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            _fill(getattr(message, field.name)[chance.choice(_NAMES)], chance, 1)
        elif field.is_repeated:
            _extend(message, field, chance, depth)
        elif field.message_type:
            if depth:
                _fill(getattr(message, field.name), chance, depth - 1)
        else:
            setattr(message, field.name, _value(field, chance))


def _extend(message: Message, field: Any, chance: random.Random, depth: int) -> None:
    values = getattr(message, field.name)
    for _ in range(chance.randint(0, _MOST_REPEATED)):
        if field.message_type:
            _fill(values.add(), chance, depth - 1) if depth else values.add()
        else:
            values.append(_value(field, chance))


def _value(field: Any, chance: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.randbytes(chance.randrange(40))
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _text(chance) if field.name == "text" else chance.choice(_NAMES)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _happens(chance, 0.5)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice((0, 1, 2, 3, 4, 5, 99, -1, (1 << 31) - 1, -(1 << 31)))
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.choice((0.0, 1.5, -1.0, float("inf"), float("nan")))
    signed = field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    return chance.choice(_INTEGERS) * (chance.choice((1, -1)) if signed else 1)


def _text(chance: random.Random) -> str:
    piece = chance.choice(_TEXTS)
    return piece * chance.randint(1, max(1, _LONGEST_TEXT // max(1, len(piece)))) if _happens(chance, 0.5) else piece


def _mutated(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut, double or insert some bytes, or insert a long run of 0xff: a number without an end."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(5):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                del made[at:]
            case 2:
                made[at:at] = made[at : at + chance.randrange(1, 20)]
            case 3:
                made[at:at] = chance.randbytes(chance.randrange(1, 12))
            case _:
                made[at:at] = b"\xff" * chance.choice((1, 10, 1_000, _LONGEST_RUN))
    return bytes(made)


def _tail(chance: random.Random, message: bytes) -> bytes:
    """Draw the last frame of a stream that breaks off: cut short, of a false length, or marked as compressed."""
    whole = frame(message)
    broken = (
        whole[: chance.randrange(len(whole))],
        frame(message, len(message) + chance.randint(1, 1_000)),
        frame(message, (1 << 32) - 1),
        frame(message, compressed=True),
        chance.randbytes(chance.randrange(1, 40)),
    )
    return chance.choice(broken)


def _happens(chance: random.Random, share: float) -> bool:
    return chance.random() < share
