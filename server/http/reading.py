"""A request's body: bounded while it is read, and before it is parsed."""

import asyncio
import re
import time
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive

from server.errors import DocumentTooLarge, InvalidCall
from server.http.errors import Disconnected, invalid
from server.inference.call import within
from server.limits import Slot

STALL_SECONDS = 30.0  # between two parts of a body
FEW_VALUES = 50_000
MAX_OBJECTS, MAX_VALUES = 25_000, 400_000  # OpenAI allows 2,048 inputs and 300,000 token ids
LONG_BYTES = 256 << 10

STRING = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)  # one without an end is one: looking for it again takes time


Dimensions = Annotated[int, Field(ge=1, lt=1 << 31)]


class Body(BaseModel):
    """A request's JSON. Unknown fields are ignored: clients send those of other servers."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


B = TypeVar("B", bound=Body)


class Incoming:
    """A body that is read as it comes in.

    Attributes:
        ended: once all of it was read.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = asyncio.Event()

    async def part(self) -> bytes | None:
        """Its next part; None at its end.

        Raises:
            Disconnected: the peer has gone.
        """
        if self.ended.is_set():
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        if not message.get("more_body", False):
            self.ended.set()
        part: bytes = message.get("body", b"")
        return part


async def read(incoming: Incoming, slot: Slot, most: int) -> bytes:
    """Read a body; its bytes count as in flight as they come in.

    Raises:
        DocumentTooLarge: it has more than `most` bytes.
        DeadlineExceeded: it stalls.
        RateLimited, QueueFull: there is no room for it.
        Disconnected: the peer has gone.
    """
    body = bytearray()
    while True:
        async with within(time.monotonic() + STALL_SECONDS, "the request did not arrive in time"):
            part = await incoming.part()
        if part is None:
            return bytes(body)
        if len(body) + len(part) > most:
            raise DocumentTooLarge("", f"the body is over {most:,} bytes")
        slot.hold(len(part))
        body += part


async def parse(body: bytes, kind: type[B]) -> B:
    """Parse JSON, off the event loop if it is long.

    Raises:
        InvalidCall: it is not JSON, or not such a body; the field is named.
    """
    return await asyncio.to_thread(_parse, body, kind) if len(body) > LONG_BYTES else _parse(body, kind)


def _parse(body: bytes, kind: type[B]) -> B:
    check_values(body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None


def check_values(body: bytes, most: int = MAX_VALUES) -> None:
    """Refuse JSON of too many values, which take a hundred times their bytes once parsed.

    Raises:
        InvalidCall: it has more.
    """
    if _objects(body) + body.count(b",") <= min(FEW_VALUES, most) and _objects(body) <= MAX_OBJECTS:
        return
    outside = STRING.sub(b"", body)
    if _objects(outside) > MAX_OBJECTS or _objects(outside) + outside.count(b",") > most:
        raise InvalidCall("", f"the body has over {most:,} values, or over {MAX_OBJECTS:,} arrays and objects")


def _objects(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")
