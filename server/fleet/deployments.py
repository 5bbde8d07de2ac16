"""A fleet on Ray Serve: engines, each an ordinary server in a replica, and the front that passes calls on to them.

Ray places and restarts replicas, replaces them one by one when settings change, and adds some when tokens queue. Calls
do not go through its handles or proxies.
"""

import asyncio
import gc
import hashlib
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from server.app import running
from server.config.load import load
from server.config.schema import Settings
from server.fleet.front import fronting
from server.fleet.scaling import replicas_for
from server.telemetry import logs, loops

POLL_SECONDS: Final = 0.5  # between two looks at the replicas
POLL_TIMEOUT_SECONDS: Final = 5.0
UPSCALE_SECONDS: Final = 5.0
DOWNSCALE_SECONDS: Final = 600.0
METRIC: Final = "queued_tokens"
METRIC_SECONDS: Final = 2.0
STOP_SECONDS: Final = 15.0  # beside the server's own delay and grace
HEALTH_SECONDS: Final = 5.0
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Shape:
    """A fleet's size.

    Attributes:
        replicas: at least.
        most: replicas at most.
        threads: that a replica computes with.
        own_caches: whether replicas of a machine have a cache folder each.
        local: whether all are on this machine, and only it reaches them.
    """

    replicas: int
    most: int
    threads: int
    own_caches: bool = False
    local: bool = False


class Engine:
    """A replica: an ordinary server, on an address of its machine."""

    async def __init__(self, settings: Settings, shape: Shape) -> None:  # type: ignore[misc]
        logs.configure(settings.log.level, settings.log.format)
        self._stack = AsyncExitStack()
        own = _of_replica(settings, shape, _name())
        self._server = await self._stack.enter_async_context(running(own))
        self._address = self._server.addresses[0]
        gc.freeze()

    async def where(self) -> tuple[str, str]:
        """Name and address; no address once it stops. Ray may change the name."""
        return _name(), self._address

    async def check_health(self) -> None:
        """Let Ray restart a replica of which something essential has ended."""
        if fault := self._server.fault:
            raise RuntimeError(fault)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `policy` decides by."""
        return {METRIC: self._server.queued_tokens}

    async def __del__(self) -> None:
        """Finish what runs; the front has others answer what comes."""
        self._address = ""
        await self._server.stop()
        await self._stack.aclose()


class Front:
    """The fleet's address."""

    async def __init__(  # type: ignore[misc]
        self, engines: DeploymentHandle, settings: Settings, shape: Shape
    ) -> None:
        logs.configure(settings.log.level, settings.log.format)
        self._engines = engines
        self._settings = settings.server
        self._stack = AsyncExitStack()
        self._front = await self._stack.enter_async_context(fronting(settings, shape.most))
        self._polling = asyncio.create_task(loops.repeat("replicas", self._poll, self._front.metrics))

    async def addresses(self) -> list[str]:
        """Where the fleet answers."""
        return self._front.addresses

    async def check_health(self) -> None:
        """Let Ray restart a front that does not look for replicas any more."""
        if self._polling.done():
            raise RuntimeError("the search for replicas has ended")

    async def __del__(self) -> None:
        self._polling.cancel()
        await self._front.stop(self._settings.drain_delay_seconds, self._settings.stop_grace_seconds)
        await self._stack.aclose()

    async def _poll(self) -> None:
        try:
            asked = self._engines.broadcast("where")
            answers = await asked.results_async(timeout_s=POLL_TIMEOUT_SECONDS, return_exceptions=True)
        except DeploymentUnavailableError:  # there is none
            answers = []
        except (RayError, TimeoutError) as error:  # calls find out by themselves who has left
            loops.report("replicas", error, self._front.metrics)
            await asyncio.sleep(POLL_SECONDS)
            return
        found = [answer for answer in answers if not isinstance(answer, BaseException)]
        await self._front.update((name, address) for name, address in found if address)
        await asyncio.sleep(POLL_SECONDS)


