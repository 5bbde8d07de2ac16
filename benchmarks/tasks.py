"""Tasks beside embedding: what is found in long documents and in short texts, what leaks, what a further head costs.

Personal data is planted by seed (`benchmarks/planted.py`). An item is found if entities of its label cover all of it.
Labels are those of the shipped head on the test part of Reuters R8, which the head has never seen.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path

import click
import grpc
import numpy as np
from safetensors.numpy import save_file

from benchmarks.cache import nearest
from benchmarks.figures import Figure, Figures, attempt_each
from benchmarks.planted import Item, Planted, documents, sentences
from benchmarks.race import raced, timed
from benchmarks.served import serve
from benchmarks.statistics import percentile_ms, proportion, ratio
from benchmarks.texts import reuters_r8, sotu
from chunking import Ruler, Unit, load_tokenizer
from encoder.folder import describe
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceServiceStub
from server.config.schema import ModelSettings

MINILM, RAMPART, TINY, R8 = "all-MiniLM-L6-v2", "sensitive-info-rampart", "splade-tiny", "reuters-r8"
MASK = "█"
UNITS = (
    (pb.OFFSET_UNIT_CODE_POINT, Unit.CODE_POINT),
    (pb.OFFSET_UNIT_UTF16, Unit.UTF16),
    (pb.OFFSET_UNIT_UTF8, Unit.UTF8),
)
_TIMEOUT = 300.0
_WAIT_TO_WRITE = 3.0  # seconds; the store's queue is on disk by then
_LONG = 32_000  # tokens
_OUTSIDE = 4.0  # logits by which "O" is ahead: then one token in twenty is labelled
_SPLADE_TOKENS = (1, 2, 16, 100, 255, 400, 509, 510)


@click.option("--items", default=2000, show_default=True, help="Items of personal data.")
@click.option("--rounds", default=15, show_default=True, help="Of each timed call.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
def run(items: int, rounds: int, seed: int) -> Figures:
    """Measure each part with servers of its own."""
    return attempt_each(
        {
            ("pii_recall_gap", "pii_duplicates", "pii_offset_errors", "redact_leaks"): (
                lambda _: personal_data(items, seed)
            ),
            ("r8_accuracy", "r8_8bit_gap"): lambda _: labels(),
            ("sparse_error",): lambda _: sparse(),
            ("analyze_three_x", "warm_head_x"): lambda folder: heads(rounds, seed, folder),
            ("four_cold_ms", "four_again_ms"): lambda _: four(min(rounds, 5)),
        }
    )


def personal_data(items: int, seed: int) -> Figures:
    """Find the same items in sentences alone and planted in long documents."""
    planted: list[Planted] = []
    for sentence in sentences(seed):
        if sum(len(each.items) for each in planted) >= items:
            break
        planted.append(sentence)
    long = list(documents(planted, seed))
    with stub_of("--model", RAMPART) as stub:
        short_found = [found for text in planted for found in _found(text, _entities(stub, text.text))]
        texts = [(text, _entities(stub, text.text)) for text in long]
        long_found = [found for text, entities in texts for found in _found(text, entities)]
        errors = sum(_offset_errors(stub, text, entities) for text, entities in texts)
        leaks = sum(_leaks(stub, text.text) for text, _ in texts)
    recalls = [100 * sum(found) / len(found) for found in (short_found, long_found)]
    return {
        "pii_recall_gap": Figure(recalls[0] - recalls[1], "%", n=len(long_found)),
        "pii_recall_short": proportion(short_found),
        "pii_recall_long": proportion(long_found),
        "pii_duplicates": Figure(sum(_duplicates(*each) for each in texts), "items", n=len(long_found)),
        "pii_offset_errors": Figure(errors, "items", n=len(long_found)),
        "redact_leaks": Figure(leaks, "code points", n=len(texts)),
    }


def labels() -> Figures:
    """Classify R8's test part with the shipped head, in fp32 and in 8 bits."""
    texts = reuters_r8("test")
    accuracy = {}
    for scheme in ("fp32", "int8"):
        config = f'[[models]]\npath = "{MINILM}"\nscheme = "{scheme}"\n[[models]]\npath = "{R8}"\n'
        with stub_of(config=config) as stub:
            accuracy[scheme] = [_label(stub, each.text) == each.label for each in texts]
    shares = {scheme: 100 * sum(right) / len(right) for scheme, right in accuracy.items()}
    return {
        "r8_accuracy": proportion(accuracy["fp32"]),
        "r8_accuracy_8bit": proportion(accuracy["int8"]),
        "r8_8bit_gap": Figure(shares["fp32"] - shares["int8"], "%", n=len(texts)),
    }


