"""`octavo serve`."""

import gc
import os
from typing import Any

import click

from octavo.cli.interrupts import ending_at_once
from server.commands.options import FAILURE, configuration, fail, settings_options
from server.config.schema import Settings
from server.errors import StartError
from server.telemetry import logs


@click.command()
@settings_options
def serve(**options: Any) -> None:
    r"""Serve models over gRPC until SIGTERM or Ctrl-C.

    Prints one line "ready ADDRESS..." on standard output once it is ready; logs go to standard error. Settings come
    from options, OCTAVO_... variables, a TOML file and defaults, in this order: see "octavo config show".

    \b
    octavo serve                                     all-MiniLM-L6-v2 on 127.0.0.1:50051
    octavo serve --listen unix:/run/octavo/socket --model ./my-model
    octavo serve --listen 127.0.0.1:0 --set log.level=debug

    Exits with 0 after a clean stop, 1 if it cannot start, 2 if the settings are wrong, 130 or 143 if a signal stops it
    while models load.
    """
    with ending_at_once():  # while modules are imported; then the server handles signals
        _serve(configuration(**options).settings)


def _serve(settings: Settings) -> None:
    logs.configure(settings.log.level, settings.log.format)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core bypasses logging, and we report its errors ourselves
    gc.disable()  # until all is loaded, since it stays: collections take a fifth of the time that importing torch does
    from server import app  # noqa: PLC0415 - the rest of the server

    try:
        app.serve(settings)
    except StartError as error:
        fail(FAILURE, str(error))
