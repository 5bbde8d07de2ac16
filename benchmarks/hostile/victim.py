"""A server whose background loops can be made to fail from outside; replaces `octavo serve`.

A background loop is a task of the project that runs while nobody calls, a timer that re-arms itself, or a thread of
the project's own. Nothing here knows their names: whatever is found in a server at rest is one. Commands come as
lines over a unix socket, one a connection:

    loops                list them
    task NAME FAULT      what the task awaits raises
    timer NAME FAULT     the timer's callback raises, once
    thread NAME FAULT    the thread raises, wherever it is
    threads SECONDS      no thread can be started for so long
    disk SECONDS         nothing can be written to files for so long
    gauge SECONDS        setting a gauge raises, in whatever sets one
    redis SECONDS        sending to Redis raises what nobody expects
    executors SECONDS    no executor takes anything, as without threads
    listener SECONDS     the loop of the HTTP listener raises
    accept SECONDS       the HTTP listener has no descriptor left for a connection
    watches SECONDS      watching health raises
"""

import asyncio
import builtins
import concurrent.futures
import ctypes
import errno
import io
import os
import socket
import socketserver
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc_health.v1.health
import prometheus_client
from redis.asyncio.connection import AbstractConnection

FAULTS: dict[str, Callable[[], Exception]] = {
    "exception": lambda: RuntimeError("injected"),
    "descriptors": lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "threads": lambda: RuntimeError("can't start new thread"),
    "disk": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}
_ROOMS = ("server", "cache", "chunking", "encoder")
_ROOT = Path(__file__).parents[2]
_LOOPS: list[asyncio.AbstractEventLoop] = []


def main(control: str) -> None:
    """Run `octavo serve`, and obey commands from the socket."""
    make = asyncio.events.new_event_loop

    def kept() -> asyncio.AbstractEventLoop:
        _LOOPS.append(make())
        return _LOOPS[-1]

    asyncio.events.new_event_loop = kept
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(control)
    listening.listen()
    threading.Thread(target=_obey, args=(listening,), name="victim", daemon=True).start()
    from octavo.cli import main as command

    command()


def _obey(listening: socket.socket) -> None:
    while True:
        connection, _ = listening.accept()
        with connection, connection.makefile("rw", encoding="utf-8") as lines:
            try:
                told = _do(*lines.readline().split())
            except Exception as error:  # noqa: BLE001  reported over the socket
                told = f"{type(error).__name__}: {error}"
            lines.write(told.replace("\n", " ") + "\n")


def _do(command: str, *arguments: str) -> str:
    loop = _LOOPS[0]
    if command == "loops":
        return " ".join(_on(loop, lambda: [*_tasks(loop), *_timers(loop)]) + list(_threads()))
    if command in _FOR_A_WHILE:
        (seconds,) = map(float, arguments)
        begun = threading.Event()
        threading.Thread(target=_for_a_while, args=(_FOR_A_WHILE[command], seconds, begun), daemon=True).start()
        begun.wait()
        return "ok"
    name, fault = arguments
    if command == "thread":
        _raise_in(_threads()[name], type(FAULTS[fault]()))
    elif command == "task":
        _on(loop, lambda: _fail(_tasks(loop)[name], FAULTS[fault]()))
    else:
        _on(loop, lambda: _spoil(_timers(loop)[name], FAULTS[fault]()))
    return "ok"