def sparse() -> Figures:
    """Compare sparse vectors with sentence-transformers' SparseEncoder, texts of 1 to 510 tokens, in fp32."""
    from sentence_transformers import SparseEncoder

    from benchmarks.workloads import with_tokens

    folder = ModelSettings(path=TINY).folder
    peer = SparseEncoder(str(folder), device="cpu", local_files_only=True)
    peer.max_seq_length = 512
    errors = []
    with stub_of(config=f'[[models]]\npath = "{TINY}"\nscheme = "fp32"\n') as stub:
        for text in with_tokens(_SPLADE_TOKENS, load_tokenizer(folder)).values():
            theirs = peer.encode([text], convert_to_sparse_tensor=False)[0].cpu().numpy()
            task = pb.Task(embed_sparse=pb.EmbedSparseOptions())
            vector = _analyze(stub, text, task).results[0].embed_sparse.document_vector
            ours = np.zeros_like(theirs)
            ours[list(vector.indices)] = vector.weights
            errors.append(float(np.abs(ours - theirs).max()))
    return {"sparse_error": Figure(max(errors), "", n=len(errors))}


def heads(rounds: int, seed: int, folder: Path) -> Figures:
    """Time three heads on one trunk against each alone, and a further head on states that are on disk.

    The heads: pooling, labels of the document, and labels of each token. The last two are of random weights, as large
    as real ones: what they say does not matter here.
    """
    text = max(sotu(), key=len)
    heads = {"classify": _random_head(folder / "classify", 8), "tokens": _random_head(folder / "tokens", 35)}
    tasks = {
        "embed": pb.Task(name="embed", embed=pb.EmbedOptions()),
        "classify": pb.Task(name="classify", model="classify", classify=pb.ClassifyOptions()),
        "tokens": pb.Task(name="tokens", model="tokens", classify_tokens=pb.ClassifyTokensOptions()),
    }
    flags = ["--model", MINILM, "--cache-dir", str(folder / "cache")]
    flags += [flag for head in heads.values() for flag in ("--model", str(head))]
    texts = list(_stretches(text, rounds, seed))
    with stub_of(*flags) as stub:

        def cold(*asked: pb.Task) -> Callable[[], float]:
            return timed(lambda: _analyze(stub, text, *asked, cache_mode=pb.CACHE_MODE_BYPASS))

        variants = {"all": cold(*tasks.values())} | {name: cold(task) for name, task in tasks.items()}
        seconds = raced(variants, rounds)
        dearest = max(tasks, key=lambda name: float(np.median(seconds[name])))
        for each in texts:
            _analyze(stub, each, tasks["embed"])
        time.sleep(_WAIT_TO_WRITE)
    with stub_of(*flags) as stub:
        _analyze(stub, "Warm up.", tasks["tokens"], cache_mode=pb.CACHE_MODE_BYPASS)
        warm = {name: [_warm_and_cold(stub, each, tasks[name]) for each in texts] for name in heads}
    ratios = {name: ratio(*zip(*pairs, strict=True)) for name, pairs in warm.items()}
    return {
        "analyze_three_x": ratio(seconds["all"], seconds[dearest]),
        "warm_head_x": min(ratios.values(), key=lambda figure: figure.value),
    } | {f"warm_{name}_x": figure for name, figure in ratios.items()}


def four(rounds: int) -> Figures:
    """Time one call with four tasks on three trunks over an address of about 32,000 tokens: afresh, and again."""
    text = nearest(sotu(), _LONG, load_tokenizer(ModelSettings(path=MINILM).folder))
    tasks = [
        pb.Task(name="vector", embed=pb.EmbedOptions()),
        pb.Task(name="topic", classify=pb.ClassifyOptions()),
        pb.Task(name="masked", redact=pb.RedactOptions()),
        pb.Task(name="words", embed_sparse=pb.EmbedSparseOptions(top_k=20)),
    ]
    with stub_of(*(flag for name in (MINILM, R8, RAMPART, TINY) for flag in ("--model", name))) as stub:

        def asked(mode: pb.CacheMode) -> Callable[[], float]:
            return timed(lambda: _analyze(stub, text, *tasks, cache_mode=mode))

        seconds = raced({"cold": asked(pb.CACHE_MODE_REFRESH), "again": asked(pb.CACHE_MODE_READ_WRITE)}, rounds)
    return {f"four_{name}_ms": percentile_ms(each) for name, each in seconds.items()}


