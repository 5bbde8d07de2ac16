"""What a tokenizer is to the rest of the house: ids with offsets, and the frame that a model expects around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int32]
Offsets: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of one text, without specials.

    Attributes:
        ids: int32 (n,), as the model numbers them.
        starts: int64 (n,), the code point where each token begins in the text that was encoded.
        ends: int64 (n,), where it ends, exclusive. Tokens of one code point share it; a token may be empty.
    """

    ids: Ids
    starts: Offsets
    ends: Offsets

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Self:
        """Return views of a part of the tokens."""
        return type(self)(self.ids[part], self.starts[part], self.ends[part])

    def followed_by(self, others: Self, start: int) -> Self:
        """Return these tokens and those of a text that begins at ``start`` in this one's."""
        return type(self)(
            np.concatenate([self.ids, others.ids]),
            np.concatenate([self.starts, others.starts + start]),
            np.concatenate([self.ends, others.ends + start]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What the model reads around a segment's own tokens: ``[CLS] prefix … [SEP]``."""

    head: Ids
    tail: Ids

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    def around(self, ids: Ids) -> Ids:
        """All ids of a segment that owns ``ids``, in the model's order."""
        return np.concatenate([self.head, ids, self.tail])


class Tokenizer(Protocol):
    """Turns text into the ids of one model. Safe to share between threads; gives up the GIL while it works."""

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the files and settings that decide ids."""

    @property
    def library(self) -> str:
        """Name and version of the library that tokenises, e.g. ``tokenizers 0.22.1``: releases may differ in ids."""

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text: no specials, no truncation; the names of specials in a text are ordinary text.

        Raises:
            TextError: a text has a lone surrogate.
        """

    def frame(self, prefix: str = "") -> Frame:
        """The specials, and the prefix's tokens where they belong. The prefix is tokenised on its own."""


def budget(tokenizer: Tokenizer, positions: int, prefixes: Sequence[str] = ("",)) -> int:
    """Tokens that a segment may own in a model that reads ``positions`` tokens: those less specials and longest prefix.

    All prefixes of a model share one budget, so that query and passage are cut alike. Neighbouring segments do not
    overlap; if they ever do, twice the overlap is taken off here.
    """
    return positions - max(len(tokenizer.frame(prefix)) for prefix in ("", *prefixes))