def _on(loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> Any:
    """Do something on the loop's own thread."""

    async def there() -> Any:
        return work()

    return asyncio.run_coroutine_threadsafe(there(), loop).result(10)


def _is_ours(code: Any) -> bool:
    path = Path(getattr(code, "co_filename", ""))
    return path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _ROOMS


def _tasks(loop: asyncio.AbstractEventLoop) -> dict[str, "asyncio.Task[Any]"]:
    """Tasks of ours but the main one, which ends the process when it fails."""
    found = {}
    for task in asyncio.all_tasks(loop):
        coroutine: Any = task.get_coro()
        code = getattr(coroutine, "cr_code", None)
        if _is_ours(code) and coroutine.__qualname__ != "_serve" and task is not asyncio.current_task():
            found[f"task:{coroutine.__qualname__}:{task.get_name()}"] = task
    return dict(sorted(found.items()))


def _timers(loop: Any) -> dict[str, asyncio.TimerHandle]:
    """Timers whose callback is a function of ours."""
    found = {}
    for handle in loop._scheduled:  # noqa: SLF001  asyncio shows its timers in no other way
        code = getattr(getattr(handle, "_callback", None), "__code__", None)
        if not handle.cancelled() and _is_ours(code):
            found[f"timer:{handle._callback.__qualname__}"] = handle  # noqa: SLF001
    return found


def _threads() -> dict[str, threading.Thread]:
    """Threads whose target is ours; those of executors are not."""
    found = {}
    for thread in threading.enumerate():
        target = getattr(thread, "_target", None)
        code = getattr(target, "__code__", None)
        named = thread.name == "http"  # its target is the library's, what it serves is ours
        if named or (_is_ours(code) and thread is not threading.main_thread()):
            found[f"thread:{thread.name}"] = thread
    return found


def _fail(task: "asyncio.Task[Any]", error: Exception) -> None:
    """Make what the task awaits raise."""
    waiter: Any = getattr(task, "_fut_waiter", None)
    if waiter is None:
        raise LookupError("the task awaits nothing at this moment")
    while isinstance(waiter, asyncio.Task) or getattr(waiter, "_children", None):
        waiter = getattr(waiter, "_fut_waiter", None) or waiter._children[0]  # noqa: SLF001
    waiter.set_exception(error)


def _spoil(handle: asyncio.TimerHandle, error: Exception) -> None:
    """Make a function that the callback's object holds raise, once."""
    target: Any = handle
    owner = target._callback.__self__  # noqa: SLF001
    for name, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
        if callable(value):
            setattr(owner, name, _once(partial(setattr, owner, name, value), error))
            return
    raise LookupError("the timer's callback calls nothing that can be replaced")


def _once(restore: Callable[[], None], error: Exception) -> Callable[..., None]:
    def fail(*arguments: Any, **named: Any) -> None:
        del arguments, named
        restore()
        raise error

    return fail


def _raise_in(thread: threading.Thread, kind: type[Exception]) -> None:
    identity = ctypes.c_ulong(thread.ident or 0)
    if ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(kind)) != 1:
        raise LookupError("there is no such thread")


def _for_a_while(broken: Callable[[], Any], seconds: float, begun: threading.Event) -> None:
    with broken():
        begun.set()
        time.sleep(seconds)


@contextmanager
def _no_space() -> Iterator[None]:
    """Fail every opening of a file for writing, and every database connection, as on a full disk."""
    opened, os_open = io.open, os.open

    def no_open(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            raise FAULTS["disk"]()
        return opened(file, mode, *arguments, **named)

    def no_os_open(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise FAULTS["disk"]()
        return os_open(path, flags, *arguments, **named)

    def no_connect(*arguments: Any, **named: Any) -> Any:
        del arguments, named
        raise sqlite3.OperationalError("database or disk is full")

    with (
        patch.object(builtins, "open", no_open),
        patch.object(io, "open", no_open),
        patch.object(os, "open", no_os_open),
        patch.object(sqlite3, "connect", no_connect),
    ):
        yield


def _raising(fault: str) -> Callable[..., Any]:
    def fail(*arguments: Any, **named: Any) -> Any:
        del arguments, named
        raise FAULTS[fault]()

    return fail


def _breaking(owner: Any, name: str, fault: str) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(owner, name, _raising(fault))


_FOR_A_WHILE: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "disk": _no_space,
    "threads": _breaking(threading.Thread, "start", "threads"),
    "gauge": _breaking(prometheus_client.Gauge, "set", "exception"),
    "redis": _breaking(AbstractConnection, "send_packed_command", "exception"),
    "executors": _breaking(concurrent.futures.ThreadPoolExecutor, "submit", "threads"),
    "listener": _breaking(socketserver.BaseServer, "service_actions", "exception"),
    "accept": _breaking(socketserver.TCPServer, "get_request", "descriptors"),
    "watches": _breaking(grpc_health.v1.health.aio.HealthServicer, "Watch", "exception"),
}


if __name__ == "__main__":
    main(sys.argv.pop(1))