def _random_head(folder: Path, labels: int) -> Path:
    """A head on MiniLM's layers; of tokens, most are outside of entities."""
    trunk = describe(ModelSettings(path=MINILM).folder)
    draw = np.random.default_rng(labels)
    weights = draw.normal(0, 0.2, (labels, trunk.config["hidden_size"])).astype(np.float32)
    folder.mkdir()
    bias = np.zeros(labels, np.float32)
    bias[0] = _OUTSIDE
    save_file({"weight": weights, "bias": bias}, folder / "head.safetensors")
    names = ["O", *(f"I-{number}" for number in range(1, labels))]
    manifest = {"task": folder.name, "labels": names, "trunk": {"name": trunk.name, "digest": trunk.digest}}
    (folder / "octavo.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@contextmanager
def stub_of(*flags: str, config: str = "") -> Iterator[InferenceServiceStub]:
    """Start a server and give a stock stub of it."""
    with serve(*flags, config=config) as served, grpc.insecure_channel(served.address) as channel:
        yield InferenceServiceStub(channel)


def _analyze(
    stub: InferenceServiceStub, text: str, *tasks: pb.Task, cache_mode: pb.CacheMode = pb.CACHE_MODE_READ_WRITE,
    offset_unit: pb.OffsetUnit = pb.OFFSET_UNIT_CODE_POINT,
) -> pb.AnalyzeResponse:  # fmt: skip
    options = pb.CallOptions(cache_mode=cache_mode, offset_unit=offset_unit)
    request = pb.AnalyzeRequest(document=pb.Document(text=text), options=options, tasks=tasks)
    reply: pb.AnalyzeResponse = stub.Analyze(request, timeout=_TIMEOUT)
    return reply


def _entities(
    stub: InferenceServiceStub, text: str, unit: pb.OffsetUnit = pb.OFFSET_UNIT_CODE_POINT
) -> Sequence[pb.Entity]:
    task = pb.Task(classify_tokens=pb.ClassifyTokensOptions())
    return _analyze(stub, text, task, offset_unit=unit).results[0].classify_tokens.entities


def _found(text: Planted, entities: Sequence[pb.Entity]) -> list[bool]:
    """Of each item, whether entities of its label cover all of it."""
    covered: dict[str, set[int]] = {}
    for each in entities:
        covered.setdefault(each.label, set()).update(range(each.span.start, each.span.end))
    spaces = {i for i, character in enumerate(text.text) if character.isspace()}
    return [
        set(range(item.start, item.end)) <= covered.get(item.label, set()) | spaces  # between two entities
        for item in text.items
    ]


def _duplicates(text: Planted, entities: Sequence[pb.Entity]) -> int:
    """Entities that overlap the one before, or that share an item across a segment's edge with it."""
    overlaps = sum(after.span.start < before.span.end for before, after in pairwise(entities))
    return overlaps + sum(_is_split(item, entities) for item in text.items)


def _is_split(item: Item, entities: Sequence[pb.Entity]) -> bool:
    parts = [each for each in entities if each.span.start < item.end and item.start < each.span.end]
    return any(
        before.label == after.label and before.segment_index != after.segment_index for before, after in pairwise(parts)
    )


def _offset_errors(stub: InferenceServiceStub, text: Planted, entities: Sequence[pb.Entity]) -> int:
    """Spans that are other text in another unit, and items that an entity of their label covers but does not match.

    An entity may be longer than the item where the model says so: then it begins and ends at another token's edge.
    """
    spans = [(each.span.start, each.span.end) for each in entities]
    errors = 0
    for number, unit in UNITS:
        ruler = Ruler(text.text, unit)
        expected = [ruler.span(*span) for span in spans]
        got = [(each.span.start, each.span.end) for each in _entities(stub, text.text, number)]
        errors += sum(a != b for a, b in zip(expected, got, strict=True))
    edges = {edge for span in spans for edge in span}
    inside = {i for item in text.items for i in range(item.start + 1, item.end) if _is_within_a_word(text.text, i)}
    return errors + len(edges & inside)


def _is_within_a_word(text: str, place: int) -> bool:
    return text[place - 1].isalnum() and text[place].isalnum()


def _leaks(stub: InferenceServiceStub, text: str) -> int:
    """Code points of reported spans that the redacted text still has, in any unit."""
    leaks = 0
    for number, unit in UNITS:
        task = pb.Task(redact=pb.RedactOptions(mask=MASK))
        redaction = _analyze(stub, text, task, offset_unit=number).results[0].redact
        source, masked = Ruler(text, unit), Ruler(redaction.text, unit)
        done = at = 0
        for each in redaction.entities:
            start, end = source.points([each.entity.span.start, each.entity.span.end]).tolist()
            first, last = masked.points([each.redacted.start, each.redacted.end]).tolist()
            if redaction.text[at:first] != text[done:start] or redaction.text[first:last] != MASK:
                leaks += end - start
            done, at = end, last
        leaks += redaction.text[at:] != text[done:]
    return leaks


def _label(stub: InferenceServiceStub, text: str) -> str:
    return _analyze(stub, text, pb.Task(classify=pb.ClassifyOptions(top_k=1))).results[0].classify.labels[0].label


def _stretches(text: str, count: int, seed: int) -> Iterator[str]:
    """Texts of about 10,000 tokens that share no segment."""
    draw = random.Random(seed)
    words = text.split()
    return islice((" ".join(draw.sample(words, 8000)) for _ in iter(int, 1)), count)


def _warm_and_cold(stub: InferenceServiceStub, text: str, task: pb.Task) -> tuple[float, float]:
    """Seconds of a head afresh, and from states. The states come first: computing leaves nothing behind."""
    seconds = []
    for mode in (pb.CACHE_MODE_READ_ONLY, pb.CACHE_MODE_BYPASS):
        start = time.perf_counter()
        reply = _analyze(stub, text, task, cache_mode=mode)
        seconds.append(time.perf_counter() - start)
        if bool(reply.info.usage.computed_tokens) != (mode == pb.CACHE_MODE_BYPASS):
            raise AssertionError("the further head was not answered from states")
    return seconds[1], seconds[0]
