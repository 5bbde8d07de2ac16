"""The embedding task: numbers of segments become the document's, as stated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chunking import Segment
from octavo.v1 import inference_pb2 as pb
from server.inference.tasks import Embedding, EmbedMerge, EmbedTask, Size
from server.inference.tasks.embed import DataTypeName
from server.types import Head, Pool, SumRanges
from server.v1.results import tensor
from tests.server.helpers import array

HIDDEN = 16
SPECIALS = 2  # in front, as a prefix would add; one behind


def cut(tokens: Sequence[int], width: int = 3) -> list[Segment]:
    """Segments that own so many tokens, each token `width` code points and a space."""
    segments, start = [], 0
    for index, count in enumerate(tokens):
        starts = start + (width + 1) * np.arange(count, dtype=np.int64)
        end = start + (width + 1) * count
        segments.append(
            Segment(
                index=index,
                start=start,
                end=end,
                ids=np.zeros(SPECIALS + count + 1, np.int32),
                owned=slice(SPECIALS, SPECIALS + count),
                token_starts=starts,
                token_ends=starts + width,
            )
        )
        start = end
    return segments


def states_of(segments: Sequence[Segment], seed: int = 0) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((len(segment.ids), HIDDEN)).astype(np.float32) for segment in segments]


def parts_of(heads: Sequence[Head], states: NDArray[np.float32]) -> dict[Head, NDArray[np.float32]]:
    """What a model would make of the states."""
    made: dict[Head, NDArray[np.float32]] = {}
    for head in heads:
        if isinstance(head, Pool):
            made[head] = states.mean(axis=0) if head.pooling == "mean" else states[0]
        elif isinstance(head, SumRanges):
            made[head] = np.stack([states[first:last].sum(axis=0) for first, last in head.ranges])
    return made


def merged(task: EmbedTask, segments: Sequence[Segment], states: Sequence[NDArray[np.float32]]) -> Embedding:
    merge = EmbedMerge(task, keep_segments=True)
    for segment, own in zip(segments, states, strict=True):
        merge.add(segment, parts_of(task.heads(segment), own))
    answer = merge.result()
    assert answer is not None
    return answer


def document(answer: Embedding) -> NDArray[np.float32]:
    assert answer.document is not None
    return answer.document


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    lengths: NDArray[Any] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    divided: NDArray[Any] = vectors / lengths
    return divided


def test_the_document_is_the_mean_of_unnormalised_segments_weighted_by_owned_tokens() -> None:
    segments = cut([100, 3, 41])
    states = states_of(segments)
    states[1] *= 50  # a mean of normalised vectors would not see it
    task = EmbedTask("", "mean", normalize=True, dimensions=HIDDEN)
    means = np.stack([own.astype(np.float64).mean(axis=0) for own in states])
    expected = unit(np.average(means, axis=0, weights=[100, 3, 41]))
    np.testing.assert_allclose(document(merged(task, segments, states))[0], expected, atol=1e-6)


def test_without_normalising_the_document_is_that_mean_itself() -> None:
    segments = cut([10, 30])
    states = states_of(segments)
    task = EmbedTask("", "cls", normalize=False, dimensions=HIDDEN)
    expected = 0.25 * states[0][0] + 0.75 * states[1][0]
    np.testing.assert_allclose(document(merged(task, segments, states))[0], expected, atol=1e-6)


def test_segment_vectors_come_in_order_each_with_length_1() -> None:
    segments = cut([5, 6, 7])
    states = states_of(segments)
    task = EmbedTask("", "mean", normalize=True, dimensions=HIDDEN, segment_vectors=True)
    answer = merged(task, segments, states)
    assert answer.segments is not None
    np.testing.assert_allclose(answer.segments, unit(np.stack([own.mean(axis=0) for own in states])), atol=1e-6)


def test_vectors_that_nobody_asked_for_are_not_made() -> None:
    segments = cut([5])
    answer = merged(EmbedTask("", "mean", normalize=True, dimensions=HIDDEN), segments, states_of(segments))
    assert answer.segments is None
    assert answer.spans is None


def test_a_span_over_several_segments_is_the_mean_of_its_tokens_states() -> None:
    segments = cut([7, 1, 9, 4])
    states = states_of(segments)
    owned = np.concatenate([own[segment.owned] for own, segment in zip(states, segments, strict=True)])
    starts = np.concatenate([segment.token_starts for segment in segments])
    ends = np.concatenate([segment.token_ends for segment in segments])
    length = segments[-1].end
    spans = [(start, end) for start in range(length) for end in range(start + 1, length + 1)]
    task = EmbedTask("", "mean", normalize=False, dimensions=HIDDEN, spans=np.array(spans, np.int64))
    answer = merged(task, segments, states)
    assert answer.spans is not None
    for (start, end), found in zip(spans, answer.spans, strict=True):
        inside = (starts < end) & (ends > start)  # a token that shares a code point with the span is the span's
        expected = owned[inside].mean(axis=0) if inside.any() else np.zeros(HIDDEN)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"{start}:{end}")


def test_a_segment_makes_sums_for_the_spans_that_touch_it_alone() -> None:
    first, second = cut([4, 4])
    task = EmbedTask("", "mean", normalize=True, dimensions=HIDDEN, spans=np.array([(0, 3), (4, 8)], np.int64))
    edges = [(SPECIALS, SPECIALS + edge) for edge in (1, 2, first.tokens)]
    assert task.heads(first) == (Pool("mean"), SumRanges(tuple(edges)))
    assert task.heads(second) == (Pool("mean"),)


def test_spans_that_overlap_cost_their_edges_alone() -> None:
    """Thousands of spans that each cover everything once made thousands of sums over all of each segment."""
    segments = cut([8] * 5)
    end = segments[-1].end
    spans = np.array([(i % 2, end - i % 3) for i in range(4096)], np.int64)
    task = EmbedTask("", "mean", normalize=True, dimensions=HIDDEN, spans=spans)
    sums = [head for segment in segments for head in task.heads(segment) if isinstance(head, SumRanges)]
    assert sum(len(head.ranges) for head in sums) <= len(segments) + 5


def test_a_span_without_a_token_has_zeros_and_not_nan() -> None:
    segments = cut([4])
    task = EmbedTask("", "mean", normalize=True, dimensions=HIDDEN, spans=np.array([(3, 4)], np.int64))
    answer = merged(task, segments, states_of(segments))
    assert answer.spans is not None
    assert answer.spans.tolist() == [[0.0] * HIDDEN]


def test_dimensions_are_dropped_before_normalising() -> None:
    segments = cut([5, 5])
    states = states_of(segments)
    whole = document(merged(EmbedTask("", "mean", normalize=False, dimensions=HIDDEN), segments, states))
    task = EmbedTask("", "mean", normalize=True, dimensions=4, segment_vectors=True)
    answer = merged(task, segments, states)
    np.testing.assert_allclose(document(answer), unit(whole[:, :4]), atol=1e-6)
    assert answer.segments is not None
    np.testing.assert_allclose(np.linalg.norm(answer.segments, axis=1), 1, atol=1e-6)
    assert answer.segments.shape == (2, 4)


def test_a_vector_of_zeros_stays_one() -> None:
    segments = cut([5])
    zeros = [np.zeros_like(own) for own in states_of(segments)]
    task = EmbedTask("", "mean", normalize=True, dimensions=HIDDEN, segment_vectors=True)
    answer = merged(task, segments, zeros)
    assert not document(answer).any()
    assert answer.segments is not None
    assert not answer.segments.any()


def test_the_answer_so_far_is_that_of_the_segments_so_far() -> None:
    segments = cut([5, 6])
    states = states_of(segments)
    task = EmbedTask("", "mean", normalize=True, dimensions=HIDDEN)
    merge = EmbedMerge(task, keep_segments=False)
    assert merge.result() is None
    merge.add(segments[0], parts_of(task.heads(segments[0]), states[0]))
    so_far = merge.result()
    assert so_far is not None
    np.testing.assert_array_equal(so_far.document, document(merged(task, segments[:1], states[:1])))


def test_a_million_tokens_of_small_segments_lose_no_precision() -> None:
    """Sums are float64: in float32 the 20,000th addition would drop what is small."""
    (segment,) = cut([1])
    task = EmbedTask("", "cls", normalize=False, dimensions=1)
    merge = EmbedMerge(task, keep_segments=False)
    values = np.array([0.1, 0.3], np.float32)
    for i in range(20_000):
        merge.add(segment, {Pool("cls"): values[i % 2 : i % 2 + 1]})
    answer = merge.result()
    assert answer is not None
    assert document(answer)[0, 0] == np.float32(values.astype(np.float64).mean())


@pytest.mark.parametrize(
    ("data_type", "number", "size"),
    [
        ("float32", pb.DATA_TYPE_FLOAT32, 4 * 12),
        ("float16", pb.DATA_TYPE_FLOAT16, 2 * 12),
        ("int8", pb.DATA_TYPE_INT8, 12),
        ("binary", pb.DATA_TYPE_BINARY, 2),
    ],
)
def test_the_wire_has_the_data_type_that_was_asked_for(data_type: DataTypeName, number: int, size: int) -> None:
    random = np.random.default_rng(1)
    vectors = unit(random.standard_normal((3, 12))).astype(np.float32)
    vectors[0, :3] = 1, -1, 0  # the ends and the middle
    task = EmbedTask("", "mean", normalize=True, dimensions=12, data_type=data_type)
    wire = tensor(vectors, task)
    assert wire is not None
    assert (wire.data_type, list(wire.shape), len(wire.data)) == (number, [3, 12], 3 * size)
    expected = {
        "float32": vectors,
        "float16": vectors.astype(np.float16),
        "int8": np.round(vectors * 127),
        "binary": vectors > 0,
    }[data_type]
    np.testing.assert_array_equal(array(wire), expected)
    assert task.reply_bytes(Size(0, 0, 0)) == size  # of the document's vector


def test_a_document_s_vector_is_flat() -> None:
    task = EmbedTask("", "mean", normalize=True, dimensions=12)
    wire = tensor(np.ones((1, 12), np.float32), task, squeeze=True)
    assert wire is not None
    assert list(wire.shape) == [12]


@pytest.mark.parametrize("dimensions", [1, 7, 8, 9])
@pytest.mark.parametrize("data_type", ["float32", "float16", "int8", "binary"])
def test_the_size_of_a_reply_is_known_beforehand(dimensions: int, data_type: DataTypeName) -> None:
    segments = cut([3, 4])
    spans = np.array([(0, 3), (5, 20), (1, 2)], np.int64)
    task = EmbedTask("", "mean", True, dimensions, data_type, segment_vectors=True, spans=spans)
    answer = merged(task, segments, states_of(segments))
    tensors = [tensor(vectors, task) for vectors in (answer.document, answer.segments, answer.spans)]
    assert sum(len(wire.data) for wire in tensors if wire) == task.reply_bytes(Size(len(segments), 7, 0))
