"""Tasks beside embedding agree with transformers and sentence-transformers, and hold on long documents.

task              peer                                                                         in test_….py
embed             sentence-transformers' SentenceTransformer                                   sentence_transformers
classify_tokens   transformers' token-classification pipeline, each aggregation strategy       tasks
redact            as classify_tokens, with which it must agree                                 tasks
classify          transformers' text-classification pipeline, one label or any number of them  tasks
embed_sparse      sentence-transformers' SparseEncoder                                         tasks
rank, dense       cosines of SentenceTransformer's vectors                                     rank
rank, sparse      products of SparseEncoder's vectors                                          rank
cross-encoders    transformers' logits of pairs                                                cross_encoders
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from chunking import Ruler, Unit
from octavo.v1 import inference_pb2 as pb
from server.errors import StartError
from server.inference.loading import open_catalogue
from server.telemetry.metrics import Metrics
from tests.models import head_alone, sequence_model, tokens_model
from tests.server.helpers import E5, MINILM, TINY, Server, analyze, document, model, prose, refused, serving, settings
from tests.server.helpers import task as embed_task

CLOSE = 1e-4
RAMPART = "sensitive-info-rampart"
STRATEGIES = {
    "simple": pb.AGGREGATION_SIMPLE,
    "first": pb.AGGREGATION_FIRST,
    "average": pb.AGGREGATION_AVERAGE,
    "max": pb.AGGREGATION_MAX,
}
UNITS = {
    pb.OFFSET_UNIT_CODE_POINT: Unit.CODE_POINT,
    pb.OFFSET_UNIT_UTF16: Unit.UTF16,
    pb.OFFSET_UNIT_UTF8: Unit.UTF8,
}
NAMES = ("random-tokens", "random-tokens-e5", "random-labels", "random-multi", "random-head")
SUBJECTS = ("war", "trade", "ships", "grain")
TEXTS = (
    "Maria Gonzalez of 42 Baker Street wrote to Müller in Zürich about an unbelievably dull counterrevolution.",
    "北京 and the Élysée: naïve café-goers (e.g. Ångström) met قاهرة travellers 👩‍👩‍👧 at 7:45.",
    prose(480, seed=3),
)


@pytest.fixture(scope="module")
def folders(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("heads")
    return {
        "random-tokens": tokens_model(models / TINY, made / "random-tokens"),
        "random-tokens-e5": tokens_model(models / E5, made / "random-tokens-e5"),
        "random-labels": sequence_model(models / TINY, made / "random-labels", SUBJECTS),
        "random-multi": sequence_model(models / TINY, made / "random-multi", SUBJECTS, multi_label=True),
        "random-head": head_alone(models / MINILM, made / "random-head", SUBJECTS, normalize=True),
    }


@pytest.fixture(scope="module")
def tasked(folders: dict[str, Path]) -> Iterator[Server]:
    """A server of all heads; only two of its models have heads of trained weights."""
    served = [model(MINILM), model(TINY), *(model(str(folder)) for folder in folders.values())]
    with serving(settings(*served)) as server:
        yield server


@cache
def pipeline(kind: str, folder: Path, **options: Any) -> Any:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, model_max_length=512)
    return transformers.pipeline(kind, model=str(folder), tokenizer=tokenizer, device="cpu", **options)  # type: ignore[call-overload]


def tokens(name: str = "tokens", model: str = "", **options: Any) -> pb.Task:
    return pb.Task(name=name, model=model, classify_tokens=pb.ClassifyTokensOptions(**options))


def redact(name: str = "redact", model: str = "", **options: Any) -> pb.Task:
    return pb.Task(name=name, model=model, redact=pb.RedactOptions(**options))


def classify(name: str = "classify", model: str = "", **options: Any) -> pb.Task:
    return pb.Task(name=name, model=model, classify=pb.ClassifyOptions(**options))


def sparse(name: str = "sparse", model: str = "", **options: Any) -> pb.Task:
    return pb.Task(name=name, model=model, embed_sparse=pb.EmbedSparseOptions(**options))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("random-tokens", text) for text in TEXTS),
        ("random-tokens-e5", TEXTS[0]),  # in the others, tokenizers gives a lone "▁" the span of the letter behind it
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_those_of_transformers_for_random_heads(
    tasked: Server, folders: dict[str, Path], name: str, strategy: str, text: str
) -> None:
    peer = pipeline("token-classification", folders[name], aggregation_strategy=strategy)
    expected = [each for each in peer(text) if each["start"] < each["end"]]
    assert len(expected) > 3
    result = analyze(tasked, text, tokens(model=name, aggregation=STRATEGIES[strategy])).results[0]
    entities = result.classify_tokens.entities
    ours = [(each.label, each.span.start, each.span.end) for each in entities]
    assert ours == [(each["entity_group"], each["start"], each["end"]) for each in expected]
    assert [each.score for each in entities] == pytest.approx([float(each["score"]) for each in expected], abs=CLOSE)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["random-labels", "random-multi"])
def test_labels_are_those_of_transformers_for_random_heads(
    tasked: Server, folders: dict[str, Path], name: str, text: str
) -> None:
    (found,) = pipeline("text-classification", folders[name], top_k=None)([text])
    expected = {each["label"]: each["score"] for each in found}
    labels = analyze(tasked, text, classify(model=name)).results[0].classify.labels
    assert {each.label: each.score for each in labels} == pytest.approx(expected, abs=CLOSE)
    assert max(expected.values()) - min(expected.values()) > 0.05


@pytest.mark.parametrize("text", TEXTS)
def test_sparse_vectors_are_those_of_sentence_transformers(tasked: Server, models: Path, text: str) -> None:
    from sentence_transformers import SparseEncoder

    peer = SparseEncoder(str(models / TINY), device="cpu", local_files_only=True)
    peer.max_seq_length = 512
    theirs = peer.encode([text], convert_to_sparse_tensor=False)[0].cpu().numpy()
    ours = np.zeros_like(theirs)
    vector = analyze(tasked, text, sparse(return_tokens=True), model=TINY).results[0].embed_sparse.document_vector
    ours[list(vector.indices)] = vector.weights
    assert np.abs(ours - theirs).max() <= CLOSE
    assert len(vector.tokens) == len(vector.indices) == (theirs > 0).sum()
    words = dict(zip(vector.indices, vector.tokens, strict=True))
    assert all(peer.tokenizer.convert_ids_to_tokens(index) == word for index, word in words.items())


@pytest.mark.parametrize("unit", UNITS)
def test_spans_and_redacted_texts_hold_in_each_unit(tasked: Server, unit: pb.OffsetUnit) -> None:
    text = " ".join(TEXTS) * 3
    asked = tokens(model="random-tokens"), redact(model="random-tokens", mask="«{label}»")
    plain = analyze(tasked, text, *asked).results
    entities, redaction = (analyze(tasked, text, *asked, offset_unit=unit).results[i] for i in (0, 1))
    points = [(each.span.start, each.span.end) for each in plain[0].classify_tokens.entities]
    ruler = Ruler(text, UNITS[unit])
    assert [(e.span.start, e.span.end) for e in entities.classify_tokens.entities] == [
        ruler.span(*each) for each in points
    ]
    assert [each.entity for each in redaction.redact.entities] == list(entities.classify_tokens.entities)
    expected = text
    for (start, end), each in reversed(list(zip(points, entities.classify_tokens.entities, strict=True))):
        expected = expected[:start] + f"«{each.label}»" + expected[end:]
    assert redaction.redact.text == expected
    masks = Ruler(expected, UNITS[unit])
    ends = [(each.redacted.start, each.redacted.end) for each in redaction.redact.entities]
    for (start, end), masked in zip(
        masks.points(np.array(ends).ravel()).reshape(-1, 2), redaction.redact.entities, strict=True
    ):
        assert expected[start:end] == f"«{masked.entity.label}»"


ALL = (
    sparse(top_k=20),
    embed_task("embed"),
    tokens(model="random-tokens"),
    classify("r8", model="random-head", return_segments=True),
    redact(model="random-tokens"),
)


def test_one_call_runs_each_trunk_once_and_answers_in_the_order_of_the_tasks(tasked: Server) -> None:
    text = prose(1500, seed=4)
    reply = analyze(tasked, text, *ALL, model=MINILM)
    assert [result.name for result in reply.results] == ["sparse", "embed", "tokens", "r8", "redact"]
    trunks = [(trunk.model.name, list(trunk.tasks)) for trunk in reply.trunks]
    assert trunks == [(TINY, ["sparse"]), (MINILM, ["embed", "r8"]), ("random-tokens", ["tokens", "redact"])]
    assert reply.info.usage.tokens == sum(trunk.usage.tokens for trunk in reply.trunks)
    assert reply.info.model.name == TINY
    assert [len(trunk.segments) > 0 for trunk in reply.trunks] == [False, True, True]
    for task, result in zip(ALL, reply.results, strict=True):
        assert analyze(tasked, text, task, model=MINILM).results[0] == result
    carried = [each.segment_index for label in reply.results[3].classify.labels for each in label.segments]
    assert sorted(carried) == list(range(len(reply.trunks[1].segments)))


def segments_of(events: Sequence[pb.StreamSegmentsResponse]) -> list[pb.SegmentResult]:
    """A stream's segments, but for who computed them: trunks with equal layers await each other."""
    segments = [event.segment for event in events if event.HasField("segment")]
    for each in segments:
        each.segment.ClearField("resumed_from_layer")
    return segments


