"""A real Redis for tests and scenarios: the installed one, or Debian's, unpacked into the cache folder without root."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.served import free_port
from server.config.folders import cache_home

PACKAGES = (
    "redis-server", "redis-tools", "libjemalloc2", "liblua5.1-0", "libatomic1", "liblzf1", "lua-bitop", "lua-cjson",
)  # fmt: skip
SOON = 10.0  # seconds; it starts in 0.1


class NoRedis(Exception):
    """There is none, and none can be had; says why."""


@dataclass
class Redis:
    """A server that can be stopped and started again, with nothing in memory then."""

    binary: Path
    libraries: str
    folder: Path
    port: int
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where it answers, as `limits.storage` takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            NoRedis: it does not.
        """
        command = [str(self.binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        environment = {"LD_LIBRARY_PATH": self.libraries, "LC_ALL": "C"}
        with (self.folder / "redis.log").open("ab") as told:
            self._process = subprocess.Popen(command, stdout=told, stderr=told, env=environment)
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise NoRedis(f"{self.binary} does not start: {(self.folder / 'redis.log').read_text()[-500:]}")

    def stop(self) -> None:
        """Kill it: what it held is gone."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Redis]:
    """A Redis on a free port of loopback.

    Raises:
        NoRedis: none can be had.
    """
    binary, libraries = find()
    redis = Redis(binary, libraries, folder, free_port())
    try:
        redis.start()
        yield redis
    finally:
        redis.stop()


def find() -> tuple[Path, str]:
    """The server's file and the folders of its libraries; Debian's package is fetched once."""
    if installed := shutil.which("redis-server"):
        return Path(installed), ""
    root = cache_home() / "tools" / "redis"
    if not (root / "usr/bin").is_dir():
        unpack(root)
    libraries = ":".join(str(each) for each in sorted((root / "usr/lib").glob("*-linux-*")))
    return root / "usr/bin/redis-server", libraries


def unpack(root: Path) -> None:
    """Fetch Debian's packages as whoever runs this and lay their files out."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoRedis("no redis-server is installed, and there is no apt-get to fetch Debian's package with")
    root.parent.mkdir(parents=True, exist_ok=True)
    begun = root.with_name("redis.begun")
    shutil.rmtree(begun, ignore_errors=True)
    (begun / "packages").mkdir(parents=True)
    fetched = subprocess.run(
        ["apt-get", "download", *PACKAGES], cwd=begun / "packages", capture_output=True, text=True, check=False
    )
    archives = sorted((begun / "packages").glob("*.deb"))
    if fetched.returncode or not archives:
        raise NoRedis(f"apt-get cannot fetch Debian's redis-server: {fetched.stderr.strip()[-300:]}")
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", archive, begun], check=True)
    shutil.rmtree(begun / "packages")
    with contextlib.suppress(OSError):  # somebody else was faster
        begun.rename(root)
