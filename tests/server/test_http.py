"""The listener of /metrics, /livez and /readyz, over real sockets."""

import errno
import http.client
import socket
import socketserver
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry

from server.errors import StartError
from server.health.http import HttpListener
from server.telemetry.metrics import Metrics
from tests.server.helpers import eventually


class Server:
    """What the listener asks about."""

    dead = ""
    busy = "starting"
    error: Exception | None = None

    def __init__(self) -> None:
        self.faults: list[BaseException] = []

    def not_live(self) -> str:
        if self.error:
            raise self.error
        return self.dead

    def not_ready(self) -> str:
        return self.busy

    def report(self, error: BaseException) -> None:
        self.faults.append(error)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def listener(server: Server) -> Iterator[HttpListener]:
    metrics = Metrics(CollectorRegistry())
    metrics.queue_depth.set(7)
    with HttpListener("127.0.0.1:0", metrics.registry, server.not_live, server.not_ready, server.report) as listener:
        yield listener


def get(listener: HttpListener, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(listener.address, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def test_metrics_are_those_of_the_registry_that_was_passed(listener: HttpListener) -> None:
    status, body = get(listener, "/metrics")
    assert status == 200
    assert "octavo_queue_depth_segments 7.0" in body


def test_a_scraper_may_ask_for_some_metrics_alone(listener: HttpListener) -> None:
    _, body = get(listener, "/metrics?name[]=octavo_queue_depth_segments")
    assert "octavo_queue_depth_segments 7.0" in body
    assert "octavo_build_info" not in body


def test_readiness_follows_the_server_from_start_to_drain(listener: HttpListener, server: Server) -> None:
    assert get(listener, "/readyz") == (503, "starting\n")
    server.busy = ""
    assert get(listener, "/readyz") == (200, "ok\n")
    server.busy = "draining"
    assert get(listener, "/readyz") == (503, "draining\n")
    assert get(listener, "/livez") == (200, "ok\n")
    server.dead = "the event loop is stuck"
    assert get(listener, "/livez") == (503, "the event loop is stuck\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/live"])
def test_there_is_nothing_else(listener: HttpListener, path: str) -> None:
    assert get(listener, path)[0] == 404


def test_nothing_can_be_written(listener: HttpListener) -> None:
    assert get(listener, "/metrics", "POST")[0] == 501


def test_a_silent_client_holds_up_nobody(listener: HttpListener) -> None:
    host, port = listener.address.split(":")
    with socket.create_connection((host, int(port))), ThreadPoolExecutor(8) as threads:
        assert {status for status, _ in threads.map(lambda _: get(listener, "/livez"), range(32))} == {200}


def test_a_port_in_use_is_a_start_error_of_one_line(listener: HttpListener, server: Server) -> None:
    with pytest.raises(StartError) as caught:
        HttpListener(listener.address, CollectorRegistry(), server.not_live, server.not_ready, server.report)
    assert (
        str(caught.value)
        == f"cannot listen on {listener.address} for metrics: Address already in use; see metrics.listen (empty: none)"
    )


def test_serve_tells_a_port_in_use_on_one_line_and_exits_with_1(listener: HttpListener) -> None:
    code = "from server.commands.serve import serve; serve()"
    arguments = ["--set", f"metrics.listen={listener.address}", "--listen", "127.0.0.1:0"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"octavo: cannot listen on {listener.address} for metrics: ")
    assert ran.stderr.count("\n") == 1


def test_a_host_that_does_not_resolve_is_a_start_error(server: Server) -> None:
    with pytest.raises(StartError, match=r"cannot listen on nowhere\.invalid:0 for metrics: "):
        HttpListener("nowhere.invalid:0", CollectorRegistry(), server.not_live, server.not_ready, server.report)


def test_an_address_of_ipv6(server: Server) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    with HttpListener("[::1]:0", CollectorRegistry(), server.not_live, server.not_ready, server.report) as listener:
        assert listener.address.startswith("[::1]:")
        assert get(listener, "/livez")[0] == 200


def test_close_gives_the_port_back(server: Server) -> None:
    first = HttpListener("127.0.0.1:0", CollectorRegistry(), server.not_live, server.not_ready, server.report)
    first.close()
    with HttpListener(first.address, CollectorRegistry(), server.not_live, server.not_ready, server.report) as again:
        assert again.address == first.address


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (socketserver.BaseServer, "service_actions", RuntimeError("injected")),
        (socketserver.TCPServer, "get_request", OSError(errno.EMFILE, "too many open files")),
        (socketserver.ThreadingMixIn, "process_request", RuntimeError("can't start new thread")),
    ],
    ids=["anything", "no descriptor", "no thread"],
)
def test_a_fault_does_not_end_the_listener(
    listener: HttpListener, server: Server, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(owner, name, fail)
        asked = threads.submit(get, listener, "/livez")
        eventually(lambda: error in server.faults)
        patch.undo()
        if name != "process_request":  # there the connection was closed
            assert asked.result() == (200, "ok\n")
        else:
            assert asked.exception()
    assert get(listener, "/livez") == (200, "ok\n")


def test_a_client_that_hangs_up_is_no_fault(listener: HttpListener, server: Server) -> None:
    server.error = ConnectionResetError()
    with pytest.raises(http.client.RemoteDisconnected):
        get(listener, "/livez")
    server.error = None
    assert get(listener, "/livez") == (200, "ok\n")
    assert not server.faults


def test_a_check_that_fails_is_told(listener: HttpListener, server: Server) -> None:
    server.error = KeyError()
    with pytest.raises(http.client.RemoteDisconnected):
        get(listener, "/livez")
    eventually(lambda: server.faults == [server.error])
