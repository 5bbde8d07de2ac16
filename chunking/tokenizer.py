"""The tokenizer interface: ids with offsets, and the special tokens that a model expects around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int32]
Offsets: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of one text, without special tokens.

    Attributes:
        ids: int32 (n,), the model's ids.
        starts: int64 (n,), the code point in the encoded text where each token starts.
        ends: int64 (n,), where it ends, exclusive. Several tokens may share a code point; a token may be empty.
    """

    ids: Ids
    starts: Offsets
    ends: Offsets

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Self:
        """Return a slice of the tokens as views."""
        return type(self)(self.ids[part], self.starts[part], self.ends[part])

    def moved(self, start: int) -> Self:
        """The same tokens, with offsets in a text that contains theirs from code point `start` on."""
        return type(self)(self.ids, self.starts + start, self.ends + start)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The tokens of all parts of a text."""
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.ends for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The ids around a segment's owned tokens: `[CLS] prefix … [SEP]`, or a pair's `[CLS] first text [SEP] … [SEP]`.

    Attributes:
        typed: the model reads all tokens after `head` as token type 1.
    """

    head: Ids
    tail: Ids
    typed: bool = False

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    def around(self, ids: Ids) -> Ids:
        """All ids that the model reads for a segment that owns `ids`."""
        return np.concatenate([self.head, ids, self.tail])


class Tokenizer(Protocol):
    """Converts text to the ids of one model. Thread-safe; releases the GIL while it works."""

    @property
    def digest(self) -> str:
        """Hex digest of the files and settings that determine ids."""

    @property
    def library(self) -> str:
        """Name and version of the tokenizing library, such as `tokenizers 0.22.1`; ids may differ between versions."""

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise each text without special tokens or truncation. Names of special tokens in a text are ordinary text.

        Raises:
            TextError: a text has a lone surrogate.
        """

    def frame(self, prefix: str = "") -> Frame:
        """The special tokens and the prefix's tokens. The prefix is tokenised separately."""

    def pair_frame(self, first: str) -> Frame:
        """What surrounds the second text of a pair. The first one is tokenised separately."""

    def continues_word(self, ids: Ids, starts: Offsets, text: str) -> NDArray[np.bool_]:
        """Whether each token of a text, which starts at that code point, belongs to the word of the one before it."""

    def decode(self, ids: Sequence[int]) -> str:
        """About the text that ids of the vocabulary stand for; special tokens have none."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """The tokens' own texts by id, with the tokenizer's marks such as "##"."""


def follows_no_space(starts: Offsets, text: str) -> NDArray[np.bool_]:
    """Whether there is no white space before each start and at it: where words are told apart by that alone."""
    edges = ((text[start - 1], text[start]) if 0 < start < len(text) else (" ", " ") for start in starts.tolist())
    return np.fromiter((not (a.isspace() or b.isspace()) for a, b in edges), np.bool_, len(starts))


def budget(tokenizer: Tokenizer, positions: int, prefixes: Sequence[str] = ("",)) -> int:
    """Maximum tokens that a segment may own: `positions` minus special tokens and the longest prefix.

    All prefixes of a model share one budget, so that queries and passages are cut alike.
    """
    return positions - max(len(tokenizer.frame(prefix)) for prefix in ("", *prefixes))
