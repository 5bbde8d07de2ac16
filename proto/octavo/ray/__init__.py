"""Octavo on Ray: `embed` for Ray Data; docs/batch.md. Needs the extra: pip install 'octavo[ray]'."""

from octavo.batch.dataset import embed

__all__ = ["embed"]
