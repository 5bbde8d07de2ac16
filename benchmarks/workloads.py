"""Real texts as token ids, for engines."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import texts
from benchmarks.peers.protocol import Ids
from chunking import Cutting, Policy, Tokenizer, budget, load_tokenizer, read

DEFAULT_MODEL = "all-MiniLM-L6-v2"
_POSITIONS = 512
_SEED = 8**3
_USUAL_CHARACTERS = 5.13  # a token, on average over all addresses


def document_segments(text: str, tokenizer: Tokenizer, policy: Policy = "content") -> Iterator[Ids]:
    """Cut one document as the server does by default, lazily; the ids of each segment, specials included."""
    cutting = Cutting(policy, budget(tokenizer, _POSITIONS))
    return (segment.ids for step in read(text, tokenizer, cutting) for segment in step)


def content_segments(folder: Path, count: int | None = None, tokens: int | None = None) -> list[Ids]:
    """Take content-defined segments of whole addresses, drawn by a fixed seed, until there are enough."""
    tokenizer = load_tokenizer(folder)
    flow = (ids for text in _addresses() for ids in document_segments(text, tokenizer))
    return _enough(flow, count, tokens)


def full_segments(folder: Path, tokens: int) -> list[Ids]:
    """Take segments of exactly 512 ids from the same texts."""
    tokenizer = load_tokenizer(folder)
    flow = (ids for text in _addresses() for ids in document_segments(text, tokenizer, "fixed"))
    return _enough((ids for ids in flow if len(ids) == _POSITIONS), None, tokens)


def short_texts(folder: Path, count: int, shortest: int, longest: int) -> list[Ids]:
    """Take stretches of the same texts, their lengths (specials included) drawn evenly between the two bounds."""
    tokenizer = load_tokenizer(folder)
    frame, draw = tokenizer.frame(), random.Random(_SEED)
    (stream,) = tokenizer.encode([next(_addresses())])
    made: list[Ids] = []
    start = 0
    for _ in range(count):
        length = draw.randint(shortest, longest) - len(frame)
        made.append(frame.around(stream.ids[start : start + length]))
        start += length
    if start > len(stream):
        raise ValueError(f"the text has {len(stream)} tokens, {start} are needed")
    return made


def with_tokens(lengths: Iterable[int], tokenizer: Tokenizer) -> dict[int, str]:
    """Make texts of exactly so many tokens (without specials) of real words that are one token each."""
    words = sorted({word.lower() for word in next(_addresses()).split() if word.isascii() and word.isalpha()})
    whole = [word for word, tokens in zip(words, tokenizer.encode(words), strict=True) if len(tokens) == 1]
    draw = random.Random(_SEED)
    return {length: " ".join(draw.choices(whole, k=length)) for length in lengths}


def consecutive(sizes: Sequence[int], start: float = 0.0) -> list[str]:
    """Take texts of about so many tokens, one behind the other from a share `start` (0 to 1) of all addresses on.

    Behind the last address comes the first. No two texts share a stretch, so that nothing known of one helps another.

    Raises:
        ValueError: the addresses have not so many tokens.
    """
    whole = "\n\n".join(_addresses())
    begin = whole.index(" ", int(start * len(whole))) + 1 if start else 0
    whole = whole[begin:] + "\n\n" + whole[:begin]
    ends = np.cumsum([int(size * _USUAL_CHARACTERS) for size in sizes])
    if len(ends) and ends[-1] > len(whole):
        raise ValueError(
            f"the addresses have about {len(whole) / _USUAL_CHARACTERS:,.0f} tokens, {sum(sizes):,} needed"
        )
    return [whole[end - int(size * _USUAL_CHARACTERS) : end] for size, end in zip(sizes, ends, strict=True)]


def _addresses() -> Iterator[str]:
    """All addresses in an order that a seed fixes; the first one is long enough for what needs a single text."""
    addresses = sorted(texts.sotu())
    random.Random(_SEED).shuffle(addresses)
    yield from sorted(addresses[:10], key=len, reverse=True)
    yield from addresses[10:]


def _enough(segments: Iterable[Ids], count: int | None, tokens: int | None) -> list[Ids]:
    taken: list[Ids] = []
    for ids in segments:
        taken.append(ids.astype(np.int32, copy=False))
        if len(taken) == count or (tokens is not None and sum(map(len, taken)) >= tokens):
            return taken
    raise ValueError(f"the texts give only {len(taken)} segments")
