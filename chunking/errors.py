"""The package's exceptions.

    ChunkingError (ValueError)
    ├── CuttingError     an invalid field of `Cutting`; `field` names it
    ├── OffsetError      a position outside the text, inside a code point, or out of order
    ├── TextError        invalid Unicode: a lone surrogate
    └── TokenizerError   a folder without a readable tokenizer

No message contains any part of a text.
"""


class ChunkingError(ValueError):
    """Base of all errors of this package."""


class CuttingError(ChunkingError):
    """An invalid field of `Cutting`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field


class OffsetError(ChunkingError):
    """A position outside the text, inside a code point, or before an already converted one."""


class TextError(ChunkingError):
    """A string that UTF-8 cannot encode."""

    def __init__(self, position: int) -> None:
        super().__init__(f"lone surrogate at code point {position}")
        self.position = position


class TokenizerError(ChunkingError):
    """A folder without a readable tokenizer; the message names the file."""
