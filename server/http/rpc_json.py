"""Every method of octavo.v1 as JSON: `POST /octavo/v1/METHOD`, by protobuf's JSON mapping.

A stream of responses comes as server-sent events, named after the message that each carries. A stream of requests is
newline-delimited JSON.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.json_format import MessageToDict, MessageToJson, ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.code_pb2 import Code
from pydantic_core import to_json

from server.errors import DeadlineExceeded, InvalidCall, QueueFull
from server.http.endpoint import EVENTS, Reply, Request
from server.http.octavo import PARSED_ASIDE_BYTES
from server.http.reading import Incoming, check_values
from server.limits import Slot
from server.status import Row, status_of

PREFIX = "/octavo/v1/"
MAX_VALUES = 20_000  # of a message; the largest sensible one has 4,096 spans of two numbers
MAX_LINE_BYTES = 7 << 20  # JSON may write a byte of text as six
BUSY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A method, and what answers it."""

    descriptor: MethodDescriptor
    behaviour: Any

    @property
    def path(self) -> str:
        """Where it is served."""
        return PREFIX + str(self.descriptor.name)

    async def answer(self, request: Request) -> Reply:
        """Answer a request."""
        method, context = self.descriptor, request.context
        requests: Any
        if method.client_streaming:
            requests = _each(method.input_type, request.incoming, context.slot, request.stall_seconds)
        else:
            requests = await _parsed(request.body, method.input_type)
        if method.server_streaming:
            return Reply(_events(self.behaviour(requests, context), method.output_type), media_type=EVENTS)
        return Reply(await _written(await self.behaviour(requests, context), method.output_type))


def methods_of(service: ServiceDescriptor, servicer: object) -> list[Method]:
    """A service's methods."""
    return [Method(method, getattr(servicer, method.name)) for method in service.methods]


def tell(error: BaseException, row: Row, request_id: str) -> tuple[int, bytes]:
    """An error as Google's JSON has it: the status that gRPC would send, with the HTTP status as its code."""
    status = MessageToDict(status_of(error, request_id))
    return row.http, to_json({"error": status | {"code": row.http, "status": Code.Name(row.code)}})


async def _parsed(body: bytes, kind: Descriptor) -> Any:
    return await asyncio.to_thread(parse, body, kind) if len(body) > PARSED_ASIDE_BYTES else parse(body, kind)


def parse(body: bytes, kind: Descriptor) -> Any:
    """Parse a message; an empty body is an empty message.

    Raises:
        InvalidCall: it is none of this kind; the place is named, and nothing of the body.
    """
    check_values(body, MAX_VALUES)
    message = GetMessageClass(kind)()
    try:
        return ParseDict(json.loads(body or b"{}"), message)
    except ParseError as error:
        raise _fault(str(error), kind) from None
    except (ValueError, RecursionError):
        raise InvalidCall("", "the body is not JSON in UTF-8") from None
    except Exception:  # noqa: BLE001 - what protobuf's parser did not foresee, such as an array in place of an object
        raise InvalidCall("", f"the body is no {kind.name}") from None


def _fault(message: str, kind: Descriptor) -> InvalidCall:
    """What protobuf's parser found, without the values that its message quotes."""
    names = "|".join(sorted(_names(kind, set())))
    step = rf"(?:{names})(?:\[\d+\])?"
    place = ".".join(re.findall(rf"Failed to parse ({step}) field", message))
    if told := re.search(rf" at \"?{kind.name}\.({step}(?:\.{step})*)", message):
        place = told[1]
    unknown = re.search(r'Message type "octavo\.v1\.(\w+)" has no field named', message)
    if unknown and (found := kind.file.pool.FindMessageTypeByName(f"octavo.v1.{unknown[1]}")):
        known = ", ".join(field.json_name for field in found.fields)
        return InvalidCall(place, f"{found.name} has the fields {known}")
    return InvalidCall(place, f"the value is none that {kind.name} has there")


def _names(kind: Descriptor, seen: set[str]) -> set[str]:
    """The names of fields of a message and of those inside it."""
    if kind.full_name in seen:
        return set()
    seen.add(kind.full_name)
    names = {name for field in kind.fields for name in (str(field.name), str(field.json_name))}
    return names.union(*(_names(field.message_type, seen) for field in kind.fields if field.message_type))


async def _written(reply: Any, kind: Descriptor) -> bytes:
    long = isinstance(reply, bytes)
    message: Message = GetMessageClass(kind).FromString(reply) if long else reply
    if long or message.ByteSize() > PARSED_ASIDE_BYTES // 4:
        return await asyncio.to_thread(_json, message)
    return _json(message)


def _json(message: Message) -> bytes:
    return MessageToJson(message, indent=None, ensure_ascii=False).encode()


async def _events(responses: AsyncIterator[Message], kind: Descriptor) -> AsyncGenerator[bytes, None]:
    try:
        async for response in responses:
            (oneof,) = kind.oneofs
            name = response.WhichOneof(oneof.name)
            yield b"event: %b\ndata: %b\n\n" % (str(name).encode(), await _written(response, kind))
    finally:
        close = getattr(responses, "aclose", None)
        if close:
            await close()


async def _each(
    kind: Descriptor, incoming: Incoming, slot: Slot, stall_seconds: float
) -> AsyncGenerator[Message, None]:
    """A stream's messages, a line each; each waits for room, and holds it until the next is asked for."""
    async for line in _lines(incoming, slot, stall_seconds):
        size = len(line)
        try:
            async with asyncio.timeout(stall_seconds):
                await slot.hold_soon(size)
        except TimeoutError:
            raise QueueFull("the server had no room for the stream's next message", BUSY_SECONDS) from None
        yield await _parsed(line, kind)
        slot.give_back(size)


async def _lines(incoming: Incoming, slot: Slot, stall_seconds: float) -> AsyncGenerator[bytes, None]:
    """Lines that are not blank.

    Raises:
        DeadlineExceeded: none came for a long time in which nothing else happened.
        InvalidCall: one is too long.
    """
    rest = b""
    while True:
        try:
            async with asyncio.timeout(stall_seconds):
                part = await incoming.part()
        except TimeoutError:
            if slot.busy:
                continue
            raise DeadlineExceeded("the stream's next message did not arrive in time") from None
        *lines, rest = (rest + (part or b"")).split(b"\n")
        for line in [*lines, *([rest] if part is None else ())]:
            if line.strip():
                yield line
        if part is None:
            return
        if len(rest) > MAX_LINE_BYTES:
            raise InvalidCall("", f"a line has at most {MAX_LINE_BYTES:,} bytes")
