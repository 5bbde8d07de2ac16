"""Peers that are servers: started from their own environment, and called over HTTP by their own protocol."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.peers.environment import PeerError, interpreter
from benchmarks.peers.protocol import Vectors
from benchmarks.served import free_port, last_line

_MODEL = "model"
_HOST = "127.0.0.1"
_WITHIN = 180.0  # seconds; importing TensorFlow takes its time
_TIMEOUT = 300.0

# No hub, no telemetry: a peer only reads the local folder.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a server is started (`command(python, model folder, port, scratch folder)`), found ready, and asked."""

    command: Callable[[Path, Path, int, Path], Sequence[str]]
    ready: str
    path: str
    request: Callable[[str], Json]
    vector: Callable[[Json], Vectors]


def _infinity(python: Path, folder: Path, port: int, scratch: Path) -> Sequence[str]:
    del scratch
    own = ("--model-id", str(folder), "--served-model-name", _MODEL, "--device", "cpu", "--engine", "torch")
    return [str(python.with_name("infinity_emb")), "v2", *own, "--host", _HOST, "--port", str(port)]


def _mlserver(python: Path, folder: Path, port: int, scratch: Path) -> Sequence[str]:
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    extra = {"task": "feature-extraction", "pretrained_model": str(folder)}
    (scratch / "settings.json").write_text(json.dumps({"host": _HOST, **ports}), encoding="utf-8")
    (scratch / "model-settings.json").write_text(
        json.dumps(
            {
                "name": _MODEL,
                "implementation": "mlserver_huggingface.HuggingFaceRuntime",
                "parameters": {"extra": extra},
            }
        ),
        encoding="utf-8",
    )
    return [str(python.with_name("mlserver")), "start", str(scratch)]


def _v2_request(text: str) -> Json:
    """Ask with truncation: without it the runtime answers 500 to whatever is longer than the model's 512 positions."""
    cut = {"name": "truncation", "shape": [1], "datatype": "BOOL", "parameters": {"content_type": "hg_json"}}
    return {
        "inputs": [
            {"name": "array_inputs", "shape": [1], "datatype": "BYTES", "data": [text]},
            cut | {"data": ["true"]},
        ]
    }


def _v2_vector(reply: Json) -> Vectors:
    """Take the mean of the tokens' states, which is all that the runtime's task gives."""
    states = np.asarray(json.loads(reply["outputs"][0]["data"][0]), np.float32)
    return np.asarray(states.reshape(-1, states.shape[-1]).mean(axis=0), np.float32)


KINDS = {
    "infinity": Kind(
        _infinity,
        "/health",
        "/embeddings",
        lambda text: {"model": _MODEL, "input": [text]},
        lambda reply: np.asarray(reply["data"][0]["embedding"], np.float32),
    ),
    "mlserver": Kind(_mlserver, f"/v2/models/{_MODEL}/ready", f"/v2/models/{_MODEL}/infer", _v2_request, _v2_vector),
}


@dataclass(frozen=True, slots=True)
class PeerServer:
    """A running peer."""

    kind: Kind
    port: int

    def read(self, texts: Sequence[str], callers: int) -> Vectors:
        """Ask for each text's vector, with so many calls under way, each caller on a connection that it keeps.

        Raises:
            PeerError: it refused one.
        """
        with ThreadPoolExecutor(callers) as pool:
            shares = [list(range(index, len(texts), callers)) for index in range(min(callers, len(texts)))]
            found = dict(pair for pairs in pool.map(lambda share: self._share(texts, share), shares) for pair in pairs)
        return np.stack([found[index] for index in range(len(texts))])

    def _share(self, texts: Sequence[str], share: Sequence[int]) -> list[tuple[int, Vectors]]:
        connection = HTTPConnection(_HOST, self.port, timeout=_TIMEOUT)
        with contextlib.closing(connection):
            return [(index, self._ask(connection, texts[index])) for index in share]

    def _ask(self, connection: HTTPConnection, text: str) -> Vectors:
        body = json.dumps(self.kind.request(text))
        connection.request("POST", self.kind.path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        said = reply.read()
        if reply.status != 200:  # noqa: PLR2004
            raise PeerError(f"it answered {reply.status} to a text of {len(text):,} characters")
        return self.kind.vector(json.loads(said))

    def is_ready(self) -> bool:
        """Whether it says that it is."""
        with contextlib.closing(HTTPConnection(_HOST, self.port, timeout=5)) as connection:
            try:
                connection.request("GET", self.kind.ready)
                return connection.getresponse().status == 200  # noqa: PLR2004
            except (OSError, HTTPException):
                return False


@contextmanager
def started(peer: str, folder: Path, scratch: Path, *, install: bool) -> Iterator[PeerServer]:
    """Run a peer's server until the block ends.

    Raises:
        PeerError: it is not installed, or did not come up.
    """
    python, port, kind = interpreter(peer, install=install), free_port(), KINDS[peer]
    home, log = scratch / peer, scratch / f"{peer}.log"
    home.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(kind.command(python, folder, port, home)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=home,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # it may have processes of its own, which end with it
        )
    try:
        server = PeerServer(kind, port)
        _wait(peer, server, process, log)
        yield server
    finally:
        _end(process)


def _wait(peer: str, server: PeerServer, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + _WITHIN
    while not server.is_ready():
        ended = process.poll()
        if ended is None and time.monotonic() < until:
            time.sleep(0.2)
            continue
        state = f"not ready after {_WITHIN:g} s" if ended is None else f"ended with status {ended}"
        raise PeerError(f"{peer}: {state}; its last line was: {last_line(log)}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    for each in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, each)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            if each is signal.SIGKILL:
                return
