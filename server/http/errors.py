"""How an error is told over HTTP; each dialect has a body of its own."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from server.errors import Draining, InvalidCall, RateLimited, Refused
from server.limits.meter import Standing
from server.status import Row

Headers = list[tuple[bytes, bytes]]


class Disconnected(Exception):
    """The peer has gone; nobody reads an answer."""


def retry_headers(error: BaseException, row: Row) -> Headers:
    """Whether the same call may succeed later, and when, as OpenAI's clients read it.

    A server that stops without knowing when another one answers leaves both to the client.
    """
    headers: Headers = [(b"x-octavo-reason", row.reason.encode())]
    if isinstance(error, Refused) and error.retry_after is not None:
        milliseconds = math.ceil(error.retry_after * 1000)
        headers += [
            (b"retry-after", b"%d" % math.ceil(error.retry_after)),
            (b"retry-after-ms", b"%d" % milliseconds),
            (b"x-should-retry", b"true"),
        ]
    elif not isinstance(error, Draining):
        headers.append((b"x-should-retry", b"false"))
    return headers


def limit_headers(standing: Mapping[str, Standing]) -> Headers:
    """What is left of a client's quotas, as OpenAI tells it."""
    headers: Headers = []
    for name, each in standing.items():
        headers += [
            (f"x-ratelimit-limit-{name}".encode(), b"%d" % each.limit),
            (f"x-ratelimit-remaining-{name}".encode(), b"%d" % each.left),
            (f"x-ratelimit-reset-{name}".encode(), _duration(each.reset_seconds).encode()),
        ]
    return headers


def _duration(seconds: float) -> str:
    """A duration such as `1s`, `250ms` or `6m0s`."""
    milliseconds = math.ceil(seconds * 1000)
    if 0 < milliseconds < 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def is_permanent(error: BaseException) -> bool:
    """Whether a client's limit refuses the call at any time."""
    return isinstance(error, RateLimited) and error.retry_after is None


def invalid(error: ValidationError) -> InvalidCall:
    """The first fault of a body, without any of its values."""
    (first, *_) = error.errors(include_url=False, include_context=False, include_input=False)
    if first["type"] == "json_invalid":
        return InvalidCall("", "the body is not JSON in UTF-8")
    return InvalidCall(path_of(first["loc"]), str(first["msg"]))


def path_of(location: tuple[Any, ...]) -> str:
    """A place in a body, such as `input[3]`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path
