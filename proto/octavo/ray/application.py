"""The application of `serve run octavo.ray:app`, which comes from the server's wheel."""

from importlib.metadata import entry_points
from typing import Any


def app(args: dict[str, str]) -> Any:
    """Build a fleet for Ray Serve.

    Args:
        args: `config`, a settings file; `replicas`, `max_replicas`, `threads`, `own_caches`, as of `octavo fleet`.
    """
    (found,) = entry_points(group="octavo.ray", name="app")
    return found.load()(args)
