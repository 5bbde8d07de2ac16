"""Cuts a text to a number of tokens, for callers who ask for it. Nothing else does."""

from typing import Literal

from chunking import Tokenizer

CHARACTERS_A_TOKEN = 8  # more than most texts have

Direction = Literal["Left", "Right"]


def truncated(text: str, most: int, tokenizer: Tokenizer, direction: Direction = "Right") -> tuple[str, int]:
    """The part of a text with its first or last `most` tokens, and how many characters were left out.

    Only as much of the text is tokenised as it takes.
    """
    kept = _longest(text, most, tokenizer, direction)
    while kept and len(tokenizer.encode([kept])[0]) > most:  # a piece at the cut is written with more tokens by itself
        kept = _shorter(kept, tokenizer, direction)
    return kept, len(text) - len(kept)


def _longest(text: str, most: int, tokenizer: Tokenizer, direction: Direction) -> str:
    length = most * CHARACTERS_A_TOKEN
    while True:
        part = text[:length] if direction == "Right" else text[max(0, len(text) - length) :]
        tokens = tokenizer.encode([part])[0]
        if len(tokens) > most:
            return part[: tokens.ends[most - 1]] if direction == "Right" else part[tokens.starts[len(tokens) - most] :]
        if len(part) == len(text):
            return text
        length *= 2


def _shorter(text: str, tokenizer: Tokenizer, direction: Direction) -> str:
    """A text without its last or first token."""
    tokens = tokenizer.encode([text])[0]
    if direction == "Right":
        return text[: min(int(tokens.starts[-1]), len(text) - 1)]
    return text[max(int(tokens.ends[0]), 1) :]
