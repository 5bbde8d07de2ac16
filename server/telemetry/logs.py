"""Structured logs on standard error: an event, a few short facts, the id of the request. Never a document's text.

What might contain a text is left out rather than searched: exceptions are logged by type and place, without their
messages; arguments of other libraries' records by their types; long strings by their lengths.
"""

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias

import structlog
from structlog.contextvars import merge_contextvars
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

Renderer: TypeAlias = Literal["auto", "json", "console"]  # auto: console on a terminal

OURS = ("server", "encoder", "chunking", "cache")
LONGEST_VALUE = 400  # characters; the longest fact of ours, why a kernel does not serve, has up to 300
MOST_FRAMES = 8


def configure(level: str = "info", renderer: Renderer = "auto", stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's records to `stream`, by default standard error.

    Logging belongs to the process: a later call replaces an earlier one.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_messages,
        _bounded,
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[_foreign, *shared],
            processors=[ProcessorFormatter.remove_processors_meta, _renderer(renderer, stream)],
            use_get_message=False,
            pass_foreign_args=True,
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    for room in OURS:
        logging.getLogger(room).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # else a record that fails to format is printed with its arguments
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def loop_exception_handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that no task awaits; asyncio's own handler would print exceptions with their messages."""
    error = context.get("exception")
    structlog.get_logger("server").error("event loop", reason=context["message"].partition("\n")[0], exc_info=error)


def report(error: BaseException) -> None:
    """Log a bug of ours: what it was and where it came from, without its message and the values of anything."""
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    structlog.get_logger(__name__).error("internal error", error=type(error).__qualname__, frames=frames)


def _renderer(renderer: Renderer, stream: TextIO) -> Processor:
    if renderer == "console" or (renderer == "auto" and stream.isatty()):
        return structlog.dev.ConsoleRenderer(colors=stream.isatty() and not os.environ.get("NO_COLOR"))
    return structlog.processors.JSONRenderer(ensure_ascii=False)


def _foreign(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep the first line of a standard library record's template, and its numeric arguments."""
    record: logging.LogRecord = event["_record"]
    template, arguments = str(record.msg), event.pop("positional_args", None) or ()
    if record.name.partition(".")[0] not in (*OURS, "py"):  # warnings come as the argument of "%s"
        arguments = _hidden(arguments)
    try:
        message = template % arguments if arguments else template
    except (TypeError, ValueError, KeyError):
        message = template  # %d of something hidden
    return {**event, "event": message.partition("\n")[0], "logger": record.name}


def _hidden(arguments: Any) -> Any:
    if isinstance(arguments, dict):
        return {key: _hidden((value,))[0] for key, value in arguments.items()}
    return tuple(value if isinstance(value, (int, float)) else f"<{type(value).__name__}>" for value in arguments)


def _without_messages(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Log an exception by its types and places: its message may quote a request."""
    error = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = " < ".join(map(_place, _chain(error)))
    return event


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-MOST_FRAMES:]
    places = (f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {' > '.join(places)}" if frames else type(error).__name__


def _bounded(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: value if key in {"exception", "_record"} else _short(value) for key, value in event.items()}


def _short(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case str() if len(value) <= LONGEST_VALUE:
            return value
        case str() | bytes():
            return f"<{type(value).__name__} of {len(value)}>"
        case list() | tuple():
            return [_short(item) for item in value]
        case Path():
            return str(value)
        case _:
            return f"<{type(value).__name__}>"
