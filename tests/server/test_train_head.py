"""`octavo train-head` on real texts: an address of 1864 and this repository's documents."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from encoder.folder import describe
from octavo.v1 import inference_pb2 as pb
from server.commands.train_head import train_head
from server.config.schema import CacheSettings
from server.inference.runner import Runner
from server.training.examples import Example, data_of, read_data
from server.training.features import read_examples
from server.training.states import open_states
from tests.server.helpers import TINY, embed, model, serving, settings, vector

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def paragraphs(file: str) -> list[str]:
    return [text for text in (ROOT / file).read_text("utf-8").split("\n\n") if len(text.split()) > 15][:40]


ADDRESS, DOCS = paragraphs("server/demo/address.txt"), paragraphs("docs/limits.md") + paragraphs("docs/cache.md")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> Path:
    """A folder for data, with models in their usual place and state of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def trained(folder: Path, task: str, rows: list[dict[str, Any]], out: str = "head", *more: str) -> Result:
    data = written(folder / "data.jsonl", rows)
    options = ["--cache-dir", str(folder / "cache"), "--out", str(folder / out), *more]
    return CliRunner().invoke(train_head, ["--model", TINY, "--data", str(data), "--task", task, *options])


CLASSES = [{"text": text, "label": "address"} for text in ADDRESS] + [{"text": text, "label": "docs"} for text in DOCS]


def logits(folder: Path, task: Any, rows: list[dict[str, Any]]) -> tuple[Any, Any, dict[str, Any]]:
    """What a head that was written says of documents, what is right, and its manifest."""
    head = load_file(folder / "head" / "head.safetensors")
    configured = settings(model(TINY, "auto")).model_copy(update={"cache": CacheSettings(dir=folder / "cache")})
    with open_states(configured) as states:
        examples = read_examples(states, read_data(written(folder / "check", rows), task), lambda _: None)
    return (
        examples.features @ head["weight"].T + head["bias"],
        examples,
        json.loads((folder / "head" / "octavo.json").read_text()),
    )


def test_documents_are_classified(folder: Path) -> None:
    done = trained(folder, "classify", CLASSES, "head", "--licence", "MIT", "--version", "0.2.0")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{folder / 'head'}\n"
    scores, examples, manifest = logits(folder, "classify", CLASSES)
    assert np.mean(scores.argmax(axis=1) == examples.targets) > 0.9
    trunk = describe(Path(settings(model(TINY)).models[0].folder))
    assert manifest == {
        "version": "0.2.0",
        "task": "classify",
        "labels": ["address", "docs"],
        "multi_label": False,
        "pooling": "mean",
        "normalize": False,
        "trunk": {"name": TINY, "digest": trunk.digest},
        "licence": "MIT",
        "trained_on": "data.jsonl",
    }
    card = (folder / "head" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n")
    assert "accuracy" in card
    assert {file.name for file in (folder / "head").iterdir()} == {"octavo.json", "head.safetensors", "README.md"}
    assert not any(text in card for text in ADDRESS)


def test_any_number_of_labels(folder: Path) -> None:
    long = "\n\n".join(ADDRESS[:6])
    rows = [{"text": text, "labels": ["address"]} for text in ADDRESS] + [{"text": text, "labels": []} for text in DOCS]
    rows += [{"text": f"{long}\n\n{text}", "labels": ["address", "docs"]} for text in DOCS]
    assert trained(folder, "classify", rows).exit_code == 0
    scores, examples, manifest = logits(folder, "classify", rows)
    assert manifest["multi_label"]
    first = np.concatenate([[0], np.cumsum(examples.rows)[:-1]])
    assert examples.rows.max() > 1
    assert np.mean((np.maximum.reduceat(scores, first) > 0) == examples.targets) > 0.8


def test_tokens_are_classified(folder: Path) -> None:
    rows = [
        {
            "text": text,
            "entities": [{"start": m.start(), "end": m.end(), "label": "NUMBER"} for m in NUMBER.finditer(text)],
        }
        for text in ADDRESS[:20] + DOCS[:20]
    ]
    done = trained(folder, "tokens", rows)
    assert done.exit_code == 0, done.stderr
    scores, examples, manifest = logits(folder, "tokens", rows)
    assert manifest["labels"] == ["O", "B-NUMBER", "I-NUMBER"]
    assert "pooling" not in manifest
    found, true = scores.argmax(axis=1) > 0, examples.targets > 0
    assert true.sum() > 50
    assert (found & true).sum() / (found | true).sum() > 0.85


def test_training_again_and_the_server_compute_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(folder, "classify", CLASSES).exit_code == 0
    configured = settings(model(TINY, "auto")).model_copy(update={"cache": CacheSettings(dir=folder / "cache")})
    with serving(configured) as server:
        request = pb.EmbedRequest(documents=[pb.Document(text=text) for text in ADDRESS])
        assert server.inference.Embed(request).info.usage.computed_tokens == 0

    def computes(*_: Any, **__: Any) -> None:
        raise AssertionError("a state is computed again")

    monkeypatch.setattr(Runner, "compute", computes)
    assert trained(folder, "classify", CLASSES, "again").exit_code == 0
    first, again = (load_file(folder / name / "head.safetensors") for name in ("head", "again"))
    assert first["weight"].tobytes() == again["weight"].tobytes()


def test_a_long_document_is_read_as_the_server_reads_it(folder: Path) -> None:
    configured = settings(model(TINY, "auto"))
    text = (ROOT / "server/demo/address.txt").read_text("utf-8")
    data = data_of("classify", [Example("", text, ("a",)), Example("", DOCS[0], ("b",))], multi_label=False, name="")
    with open_states(configured) as states:
        features = read_examples(states, data, lambda _: None).features[0]
    with serving(configured) as server:
        assert np.abs(vector(embed(server, text)) - features).max() < 1e-5


def test_errors_are_told_in_a_line(folder: Path) -> None:
    bad = trained(folder, "classify", [*CLASSES, {"text": "x"}])
    assert bad.exit_code == 1
    assert bad.stderr.splitlines()[
        -1
    ] == f"octavo: {folder}/data.jsonl, line {len(CLASSES) + 1}: either 'label' or " + ("'labels' is needed")
    empty = trained(folder, "classify", [*CLASSES, {"text": "\u200b", "label": "docs"}])
    assert empty.exit_code == 1
    assert f"line {len(CLASSES) + 1}: the text has no tokens" in empty.stderr
    (folder / "head").mkdir()
    assert "exists already" in trained(folder, "classify", CLASSES).stderr
    assert "1.0.0" in trained(folder, "classify", CLASSES, "other", "--version", "one").stderr
