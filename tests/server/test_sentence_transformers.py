"""The vectors are those of sentence-transformers, as far as it reads; beyond that they are what the contract states."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo.v1 import inference_pb2 as pb
from server.config.folders import cache_home
from tests.server.helpers import E5, MINILM, WORDS, Server, analyze, array, prose, task

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LENGTHS = [1, 2, 3, 17, 100, 255, 256, 400, 509, 510]
CLOSE = 1e-5


@cache
def peer(name: str) -> "SentenceTransformer":
    """sentence-transformers with the model's folder; told to read 512 tokens, where the folder advises 256."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(cache_home() / "models" / name), device="cpu", local_files_only=True)
    model.max_seq_length = 512
    return model


def theirs(name: str, texts: Sequence[str], *, normalized: bool = True) -> NDArray[Any]:
    """Their vectors, one text at a time: no padding beside it."""
    from sentence_transformers import SentenceTransformer

    model = peer(name)
    if not normalized:
        model = SentenceTransformer(modules=list(model)[:2], device="cpu")  # transformer and pooling alone
    return np.concatenate([model.encode([text], convert_to_numpy=True) for text in texts])


def words(count: int) -> str:
    """A text of so many tokens."""
    return " ".join(WORDS[i * i % len(WORDS)] for i in range(count))


def ours(server: Server, text: str, **options: Any) -> pb.AnalyzeResponse:
    wanted = task(return_segment_vectors=True)
    return analyze(server, text, wanted, **options)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_a_segment_s_vector_equals_theirs(server: Server, tokens: int) -> None:
    text = words(tokens)
    response = ours(server, text, model=MINILM)
    assert [info.tokens for info in response.segments] == [tokens]
    embedding = response.results[0].embed
    (expected,) = theirs(MINILM, [text])
    assert np.linalg.norm(expected) == pytest.approx(1, abs=1e-5)
    assert np.abs(array(embedding.segment_vectors)[0] - expected).max() <= CLOSE
    assert np.abs(array(embedding.document_vector) - expected).max() <= CLOSE


def test_real_punctuation_case_and_accents_make_no_difference(server: Server) -> None:
    text = (
        "Dr. Ångström's \"naïve\" café—re-opened (at 7:45 p.m.)! \U0001f600 日本 e\u0301 it's state-of-the-art: a-b.org"
    )
    embedding = ours(server, text, model=MINILM).results[0].embed
    assert np.abs(array(embedding.document_vector) - theirs(MINILM, [text])[0]).max() <= CLOSE


def test_the_document_s_vector_is_the_stated_mean_of_what_they_make_of_its_segments(server: Server) -> None:
    text = prose(1300, seed=1)
    response = ours(server, text, model=MINILM)
    assert len(response.segments) >= 3
    parts = [text[info.span.start : info.span.end] for info in response.segments]
    raw = theirs(MINILM, parts, normalized=False).astype(np.float64)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1  # else it would not matter which vectors are averaged

    embedding = response.results[0].embed
    assert np.abs(array(embedding.segment_vectors) - raw / lengths).max() <= CLOSE
    mean = np.average(raw, axis=0, weights=[info.tokens for info in response.segments])
    assert np.abs(array(embedding.document_vector) - mean / np.linalg.norm(mean)).max() <= CLOSE


@pytest.mark.parametrize(
    ("input_type", "prefix"),
    [(pb.INPUT_TYPE_QUERY, "query: "), (pb.INPUT_TYPE_PASSAGE, "passage: "), (pb.INPUT_TYPE_UNSPECIFIED, "")],
    ids=["query", "passage", "none"],
)
@pytest.mark.parametrize("text", [words(60), "Où est la bibliothèque ? Está cerca."], ids=["english", "romance"])
def test_an_input_type_puts_the_model_s_prefix_before_the_text(
    server: Server, input_type: pb.InputType, prefix: str, text: str
) -> None:
    embedding = ours(server, text, model=E5, input_type=input_type).results[0].embed
    assert np.abs(array(embedding.document_vector) - theirs(E5, [prefix + text])[0]).max() <= CLOSE


def test_every_segment_of_a_long_document_has_the_prefix(server: Server) -> None:
    text = prose(700, seed=2)
    response = ours(server, text, model=E5, input_type=pb.INPUT_TYPE_PASSAGE)
    assert len(response.segments) == 2
    extra = {info.processed_tokens - info.tokens for info in response.segments}
    plain = {info.processed_tokens - info.tokens for info in ours(server, text, model=E5).segments}
    assert plain == {2}
    assert min(extra) > 2
    assert len(extra) == 1
