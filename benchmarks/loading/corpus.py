"""Documents of 1 to 20 segments that never repeat: sentences of real speeches in random order."""

import random
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.texts import sotu
from chunking import Cutting, budget, load_tokenizer, read

MOST_SEGMENTS, MEAN_SEGMENTS = 20, 8.0
_ADDRESSES = 60  # enough sentences, 20,000, that no segment comes twice
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SHORTEST, _LONGEST = 20, 400  # characters of a sentence
_POSITIONS = 512
_SAMPLE_TOKENS = 60_000


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and its tokens without specials."""

    text: str
    tokens: int


class Corpus:
    """Draws documents; all of them follow from the seed.

    Attributes:
        segment_tokens: mean tokens that a segment of such a document owns, as the model cuts by default.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._draw = random.Random(seed)
        tokenizer = load_tokenizer(folder)
        addresses = self._draw.sample(sotu(), _ADDRESSES)
        sentences = [" ".join(each.split()) for text in addresses for each in _SENTENCE_END.split(text)]
        sentences = [each for each in sentences if _SHORTEST <= len(each) <= _LONGEST]
        self._sentences = [
            Document(*each) for each in zip(sentences, map(len, tokenizer.encode(sentences)), strict=True)
        ]
        sample = self.text_of(_SAMPLE_TOKENS)
        cuts = read(sample.text, tokenizer, Cutting(max_tokens=budget(tokenizer, _POSITIONS)))
        self.segment_tokens = sample.tokens / sum(map(len, cuts))

    def text_of(self, tokens: float) -> Document:
        """Lay sentences end to end until there are so many tokens."""
        taken: list[str] = []
        count = 0
        while count < tokens:
            sentence = self._draw.choice(self._sentences)
            taken.append(sentence.text)
            count += sentence.tokens
        return Document(" ".join(taken), count)

    def document(self, segments: int) -> Document:
        """Make a document of about so many segments; one of them is always one."""
        return self.text_of((segments - 0.5) * self.segment_tokens)

    def documents(self, count: int) -> list[Document]:
        """Make documents of 1 to 20 segments, 8 on average."""
        return [self.document(segments) for segments in draw_segments(count, self._draw)]


def draw_segments(count: int, draw: random.Random) -> list[int]:
    """Draw how many segments documents have."""
    return draw.choices(range(1, MOST_SEGMENTS + 1), segment_weights(), k=count)


def segment_weights(most: int = MOST_SEGMENTS, mean: float = MEAN_SEGMENTS) -> list[float]:
    """Weigh 1 to `most` by powers of a ratio, so that they have this `mean`: many short documents, few long ones.

    Of all distributions with this range and mean it assumes least (Jaynes, 1957: the one of largest entropy).
    """
    low, high = 0.0, 1e3
    weights: list[float] = []
    for _ in range(100):  # halvings
        ratio = (low + high) / 2
        weights = [ratio**i for i in range(most)]
        if sum((i + 1) * weight for i, weight in enumerate(weights)) < mean * sum(weights):
            low = ratio
        else:
            high = ratio
    return weights
