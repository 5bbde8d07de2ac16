"""`tracebacks`: ordinary faults, each a line of shell and the exit code that the documents promise.

0 all done, 1 some or all of it failed, 2 wrong usage or settings, 3 the server cannot be reached, 130 interrupted,
141 the reader of the output went away; a signal without a handler ends as the shell tells it, 128 and its number.
"""

import http.server
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.figures import Figure, Figures
from benchmarks.first_hour.bench import HUNG, Bench, bench
from benchmarks.served import serve

TRACES = ("Traceback (most recent call last)", "Exception ignored in", "Fatal Python error", "core dumped")


@dataclass(frozen=True, slots=True)
class Fault:
    """A line of bash that goes wrong, and how it must end."""

    line: str
    code: int

    def wrong(self, code: int, said: str) -> str:
        """What is wrong with how it ended, "" if nothing is."""
        if code == HUNG:
            return "it hung"
        if any(trace in said for trace in TRACES):
            return "a traceback"
        return "" if code == self.code else f"exit code {code}, not {self.code}"


def faults(*table: tuple[int, str]) -> tuple[Fault, ...]:
    """Read a table of exit codes and lines."""
    return tuple(Fault(line, code) for code, line in table)


FILES = faults(
    (2, "octavo embed none.txt"),
    (2, "octavo embed shelf"),
    (2, "octavo embed"),
    (2, "octavo embed - -"),
    (1, "octavo embed latin.txt"),
    (2, "octavo embed --encoding klingon book.txt"),
    (1, "octavo embed empty.txt"),
    (1, "octavo embed blank.txt"),
    (1, "octavo embed huge.txt"),
    (1, "octavo embed book.txt empty.txt latin.txt"),
    (1, "octavo embed --format npy -o v.npy book.txt empty.txt; code=$?; test ! -e v.npy || exit 99; exit $code"),
    (2, "octavo embed --format npy --segments book.txt empty.txt"),
    (1, "octavo embed - < /dev/null"),
    (1, "octavo embed - <&-"),
    (1, "octavo embed book.txt >&-"),
    (0, "octavo embed book.txt 2>&-"),
    (1, "octavo embed -o none/v.json book.txt"),
    (1, "octavo embed -o shelf book.txt"),
    (1, "octavo segment latin.txt book.txt"),
    (2, "octavo segment none.txt"),
    (1, "octavo batch -i none.jsonl -o out-1"),
    (1, "octavo batch -i broken.jsonl -o out-2"),
    (1, "octavo batch -i no-text.jsonl -o out-3"),
    (1, "octavo batch -i broken.parquet -o out-4"),
    (0, "octavo batch -i empty.jsonl -o out-5"),
    (1, "octavo batch -i docs.jsonl -o book.txt"),
    (2, "octavo batch -i docs.jsonl -o out-6 --shard 3/2"),
    (2, "octavo batch -i docs.jsonl -o out-7 && octavo batch -i docs.jsonl -o out-7 --dimensions 8"),
    (1, "octavo batch -i docs.jsonl -o nowhere://bucket/x"),
    (2, "octavo cache warm shelf"),
    (1, "octavo cache stats --cache-dir none"),
    (1, "octavo cache verify --cache-dir none"),
    (1, "octavo models fetch no-such-model"),
    (1, "octavo models quantize ./none ./q"),
    (2, "octavo models add no-hub"),
    (1, "HF_ENDPOINT=http://{closed} octavo models add hf:org/none"),
    (1, "HF_ENDPOINT=http://{http} octavo models add hf:org/none"),
    (1, "octavo serve --model hf:org/none --listen 127.0.0.1:0 --set metrics.listen="),
)
DISKS = faults(
    (1, "octavo embed book.txt > /dev/full"),
    (1, "octavo embed --format npy book.txt > /dev/full"),
    (1, "octavo embed -o /dev/full book.txt"),
    (1, "octavo segment book.txt > /dev/full"),
    (1, "octavo models > /dev/full"),
    (1, "octavo --help > /dev/full"),
    (1, "octavo config show > /dev/full"),
    (1, "octavo keys list --config server.toml > /dev/full"),
    (1, "octavo batch -i docs.jsonl -o out-8 > /dev/full"),
    (1, "octavo doctor --model {model} --set server.listen=127.0.0.1:0 --set metrics.listen= > /dev/full"),
    (1, "octavo serve --model {model} --listen 127.0.0.1:0 --set metrics.listen= > /dev/full"),
    (1, "ulimit -f 1; octavo embed -o small.json many/*.txt"),
    (1, "ulimit -f 0; octavo embed --format npy -o small.npy book.txt"),
    (1, "ulimit -f 0; octavo batch -i docs.jsonl -o out-9"),
    (1, "octavo embed -o full/v.json many/*.txt"),
    (1, "octavo embed --format npy -o full/v.npy many/*.txt"),
    (1, "octavo batch -i many -o full/out"),
    (1, "octavo keys add --config server.toml --set server.keys_file=full/keys.json acme"),
    (1, "octavo models quantize {model} full/q"),
)
ADDRESSES = faults(
    (2, "octavo embed --server nonsense book.txt"),
    (2, "octavo embed --server http://127.0.0.1:80 book.txt"),
    (2, "octavo embed --server 127.0.0.1:port book.txt"),
    (2, "octavo embed --server 127.0.0.1:70000 book.txt"),
    (3, "unset OCTAVO_API_KEY; octavo embed --server nowhere.invalid:50051 book.txt"),
    (3, "unset OCTAVO_API_KEY; octavo batch -i docs.jsonl -o out-10 --patience 1 --server nowhere.invalid:1"),
    (3, "octavo embed --server {closed} book.txt"),
    (3, "octavo segment --server {closed} book.txt"),
    (3, "octavo models --server {closed}"),
    (3, "octavo cache warm --server {closed} book.txt"),
    (3, "octavo batch -i docs.jsonl -o out-11 --patience 1 --server {closed}"),
    (3, "octavo embed --server unix:none book.txt"),
    (3, "octavo embed --server unix:book.txt book.txt"),
    (3, "octavo embed --server {http} book.txt"),
    (3, "octavo models --server {http}"),
    (3, "octavo embed --server {ssh} book.txt"),
    (1, "octavo embed --server {mute} --timeout 3 book.txt"),
    (3, "octavo embed --server {tls} book.txt"),
    (3, "octavo embed --server {tls} --tls book.txt"),
    (3, "octavo embed --server {tls} --ca other.pem book.txt"),
    (3, "octavo embed --server {tls_ip} --ca cert.pem book.txt"),
    (2, "octavo embed --server {tls} --ca none.pem book.txt"),
    (2, "octavo embed --server {tls} --ca book.txt book.txt"),
    (2, "octavo embed --server {socket} --tls book.txt"),
    (3, "octavo embed --server {http} --tls book.txt"),
    (2, "octavo embed --local --server {socket} book.txt"),
    (3, "octavo embed --local --model ./none book.txt"),
    (3, "unset OCTAVO_API_KEY; octavo embed --server {stopping} --timeout 3 book.txt"),
    (1, "octavo serve --model {model} --listen {tls_ip} --set metrics.listen="),
    (1, "octavo serve --model {model} --listen {socket} --set metrics.listen="),
    (1, "octavo serve --model {model} --listen unix:none/socket --set metrics.listen="),
    (1, "octavo serve --model {model} --listen unix:book.txt --set metrics.listen="),
    (1, "octavo serve --model {model} --listen 127.0.0.1:0 --set metrics.listen={tls_ip}"),
    (2, "octavo serve --model {model} --listen 0.0.0.0:50051"),
    (1, "octavo serve --listen 192.0.2.1:50051 --set server.allow_plaintext_remote=true --set metrics.listen="),
    (1, "octavo doctor --model {model} --listen {tls_ip} --set metrics.listen="),
)
SETTINGS = faults(
    (2, "octavo config check --config none.toml"),
    (2, "octavo config check --config shelf"),
    (2, "octavo config check --config latin.txt"),
    (0, "octavo config check --config empty.txt"),
    (2, "echo '[server' > a.toml; octavo config check --config a.toml"),
    (2, "echo 'server = 3' > b.toml; octavo serve --config b.toml"),
    (2, "printf '[cache]\nsize_limit_bytes = \"4 gigs\"\n' > c.toml; octavo serve --config c.toml"),
    (2, "printf '[server]\nlisten = 50051\nmax_tasks = \"many\"\n' > d.toml; octavo serve --config d.toml"),
    (2, "printf '[server]\nlissten = [\"x\"]\n[modles]\n' > e.toml; octavo serve --config e.toml"),
    (2, "printf 'models = [1, {{}}, []]\n' | tr -s '{{}}' > f.toml; octavo serve --config f.toml"),
    (2, "octavo serve --set nonsense"),
    (2, "octavo serve --set log.level=loud"),
    (2, "octavo serve --set compute.threads=-1"),
    (2, "octavo serve --listen ''"),
    (2, "OCTAVO_SERVER__MAX_TASKS=x octavo serve"),
    (2, "OCTAVO_SERVER_MAX_TASKS=3 octavo serve"),
    (2, "OCTAVO_MODELS='[' octavo serve"),
    (2, "OCTAVO_CONFIG=none.toml octavo doctor"),
    (2, "octavo keys list --config none.toml"),
    (2, "octavo cache stats --set cache.dir=3 --set cache.enabled=perhaps"),
    (1, "octavo serve --model no-such-model --listen 127.0.0.1:0 --set metrics.listen="),
    (1, "octavo serve --model ./shelf --listen 127.0.0.1:0 --set metrics.listen="),
    (1, "octavo serve --listen 127.0.0.1:0 --set server.tls_certificate=a --set server.tls_key=b"),
    (1, "octavo serve --listen 127.0.0.1:0 --set server.tls_certificate=cert.pem --set server.tls_key=other-key.pem"),
    (2, "octavo embed --dimensions 0 book.txt"),
    (1, "octavo embed --dimensions 99999 book.txt"),
    (1, "octavo embed --model no-such-model book.txt"),
    (1, "octavo embed --expected-fingerprint 00 book.txt"),
    (1, "octavo embed --timeout 0.000001 book.txt"),
    (2, "octavo embed --timeout 0 book.txt"),
    (2, "octavo embed --no-such-option book.txt"),
    (2, "octavo embd book.txt"),
    (1, "octavo models show no-such-model"),
)
KEYS = faults(
    (1, "unset OCTAVO_API_KEY; octavo embed book.txt"),
    (1, "OCTAVO_API_KEY=oct_000000000000_wrong octavo embed book.txt"),
    (1, "OCTAVO_API_KEY={revoked} octavo embed book.txt"),
    (2, "OCTAVO_API_KEY='two words' octavo embed book.txt"),
    (2, "octavo embed --server example.com:50051 book.txt"),
    (1, "unset OCTAVO_API_KEY; octavo models"),
    (1, "OCTAVO_API_KEY={revoked} octavo batch -i docs.jsonl -o out-12"),
    (1, "octavo keys add --config server.toml nobody"),
    (1, "octavo keys revoke --config server.toml none"),
    (1, "octavo keys list --set server.keys_file=book.txt"),
    (1, "cp keys.json open.json; chmod 666 open.json; octavo keys list --set server.keys_file=open.json"),
    (1, "echo '{{' > bad.json; octavo serve --set server.keys_file=bad.json --listen 127.0.0.1:0"),
    (1, "octavo keys add --config server.toml --set server.keys_file=/dev/null/keys.json acme"),
)
_SERVE = "octavo serve --model {model} --listen 127.0.0.1:0 --set metrics.listen="
_STOP = f"rm -f out; set -m; {_SERVE} > out & until grep -qs ready out; do sleep 0.1; done; kill -%s $!; wait $!"
SIGNALS = (
    *(
        Fault(f"timeout --preserve-status -s {name} {seconds} octavo embed - < <(sleep 20)", code)
        for name, code in (("INT", 130), ("TERM", 143), ("HUP", 129))
        for seconds in (0.15, 0.3, 0.6, 2)
    ),
    *(
        Fault(f"timeout --preserve-status -s {name} {seconds} octavo {command} --server {{mute}}", code)
        for name, code in (("INT", 130), ("TERM", 143))
        for command, seconds in (("embed many/*.txt", 2), ("batch -i many -o out-13", 3), ("models", 1.5))
    ),
    *faults(
        (130, f"timeout --preserve-status -s INT 0.2 {_SERVE}"),
        (0, _STOP % "INT"),
        (0, _STOP % "TERM"),
        (129, _STOP % "HUP"),
        (130, "timeout --preserve-status -s INT 3 octavo embed --local long.txt"),
        (143, "timeout --preserve-status -s TERM 3 octavo embed --local long.txt"),
        (141, "octavo embed many/*.txt | true; exit ${PIPESTATUS[0]}"),
        (141, "octavo embed many/*.txt | head -c 100 > /dev/null; exit ${PIPESTATUS[0]}"),
        (141, "octavo segment long.txt | true; exit ${PIPESTATUS[0]}"),
        (141, "octavo models | true; exit ${PIPESTATUS[0]}"),
        (141, "octavo config show | true; exit ${PIPESTATUS[0]}"),
        (141, "octavo --help | true; exit ${PIPESTATUS[0]}"),
        (141, "mkfifo gone; (exec 3<gone; exec 3<&-) & octavo embed -o gone many/*.txt"),
    ),
)
ALL = {
    "files": FILES,
    "disks": DISKS,
    "addresses": ADDRESSES,
    "settings": SETTINGS,
    "keys": KEYS,
    "signals": SIGNALS,
}


