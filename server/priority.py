"""The classes of the queue."""

from enum import Enum


class Priority(Enum):
    """In the order of service; the values are names on the wire and in settings."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


BULK_SHARE = 0.1
"""Of what interactive calls get, while both wait: bulk is slowed, never starved."""
