"""Reading a document: every token owned once, spans that tile, nothing over the budget, for any text."""

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.segmentation import edited, units
from benchmarks.texts import KINDS, sotu
from chunking import (
    Cutting,
    Ids,
    Policy,
    Region,
    RegionTokens,
    Ruler,
    Segment,
    TextError,
    Tokenizer,
    Unit,
    budget,
    read,
    regions,
)
from chunking.boundaries import boundaries
from chunking.cuts import HASHED, cuts, keys
from server.config.folders import cache_home

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TEXTS = st.lists(
    st.tuples(
        ANY
        | st.sampled_from(
            ["word. ", "각각 ", "\ufdfa", "e\u0301", "\0\x07", "[SEP] </s>", "。", "x" * 50, "\n\n", "👩‍👩‍👧"]
        ),
        st.integers(1, 60),
    ),
    max_size=12,
).map(lambda parts: "".join(part * times for part, times in parts))
CUTTINGS = st.builds(
    Cutting, st.sampled_from(["content", "sentence", "fixed"]), st.integers(32, 80), st.integers(1, 16)
)


def segments(text: str, tokenizer: Tokenizer, cutting: Cutting, prefix: str = "") -> list[Segment]:
    return [segment for step in read(text, tokenizer, cutting, tokenizer.frame(prefix)) for segment in step]