def test_a_stream_over_several_trunks_resumes_after_any_segment(tasked: Server) -> None:
    text = prose(1200, seed=5)
    request = pb.StreamSegmentsRequest(document=document(text), tasks=ALL, options=pb.CallOptions(model=MINILM))
    whole = list(tasked.inference.StreamSegments(request))
    segments = segments_of(whole)
    assert {segment.trunk for segment in segments} == {0, 1, 2}
    ends = [segment.segment.span.end for segment in segments]
    assert ends == sorted(ends)
    found = [e for s in segments for r in s.results if r.name == "tokens" for e in r.classify_tokens.entities]
    unary = {result.name: result for result in analyze(tasked, text, *ALL, model=MINILM).results}
    assert found == list(unary["tokens"].classify_tokens.entities)
    pieces = [r.redact.text for s in segments for r in s.results if r.name == "redact"]
    assert "".join(pieces) == unary["redact"].redact.text
    for i, segment in enumerate(segments):
        resumed = pb.StreamSegmentsRequest(
            document=document(text), tasks=ALL, options=pb.CallOptions(model=MINILM), cursor=segment.cursor
        )
        events = list(tasked.inference.StreamSegments(resumed))
        assert segments_of(events) == segments[i + 1 :]
        assert events[-1].summary.results == whole[-1].summary.results


