"""A document's affinity key: what an edit leaves alone, so that the next version goes where the layers lie.

It is the least hash over all windows of the text (MinHash: Broder, On the resemblance and containment of documents,
1997). Two texts have the same key with a probability that is the share of their windows in common. A sentence's edit
touches some thirty of the thousands of windows of a long text. With fewer and longer windows it would touch one in six.
"""

from typing import Final

import numpy as np

from chunking.hashing import window_hashes

WIDTH: Final = 64  # bytes
_SPACE: Final = 0x20
_LEAD_OF_THREE: Final = 0xE0  # bytes of UTF-8


def affinity_key(text: str) -> int:
    """Compute the key of a document's text, from 0 to 2^64 - 1.

    Windows end at each end of a word or line, and at each ideograph, since texts in those have no spaces. A text
    shorter than a window is a window itself.
    """
    data = np.frombuffer(bytes(WIDTH) + text.encode(), np.uint8)
    is_end = (data[:-1] > _SPACE) & (data[1:] <= _SPACE) | (data[1:] >= _LEAD_OF_THREE)
    starts = np.append(np.flatnonzero(is_end[WIDTH:]) + 1, len(data) - WIDTH)
    return int(window_hashes(data, WIDTH, starts).min())
