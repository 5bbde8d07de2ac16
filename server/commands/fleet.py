"""`octavo fleet`."""

import os
import signal
import socket
from typing import Any, Final

import click

from octavo.cli.exits import complain
from server.commands.options import FAILURE, configuration, fail, settings_options
from server.config.schema import Settings
from server.errors import StartError
from server.telemetry import logs

APPLICATION: Final = "octavo"


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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 - an extra
        from ray import serve  # noqa: PLC0415
    except ImportError:
        fail(FAILURE, "octavo fleet needs Ray: pip install 'octavo[ray]'")
    from encoder.threads import usable_cores  # noqa: PLC0415
    from server.fleet.deployments import Shape, application  # noqa: PLC0415
    from server.inference.loading import check_model  # noqa: PLC0415
    from server.rpc.listener import check_listen, credentials_of  # noqa: PLC0415

    most = max(replicas, max_replicas or replicas)
    share = threads or settings.compute.threads or max(1, usable_cores() // most)
    address = os.environ.get("RAY_ADDRESS", "local")
    shape = Shape(replicas, most, share, own_caches, local=address == "local")

    def run(settings: Settings) -> Any:
        for model in settings.models:
            check_model(model)
        credentials_of(settings.server.tls_certificate, settings.server.tls_key)
        return serve.run(application(settings, shape), name=APPLICATION, route_prefix=None)

    signals, writer = socket.socketpair()
    writer.setblocking(False)
    ray.init(address, include_dashboard=False if shape.local else None)
    # A signal that one of Ray's threads takes does not end a wait of this one; a byte in this socket does.
    signal.set_wakeup_fd(writer.fileno())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        serve.start(proxy_location="Disabled")
        if shape.local:
            check_listen(settings.server.listen)
        print("ready", *run(settings).addresses.remote().result(), flush=True)
        while signals.recv(1)[0] == signal.SIGHUP:
            try:
                run(configuration(**options).settings)
                print("changed", flush=True)
            except (SystemExit, StartError, RuntimeError) as error:  # the fleet goes on as far as it can
                if not isinstance(error, SystemExit):  # which has said it
                    complain(f"not changed: {error}")
    except (StartError, RuntimeError) as error:
        fail(FAILURE, str(error))
    finally:
        serve.shutdown()
        ray.shutdown()