@pytest.mark.parametrize("return_segments", [False, True])
def test_a_stream_of_documents_says_what_analyze_says(tasked: Server, return_segments: bool) -> None:
    texts = {"a": prose(1200, seed=6), "b": " ".join(TEXTS), "c": prose(40, seed=7)}
    start = pb.ProcessStart(tasks=ALL, options=pb.CallOptions(model=MINILM), return_segments=return_segments)
    parts = [pb.ProcessDocumentsRequest(start=start)]
    parts += [pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=name, text=text)) for name, text in texts.items()]
    found: dict[str, dict[str, pb.TaskResult]] = {name: {} for name in texts}
    segments: dict[str, int] = dict.fromkeys(texts, 0)
    for response in tasked.inference.ProcessDocuments(iter(parts)):
        if response.HasField("ready"):
            continue
        identifier, reply = response.result.id, response.result.ok
        for result in reply.results:
            so_far = found[identifier].setdefault(result.name, pb.TaskResult())
            shift = len(so_far.redact.text)
            text = so_far.redact.text + result.redact.text
            for each in result.redact.entities:
                each.redacted.start += shift
                each.redacted.end += shift
            so_far.MergeFrom(result)
            if text:
                so_far.redact.text = text
        segments[identifier] += len(reply.segments) + sum(len(trunk.segments) for trunk in reply.trunks)
        if not response.result.more:
            assert [result.name for result in reply.results] == [task.name for task in ALL]
    for name, text in texts.items():
        expected = analyze(tasked, text, *ALL, model=MINILM)
        assert list(found[name].values()) == sorted(expected.results, key=lambda r: list(found[name]).index(r.name))
        cut = len(expected.segments) + sum(len(trunk.segments) for trunk in expected.trunks)
        assert segments[name] == (cut if return_segments else 0)


