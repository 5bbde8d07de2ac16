"""Streams one document through StreamSegments, timed, and checks the order of segments."""

import time
from typing import NamedTuple

from octavo.client import Client
from octavo.client.arguments import CacheModeName

_TIMEOUT = 3600.0


class Streamed(NamedTuple):
    """What a document cost: seconds to its first segment and to its end; MiB at the server's peak, if seen.

    `known` is the share of its tokens that were not computed.
    """

    tokens: int
    first: float
    total: float
    peak: float | None = None
    known: float = 0.0


def stream(client: Client, text: str, cache_mode: CacheModeName = "read_write") -> Streamed:
    """Send one document and read all of its segments.

    Raises:
        ValueError: some of the text did not come back.
    """
    start = time.perf_counter()
    first, covered = 0.0, 0
    with client.stream(text, timeout=_TIMEOUT, cache_mode=cache_mode, resume=False) as segments:
        for result in segments:
            first = first or time.perf_counter() - start
            if result.segment.char_start != covered:
                raise ValueError(f"text is missing before character {result.segment.char_start}")
            covered = result.segment.char_end
        total = time.perf_counter() - start
        if covered != len(text) or segments.summary is None:
            raise ValueError(f"{covered} of {len(text)} characters came back")
        usage = segments.summary.usage
    return Streamed(usage.tokens, first, total, known=usage.cached_tokens / usage.processed_tokens)
