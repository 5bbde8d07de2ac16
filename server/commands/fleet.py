"""`octavo fleet`."""

import os
import queue
import signal
from contextlib import suppress
from typing import Any, Final

import click

from server.commands.options import FAILURE, configuration, fail, settings_options
from server.telemetry import logs

APPLICATION: Final = "octavo"
METRIC_SECONDS: Final = "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"


@click.command()
@settings_options
@click.option("--replicas", type=click.IntRange(1), default=2, show_default=True, help="Engines, at least.")
@click.option("--max-replicas", type=click.IntRange(1), help="Engines at most: more are started when tokens queue.")
@click.option("--threads", type=click.IntRange(1), help="Cores of an engine. [default: compute.threads, or a share]")
@click.option("--own-caches", is_flag=True, help="Give each engine of a machine a cache folder of its own.")
def fleet(replicas: int, max_replicas: int | None, threads: int | None, own_caches: bool, **options: Any) -> None:
    r"""Serve with several engines on Ray until SIGTERM or Ctrl-C.

    Needs the extra octavo[ray]. Joins the cluster of RAY_ADDRESS, else starts one on this machine. Settings are those
    of "octavo serve"; on SIGHUP they are read again, and engines are replaced one by one.

    \b
    octavo fleet --config octavo.toml --replicas 2
    RAY_ADDRESS=auto octavo fleet --config octavo.toml --replicas 8 --max-replicas 32 --threads 8

    Prints one line "ready ADDRESS..." on standard output once it is ready. Exits with 0 after a clean stop, 1 if it
    cannot start, 2 if the settings are wrong.
    """
    settings = configuration(**options).settings
    logs.configure(settings.log.level, settings.log.format)
    try:
        import ray  # noqa: PLC0415 - an extra
        from ray import serve  # noqa: PLC0415
    except ImportError:
        fail(FAILURE, "octavo fleet needs Ray: pip install 'octavo[ray]'")
    from encoder.threads import usable_cores  # noqa: PLC0415
    from server.fleet.deployments import Shape, application  # noqa: PLC0415

    most = max(replicas, max_replicas or replicas)
    share = threads or settings.compute.threads or max(1, usable_cores() // most)
    address = os.environ.get("RAY_ADDRESS", "local")
    shape = Shape(replicas, most, share, own_caches, local=address == "local")
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    os.environ.setdefault(METRIC_SECONDS, "2")
    ray.init(address, include_dashboard=False if shape.local else None)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.put(number))
    try:
        serve.start(proxy_location="Disabled")
        run = lambda: serve.run(application(settings, shape), name=APPLICATION, route_prefix=None)  # noqa: E731
        addresses = run().addresses.remote().result()
        print("ready", *addresses, flush=True)
        while signals.get() == signal.SIGHUP:
            with suppress(SystemExit):  # the errors are printed, and the fleet stays as it is
                settings = configuration(**options).settings
                run()
                print("changed", flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()