def test_typed_methods_are_analyze_with_one_task(tasked: Server) -> None:
    text, inference = TEXTS[0], tasked.inference
    options = pb.CallOptions(model="random-tokens")
    entities = inference.ClassifyTokens(pb.ClassifyTokensRequest(document=document(text), options=options))
    assert entities.result == analyze(tasked, text, tokens(model="random-tokens")).results[0].classify_tokens
    assert len(entities.segments) == 1
    masked = inference.Redact(pb.RedactRequest(document=document(text), options=options))
    assert masked.result == analyze(tasked, text, redact(model="random-tokens")).results[0].redact
    options = pb.CallOptions(model="random-head")
    labels = inference.Classify(pb.ClassifyRequest(document=document(text), options=options))
    assert (labels.info.model.name, labels.info.model.version) == ("random-head", "1.2.3")
    assert labels.result == analyze(tasked, text, classify(model="random-head")).results[0].classify
    weights = inference.EmbedSparse(pb.EmbedSparseRequest(document=document(text)))
    assert weights.result == analyze(tasked, text, sparse()).results[0].embed_sparse
    assert weights.info.model.name == TINY


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        (tokens(model="random-tokens", labels=["PER", "CITY"]), "tasks[0].classify_tokens.labels[1]", "PER, LOC"),
        (tokens(model="random-tokens", aggregation=9), "tasks[0].classify_tokens.aggregation", "9"),
        (tokens(model="random-tokens", min_score=1.5), "tasks[0].classify_tokens.min_score", "between 0 and 1"),
        (redact(model="random-tokens", mask="é" * 129), "tasks[0].redact.mask", "256 bytes"),
        (
            redact(model="random-tokens", entities=pb.ClassifyTokensOptions(labels=["X"])),
            "tasks[0].redact.entities.labels[0]",
            "PER, LOC",
        ),
        (classify(model="random-head", min_score=-1), "tasks[0].classify.min_score", "between 0 and 1"),
        (pb.Task(name="x"), "tasks[0].kind", "embed_sparse"),
    ],
)
def test_a_wrong_option_is_named(tasked: Server, asked: pb.Task, field: str, words: str) -> None:
    refusal = refused(lambda: analyze(tasked, "a text", asked))
    assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert words in refusal.message


def test_a_model_that_does_not_support_the_task_is_refused(tasked: Server, server: Server) -> None:
    refusal = refused(lambda: analyze(tasked, "a text", classify(model=TINY)))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert refusal.message == f"{TINY} does not support classify"
    refusal = refused(lambda: analyze(server, "a text", classify()))
    assert refusal.message == "the served models do not support classify"


def test_models_say_what_they_are_for(tasked: Server) -> None:
    from octavo.v1 import models_pb2

    described = {each.ref.name: each for each in tasked.models.ListModels(models_pb2.ListModelsRequest()).models}
    assert list(described[MINILM].tasks) == ["embed", "rank"]
    assert list(described[TINY].tasks) == ["embed", "rank", "embed_sparse"]
    assert list(described["random-tokens"].tasks) == ["embed", "rank", "classify_tokens", "redact"]
    assert list(described["random-tokens"].labels) == ["PER", "LOC"]
    assert described["random-multi"].multi_label
    head = described["random-head"]
    assert (head.trunk, head.ref.version, list(head.labels)) == (MINILM, "1.2.3", list(SUBJECTS))


def test_a_head_is_served_only_beside_the_layers_that_it_was_trained_on(folders: dict[str, Path]) -> None:
    alone = settings(model(str(folders["random-head"])))
    with pytest.raises(StartError, match=f"random-head: it is a head on {MINILM}; {MINILM} is not served: add"):
        open_catalogue(alone, Metrics(CollectorRegistry()))