def application(settings: Settings, shape: Shape) -> serve.Application:
    """The fleet as Ray Serve runs it.

    Deployments whose settings are the same as before are left alone by an update; the front is, unless its own are
    changed.
    """
    seconds = settings.server.drain_delay_seconds + settings.server.stop_grace_seconds + STOP_SECONDS
    common: dict[str, Any] = {
        "graceful_shutdown_timeout_s": seconds,
        "graceful_shutdown_wait_loop_s": POLL_SECONDS,
        "health_check_period_s": HEALTH_SECONDS,
        "health_check_timeout_s": 2 * HEALTH_SECONDS,
        "logging_config": {"enable_access_log": False},  # which has the front's questions alone
    }
    scaling: dict[str, Any] = {"num_replicas": shape.replicas}
    if shape.most > shape.replicas:
        scaling = {"autoscaling_config": _autoscaling(shape)}
    engines = serve.deployment(
        Engine, name="Engine", ray_actor_options={"num_cpus": shape.threads}, **common, **scaling
    )
    front = serve.deployment(Front, name="Front", ray_actor_options={"num_cpus": 0}, **common)
    default = Settings()
    own = settings.model_copy(update={name: getattr(default, name) for name in ("models", "compute", "cache")})
    bound = _versioned(engines, settings, shape).bind(settings, shape)
    return _versioned(front, own, shape).bind(bound, own, shape)


def app(args: Mapping[str, str]) -> serve.Application:
    """Build the application for `serve run octavo.ray:app`; arguments are the options of `octavo fleet`."""
    config = args.get("config")
    settings = load(Path(config) if config else None, [], os.environ).settings
    replicas = int(args.get("replicas", 2))
    most = max(replicas, int(args.get("max_replicas", replicas)))
    threads = int(args.get("threads", settings.compute.threads)) or 1
    return application(settings, Shape(replicas, most, threads, args.get("own_caches") == "true"))


def policy(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Ray's autoscaling policy: by the queues of all engines."""
    queued = sum((context.aggregated_metrics.get(METRIC) or {}).values())
    return replicas_for(queued, context.target_num_replicas), {}


def _autoscaling(shape: Shape) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=shape.replicas,
        max_replicas=shape.most,
        policy=AutoscalingPolicy(policy_function=f"{__name__}:{policy.__name__}"),
        upscale_delay_s=UPSCALE_SECONDS,
        downscale_delay_s=DOWNSCALE_SECONDS,
        look_back_period_s=UPSCALE_SECONDS,
        metrics_interval_s=METRIC_SECONDS,
    )


def _versioned(deployment: serve.Deployment, settings: Settings, shape: Shape) -> serve.Deployment:
    """Say what a deployment is; by itself `serve.run` would replace all of an application's.

    Ray keeps this option to itself.
    """
    secret = settings.limits.storage.get_secret_value()
    described = f"{settings.model_dump_json()} {secret} {shape}"
    version = hashlib.blake2b(described.encode(), digest_size=8).hexdigest()
    return deployment.options(version=version, _internal=True)


def _name() -> str:
    """The replica's name, which one that takes its place gets too."""
    return f"engine-{serve.get_replica_context().rank.rank}"


def _of_replica(settings: Settings, shape: Shape, name: str) -> Settings:
    """A replica's settings: the front has the fleet's address, its certificate, and who may call from where."""
    host = LOOPBACK if shape.local else ray.util.get_node_ip_address()
    remote = not shape.local
    server = settings.server.model_copy(
        update={
            "listen": (f"{host}:0",),
            "http_listen": "",
            "tls_certificate": None,
            "tls_key": None,
            "allow_plaintext_remote": remote,
            "allow_plaintext_credentials": remote,
            "allow_anonymous_remote": remote,
        }
    )
    cache = settings.cache
    if shape.own_caches:
        cache = cache.model_copy(update={"dir": cache.dir / name})
    compute = settings.compute.model_copy(update={"threads": shape.threads})
    metrics = settings.metrics
    if metrics.listen:
        metrics = metrics.model_copy(update={"listen": f"{host}:0", "allow_remote": remote})
    return settings.model_copy(update={"server": server, "cache": cache, "compute": compute, "metrics": metrics})
