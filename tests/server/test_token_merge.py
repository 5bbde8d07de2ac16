"""Entities, redacted texts and labels do not depend on where a document is cut."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from chunking import Segment
from server.inference.tasks import ClassifyTask, ClassifyTokensTask, EmbedSparseTask, Redaction, RedactTask
from server.inference.tasks.task import Parts
from server.inference.tasks.tokens import Aggregation, Entities, entity_labels
from server.types import Trained

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
HEAD = Trained("head")
WIDTH = 3  # code points of a token; pieces of a word are not separated


class Entity(NamedTuple):
    start: int
    end: int
    label: str
    score: float
    segment: int


def listed(found: Entities) -> list[Entity]:
    spans = [tuple(span) for span in found.spans.tolist()]
    rest = zip(spans, found.labels, found.scores.tolist(), found.segments.tolist(), strict=True)
    return [Entity(*span, *others) for span, *others in rest]


class Pieces:
    """A tokenizer that says which ids continue a word: the odd ones."""

    digest, library, vocabulary = "", "", ()

    def encode(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError

    def frame(self, prefix: str = "") -> Any:
        raise NotImplementedError

    def pair_frame(self, first: str) -> Any:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def continues_word(self, ids: NDArray[np.int32], starts: NDArray[np.int64], text: str) -> NDArray[np.bool_]:
        odd: NDArray[np.bool_] = ids % 2 == 1
        return odd


def task(aggregation: Aggregation = "max", **fields: Any) -> ClassifyTokensTask:
    return ClassifyTokensTask("", HEAD, LABELS, Pieces(), aggregation, **fields)


def document(pieces: Sequence[tuple[str, bool]]) -> tuple[str, Segment, NDArray[np.float32]]:
    """A text, as one segment, whose pieces have these labels; True continues the word before."""
    text, starts = "", []
    for i, (_, joined) in enumerate(pieces):
        text += "" if joined or not text else " "
        starts.append(len(text))
        text += "abcdefgh"[i % 8] * WIDTH
    ids = np.array([2 * i + joined for i, (_, joined) in enumerate(pieces)], np.int32)
    begins = np.array(starts, np.int64)
    segment = Segment(0, 0, len(text), np.array([0, *ids, 0], np.int32), slice(1, 1 + len(ids)), begins, begins + WIDTH)
    logits = np.zeros((len(ids) + 2, len(LABELS)), np.float32)
    for i, (label, _) in enumerate(pieces):
        logits[i + 1, LABELS.index(label)] = 3 + 0.1 * (i % 5)
    return text, segment, logits


def cut(segment: Segment, places: Sequence[int]) -> list[tuple[Segment, slice]]:
    """The segment's tokens as several segments, and where each has its rows."""
    bounds = [0, *sorted(set(places)), segment.tokens]
    parts = []
    for index, (first, last) in enumerate((a, b) for a, b in pairwise(bounds) if a < b):
        end = segment.end if last == segment.tokens else int(segment.token_starts[last])
        start = 0 if first == 0 else int(segment.token_starts[first])
        ids = segment.ids[[0, *range(1 + first, 1 + last), 0]]
        starts, ends = segment.token_starts[first:last], segment.token_ends[first:last]
        parts.append(
            (Segment(index, start, end, ids, slice(1, 1 + last - first), starts, ends), slice(first, last + 2))
        )
    return parts


def found(
    wanted: ClassifyTokensTask, text: str, segment: Segment, logits: NDArray[np.float32], places: Sequence[int] = ()
) -> list[Entity]:
    whole, flowing = wanted.merge(text, stream=False), wanted.merge(text, stream=True)
    sent: list[Entity] = []
    for part, rows in cut(segment, places):
        parts: Parts = {HEAD: logits[rows]}
        whole.add(part, parts)
        flowing.add(part, parts)
        sent += listed(flowing.of_segment(parts))
    answer, rest = whole.result(), flowing.result()
    assert answer is not None
    assert rest is not None
    assert not len(rest)
    assert sent == listed(answer), "a stream's entities come once each"
    return sent


def strip(entities: Sequence[Entity]) -> list[tuple[int, int, str, Any]]:
    return [(each.start, each.end, each.label, pytest.approx(each.score)) for each in entities]


def masks_of(redacted: Redaction) -> list[str]:
    return [redacted.text[start:end] for start, end in redacted.masks]


def pieces_of(labels: Sequence[str]) -> st.SearchStrategy[list[tuple[str, bool]]]:
    """Pieces of words with these labels; the first one begins a word."""
    pieces = st.lists(st.tuples(st.sampled_from(labels), st.booleans()), min_size=1, max_size=40)
    return pieces.map(lambda pieces: [(pieces[0][0], False), *pieces[1:]])


CUTS = st.lists(st.integers(1, 39), max_size=39)  # more segments than are taken in at a time


@given(
    pieces=pieces_of(["O", "I-PER", "I-LOC"]),
    places=CUTS,
    aggregation=st.sampled_from(["simple", "first", "average", "max"]),
)
def test_entities_do_not_depend_on_where_the_document_is_cut(
    pieces: list[tuple[str, bool]], places: list[int], aggregation: Aggregation
) -> None:
    text, segment, logits = document(pieces)
    places = [place for place in places if place < len(pieces)]
    parts = found(task(aggregation), text, segment, logits, places)
    assert strip(parts) == strip(found(task(aggregation), text, segment, logits))
    edges = [part.start for part, _ in cut(segment, places)]
    for each in parts:
        assert edges[each.segment] <= each.start < [*edges[1:], len(text)][each.segment]


