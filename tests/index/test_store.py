"""The store of an index: what it holds after changes, failures and searches."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from octavo.client import Change, Held, PlacedSegment, Usage
from octavo.index.errors import IndexBusy, NoIndex, OtherIndex, VectorMissing
from octavo.index.store import Store, exclusive

DIMENSIONS = 16


def vector(digest: bytes) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(list(digest)).normal(size=DIMENSIONS).astype(np.float32)
    return found


def change(*digests: bytes, known: str | bytes = b"", fingerprint: str = "f") -> Change:
    """A document of segments with these digests; those in `known` bring no vector."""
    known = known.encode() if isinstance(known, str) else known
    placed = (
        PlacedSegment(digest, 10 * i, 10 * i + 10, None if digest in known else vector(digest))
        for i, digest in enumerate(digests)
    )
    return Change(fingerprint, tuple(placed), (), Usage(0, 0, 0, 0, 0))


def rows(store: Store) -> list[tuple[str, bytes, int, int]]:
    assert store.path
    with closing(sqlite3.connect(store.path)) as other:
        return other.execute(
            "SELECT id, digest, char_start, char_end FROM segments JOIN documents ON document = number ORDER BY id, "
            "position"
        ).fetchall()


def vectors(store: Store) -> dict[bytes, bytes]:
    assert store.path
    with closing(sqlite3.connect(store.path)) as other:
        return dict(other.execute("SELECT digest, vector FROM vectors"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "i.index", create=True) as opened:
        yield opened


def test_a_change_is_applied_whole_and_again_without_effect(store: Store) -> None:
    assert store.held("a") is None
    store.apply("a", change(b"1", b"2", b"3"))
    assert store.held("a") == Held("f", (b"1", b"2", b"3"))
    edited = change(b"1", b"4", b"3", b"1", known=b"13")
    for _ in range(2):
        store.apply("a", edited)
        assert rows(store) == [("a", b"1", 0, 10), ("a", b"4", 10, 20), ("a", b"3", 20, 30), ("a", b"1", 30, 40)]
        assert vectors(store) == {digest: vector(digest).tobytes() for digest in (b"1", b"3", b"4")}


def test_a_vector_stays_while_a_document_has_its_segment(store: Store) -> None:
    store.apply("a", change(b"1", b"2"))
    store.apply("b", change(b"2", b"3"))
    store.apply("a", change(b"1", known=b"1"))
    assert vectors(store).keys() == {b"1", b"2", b"3"}
    assert store.delete(["b", "c"]) == ["b"]
    assert vectors(store).keys() == {b"1"}
    store.clear("a")
    assert vectors(store) == {}
    assert store.abouts() == {"a": ""}


def test_a_change_that_fails_leaves_everything_as_it_was(store: Store) -> None:
    store.apply("a", change(b"1", b"2"), "about")
    before = rows(store), vectors(store), store.abouts()
    with pytest.raises(VectorMissing, match="1 vectors of a"):
        store.apply("a", change(b"1", b"9", known=b"9"), "other")
    with pytest.raises(OtherIndex, match=r"fingerprint f, .* of g"):
        store.apply("a", change(b"1", fingerprint="g"), "other")
    assert (rows(store), vectors(store), store.abouts()) == before


def test_documents_of_a_source_are_held_together(store: Store) -> None:
    store.apply("v1", change(b"1", b"2"), source="s")
    store.apply("w", change(b"3"), source="t")
    assert store.held("v2") == Held("f", ())
    assert store.held_of_source("s") == Held("f", (b"1", b"2"))
    store.apply("v2", change(b"1", b"4", known=b"1"), source="s")
    store.delete(["v1"])
    assert vectors(store).keys() == {b"1", b"3", b"4"}


def test_nearest_is_exact_and_names_every_place(store: Store) -> None:
    digests = [i.to_bytes(2, "big") for i in range(9000)]  # more than are compared at a time
    for start in range(0, 9000, 1000):
        store.apply(f"d{start}", change(*digests[start : start + 1000]), f"about {start}")
    store.apply("twice", change(digests[5], known=digests[5]))
    query = vector(b"query")
    scores = {digest: float(vector(digest) @ query) for digest in digests}
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:5]
    hits = store.nearest(query, 5)
    assert [hit.score for hit in hits] == pytest.approx([scores[digest] for digest in best], rel=1e-5)
    places = [(f"d{n // 1000 * 1000}", 10 * (n % 1000)) for n in (int.from_bytes(d, "big") for d in best)]
    assert [(hit.document_id, hit.char_start) for hit in hits] == places
    assert {hit.about for hit in hits} == {f"about {place[0][1:]}" for place in places}
    hits = store.nearest(vector(digests[5]), 2)
    assert [(hit.document_id, hit.char_start) for hit in hits] == [("d0", 50), ("twice", 0)]


def test_settings_are_recorded_once(store: Store, tmp_path: Path) -> None:
    store.configure({"model": None, "n": 1})
    store.configure({"model": None, "n": 1})
    with pytest.raises(OtherIndex, match="made with model unset, not m: use the same"):
        store.configure({"model": "m", "n": 1})
    with Store(tmp_path / "i.index") as again:
        assert again.settings == {"model": None, "n": 1}


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoIndex, match="there is no index: make one"):
        Store(tmp_path / "none")
    (tmp_path / "text").write_text("words " * 1000)
    with pytest.raises(NoIndex, match="not an index"):
        Store(tmp_path / "text", create=True)
    assert (tmp_path / "text").read_text() == "words " * 1000
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(NoIndex, match="another program's"):
        Store(tmp_path / "other", create=True)
    with pytest.raises(NoIndex, match="No such file"):
        Store(tmp_path / "no" / "folder", create=True)


@pytest.mark.parametrize("create", [True, False])
def test_a_device_is_no_index(create: bool) -> None:
    before = set(Path("/dev").iterdir())
    with pytest.raises(NoIndex, match="/dev/null: the file is not an index"):
        Store(Path("/dev/null"), create=create)
    assert not any(each.name.startswith("null-") for each in set(Path("/dev").iterdir()) - before)


def test_only_the_owner_can_read_it(store: Store) -> None:
    store.apply("a", change(b"1"))
    assert store.path
    files = [path for path in store.path.parent.iterdir() if path.name.startswith(store.path.name)]
    assert len(files) == 3  # WAL and shared memory
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "i.index"
    code = (
        "import sys, pathlib\nfrom octavo.index.store import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])):\n    print('has it', flush=True)\n    sys.stdin.read()\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ.copy()
    )
    assert first.stdout
    assert first.stdin
    assert first.stdout.readline() == b"has it\n"
    with pytest.raises(IndexBusy, match="another process"), exclusive(path):
        pass
    first.kill()
    first.wait()
    first.stdin.close()
    first.stdout.close()
    with exclusive(path):
        pass
