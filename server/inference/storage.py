"""The layer cache's store and the deployment's secret, as the settings say; without torch, for commands."""

import structlog

from cache import CacheError, Store, default_secret_path, load_secret
from cache import CacheSettings as StoreSettings
from server.config.schema import CacheSettings
from server.errors import StartError

log = structlog.get_logger(__name__)


def secret(settings: CacheSettings) -> bytes:
    """The deployment's secret, made on the first start.

    Raises:
        StartError: it cannot be used.
    """
    try:
        return load_secret(settings.secret_file or default_secret_path(), settings.dir)
    except CacheError as error:
        raise StartError(str(error)) from error


def open_store(settings: CacheSettings) -> Store:
    """The layer cache's store. A disk that fails later is told by a metric and one log line.

    Raises:
        StartError: the folder is another's, or in use under other settings.
    """
    try:
        return Store.open(
            StoreSettings(
                folder=settings.dir,
                size_limit=settings.size_limit_bytes,
                min_free_bytes=settings.min_free_bytes,
                time_to_live=settings.time_to_live_seconds,
                memory_bytes=settings.memory_bytes,
            ),
            on_fault=lambda fault, detail: log.warning("cache fault", fault=str(fault), detail=detail),
        )
    except CacheError as error:
        raise StartError(f"cache: {error}") from error
