"""Validators made elsewhere accept what is in deploy/.

`make test-deploy` installs those of the package index. systemd-analyze, kubectl and Ray are used where they are
installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, KUBERNETES, ROOT, UNIT, serve_config

EXPOSURE = 20
"""Of a service by systemd's measure, in tenths: from 0, contained, to 100, unsafe."""


def tool(name: str) -> str:
    """The path of a program, or skip."""
    installed = ROOT / ".venv-deploy/bin" / name
    path = str(installed) if installed.exists() else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; see make test-deploy")
    return path


def check(*command: str | Path) -> str:
    """Run a validator, which must accept what it is given."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_hadolint() -> None:
    assert check(tool("hadolint"), DEPLOY / "docker/Dockerfile") == ""


def test_compose_specification() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    check(tool("check-jsonschema"), *schema, DEPLOY / "docker/compose.yaml")


def test_kubernetes_schemas() -> None:
    check(tool("kubernetes-validate"), "--strict", *KUBERNETES)


@pytest.mark.parametrize("folder", ["kubernetes", "kuberay"])
def test_kustomize(folder: str, tmp_path: Path) -> None:
    rendered = check(tool("kubectl"), "kustomize", DEPLOY / folder)
    assert "kind: ConfigMap" in rendered
    if folder == "kubernetes":
        (tmp_path / "all.yaml").write_text(rendered, "utf-8")
        check(tool("kubernetes-validate"), "--strict", tmp_path / "all.yaml")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that exists."""
    path = tmp_path / "octavo.service"
    path.write_text(UNIT.replace("/opt/octavo/bin/octavo", sys.executable), "utf-8")
    return path


def test_systemd_analyze_verify(unit: Path) -> None:
    said = check(tool("systemd-analyze"), "verify", "--man=no", unit)  # of what the unit depends on, too
    assert unit.name not in said


def test_systemd_analyze_security(unit: Path) -> None:
    check(tool("systemd-analyze"), "security", "--offline=true", f"--threshold={EXPOSURE}", unit)


def test_ray_s_schema() -> None:
    schema = pytest.importorskip("ray.serve.schema", exc_type=ImportError)
    assert schema.ServeDeploySchema.model_validate(serve_config())
