import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import Kind, Tag
from cache.tag import RECORD_BYTES, TAG_BYTES, Selector, name_digest

names = st.sampled_from(["acme", "zeta"])
documents = st.sampled_from([bytes(16), b"\0\1" * 8])
tags = st.tuples(st.sampled_from(Kind), st.builds(Tag, names, names, documents), st.floats(0, 4))
selectors = st.builds(
    Selector,
    kind=st.none() | st.sampled_from(Kind),
    tenant=st.none() | names.map(name_digest),
    model=st.none() | names.map(name_digest),
    document=st.none() | documents,
    stored_before=st.none() | st.floats(0, 4),
)


@given(selectors, st.lists(tags, max_size=8))
def test_memory_and_disk_select_alike(selector: Selector, entries: list[tuple[Kind, Tag, float]]) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE Cache (tag BLOB, store_time REAL)")
    encoded = [(tag.encode(kind), stored) for kind, tag, stored in entries]
    database.executemany("INSERT INTO Cache VALUES (?, ?)", encoded)
    where, values = selector.where()
    on_disk = database.execute(f"SELECT rowid - 1 FROM Cache WHERE {where}", values).fetchall()  # noqa: S608
    database.close()
    assert [row[0] for row in on_disk] == [i for i, entry in enumerate(encoded) if selector.matches(*entry)]


@given(selectors, st.sampled_from(Kind), names, names, documents)
def test_a_selector_takes_what_agrees_with_all_it_names(
    selector: Selector, kind: Kind, tenant: str, model: str, document: bytes
) -> None:
    wanted: list[tuple[Any, Any]] = [
        (selector.kind, kind),
        (selector.tenant, name_digest(tenant)),
        (selector.model, name_digest(model)),
        (selector.document, document),
    ]
    expected = all(want in (None, value) for want, value in wanted)
    tag = Tag(tenant, model, document).encode(kind)
    assert len(tag) == TAG_BYTES
    assert selector.matches(tag, -1.0) == expected


@given(selectors)
def test_a_record_says_what_was_packed(selector: Selector) -> None:
    assert Selector.unpack(selector.pack()) == selector


@given(selectors, st.integers(0, RECORD_BYTES * 8 - 1))
def test_a_damaged_record_is_refused(selector: Selector, bit: int) -> None:
    record = bytearray(selector.pack())
    record[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="damaged"):
        Selector.unpack(bytes(record))


def test_a_plain_text_cannot_pass_for_a_documents_digest() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Tag("acme", "model", b"the text itself").encode(Kind.STATE)
