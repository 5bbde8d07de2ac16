"""The classes of the queue."""

from enum import Enum


class Priority(Enum):
    """Interactive segments go before all bulk ones; the values are names on the wire and in settings."""

    INTERACTIVE = "interactive"
    BULK = "bulk"
