"""Opens the layer cache's store and the deployment's secret from the settings. Does not import torch."""

import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from cache import CacheError, KeyMaker, Store, is_cache, load_secret
from cache import CacheSettings as StoreSettings
from server.config.folders import xdg_folder
from server.config.schema import CacheSettings
from server.errors import StartError

log = structlog.get_logger(__name__)


def default_secret_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return `$XDG_STATE_HOME/octavo/secret`, by default below `~/.local/state`."""
    return xdg_folder("XDG_STATE_HOME", ".local/state", environ) / "octavo" / "secret"


def secret(settings: CacheSettings, *, create: bool = True) -> bytes:
    """Return the deployment's secret, created on the first start.

    Raises:
        StartError: it cannot be used.
    """
    try:
        return load_secret(settings.secret_file or default_secret_path(), settings.dir, create=create)
    except CacheError as error:
        raise StartError(str(error)) from error


def open_existing_store(settings: CacheSettings) -> Store:
    """Open a store for a command that inspects it: creates neither a folder nor a secret.

    Raises:
        StartError: there is no cache in the folder, or `open_store` would refuse it.
    """
    if not is_cache(settings.dir):
        raise StartError(f"there is no cache in {settings.dir}")
    return open_store(settings, create_secret=False)


def open_store(settings: CacheSettings, *, create_secret: bool = True) -> Store:
    """Open the layer cache's store. Faults of the disk are reported by a metric and, once a kind, by a log line.

    Raises:
        StartError: the folder is not a cache, not safe from other users, or in use under other settings.
    """
    keys = KeyMaker(secret(settings, create=create_secret))
    try:
        return Store(
            StoreSettings(
                folder=settings.dir,
                size_limit=settings.size_limit_bytes,
                min_free_bytes=settings.min_free_bytes,
                time_to_live=settings.time_to_live_seconds,
                memory_bytes=settings.memory_bytes,
            ),
            keys,
            on_fault=lambda fault, detail: log.warning("cache fault", fault=str(fault), detail=detail),
        )
    except CacheError as error:
        raise StartError(f"cache: {error}") from error
