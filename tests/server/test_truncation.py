"""Truncation keeps as many tokens as it may, of either end, and is bounded in memory."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunking import Cutting, Tokenizer, load_tokenizer, read
from server.config.folders import cache_home
from server.inference.truncation import Keep, truncated
from tests.server.helpers import E5, MINILM, prose

MOST = 40
PIECES = st.sampled_from(
    [
        "word ",
        "counterrevolution ",
        "\n\n",
        "漢字かな",
        "é",
        "e\u0301",
        "\ufdfa",
        "👩‍👩‍👧 ",
        "x" * 50,
        " " * 3_000,
        "المنارة ",
        "[SEP]",
    ]
)


@cache
def tokenizer(name: str) -> Tokenizer:
    folder: Path = cache_home() / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not installed; `make setup` fetches it")
    return load_tokenizer(folder)


def count(text: str, name: str) -> int:
    """Tokens, as a document's are counted."""
    cutting = Cutting("fixed", 510, 1)
    return sum(segment.tokens for step in read(text, tokenizer(name), cutting) for segment in step)


@pytest.mark.parametrize("name", [MINILM, E5])
@pytest.mark.parametrize("keep", ["first", "last"])
@given(pieces=st.lists(PIECES, max_size=60), repeat=st.sampled_from([1, 1, 1, 30]))
@settings(max_examples=60, deadline=None)
def test_a_text_is_kept_as_far_as_it_may(name: str, keep: Keep, pieces: list[str], repeat: int) -> None:
    text = "".join(pieces) * repeat
    kept = truncated(text, tokenizer(name), MOST, keep)
    assert text.startswith(kept) if keep == "first" else text.endswith(kept)
    if count(text, name) <= MOST:
        assert kept == text
    else:
        assert MOST // 2 < count(kept, name) <= MOST


@pytest.mark.parametrize("name", [MINILM, E5])
@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("tokens", [MOST, MOST + 1, 5_000, 60_000])
def test_of_plain_words_exactly_so_many_are_kept(name: str, keep: Keep, tokens: int) -> None:
    text = prose(tokens)
    kept = truncated(text, tokenizer(name), MOST, keep)
    assert count(kept, name) == min(MOST, count(text, name))
