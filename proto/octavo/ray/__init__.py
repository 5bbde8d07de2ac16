"""Octavo on Ray: `app` for Ray Serve (docs/fleet.md). Needs the extra: pip install 'octavo[ray]'."""

from octavo.ray.application import app

__all__ = ["app"]
