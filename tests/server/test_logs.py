"""Logs: one object a line, the request's id on it, and no way for a text to get in."""

import asyncio
import gc
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from server.telemetry import logs

TEXT = "the text that a user sent"
Records = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    handlers, level, raising = logging.root.handlers[:], logging.root.level, logging.raiseExceptions
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(capture=False)
    for room in logs.OURS:
        logging.getLogger(room).setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    out = io.StringIO()
    logs.configure(renderer="json", stream=out)
    return out


@pytest.fixture
def records(stream: io.StringIO) -> Records:
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_of_json_with_time_level_and_request(records: Records) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("server.x").info("call", method="Embed", seconds=0.5, ok=True, why=None, frames=["a", "b"])
    structlog.get_logger("server.x").info("after")
    first, second = records()
    stamp = first.pop("timestamp")
    assert stamp.endswith("Z")
    assert first == {
        "event": "call",
        "level": "info",
        "request_id": "r1",
        "method": "Embed",
        "seconds": 0.5,
        "ok": True,
        "why": None,
        "frames": ["a", "b"],
    }
    assert "request_id" not in second


def test_tasks_keep_their_own_request_ids(records: Records) -> None:
    async def call(name: str) -> None:
        structlog.contextvars.bind_contextvars(request_id=name)
        await asyncio.sleep(0)
        structlog.get_logger("server").info(name)

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(call(name)) for name in "abc"))

    asyncio.run(main())
    assert (
        [record["request_id"] for record in records()] == [record["event"] for record in records()] == ["a", "b", "c"]
    )


def test_an_exception_is_told_by_type_and_place_without_its_message(records: Records, stream: io.StringIO) -> None:
    try:
        try:
            int(TEXT)
        except ValueError as error:
            raise RuntimeError(TEXT) from error
    except RuntimeError as error:
        structlog.get_logger("server").exception("failed", error=error)
        logging.getLogger("grpc._cython").error("Unexpected [%s] raised %d times", error, 2, exc_info=True)
    assert TEXT not in stream.getvalue()
    ours, foreign = records()
    assert ours["exception"].startswith("RuntimeError at server/test_logs.py:")
    assert " < ValueError at server/test_logs.py:" in ours["exception"]
    assert ours["error"] == "<RuntimeError>"
    assert foreign["event"] == "Unexpected [<RuntimeError>] raised 2 times"
    assert foreign["logger"] == "grpc._cython"
    assert foreign["exception"] == ours["exception"]


def test_people_see_no_message_of_an_exception_either() -> None:
    out = io.StringIO()
    logs.configure(renderer="console", stream=out)
    try:
        int(TEXT)
    except ValueError:
        structlog.get_logger("server").exception("failed")
        logging.getLogger("other").exception("failed")
    assert out.getvalue().count("ValueError at server/test_logs.py:") == 2
    assert TEXT not in out.getvalue()


def test_values_that_might_be_texts_are_told_by_their_length(records: Records) -> None:
    structlog.get_logger("server").info("call", long="x" * 401, data=TEXT.encode(), parts=[b"abc"], odd={TEXT: 1})
    (record,) = records()
    assert (record["long"], record["data"]) == ("<str of 401>", f"<bytes of {len(TEXT)}>")
    assert (record["parts"], record["odd"]) == (["<bytes of 3>"], "<dict>")


@pytest.mark.parametrize(
    ("template", "arguments"),
    [("%s", (TEXT,)), ("%d", (TEXT,)), ("%s %s", (TEXT,)), ("%(a)s", ({"a": TEXT},)), (f"first line\n{TEXT}", ())],
)
def test_records_of_other_libraries_lose_their_arguments(
    template: str, arguments: tuple[Any, ...], stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("other").warning(template, *arguments)
    assert stream.getvalue().count("\n") == 1
    assert TEXT not in stream.getvalue() + capsys.readouterr().err


@pytest.mark.parametrize("handler", [None, logs.loop_exception_handler], ids=["asyncio's", "ours"])
def test_a_lost_task_s_exception_is_logged_without_its_message(
    handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None, records: Records, stream: io.StringIO
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(handler)

        async def fail() -> None:
            raise ValueError(TEXT)

        task = asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        del task
        gc.collect()

    asyncio.run(main())
    (record,) = records()
    assert "Task exception was never retrieved" in (record["event"], record.get("reason"))
    assert record["exception"].startswith("ValueError at server/test_logs.py:")
    assert TEXT not in stream.getvalue()


def test_warnings_are_records_too(records: Records) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: this is old" in records()[0]["event"]


def test_levels_are_ours_to_choose_and_others_stay_at_warnings() -> None:
    out = io.StringIO()
    logs.configure(level="debug", renderer="json", stream=out)
    structlog.get_logger("server").debug("told")
    logging.getLogger("other").info("not told")
    logs.configure(level="error", renderer="json", stream=out)
    structlog.get_logger("server").warning("not told")
    logging.getLogger("other").warning("not told")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["told"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    logs.configure(stream=out)
    structlog.get_logger("server").warning("hello")
    assert "hello" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_people_get_lines_and_pipes_get_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    cases: list[tuple[logs.Renderer, io.StringIO, str]] = [
        ("auto", Terminal(), "\x1b"),
        ("auto", io.StringIO(), "{"),
        ("console", io.StringIO(), "20"),
        ("json", Terminal(), "{"),
    ]
    for renderer, out, starts in cases:
        logs.configure(renderer=renderer, stream=out)
        structlog.get_logger("server").warning("hello")
        assert out.getvalue().startswith(starts)
