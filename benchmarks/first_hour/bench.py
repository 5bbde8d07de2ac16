"""Where commands are tried: a folder with the command `octavo`, documents, certificates, and a server to call."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.served import PROGRAM, free_port, serve

HUNG = 124  # the exit code of what did not end, as timeout(1) has it
_SECONDS = 90.0
_WORDS = "the river town old men of north sea light house over many years winter road stone "
_REQUEST = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=octavo "
    "-addext subjectAltName=DNS:localhost"
)
_CONFIG = """
[server]
keys_file = "{folder}/keys.json"
tls_certificate = "{folder}/cert.pem"
tls_key = "{folder}/key.pem"
[clients.acme]
[clients.anonymous]
disabled = true
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """A folder to try commands in; `values` are what `{name}` stands for in a command line."""

    folder: Path
    environment: Mapping[str, str]
    values: Mapping[str, str]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `octavo` with these arguments."""
        return subprocess.run(
            ["octavo", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def shell(self, line: str) -> tuple[int, str]:
        """Run a line of bash; its exit code, and what it said on standard error."""
        for name, value in self.values.items():
            line = line.replace(f"{{{name}}}", value)
        with subprocess.Popen(
            ["/bin/bash", "-c", line],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                _, said = process.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                _, said = process.communicate()
                return HUNG, said
        return process.returncode, said


@contextmanager
def bench(model: str, *flags: str) -> Iterator[Bench]:
    """A bench with a server that wants keys, on a unix socket in the open and on a port over TLS."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, whose children would not hear it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="octavo-first-hour-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        environment = _environment(folder)
        made = Bench(folder, environment, {})
        _documents(folder)
        _certificates(folder)
        (folder / "server.toml").write_text(_CONFIG.format(folder=folder))
        keys = [_key(made), _key(made)]
        made.shell(f"octavo keys revoke --config server.toml {keys[1].split('_')[1]}")
        listen = ("--model", model, "--listen", f"unix:{folder}/socket", *flags)
        server = stack.enter_context(serve(*listen, config=(folder / "server.toml").read_text()))
        values = {
            "socket": f"unix:{folder}/socket",
            "tls": server.address.replace("127.0.0.1", "localhost"),
            "tls_ip": server.address,
            "revoked": keys[1],
            "model": model,
            "closed": f"127.0.0.1:{free_port()}",
        }
        environment |= {"OCTAVO_SERVER": values["socket"], "OCTAVO_API_KEY": keys[0]}
        yield Bench(folder, environment, values)


def _environment(folder: Path) -> dict[str, str]:
    """Ours, with a home of its own; models are where they were."""
    command = folder / "bin/octavo"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} "$@"\n')
    command.chmod(0o755)
    own = {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")}
    return {
        **own,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XDG_STATE_HOME": str(folder / "state"),
        "LC_ALL": "C.UTF-8",
    }


def _documents(folder: Path) -> None:
    (folder / "book.txt").write_text(_WORDS * 20)
    (folder / "long.txt").write_text(_WORDS * 12_500)  # 200,000 tokens
    (folder / "huge.txt").write_text(_WORDS * 210_000)  # over 16 MB
    (folder / "empty.txt").touch()
    (folder / "blank.txt").write_text(" \n\t\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "docs.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    (folder / "broken.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": \n')
    (folder / "no-text.jsonl").write_text('{"id": "a", "body": "one"}\n')
    (folder / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    (folder / "empty.jsonl").touch()
    (folder / "shelf").mkdir()
    (folder / "many").mkdir()
    for number in range(200):
        (folder / f"many/{number:03}.txt").write_text(_WORDS * 20)


def _certificates(folder: Path) -> None:
    """One for `localhost` alone, and one that nobody trusts."""
    if shutil.which("openssl") is None:
        raise RuntimeError("openssl is not installed")
    for certificate, key in (("cert.pem", "key.pem"), ("other.pem", "other-key.pem")):
        subprocess.run(
            [*_REQUEST.split(), "-keyout", key, "-out", certificate],
            cwd=folder,
            check=True,
            capture_output=True,
        )


def _key(made: Bench) -> str:
    """A new key of the client `acme`."""
    return made.run("keys", "add", "--config", "server.toml", "acme").stdout.strip()
