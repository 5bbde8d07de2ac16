"""`octavo serve` as a process: how it starts, what it answers besides calls, how it fails, how it stops."""

import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from click.testing import CliRunner
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client import CollectorRegistry

from benchmarks.hostile.clients import ANALYZE, long_reply
from benchmarks.hostile.wire import Connection, drive, frame
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc
from server.commands.serve import serve
from server.config.schema import Settings
from server.limits import Limiter
from server.rpc.interceptor import Outermost
from server.rpc.listener import SERVICES, Listener
from server.telemetry.metrics import Metrics
from server.v1.requests import Limits
from tests.server.entry import gate_of
from tests.server.helpers import SOON, TINY, document, eventually, prose, refused, serving, settings, task

SERVE = "from server.commands.serve import serve; serve()"
SLOWLY = f"""
import time
from server.inference.runner import Runner
compute = Runner.compute
def slowed(*arguments):
    time.sleep(0.1)
    return compute(*arguments)
Runner.compute = slowed
{SERVE}
"""
WITHOUT_THE_CORE = f"from encoder.native import library; library.folders = lambda: (); {SERVE}"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Process:
    """A server in a process of its own, with a home of its own."""

    def __init__(
        self, home: Path, *arguments: str, program: str = SERVE, level: str = "error", model: str = TINY
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self._log = home / "stderr"
        command = [sys.executable, "-c", program, "--model", model, "--set", "cache.enabled=false"]
        command += ["--set", f"log.level={level}", "--set", "log.format=json", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OCTAVO_", "GRPC_"))}
        with self._log.open("w") as log:
            self.popen = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**environment, "XDG_STATE_HOME": str(home)},
            )

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()

    def ready(self) -> list[str]:
        """The addresses of the ready line."""
        assert self.popen.stdout
        line = self.popen.stdout.readline().split()
        assert line[:1] == ["ready"], self.log
        return line[1:]

    def fails(self) -> str:
        """The one line that it says before it exits with 1."""
        assert self.popen.stdout
        assert self.popen.wait(60) == 1, self.log
        assert self.popen.stdout.read() == ""
        (line,) = self.log
        assert line.startswith("octavo: ")
        return line.removeprefix("octavo: ")

    def stops(self, seconds: float = SOON) -> int:
        return self.popen.wait(seconds)


@contextmanager
def process(home: Path, *arguments: str, **options: Any) -> Iterator[Process]:
    started = Process(home, *arguments, **options)
    try:
        yield started
    finally:
        started.popen.kill()
        started.popen.wait()
        assert started.popen.stdout
        started.popen.stdout.close()


NO_METRICS = ("--set", "metrics.listen=")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("o")  # short: a unix socket's path has 107 bytes


@pytest.fixture(scope="module")
def served(models: Path, home: Path) -> Iterator[tuple[Process, list[str]]]:
    """A server on three addresses, with its metrics."""
    listen = ("--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--listen", f"unix:{home}/socket")
    with process(home / "served", *listen, "--set", "metrics.listen=127.0.0.1:0", level="info") as server:
        yield server, server.ready()


def segment(address: str) -> pb.SegmentResponse:
    with grpc.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        response: pb.SegmentResponse = stub.Segment(pb.SegmentRequest(document=document("two words")), timeout=SOON)
        return response


def test_the_ready_line_names_every_address_and_all_of_them_answer(
    served: tuple[Process, list[str]], home: Path
) -> None:
    _, addresses = served
    assert len(addresses) == 3
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", addresses[0])
    assert re.fullmatch(r"\[::1\]:[1-9]\d+", addresses[1])
    assert addresses[2] == f"unix:{home}/socket"
    assert {segment(address).info.usage.tokens for address in addresses} == {2}


