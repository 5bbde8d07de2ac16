"""The client's wheel: what is in it, and that it works with the oldest and the newest protobuf."""

import fcntl
import hashlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from server.config.folders import cache_home

ROOT = Path(__file__).parents[2]
OLDEST = ("protobuf==5.29.6", "grpcio==1.71.2", "googleapis-common-protos==1.66.0", "numpy", "click==8.2.0")
NEWEST = ("protobuf>=7,<8", "grpcio", "googleapis-common-protos", "numpy", "click")

USE_IT = """
import asyncio, sys
import google.protobuf
from octavo.client import AsyncClient, Client
from octavo.v1 import inference_pb2 as pb, models_pb2

options = pb.CallOptions(model="m", window=64, segmentation=pb.Segmentation(policy=pb.SEGMENTATION_POLICY_CONTENT))
request = pb.EmbedRequest(documents=[pb.Document(text="Na\\u00efve \\U0001f600")], options=options)
assert pb.EmbedRequest.FromString(request.SerializeToString()) == request
assert not pb.CallOptions().HasField("window") and request.options.HasField("window")
assert models_pb2.DESCRIPTOR.services_by_name["ModelService"].methods_by_name.keys() == ["ListModels", "GetModel"]
with Client("127.0.0.1:1"):
    pass

async def use() -> None:
    async with AsyncClient("127.0.0.1:1"):
        pass

asyncio.run(use())
assert "torch" not in sys.modules
print(google.protobuf.__version__)
"""


def run(*command: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT / "proto")
    (built,) = folder.glob("octavo_client-*.whl")
    return built


def environment_with(requirements: tuple[str, ...]) -> Path:
    """The Python of an environment with these, kept from run to run."""
    cache = cache_home() / "tests"
    digest = hashlib.sha256("\n".join([*requirements, sys.executable]).encode()).hexdigest()[:16]
    folder = cache / digest
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            run(sys.executable, "-m", "venv", "--clear", folder)
            run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *requirements)
            (folder / "complete").touch()
    return folder / "bin" / "python"


def test_the_wheel_holds_the_package_the_protos_and_the_licence_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"octavo/py.typed", "octavo/v1/inference.proto", "octavo/v1/inference_pb2.pyi"} <= set(names)
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in names} == {
        "octavo",
        "octavo_client",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_client_and_server_have_one_version_and_the_client_asks_for_nothing_that_the_server_does_not() -> None:
    server = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = tomllib.loads((ROOT / "proto/pyproject.toml").read_text())["project"]
    version = run(sys.executable, "-c", "import octavo; print(octavo.__version__)").strip()
    assert server.get("version", version) == version

    def packages(requirements: list[str]) -> set[str]:
        return {requirement.split(">")[0] for requirement in requirements}

    extras = [each for extra in client["optional-dependencies"].values() for each in extra]
    assert packages([*client["dependencies"], *extras]) <= packages(server["dependencies"])
    assert "torch" not in packages(client["dependencies"])


@pytest.mark.parametrize(("requirements", "major"), [(OLDEST, 5), (NEWEST, 7)], ids=["oldest", "newest"])
def test_the_wheel_works_with_protobuf(wheel: Path, tmp_path: Path, requirements: tuple[str, ...], major: int) -> None:
    if requirements is OLDEST and sys.version_info >= (3, 14):
        pytest.skip("that grpcio has no wheel for this Python")
    python = environment_with(requirements)
    # Not into the kept environment: two runs may share it.
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, wheel)
    used = run(python, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USE_IT}")
    assert int(used.split(".")[0]) == major
    shown = run(
        python,
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['octavo', '--help']\n"
        "from octavo.cli import main; main()",
    )
    assert "octavo embed book.txt" in shown
