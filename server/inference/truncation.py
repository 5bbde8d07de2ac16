"""Truncation, for callers who ask for it: the first or the last tokens of a text."""

from collections.abc import Iterable
from typing import Literal

from chunking import Region, Tokenizer, regions

Keep = Literal["first", "last"]


def truncated(text: str, tokenizer: Tokenizer, most: int, keep: Keep) -> str:
    """The longest beginning or end of a text that has at most `most` tokens and starts or ends between two of them."""
    edges = _edges(text, tokenizer, most, keep)
    if len(edges) <= most:
        return text
    count = most
    while count > 0:
        kept = text[: edges[count - 1]] if keep == "first" else text[edges[count - 1] :]
        excess = _count(kept, tokenizer) - most  # cut in the middle of a word, its tokens can become more
        if excess <= 0:
            return kept
        count -= excess
    return ""


def _edges(text: str, tokenizer: Tokenizer, most: int, keep: Keep) -> list[int]:
    """The outer edge of each token, from the kept side on, of all tokens or of more than `most`."""
    edges: list[int] = []
    coming: Iterable[Region] = regions(text) if keep == "first" else reversed(list(regions(text)))
    for region in coming:
        (tokens,) = tokenizer.encode([region.text])
        of_region = tokens.ends if keep == "first" else tokens.starts[::-1]
        edges += (of_region + region.start).tolist()
        if len(edges) > most:
            break
    return edges


def _count(text: str, tokenizer: Tokenizer) -> int:
    return sum(len(tokenizer.encode([region.text])[0]) for region in regions(text))
