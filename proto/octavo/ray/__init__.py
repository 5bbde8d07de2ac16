"""Octavo on Ray; needs the extra: pip install 'octavo[ray]'.

`app` is the application of Ray Serve (docs/fleet.md), `embed` works on datasets of Ray Data (docs/batch.md).
"""

from octavo.batch.dataset import embed
from octavo.ray.application import app

__all__ = ["app", "embed"]