def joined(found: list[Segment]) -> list[tuple[int, int, int]]:
    """Owned ids and their offsets, laid end to end."""
    return [
        (int(one), int(start), int(end))
        for each in found
        for one, start, end in zip(each.ids[each.owned], each.token_starts, each.token_ends, strict=True)
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(text=TEXTS, cutting=CUTTINGS, prefix=st.sampled_from(["", "query: "]))
def test_any_text_is_read_whole(tokenizer: Tokenizer, text: str, cutting: Cutting, prefix: str) -> None:
    found = segments(text, tokenizer, cutting, prefix)
    expected = [
        (int(one), region.start + int(start), region.start + int(end))
        for region in regions(text)
        for tokens in tokenizer.encode([region.text])
        for one, start, end in zip(tokens.ids, tokens.starts, tokens.ends, strict=True)
    ]
    assert joined(found) == expected
    if not expected:
        assert found == []
        return
    assert [each.index for each in found] == list(range(len(found)))
    assert (found[0].start, found[-1].end) == (0, len(text))
    assert all(a.end == b.start for a, b in pairwise(found))
    frame = tokenizer.frame(prefix)
    for each in found:
        assert 1 <= each.tokens <= cutting.max_tokens
        assert each.processed_tokens == each.tokens + len(frame)
        assert each.ids.dtype == np.int32
        assert np.array_equal(each.ids, np.concatenate([frame.head, each.ids[each.owned], frame.tail]))
        # Never a cut inside a code point: what a segment owns lies in its span.
        assert each.start <= each.token_starts.min()
        assert each.token_ends.max() <= each.end


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
@given(text=TEXTS, cutting=CUTTINGS)
def test_the_same_text_is_cut_alike(tokenizer: Tokenizer, text: str, cutting: Cutting) -> None:
    def spans() -> list[tuple[int, int, bytes]]:
        return [(each.start, each.end, each.ids.tobytes()) for each in segments(text, tokenizer, cutting)]

    assert spans() == spans()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
@given(text=TEXTS)
def test_spans_name_the_same_text_in_all_units(minilm: Tokenizer, text: str) -> None:
    found = segments(text, minilm, Cutting("content", 64, 16))
    utf16, utf8 = Ruler(text, Unit.UTF16), Ruler(text, Unit.UTF8)
    for each in found:
        own = text[each.start : each.end]
        start, end = 2 * utf16.units([each.start, each.end])
        assert text.encode("utf-16-le")[start:end].decode("utf-16-le") == own
        start, end = utf8.units([each.start, each.end])
        assert text.encode()[start:end].decode() == own


def test_tokens_are_found_at_their_offsets(minilm: Tokenizer) -> None:
    text = sotu()[60]
    (vocabulary,) = minilm.encode(["congress"])
    places = [start for one, start, _ in joined(segments(text, minilm, Cutting())) if one == vocabulary.ids[0]]
    assert len(places) > 5
    assert all(text[place : place + 8].lower() == "congress" for place in places)


def test_ids_are_the_whole_texts_where_words_are_tokenised_alone(minilm: Tokenizer) -> None:
    """WordPiece, and regions of real text end at lines or whitespace."""
    for text in sotu()[50:60]:
        (whole,) = minilm.encode([text])
        found = joined(segments(text, minilm, Cutting()))
        assert len(list(regions(text))) > 2
        assert found == list(zip(whole.ids.tolist(), whole.starts.tolist(), whole.ends.tolist(), strict=True))


@pytest.mark.parametrize("policy", ["content", "sentence"])
def test_cuts_do_not_feel_where_regions_end(minilm: Tokenizer, policy: Policy) -> None:
    """The same as if all tokens, boundaries and hashes of the text had been had at once."""
    cutting = Cutting(policy)
    for text in sotu()[50:70]:
        (whole,) = minilm.encode([text])
        before: Ids = np.full(HASHED, -1, np.int32)
        found = keys(np.concatenate([before, whole.ids]), boundaries("", text, whole.starts, whole.ends))
        lengths = [each.tokens for each in segments(text, minilm, cutting)]
        assert np.cumsum(lengths).tolist() == list(cuts(found, cutting, final=True))


@pytest.mark.parametrize("text", ["", " ", " \t\n\u3000" * 9000, "\u200b\u00ad", "\n\n"])
def test_a_text_without_tokens_has_no_segment(minilm: Tokenizer, text: str) -> None:
    assert segments(text, minilm, Cutting()) == []


def test_what_has_no_token_belongs_to_a_segment_all_the_same(minilm: Tokenizer) -> None:
    text = " \n" * 10_000 + "word" + "\t" * 30_000
    (only,) = segments(text, minilm, Cutting())
    assert (only.start, only.end, only.tokens) == (0, len(text), 1)
    assert (only.token_starts[0], only.token_ends[0]) == (20_000, 20_004)


def test_the_names_of_specials_are_ordinary_text(tokenizer: Tokenizer) -> None:
    frame = tokenizer.frame()
    specials = {*frame.head.tolist(), *frame.tail.tolist()}
    text = "one [SEP] two </s> three [CLS] four <s> five [PAD] six <pad> seven <mask> eight [MASK]"
    (only,) = segments(text, tokenizer, Cutting())
    assert specials.isdisjoint(only.ids[only.owned].tolist())
    assert only.tokens > 20


@pytest.mark.parametrize(("name", "size"), [("minilm", 10_000_000), ("e5", 2_000_000)])
def test_a_word_without_end_is_read_in_short_steps(request: pytest.FixtureRequest, name: str, size: int) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    longest, tokens, end, last = 0.0, 0, 0, time.thread_time()
    for step in read("ab" * (size // 2), tokenizer, Cutting()):
        longest, last = max(longest, time.thread_time() - last), time.thread_time()
        tokens += sum(each.tokens for each in step)
        end = step[-1].end if step else end
    assert end == size
    assert tokens >= size / 16_384
    assert longest < 0.1  # seconds of this thread


def test_a_lone_surrogate_is_refused_when_it_is_reached(minilm: Tokenizer) -> None:
    steps = read("word " * 40_000 + "\ud800", minilm, Cutting())
    assert sum(each.tokens for each in next(steps)) > 0
    with pytest.raises(TextError, match="code point 200000"):
        list(steps)


def test_the_first_segments_come_before_the_rest_is_read(minilm: Tokenizer) -> None:
    encoded: list[int] = []

    class Watched:
        digest = minilm.digest
        frame = staticmethod(minilm.frame)

        def encode(self, texts: list[str]) -> object:
            encoded.extend(map(len, texts))
            return minilm.encode(texts)

    steps = read("word and word. " * 100_000, Watched(), Cutting())  # type: ignore[arg-type]
    first = next(step for step in steps if step)
    assert first[0].index == 0
    assert sum(encoded) <= 4 * 16_384


def test_an_edit_changes_few_segments(minilm: Tokenizer) -> None:
    draw = random.Random(5)
    for kind in ("english", "unpunctuated", "logs"):
        text, other = KINDS[kind](draw, 25_000), KINDS[kind](draw, 5_000)
        known = {each.ids.tobytes() for each in segments(text, minilm, Cutting())}
        new = []
        for _ in range(30):
            after = segments(edited(draw, units(kind, text, draw), units(kind, other, draw)), minilm, Cutting())
            new.append(sum(each.ids.tobytes() not in known for each in after))
        assert np.median(new) == 1
        assert sorted(new)[26] <= 2
        assert max(new) <= 5


def test_the_budget_leaves_room_for_specials_and_the_longest_prefix(e5: Tokenizer) -> None:
    prefixes = ["query: ", "passage: ", ""]
    owned = budget(e5, 512, prefixes)
    assert owned == 512 - 2 - max(len(tokens) for tokens in e5.encode(prefixes))
    text = sotu()[100]
    lengths = [
        [each.processed_tokens for each in segments(text, e5, Cutting("fixed", owned), prefix)] for prefix in prefixes
    ]
    assert max(map(max, lengths)) == 512
    assert len(set(map(len, lengths))) == 1  # a query is cut where a passage is


MEMORY = """
import resource, sys
from pathlib import Path
from chunking import Cutting, load_tokenizer, read

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

tokenizer = load_tokenizer(Path(sys.argv[1]))
for step in read("word and word. " * 10_000, tokenizer, Cutting()):
    pass
text = "Some words of a text without an end, and more. " * 60_000
before, tokens = peak(), 0
for step in read(text, tokenizer, Cutting()):
    tokens += sum(segment.tokens for segment in step)
print(tokens, peak() - before)
"""


def test_a_long_document_takes_no_more_memory_than_a_short_one(minilm: Tokenizer) -> None:
    folder = cache_home() / "models" / "all-MiniLM-L6-v2"
    done = subprocess.run([sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, check=True)
    tokens, growth = map(float, done.stdout.split())
    assert tokens > 600_000
    assert growth < 16, f"{growth:.1f} MB"


class Remembered:
    """A memory in a dictionary, and what it was asked."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], RegionTokens] = {}
        self.asked: list[int] = []

    def known(self, regions: Sequence[Region]) -> list[RegionTokens | None]:
        self.asked.append(len(regions))
        return [self.kept.get((region.before, region.text)) for region in regions]

    def keep(self, region: Region, tokens: RegionTokens) -> None:
        assert (region.before, region.text) not in self.kept
        self.kept[region.before, region.text] = tokens


@pytest.mark.parametrize(("size", "at_once"), [(16_384, True), (16_385, True), (65_536, True), (65_537, False)])
def test_a_text_of_some_regions_is_looked_up_at_once(
    minilm: Tokenizer, monkeypatch: pytest.MonkeyPatch, size: int, at_once: bool
) -> None:
    reports = "".join(f"Sentence {number} – of a long report.\n" for number in range(3000)).encode()
    text = reports[:size].decode(errors="ignore")  # up to 16,384 bytes it is one region, which is kept once
    text += "." * (size - len(text.encode()))
    memory = Remembered()

    def read_all() -> list[list[Any]]:
        read_in_steps = read(text, minilm, Cutting(), memory=memory)
        return [
            [each.start, each.end, each.ids.tolist(), each.token_starts.tolist(), each.token_ends.tolist()]
            for step in read_in_steps
            for each in step
        ]

    first = read_all()
    memory.asked.clear()
    monkeypatch.setattr(type(minilm), "encode", None)  # nothing is tokenised again
    assert read_all() == first
    assert (memory.asked == [1]) is at_once
    assert (("", text) in memory.kept) is at_once


def test_after_an_edit_of_such_a_text_the_other_regions_are_known(minilm: Tokenizer) -> None:
    text = "".join(f"Sentence {number} of a long report.\n" for number in range(1500))
    memory = Remembered()
    list(read(text, minilm, Cutting(), memory=memory))
    kept = len(memory.kept)
    assert kept >= 5
    list(read(text.replace("Sentence 700 ", "Sentence seven hundred "), minilm, Cutting(), memory=memory))
    assert len(memory.kept) - kept <= 3  # it, its neighbour, and the whole text


def test_a_text_that_is_not_read_to_its_end_is_not_kept_whole(minilm: Tokenizer) -> None:
    text = "".join(f"Sentence {number} of a long report.\n" for number in range(1500))
    memory = Remembered()
    next(read(text, minilm, Cutting(), memory=memory))
    assert memory.kept
    assert ("", text) not in memory.kept


def test_a_lone_surrogate_is_refused_before_it_is_looked_up(minilm: Tokenizer) -> None:
    memory = Remembered()
    with pytest.raises(TextError, match="code point 20000"):
        list(read("a" * 20_000 + "\ud800", minilm, Cutting(), memory=memory))
    assert not memory.asked


def test_what_is_remembered_reads_as_what_is_tokenised(minilm: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"Sentence {number} of a long report.\n" for number in range(6000))
    memory, cutting = Remembered(), Cutting()

    def read_all() -> list[tuple[int, int, list[int]]]:
        steps = read(text, minilm, cutting, memory=memory)
        return [(each.start, each.end, each.ids.tolist()) for step in steps for each in step]

    plain = [(each.start, each.end, each.ids.tolist()) for each in segments(text, minilm, cutting)]
    assert read_all() == plain
    asked = len(memory.asked)
    assert sum(memory.asked) == len(memory.kept) > asked  # several regions at a time
    monkeypatch.setattr(type(minilm), "encode", None)  # nothing is tokenised again
    assert read_all() == plain