@given(pieces=pieces_of(LABELS), places=CUTS)
def test_a_redacted_text_is_the_text_with_masks_and_maps_back(
    pieces: list[tuple[str, bool]], places: list[int]
) -> None:
    text, segment, logits = document(pieces)
    places = [place for place in places if place < len(pieces)]
    entities = found(task(), text, segment, logits, places)
    expected = text
    for each in reversed(entities):
        expected = expected[: each.start] + f"<{each.label}>" + expected[each.end :]
    wanted = RedactTask(task(), "<{label}>")
    whole, flowing = wanted.merge(text, stream=False), wanted.merge(text, stream=True)
    pieces_of_text = []
    for part, rows in cut(segment, places):
        whole.add(part, {HEAD: logits[rows]})
        flowing.add(part, {HEAD: logits[rows]})
        piece = flowing.of_segment({})
        pieces_of_text.append(piece.text)
        assert masks_of(piece) == [f"<{label}>" for label in piece.entities.labels]
    assert "".join(pieces_of_text) == expected
    answer = whole.result()
    assert answer is not None
    assert answer.text == expected
    assert strip(listed(answer.entities)) == strip(entities)
    assert masks_of(answer) == [f"<{each.label}>" for each in entities]


def test_a_word_is_never_split_but_by_simple_aggregation() -> None:
    text, segment, logits = document([("O", False), ("B-PER", False), ("O", True), ("I-PER", True), ("O", False)])
    for aggregation in ("first", "average", "max"):
        (entity,) = found(task(aggregation), text, segment, logits)
        assert text[entity.start : entity.end] == text.split()[1]
    assert [text[e.start : e.end] for e in found(task("simple"), text, segment, logits)] == ["bbb", "ddd"]


def test_at_a_segment_s_edge_an_entity_goes_on() -> None:
    text, segment, logits = document([("B-PER", False), ("B-PER", False), ("B-LOC", False)])
    assert [e.label for e in found(task(), text, segment, logits)] == ["PER", "PER", "LOC"]
    (person, place) = found(task(), text, segment, logits, [1, 2])
    assert (text[person.start : person.end], person.segment) == ("aaa bbb", 0)
    assert (text[place.start : place.end], place.segment) == ("ccc", 2)


def test_white_space_at_an_entity_s_ends_is_left_out() -> None:
    """SentencePiece's pieces begin with the space before them, and one may be nothing else."""
    text = " ab  c"
    starts, ends = np.array([0, 3, 4]), np.array([3, 4, 6])
    segment = Segment(0, 0, len(text), np.array([0, 2, 4, 6, 0], np.int32), slice(1, 4), starts, ends)
    logits = np.zeros((5, len(LABELS)), np.float32)
    logits[[1, 2, 3], [LABELS.index(label) for label in ("B-PER", "B-LOC", "B-PER")]] = 4, 5, 6
    first, second = found(task(), text, segment, logits)
    assert (text[first.start : first.end], first.label) == ("ab", "PER")
    assert (text[second.start : second.end], second.label) == ("c", "PER")
    assert first.score < second.score


def test_only_wanted_labels_and_scores_are_answered() -> None:
    text, segment, logits = document([("B-PER", False), ("O", False), ("B-LOC", False)])
    assert [e.label for e in found(task(wanted=frozenset({"LOC"})), text, segment, logits)] == ["LOC"]
    assert not found(task(min_score=0.99), text, segment, logits)
    assert entity_labels(LABELS) == ("PER", "LOC")
    assert entity_labels(("LABEL_0", "O-ring", "B-")) == ("LABEL_0", "O-ring", "B-")


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_document_s_labels_follow_the_stated_rule(multi_label: bool) -> None:
    _, segment, _ = document([("O", False)] * 6)
    logits = np.array([[2, 0, -1], [-1, 1, 0]], np.float32)
    wanted = ClassifyTask("", HEAD, "", ("a", "b", "c"), multi_label=multi_label, segments=True)
    merge = wanted.merge("", stream=False)
    assert merge.result() is None
    for (part, _), row in zip(cut(segment, [4]), logits, strict=True):
        merge.add(part, {HEAD: row})
    answer = merge.result()
    assert answer is not None
    if multi_label:
        expected = 1 / (1 + np.exp(-logits.max(axis=0).astype(float)))
        carriers = {"a": [0], "b": [1], "c": []}
    else:
        mean = logits.astype(float).T @ [4 / 6, 2 / 6]
        expected = np.exp(mean) / np.exp(mean).sum()
        carriers = {"a": [0], "b": [1], "c": []}
    assert {each.label: each.score for each in answer.labels} == pytest.approx(dict(zip("abc", expected, strict=True)))
    assert [each.score for each in answer.labels] == sorted((each.score for each in answer.labels), reverse=True)
    assert {each.label: [index for index, _ in each.segments] for each in answer.labels} == carriers


def test_a_sparse_vector_is_the_highest_weight_of_any_segment() -> None:
    _, segment, _ = document([("O", False)] * 4)
    wanted = EmbedSparseTask("", HEAD, words=10, vocabulary=tuple("0123456789"), top_k=2, segment_vectors=True)
    merge = wanted.merge("", stream=False)
    made = [np.array([[1, 4, 7], [0.5, 2, 1]], np.float32), np.array([[1, 7], [3, 0.25]], np.float32)]
    for (part, _), vector in zip(cut(segment, [2]), made, strict=True):
        merge.add(part, {HEAD: vector})
    answer = merge.result()
    assert answer is not None
    assert answer.document is not None
    assert (answer.document.indices.tolist(), answer.document.weights.tolist()) == ([1, 4], [3, 2])
    assert answer.document.tokens == ("1", "4")
    assert [each.indices.tolist() for each in answer.segments] == [[4, 7], [1, 7]]