def test_an_empty_file_of_settings_serves_the_defaults(models: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    arguments = ("--config", str(tmp_path / "empty.toml"), "--listen", "127.0.0.1:0", *NO_METRICS)
    with process(tmp_path / "home", *arguments) as server:
        (address,) = server.ready()
        assert segment(address).info.usage.tokens == 2


def test_slower_kernels_are_told_in_one_sentence(models: Path, tmp_path: Path) -> None:
    options = {"level": "warning", "program": WITHOUT_THE_CORE}
    with process(tmp_path, "--listen", "127.0.0.1:0", *NO_METRICS, **options) as server:
        server.ready()
        (told,) = (json.loads(line) for line in server.log)
    assert told["level"] == "warning"
    assert told["event"].startswith(f"{TINY} is served in 32-bit floats by PyTorch fp32 on ")
    assert "because the native core is not built: install " in told["event"]


def test_health_names_every_service_of_ours(served: tuple[Process, list[str]]) -> None:
    with grpc.insecure_channel(served[1][0]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SOON).status == SERVING


def test_a_client_that_knows_nothing_finds_the_services_and_calls_them(served: tuple[Process, list[str]]) -> None:
    """Descriptors by reflection, messages made of them: no stub of ours."""
    with grpc.insecure_channel(served[1][0]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            *SERVICES,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool = descriptor_pool.DescriptorPool(database)
        for name in database.get_services():
            service = pool.FindServiceByName(name)
            assert service.methods
        method = pool.FindMethodByName("octavo.v1.InferenceService.Segment")
        assert method.GetOptions().idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
        make = message_factory.GetMessageClass
        request: Any = make(method.input_type)()
        request.document.text = "two words"
        call: Any = channel.unary_unary(
            "/octavo.v1.InferenceService/Segment",
            request_serializer=make(method.input_type).SerializeToString,
            response_deserializer=make(method.output_type).FromString,
        )
        response = call(request, timeout=SOON)
    assert type(response) is not pb.SegmentResponse
    assert (response.info.model.name, response.info.usage.tokens) == (TINY, 2)


def get(address: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metrics_of(server: Process) -> str:
    lines = [json.loads(line) for line in server.log]
    return str(next(line["address"] for line in lines if line["event"] == "metrics"))


def test_metrics_liveness_and_readiness_have_a_listener_of_their_own(served: tuple[Process, list[str]]) -> None:
    server, addresses = served
    segment(addresses[0])
    address = metrics_of(server)
    assert get(address, "/livez") == (200, "ok\n")
    assert get(address, "/readyz") == (200, "ok\n")
    status, body = get(address, "/metrics")
    assert status == 200
    assert re.search(
        r'^octavo_requests_total\{code="OK",method="/octavo.v1.InferenceService/Segment",reason=""\} [1-9]',
        body,
        re.MULTILINE,
    )
    assert f'model="{TINY}"' in body


def test_the_log_is_json_with_request_ids_and_without_text(served: tuple[Process, list[str]]) -> None:
    server, addresses = served
    request_id = segment(addresses[0]).info.request_id
    eventually(lambda: any(request_id in line for line in server.log))
    calls = [line for line in map(json.loads, server.log) if line.get("request_id") == request_id]
    assert [(line["event"], line["code"]) for line in calls] == [("call", "OK")]
    assert "two words" not in "".join(server.log)


def test_the_secret_is_its_owner_s_alone(served: tuple[Process, list[str]]) -> None:
    secret = served[0].home / "octavo" / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600


# Starts that fail. Apart from the first one they run in this process, where nothing has to be imported again.


@pytest.fixture
def told_on_exit() -> Iterator[Callable[..., str]]:
    """Runs the command with settings that cannot be served; the one line that it says before it exits with 1."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: str) -> str:
        listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
        quiet = ("--set", "cache.enabled=false", "--set", "log.level=error", *NO_METRICS)
        result = CliRunner().invoke(serve, [*listen, *quiet, *arguments])
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("octavo: ")
        return line.removeprefix("octavo: ")

    yield run
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def test_a_port_in_use_is_told_on_one_line(served: tuple[Process, list[str]], tmp_path: Path) -> None:
    taken = served[1][0]
    with process(tmp_path, "--listen", taken, *NO_METRICS) as second:
        line = second.fails()
    assert taken in line
    assert "in use" in line
    assert segment(taken).info.usage.tokens == 2  # and the first one still has it


@pytest.mark.parametrize("which", [1, 2], ids=["ipv6", "unix"])
def test_two_servers_cannot_share_an_address(
    served: tuple[Process, list[str]], told_on_exit: Callable[..., str], which: int
) -> None:
    taken = served[1][which]
    line = told_on_exit("--model", TINY, "--listen", "127.0.0.1:0", "--listen", taken)
    assert taken in line
    assert "in use" in line
    assert segment(taken).info.usage.tokens == 2


def test_a_name_of_which_another_server_has_one_address_is_taken(
    told_on_exit: Callable[..., str], tmp_path: Path
) -> None:
    """`localhost` is 127.0.0.1 and ::1 on most machines; gRPC is content with either."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"localhost:{other.getsockname()[1]}"
        line = told_on_exit("--model", str(tmp_path / "none"), "--listen", address)
    assert line == f"cannot listen on {address}: Address already in use; see server.listen"


def test_what_cannot_be_listened_on_is_found_before_models_are_loaded(
    told_on_exit: Callable[..., str], tmp_path: Path
) -> None:
    """No model is there: the message would be about it if it had been looked for."""
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        refused = {
            f"127.0.0.1:{other.getsockname()[1]}": "Address already in use",
            f"unix:{tmp_path}/missing/socket": "No such file or directory",
            f"unix:{tmp_path}/file": "File exists",
            f"unix:{tmp_path}/file/socket": "Not a directory",
        }
        for address, words in refused.items():
            line = told_on_exit("--model", str(tmp_path / "none"), "--listen", address)
            assert line == f"cannot listen on {address}: {words}; see server.listen"


def test_files_of_tls_and_keys_are_read_before_models_are_loaded(
    told_on_exit: Callable[..., str], tmp_path: Path
) -> None:
    nothing = ("--model", str(tmp_path / "none"))
    pair = [part for name in ("certificate", "key") for part in ("--set", f"server.tls_{name}={tmp_path}/{name}.pem")]
    missing = f"server.tls_certificate: {tmp_path}/certificate.pem: No such file or directory"
    assert told_on_exit(*nothing, *pair) == missing
    for name in ("certificate", "key"):
        (tmp_path / f"{name}.pem").write_text("no PEM")
    assert "are no certificate and its key" in told_on_exit(*nothing, *pair)
    (tmp_path / "keys.json").write_text("{")
    assert "keys.json is not JSON" in told_on_exit(*nothing, "--set", f"server.keys_file={tmp_path}/keys.json")


def loading_for(seconds: float) -> str:
    """A server whose models take so much longer to load."""
    return f"""
import time
from server import app
load = app.open_catalogue
def slow(*arguments):
    time.sleep({seconds})
    return load(*arguments)
app.open_catalogue = slow
{SERVE}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_models_load_ends_at_once(models: Path, tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as operator:
        metrics = f"127.0.0.1:{operator.getsockname()[1]}"
    arguments = ("--listen", "127.0.0.1:0", "--set", f"metrics.listen={metrics}")
    with process(tmp_path, *arguments, program=loading_for(600)) as server:
        eventually(lambda: is_up(metrics))
        server.popen.send_signal(number)
        assert server.stops() == 128 + number
        assert server.log == []


def test_nobody_is_let_in_before_the_server_is_ready(models: Path, tmp_path: Path) -> None:
    """While models load, connections are refused, so that callers go to another server; /readyz says why."""
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as operator:
        address, metrics = (f"127.0.0.1:{each.getsockname()[1]}" for each in (free, operator))
    arguments = ("--listen", address, "--set", f"metrics.listen={metrics}")
    with process(tmp_path, *arguments, program=loading_for(2)) as server:
        eventually(lambda: is_up(metrics))
        assert get(metrics, "/readyz") == (503, "starting\n")
        assert not is_up(address)
        assert server.ready() == [address]
        assert get(metrics, "/readyz")[0] == 200
        assert is_up(address)


def is_up(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=SOON).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_socket_that_a_killed_server_left_is_taken_over(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.is_socket()
    with serving(settings(listen=(f"unix:{path}",))) as server:
        assert segment(server.address).info.usage.tokens == 2
    assert not path.exists()


def test_what_is_no_socket_is_never_replaced_by_one(
    models: Path, tmp_path: Path, told_on_exit: Callable[..., str]
) -> None:
    path = tmp_path / "precious"
    path.write_text("kept")
    assert str(path) in told_on_exit("--model", TINY, "--listen", f"unix:{path}")
    assert path.read_text() == "kept"


def test_a_missing_model_s_folder_is_named_with_the_way_to_get_one(
    state_home: Path, tmp_path: Path, told_on_exit: Callable[..., str]
) -> None:
    line = told_on_exit("--model", str(tmp_path / "none"))
    assert f"model folder {tmp_path / 'none'} does not exist; " in line
    assert "octavo models fetch" in line


@pytest.mark.parametrize("name", ["hf:org/none", "hf:org/none@v1.0"])
def test_a_missing_model_of_a_hub_is_named_with_the_command_that_gets_it(
    state_home: Path, told_on_exit: Callable[..., str], name: str
) -> None:
    line = told_on_exit("--model", name)
    assert line.startswith("model none: model folder ")
    assert line.endswith(f"; `octavo models add {name}` downloads it")


def truncated(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)


def remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text("raise SystemExit('code of the model ran')")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def garbled_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncated, "model.safetensors"),
        (remote_code, "code"),
        (without_weights, "safetensors"),
        (without_tokenizer, "tokenizer"),
        (garbled_configuration, "config.json"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_with_the_reason(
    models: Path, tmp_path: Path, told_on_exit: Callable[..., str], spoil: Callable[[Path], None], reason: str
) -> None:
    folder = shutil.copytree(models / TINY, tmp_path / "spoilt")
    spoil(folder)
    line = told_on_exit("--model", str(folder))
    assert line.startswith("model spoilt: ")
    assert reason in line.removeprefix("model spoilt: ").replace(str(folder), "")


# The stop


def test_a_stopping_server_refuses_new_calls_and_finishes_those_that_run(models: Path, tmp_path: Path) -> None:
    patience = {"drain_delay_seconds": 1, "stop_grace_seconds": 20}
    arguments = [part for name, value in patience.items() for part in ("--set", f"server.{name}={value}")]
    arguments += ["--listen", "127.0.0.1:0", "--set", "metrics.listen=127.0.0.1:0", "--set", "compute.streams=1"]
    with process(tmp_path, *arguments, program=SLOWLY, level="info") as server:
        (address,) = server.ready()
        operator = metrics_of(server)
        with grpc.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            health: Any = health_pb2_grpc.HealthStub(channel)
            states: list[int] = []
            watch = health.Watch(health_pb2.HealthCheckRequest())
            watcher = threading.Thread(target=lambda: states.extend(note(watch)))
            watcher.start()

            text = prose(10_000)  # 20 segments and more: 2 seconds and more
            unary = stub.Analyze.future(pb.AnalyzeRequest(document=document(text), tasks=[task()]), timeout=SOON)
            events = stub.StreamSegments(
                pb.StreamSegmentsRequest(document=document(text), tasks=[task()]), timeout=SOON
            )
            while not next(events).HasField("segment"):
                pass
            eventually(lambda: states)
            server.popen.send_signal(signal.SIGTERM)
            began = time.monotonic()

            eventually(lambda: get(operator, "/readyz")[0] == 503)
            assert get(operator, "/livez")[0] == 200
            refusal = refused(lambda: stub.Segment(pb.SegmentRequest(document=document("word")), timeout=SOON))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=SOON).status == NOT_SERVING

            assert unary.result().info.usage.tokens > 9000
            assert list(events)[-1].HasField("summary")
            assert server.stops() == 0
            assert time.monotonic() - began < 15  # nobody who only watches is waited for
            watcher.join(SOON)
            assert states == [SERVING, NOT_SERVING]
        assert not [line for line in server.log if '"level": "error"' in line]


def note(watch: Any) -> Iterator[int]:
    try:
        for response in watch:
            yield response.status
    except grpc.RpcError:
        return


def test_a_reply_that_nobody_reads_does_not_keep_a_server_from_stopping(models: Path, tmp_path: Path) -> None:
    patience = {"default_deadline_seconds": 5, "stop_grace_seconds": 100}
    arguments = [part for name, value in patience.items() for part in ("--set", f"server.{name}={value}")]
    with process(tmp_path, "--listen", "127.0.0.1:0", *arguments, *NO_METRICS, level="warning") as server:
        (address,) = server.ready()
        caller = Connection(address, window=1000)
        caller.send(caller.call(ANALYZE), frame(long_reply()), end=True)
        drive([caller], SOON, lambda: caller.received > 0)
        assert caller.received
        assert not caller.statuses
        server.popen.send_signal(signal.SIGTERM)
        assert server.stops() == 0
        assert [json.loads(line)["connection_closed"] for line in server.log] == [True]
        caller.close()


def test_a_second_signal_stops_at_once(models: Path, tmp_path: Path) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--set", "server.stop_grace_seconds=60", *NO_METRICS)
    with process(tmp_path, *arguments, program=SLOWLY) as server:
        (address,) = server.ready()
        with grpc.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            request = pb.StreamSegmentsRequest(document=document(prose(200_000)), tasks=[task()])
            events = stub.StreamSegments(request)
            next(events)
            server.popen.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert server.popen.poll() is None
            server.popen.send_signal(signal.SIGINT)
            assert server.stops(10) == 0
            refusal = refused(lambda: events)
            assert refusal.code in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        assert server.log == []  # nothing went wrong


async def test_health_turns_from_not_serving_to_serving_and_back() -> None:
    limits, metrics, settings = Limits(1000, 1000, 1, 1, 1.0), Metrics(CollectorRegistry()), Settings()
    gate = gate_of(settings, metrics, Limiter(settings.limits, metrics))
    listener = Listener(limits, 60.0, Outermost(metrics, gate))
    (address,) = await listener.bind(["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def states() -> set[int]:
            checks = [stub.Check(health_pb2.HealthCheckRequest(service=service)) for service in ("", *SERVICES)]
            return {(await check).status for check in checks}

        assert await states() == {NOT_SERVING}
        await listener.ready()
        assert await states() == {SERVING}
        await listener.refuse()
        assert await states() == {NOT_SERVING}
    await listener.stop(0)
