"""What is in deploy/ agrees with the code: settings, ports, paths, metrics, grace periods, versions."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from octavo.sizes import parse_size
from server.app import operators_listener
from server.health.http import HttpListener
from server.health.liveness import Liveness
from server.telemetry.metrics import Metrics
from tests.deploy.files import (
    DEPLOY,
    RAY_SERVICE,
    ROOT,
    UNIT,
    instructions,
    kind,
    pod_specs,
    ports,
    project,
    read,
    serve_config,
    settings,
    unit,
)

FOLDERS = ("docker", "kubernetes", "kuberay", "systemd")
MARGIN_SECONDS = 5.0
"""For what a server does after its calls have ended."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_settings_are_valid(folder: str) -> None:
    assert settings(folder).models


def test_compose_and_the_image_publish_the_ports_of_the_settings() -> None:
    numbers = ports(settings("docker"))
    (exposed,) = instructions("EXPOSE")
    assert {int(port) for port in exposed.split()} == set(numbers.values())
    published = read(DEPLOY / "docker/compose.yaml")["services"]["octavo"]["ports"]
    assert set(published) == {f"127.0.0.1:{port}:{port}" for port in numbers.values()}


def test_kubernetes_uses_the_ports_of_the_settings() -> None:
    numbers = ports(settings("kubernetes"))
    (container,) = kind("Deployment")["spec"]["template"]["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == numbers
    service = kind("Service")["spec"]
    assert service["clusterIP"] == "None"
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == numbers
    allowed = {port["port"] for rule in kind("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    assert allowed == numbers.keys()


class Operators:
    """The listener of `/livez` and `/readyz`."""

    def __init__(self) -> None:
        self.reason = ""
        metrics = Metrics(CollectorRegistry())
        self.listener: HttpListener = operators_listener("127.0.0.1:0", metrics, Liveness(), lambda: self.reason)

    def status(self, path: str) -> int:
        try:
            with urlopen(f"http://{self.listener.address}{path}", timeout=10) as response:
                return int(response.status)
        except HTTPError as error:
            return error.code


@pytest.fixture
def operators() -> Iterator[Operators]:
    operators = Operators()
    with operators.listener:
        yield operators


def test_probes_tell_a_server_that_is_not_ready_from_a_dead_one(operators: Operators) -> None:
    (container,) = kind("Deployment")["spec"]["template"]["spec"]["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {"metrics"}
    assert {operators.status(probe["path"]) for probe in probes.values()} == {200}
    operators.reason = "starting"
    assert {name: operators.status(probe["path"]) for name, probe in probes.items()} == {
        "startup": 503,
        "readiness": 503,
        "liveness": 200,
    }


def test_the_image_s_health_check_fails_until_the_server_is_ready(operators: Operators) -> None:
    (check,) = instructions("HEALTHCHECK")
    python, *arguments = json.loads(check[check.index("[") :])
    assert python == "python"
    listen = f"127.0.0.1:{ports(settings('docker'))['metrics']}"
    assert listen in arguments[-1]
    arguments = [argument.replace(listen, operators.listener.address) for argument in arguments]

    def healthy() -> bool:
        return not subprocess.run([sys.executable, *arguments], capture_output=True, check=False).returncode

    assert healthy()
    operators.reason = "starting"
    assert not healthy()


def test_the_autoscaler_s_metric_exists() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    (metric,) = kind("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert registry.get_sample_value(metric["pods"]["metric"]["name"]) == 0


def test_calls_in_progress_end_before_the_server_is_killed() -> None:
    compose = read(DEPLOY / "docker/compose.yaml")["services"]["octavo"]["stop_grace_period"]
    pod = kind("Deployment")["spec"]["template"]["spec"]
    granted = {
        "docker": float(compose.removesuffix("s")),
        "kubernetes": float(pod["terminationGracePeriodSeconds"]),
        "systemd": float(unit("TimeoutStopSec")),
    }
    for folder, seconds in granted.items():
        server = settings(folder).server
        assert seconds >= server.drain_delay_seconds + server.stop_grace_seconds + MARGIN_SECONDS, folder


def test_volumes_hold_the_cache() -> None:
    cache = settings("kubernetes").cache.size_limit_bytes
    pod = kind("Deployment")["spec"]["template"]["spec"]
    (data,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "data")
    limits = pod["containers"][0]["resources"]["limits"]
    for quantity in (data["sizeLimit"], limits["ephemeral-storage"]):
        size = parse_size(f"{quantity}B")  # Kubernetes leaves the B out
        assert size is not None
        assert size > 1.25 * cache


def mounts(container: Any, *, writable: bool) -> list[Path]:
    return [
        Path(mount["mountPath"]) for mount in container["volumeMounts"] if writable is not mount.get("readOnly", False)
    ]


def test_what_the_server_writes_is_on_a_volume() -> None:
    (volume,) = map(Path, instructions("VOLUME"))
    environment = dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        assert Path(environment[variable], "octavo") == volume
    compose = read(DEPLOY / "docker/compose.yaml")["services"]["octavo"]
    assert compose["volumes"] == [f"octavo:{volume}"]
    for folder, pod in zip(("kubernetes", "kuberay", "kuberay"), pod_specs(), strict=True):
        (container,) = pod["containers"]
        places = mounts(container, writable=True)
        assert volume in places
        secret = settings(folder).cache.secret_file
        assert secret is not None
        assert secret.parent in places
        (copy,) = pod["initContainers"]
        assert copy["command"][-1] == str(secret)
        assert mounts(copy, writable=True) == [secret.parent]


def test_the_unit_s_folders_are_those_of_the_server() -> None:
    environment = dict(pair.split("=") for pair in unit("Environment").split())
    assert environment == {"XDG_CACHE_HOME": "/var/cache", "XDG_STATE_HOME": "/var/lib"}  # systemd's own
    assert unit("CacheDirectory") == unit("StateDirectory") == unit("RuntimeDirectory") == "octavo"
    sockets = [address for address in settings("systemd").server.listen if address.startswith("unix:")]
    assert sockets == ["unix:/run/octavo/socket"]
    user, name, *_ = (DEPLOY / "systemd/octavo.sysusers").read_text("utf-8").split()
    assert (user, name) == ("u", unit("User"))


def test_settings_are_where_the_server_is_told() -> None:
    (command,) = instructions("CMD")
    (entry,) = instructions("ENTRYPOINT")
    serve = [*json.loads(entry), *json.loads(command)]
    assert serve[:-1] == ["octavo", "serve", "--config"]
    assert any(line.split()[-1] == serve[-1] for line in instructions("COPY"))
    assert unit("ExecStart").split()[1:] == serve[1:]
    (container,) = kind("Deployment")["spec"]["template"]["spec"]["containers"]
    assert "command" not in container
    assert "args" not in container
    assert Path(serve[-1]).parent in mounts(container, writable=False)


def test_pods_are_restricted() -> None:
    """The Pod Security Standard `restricted`, and a root that nobody can write to."""
    for pod in pod_specs():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in instructions("USER")
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod["initContainers"]):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
    for service in read(DEPLOY / "docker/compose.yaml")["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_base_images_are_pinned_and_of_a_supported_python() -> None:
    (base,) = {line.split()[0] for line in instructions("FROM")}
    match = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-[a-z]+", base)
    assert match
    readme = (ROOT / "README.md").read_text("utf-8")
    tested = re.search(r"tested with ([\d.,\sand]+)\)", readme)
    assert tested
    assert match[1] in re.findall(r"\d+\.\d+", tested[1])


def test_images_have_the_version_of_the_project() -> None:
    version = project()["project"]["version"]
    services = read(DEPLOY / "docker/compose.yaml")["services"]
    assert services["octavo"]["image"] == f"octavo:{version}"
    assert re.fullmatch(r"redis:\d+\.\d+\.\d+", services["redis"]["image"])
    (image,) = read(DEPLOY / "kubernetes/kustomization.yaml")["images"]
    assert image == {"name": "octavo", "newTag": version}
    for pod in list(pod_specs())[1:]:  # kustomize does not look for images in a RayService
        assert {each["image"] for each in (*pod["containers"], *pod["initContainers"])} == {f"octavo-ray:{version}"}


def test_the_image_is_built_like_the_wheel() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    tools = re.search(r"^WHEEL_TOOLS := (.*)$", makefile, re.MULTILINE)
    assert tools
    assert any(line.endswith(f"pip install {tools[1]}") for line in instructions("RUN"))


def test_all_that_the_wheel_is_made_of_reaches_the_builder() -> None:
    ignore = (DEPLOY / "docker/Dockerfile.dockerignore").read_text("utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    wheel = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {package.split("/")[0] for package in wheel} | {"constraints.txt", "hatch_build.py", "pyproject.toml"}
    needed |= {project()["project"]["readme"], *project()["project"]["license-files"]}
    copied = {line.split()[0] for line in instructions("COPY") if not line.startswith("--from")} - {"."}
    assert sent == needed | copied
    assert all((ROOT / path).exists() for path in sent)


@pytest.mark.parametrize("folder", ["kubernetes", "kuberay"])
def test_every_file_is_applied(folder: str) -> None:
    kustomization = read(DEPLOY / folder / "kustomization.yaml")
    files = {path.name for path in (DEPLOY / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files


def test_the_unit_says_everything_once() -> None:
    names = re.findall(r"^(\w+)=", UNIT, re.MULTILINE)
    assert sorted(name for name in set(names) if names.count(name) > 1) == ["SystemCallFilter"]


def test_the_fleet_s_front_is_where_clients_look() -> None:
    """On the head, which has the only `front`: engines need CPUs, and the head has none."""
    (application,) = serve_config()["applications"]
    (front,) = application["deployments"]
    cluster = read(RAY_SERVICE)["spec"]["rayClusterConfig"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert json.loads(json.loads(head["rayStartParams"]["resources"])) == front["ray_actor_options"]["resources"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "resources" not in workers["rayStartParams"]
    (container,) = head["template"]["spec"]["containers"]
    numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
    own = ports(settings("kuberay"))
    assert (numbers["grpc"], numbers["octavo-metrics"]) == (own["grpc"], own["metrics"])
    # A list of ports replaces the one that KubeRay has for the head's service.
    assert numbers.items() >= {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}.items()


def test_an_engine_fills_a_pod() -> None:
    (application,) = serve_config()["applications"]
    (workers,) = read(RAY_SERVICE)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    arguments = application["args"]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["cpu"] == arguments["threads"]
    assert (arguments["replicas"], arguments["max_replicas"]) == (
        f"{workers['minReplicas']}",
        f"{workers['maxReplicas']}",
    )
    (directory,) = (Path(m["mountPath"]) for m in container["volumeMounts"] if m["name"] == "settings")
    assert Path(arguments["config"]) == directory / "octavo.toml"


def test_ray_is_the_pinned_one() -> None:
    (extra,) = project()["project"]["optional-dependencies"]["ray"]
    version = read(RAY_SERVICE)["spec"]["rayClusterConfig"]["rayVersion"]
    assert extra.rpartition("==")[::2] == ("ray[data,serve]", version)
    (application,) = serve_config()["applications"]
    assert find_spec(application["import_path"].partition(":")[0])
