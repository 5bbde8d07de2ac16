"""Reads what is in deploy/."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from server.config.load import load
from server.config.schema import Settings
from server.config.values import split_address

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
UNIT = (DEPLOY / "systemd/octavo.service").read_text("utf-8")
KUBERNETES = sorted({*(DEPLOY / "kubernetes").glob("*.yaml")} - {DEPLOY / "kubernetes/kustomization.yaml"})
RAY_SERVICE = DEPLOY / "kuberay/rayservice.yaml"


def settings(folder: str) -> Settings:
    """The settings that a folder of deploy/ comes with."""
    return load(DEPLOY / folder / "octavo.toml", environ={}).settings


def ports(settings: Settings) -> dict[str, int]:
    """Where a server with these settings listens."""
    addresses = {
        "grpc": settings.server.listen[0],
        "http": settings.server.http_listen,
        "metrics": settings.metrics.listen,
    }
    return {name: split_address(address)[1] for name, address in addresses.items() if address}


def read(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text("utf-8"))


def kind(name: str) -> Any:
    """The resource of a kind in deploy/kubernetes."""
    (found,) = (resource for resource in map(read, KUBERNETES) if resource["kind"] == name)
    return found


def serve_config() -> Any:
    """What the RayService gives to Ray Serve."""
    return yaml.safe_load(read(RAY_SERVICE)["spec"]["serveConfigV2"])


def project() -> dict[str, Any]:
    """The content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of a name in the Dockerfile, on one line."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    return [line.removeprefix(f"{name} ").strip() for line in lines if line.startswith(f"{name} ")]


def unit(name: str) -> str:
    """The value of a setting of the systemd unit."""
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def pod_specs() -> Iterator[Any]:
    """The specifications of all pods in deploy/."""
    yield kind("Deployment")["spec"]["template"]["spec"]
    cluster = read(RAY_SERVICE)["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]
