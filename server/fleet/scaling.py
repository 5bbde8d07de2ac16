"""How many replicas a fleet should have."""

import math
from typing import Final

QUEUED_TOKENS: Final = 30_000.0  # of a replica, six seconds of computing on two cores; more ask for another replica


def replicas_for(queued_tokens: float, replicas: int) -> int:
    """The number that the queues of so many replicas ask for. A queue that is not empty keeps what there is."""
    if queued_tokens > QUEUED_TOKENS * replicas:
        return math.ceil(queued_tokens / QUEUED_TOKENS)
    return replicas if queued_tokens else replicas - 1
