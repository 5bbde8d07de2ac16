"""The contract's tools see what they are for: stale stubs, bad style, and promises broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DESCRIPTORS = Path("server/kserve/inference.binpb")
NEEDS_NPM = pytest.mark.skipif(shutil.which("npm") is None, reason="buf comes from npm, which is not installed")


def contract(
    verb: str, root: Path = ROOT, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "proto" / "contract.py"), verb]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder of the pinned generator, made where it is missing."""
    done = contract("check")
    if "needs Python" in done.stderr:
        pytest.skip(done.stderr.strip())
    return ROOT / ".venv-proto"


@pytest.fixture
def copy(tmp_path: Path, tools: Path) -> Path:
    """A checkout of its own, whose contract a test may spoil."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    (tmp_path / DESCRIPTORS).parent.mkdir(parents=True)
    shutil.copy(ROOT / DESCRIPTORS, tmp_path / DESCRIPTORS)
    (tmp_path / ".venv-proto").symlink_to(tools)
    return tmp_path


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new, 1))


def test_the_committed_stubs_are_what_the_contract_generates(tools: Path) -> None:
    done = contract("check")
    assert done.returncode == 0, done.stderr


def test_changed_messages_of_kserve_make_their_descriptors_stale_and_generating_mends_them(copy: Path) -> None:
    edit(copy / "proto/kserve/inference.proto", "bool live = 1;", "bool alive = 1;")
    done = contract("check", copy)
    assert done.returncode == 1
    assert "server/kserve/inference.binpb" in done.stderr
    for verb in ("generate", "check"):
        done = contract(verb, copy)
        assert done.returncode == 0, done.stderr


def test_a_changed_contract_makes_stubs_stale_and_generating_mends_them(copy: Path) -> None:
    edit(copy / "proto/octavo/v1/models.proto", "uint32 layers = 15;", "uint32 depth = 15;")
    done = contract("check", copy)
    assert done.returncode == 1
    assert "octavo/v1/models_pb2.py" in done.stderr
    assert "octavo/v1/models_pb2.pyi" in done.stderr
    assert "inference_pb2.py," not in done.stderr
    for verb in ("generate", "check"):
        done = contract(verb, copy)
        assert done.returncode == 0, done.stderr


def test_a_stub_without_its_proto_is_stale(copy: Path) -> None:
    shutil.copy(copy / "proto/octavo/v1/models_pb2.py", copy / "proto/octavo/v1/gone_pb2.py")
    done = contract("check", copy)
    assert done.returncode == 1
    assert "gone_pb2.py" in done.stderr


@NEEDS_NPM
def test_the_contract_keeps_to_the_lint_rules() -> None:
    done = contract("lint")
    assert done.returncode == 0, done.stderr


@NEEDS_NPM
def test_a_breach_of_style_is_seen(copy: Path) -> None:
    edit(copy / "proto/octavo/v1/models.proto", "uint32 layers = 15;", "uint32 numberOfLayers = 15;")
    done = contract("lint", copy)
    assert done.returncode == 1
    assert "models.proto" in done.stderr, done.stderr
    assert "lower_snake_case" in done.stderr


@NEEDS_NPM
def test_what_a_release_published_may_grow_but_not_change(copy: Path) -> None:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for command in (
        "git init --quiet",
        "git add proto buf.yaml",
        "git -c user.name=t -c user.email=t@t commit --quiet -m released",
        "git tag v0.1.0",
    ):
        subprocess.run(command.split(), cwd=copy, check=True, env=environment)
    models = copy / "proto/octavo/v1/models.proto"
    edit(models, "string licence = 19;", "string licence = 19;\n  string home = 90;")
    done = contract("breaking", copy)
    assert done.returncode == 0, done.stderr
    edit(models, "uint32 layers = 15;", "string layers = 15;")
    done = contract("breaking", copy)
    assert done.returncode == 1
    assert "layers" in done.stderr


@pytest.fixture
def without_buf(copy: Path) -> Path:
    """A checkout whose tools lack buf."""
    tools = copy / ".venv-proto"
    tools.unlink()
    tools.mkdir()
    for part in ("bin", "lib", "googleapis", "pins"):
        (tools / part).symlink_to(ROOT / ".venv-proto" / part)
    return copy


@NEEDS_NPM
def test_where_npm_fails_its_own_words_are_shown(without_buf: Path, tmp_path: Path) -> None:
    done = contract(
        "lint",
        without_buf,
        os.environ
        | {
            "npm_config_registry": "http://127.0.0.1:1/",
            "npm_config_fetch_retries": "0",
            "npm_config_cache": str(tmp_path / "npm"),
        },
    )
    assert done.returncode == 1
    assert "ECONNREFUSED" in done.stderr


def test_without_npm_lint_says_what_is_missing(without_buf: Path) -> None:
    done = contract("lint", without_buf, {"PATH": ""})
    assert done.returncode == 1
    assert "Node.js" in done.stderr
    assert done.stderr.count("\n") == 1
