"""`OctavoIndex` with LangChain's own indexing API."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.doors.clients import ROOT

# Behind our own packages: `make test-clients` has it in an environment of its own.
sys.path += map(str, (ROOT / ".venv-clients" / "langchain" / "lib").glob("python3*/site-packages"))
pytest.importorskip("langchain_core", reason="langchain is not installed: `make test-clients` does")

from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index

from octavo.client import Client
from octavo.index.errors import IndexingError
from octavo.index.langchain import OctavoIndex
from tests.server.helpers import TINY, Server, model, prose, serving, settings


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(settings(model(TINY))) as running:
        yield running


@pytest.fixture
def store(server: Server, tmp_path: Path) -> Iterator[OctavoIndex]:
    with Client(server.address) as client:
        store = OctavoIndex(client=client, path=tmp_path / "i.index")
        yield store
        store.close()


@pytest.fixture
def records() -> InMemoryRecordManager:
    manager = InMemoryRecordManager(namespace="test")
    manager.create_schema()
    return manager


def documents(count: int = 6) -> list[Document]:
    return [Document(page_content=prose(1500, seed=i), metadata={"source": f"d{i}", "n": i}) for i in range(count)]


def indexed(given: list[Document], records: InMemoryRecordManager, store: OctavoIndex, cleanup: str) -> dict[str, int]:
    found: Any = index(
        given, records, store, cleanup=cleanup, source_id_key="source", key_encoder="sha256"
    )  # fmt: skip
    return {name.removeprefix("num_"): count for name, count in found.items()}


def held(store: OctavoIndex) -> dict[str, str]:
    ids = list(store._store.abouts())
    return {each.metadata["source"]: each.page_content for each in store.get(ids)}


def computed(server: Server) -> float:
    return server.sample("processed_tokens_total", source="computed")


@pytest.mark.parametrize("cleanup", ["incremental", "full", "scoped_full"])
def test_index_keeps_it_in_step_and_pays_for_the_edit(
    server: Server, store: OctavoIndex, records: InMemoryRecordManager, cleanup: str
) -> None:
    given = documents()
    before = computed(server)
    assert indexed(given, records, store, cleanup) == {"added": 6, "updated": 0, "skipped": 0, "deleted": 0}
    first = computed(server) - before
    assert indexed(given, records, store, cleanup) == {"added": 0, "updated": 0, "skipped": 6, "deleted": 0}

    text = given[2].page_content.replace(". ", ". Once more to the lighthouse. ", 1)
    given[2] = Document(page_content=text, metadata=given[2].metadata)
    before = computed(server)
    assert indexed(given, records, store, cleanup) == {"added": 1, "updated": 0, "skipped": 5, "deleted": 1}
    assert 0 < computed(server) - before < first / 6 * 0.8  # less than the document, which has a new id
    assert held(store) == {each.metadata["source"]: each.page_content for each in given}

    if cleanup == "full":
        assert indexed(given[1:], records, store, cleanup)["deleted"] == 1
        assert held(store).keys() == {f"d{i}" for i in range(1, 6)}


def test_it_retrieves_passages_with_their_spans(store: OctavoIndex, records: InMemoryRecordManager) -> None:
    given = documents()
    assert store.invoke("bread and water by night") == []
    indexed(given, records, store, "full")
    found = store.invoke("bread and water by night")
    assert len(found) == store.k
    for passage in found:
        whole = next(each for each in given if each.metadata["source"] == passage.metadata["source"])
        start, end = passage.metadata["char_start"], passage.metadata["char_end"]
        assert passage.page_content == whole.page_content[start:end]
        assert passage.metadata["n"] == whole.metadata["n"]
    scores = [each.metadata["score"] for each in found]
    assert scores == sorted(scores, reverse=True)


def test_documents_are_upserted_read_and_deleted_by_id(store: OctavoIndex) -> None:
    done = store.upsert(
        [Document(id="a", page_content="One."), Document(page_content="Two."), Document(page_content="")]
    )
    assert done["succeeded"][0] == "a"
    assert len(set(done["succeeded"])) == 3
    store.upsert([Document(id="a", page_content="Another.", metadata={"x": [1]})])
    assert store.get(["none", "a"]) == [Document(id="a", page_content="Another.", metadata={"x": [1]})]
    assert store.delete(["a", "none"])["succeeded"] == ["a"]
    assert store.get(["a"]) == []
    with pytest.raises(ValueError, match="ids"):
        store.delete()


def test_an_index_of_a_folder_is_refused(server: Server, tmp_path: Path) -> None:
    from octavo.index.store import Store

    with Store(tmp_path / "folder.index", create=True) as other:
        other.configure({"folder": "/texts"})
    with Client(server.address) as client, pytest.raises(IndexingError, match="was made with folder"):
        OctavoIndex(client=client, path=tmp_path / "folder.index")


def test_the_example_follows_a_repository_s_history(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "index.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *arguments], check=True, capture_output=True)

    def commit(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / f"{name}.md").write_text(text)
        git("add", ".")
        git("commit", "-m", "docs")

    git("init")
    commit(a=prose(1500, seed=1), b=prose(1500, seed=2), c="Short.")
    commit(a=prose(1500, seed=1).replace(". ", ". Once more to the lighthouse. ", 1))
    git("rm", "c.md")
    commit()
    exec(example.replace("127.0.0.1:50051", server.address), {})  # noqa: S102 - our own page
    said = [line for line in capsys.readouterr().out.splitlines() if "num_added" in line]
    counts = [tuple(map(int, re.findall(r"'num_\w+': (\d+)", line))) for line in said]
    assert counts == [(3, 0, 0, 0), (1, 0, 2, 1), (0, 0, 2, 1)]  # added, updated, skipped, deleted