def measure(model: str) -> Figures:
    """Try each; those that end otherwise are named on standard error."""
    counts = dict.fromkeys(ALL, 0)
    with bench(model) as found, ExitStack() as stack:
        others = stack.enter_context(strangers(model))
        tried = ALL if stack.enter_context(full_disk(found.folder / "full")) else without_full_disk()
        table = Bench(found.folder, found.environment, {**found.values, **others})
        for kind, each in ((kind, fault) for kind, members in tried.items() for fault in members):
            code, said = table.shell(each.line)
            if wrong := each.wrong(code, said):
                counts[kind] += 1
                click.echo(f"first-hour: {each.line}\n  {wrong}: {said.strip()[-600:]}", err=True)
    total = sum(map(len, tried.values()))
    return {
        "tracebacks": Figure(sum(counts.values()), "faults", n=total),
        **{f"tracebacks.{kind}": Figure(count, "faults", n=len(tried[kind])) for kind, count in counts.items()},
    }


def without_full_disk() -> dict[str, tuple[Fault, ...]]:
    """Leave out the faults that need a full file system."""
    return {kind: tuple(each for each in members if "full/" not in each.line) for kind, members in ALL.items()}


@contextmanager
def strangers(model: str) -> Iterator[dict[str, str]]:
    """Ports that speak HTTP, speak something else, or nothing; and an Octavo that is stopping."""
    with ExitStack() as stack:
        http_port = _listening(stack, _Http)
        ssh_port = _listening(stack, _Banner)
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        flags = ("--model", model, "--set", "server.drain_delay_seconds=3600", "--set", "cache.enabled=false")
        stopping = stack.enter_context(serve(*flags))
        os.kill(stopping.pid, 15)
        stack.callback(os.kill, stopping.pid, 15)  # at once
        yield {
            "http": f"127.0.0.1:{http_port}",
            "ssh": f"127.0.0.1:{ssh_port}",
            "mute": f"127.0.0.1:{mute.getsockname()[1]}",
            "stopping": stopping.address,
        }


class _Http(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


class _Banner(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Greet as an SSH server does."""
        with suppress(OSError):
            self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            self.request.recv(1024)


def _listening(stack: ExitStack, handler: type[socketserver.BaseRequestHandler]) -> int:
    server = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    port: int = server.server_address[1]
    return port


@contextmanager
def full_disk(folder: Path) -> Iterator[bool]:
    """Mount a full file system; False if mounting is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "octavo", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield False
        return
    try:
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            filler.write(bytes(1 << 17))
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)
