"""Octavo on Ray: `serve run octavo.ray:app` serves a fleet. Needs the extra `octavo[ray]`.

The application comes from the server's wheel, which names it as an entry point.
"""

from importlib.metadata import entry_points
from typing import Any


def app(args: dict[str, str]) -> Any:
    """Build the application of Ray Serve.

    Args:
        args: `config`, a settings file; `replicas`, `max_replicas`, `threads`, `own_caches`, as of `octavo fleet`.
    """
    (found,) = entry_points(group="octavo.ray", name="app")
    return found.load()(args)
