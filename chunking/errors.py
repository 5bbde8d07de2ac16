"""What can be wrong with a text, a cutting or a tokenizer's folder.

    ChunkingError (ValueError)
    ├── CuttingError     a setting of the cutting; ``field`` names it
    ├── OffsetError      a position that the text does not have, or that lies inside a code point
    ├── TextError        not Unicode: a lone surrogate
    └── TokenizerError   a folder without a tokenizer that can be read

No message holds any part of a text.
"""


class ChunkingError(ValueError):
    """Base of all errors of this package."""


class CuttingError(ChunkingError):
    """A setting of the cutting that cannot be served."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field


class OffsetError(ChunkingError):
    """A position outside the text, inside a code point, or before one that was asked for already."""


class TextError(ChunkingError):
    """A string that UTF-8 cannot express."""

    def __init__(self, position: int) -> None:
        super().__init__(f"lone surrogate at code point {position}")
        self.position = position


class TokenizerError(ChunkingError):
    """A folder without a tokenizer that can be read; the message names the file."""
