"""Files to documents: what is a row, what is a bad one, and that the next one comes."""

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from octavo.batch.documents import Columns, Document, documents
from octavo.batch.errors import InputError
from octavo.batch.sources import find
from octavo.batch.survey import survey


def read(*paths: Path, columns: Columns | None = None, form: str | None = None, most: int = 1000) -> list[Document]:
    columns = columns or Columns()
    sources = [source for files in find([str(path) for path in paths], form) for source in files]
    return list(documents(sources, columns, columns.reading("utf-8", most)))


def reasons(found: list[Document]) -> list[str]:
    return [document.problem.reason if document.problem else document.text for document in found]


def test_each_bad_line_of_json_is_one_bad_row_and_says_nothing_of_its_text(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"id": "a", "text": "first"}',
        b'{"id": "b", "text": "secret"',
        b'{"id": "c", "text": "\xff"}',
        b"",
        b'["secret"]',
        b'{"id": "d"}',
        b'{"id": "e", "text": 5}',
        b'{"id": "f", "text": " \\n"}',
        b'{"id": "a", "text": "secret"}',
        b'{"id": 7, "text": "whole number"}',
        b'{"id": [1], "text": "secret"}',
        b'{"text": "no id"}',
        b'{"id": "g", "text": "' + b"x" * 1001 + b'"}',
        b'{"id": "h", "text": "\\ud800"}',
        b'{"id": "i", "text": ' + b"[" * 100_000,
        b'{"id": "j", "text": "last"}',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    found = read(path)
    assert reasons(found) == [
        "first", "MALFORMED_ROW", "INVALID_UTF8", "MALFORMED_ROW", "MISSING_TEXT", "WRONG_TYPE", "EMPTY_DOCUMENT",
        "DUPLICATE_ID", "whole number", "WRONG_TYPE", "no id", "DOCUMENT_TOO_LARGE", "INVALID_UTF8", "MALFORMED_ROW",
        "last",
    ]  # fmt: skip
    assert [document.id for document in found][:4] == ["a", "rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:5"]
    assert [found[8].id, found[10].id] == ["7", "rows.jsonl:12"]
    assert not any("secret" in str(document.problem) for document in found)


def test_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'id,text,n\n1,"two\nlines, one row",x\n2,short\n\n3,caf\xe9,x\n4,last,x\n')
    found = read(path)
    assert reasons(found) == ["two\nlines, one row", "MALFORMED_ROW", "INVALID_UTF8", "last"]
    assert [document.id for document in found] == ["1", "rows.csv:2", "rows.csv:3", "4"]


def test_parquet_rows_and_types(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0\5\0\0\0"), pa.py_buffer(b"ok\xfffi")]
    )
    parquet.write_table(pa.table({"id": [1, 2, 3], "text": broken, "year": [1790, None, 1792]}), path)
    found = read(path, columns=Columns(kept=("year",)))
    assert reasons(found) == ["ok", "INVALID_UTF8", "fi"]
    assert [document.kept for document in found] == [(1790,), (None,), (1792,)]
    parquet.write_table(pa.table({"text": pa.array([b"as bytes", None])}), path)
    assert reasons(read(path)) == ["as bytes", "MISSING_TEXT"]


def test_a_folder_is_its_files_compressed_or_not_and_hidden_ones_are_none(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("plain")
    (tmp_path / "letters" / "b.txt.gz").write_bytes(gzip.compress(b"zipped"))
    (tmp_path / "letters" / "c.txt").write_bytes(b"\xff")
    (tmp_path / "rows.jsonl.bz2").write_bytes(bz2.compress(json.dumps({"text": "a row"}).encode()))
    for hidden in (".hidden", "_SUCCESS"):
        (tmp_path / hidden).write_text("not a document")
    found = read(tmp_path)
    assert [(document.id, reason) for document, reason in zip(found, reasons(found), strict=True)] == [
        ("letters/a.txt", "plain"),
        ("letters/b.txt.gz", "zipped"),
        ("letters/c.txt", "INVALID_UTF8"),
        ("rows.jsonl.bz2:1", "a row"),
    ]
    uri = f"file://{tmp_path}/letters"
    assert [source.name for source in find([uri], None)[0]] == ["a.txt", "b.txt.gz", "c.txt"]


def test_files_of_one_name_in_two_inputs_keep_their_ids_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("text")
    found = read(tmp_path / "one", tmp_path / "two")
    assert reasons(found) == ["text", "text"]
    assert found[0].id != found[1].id


def test_what_cannot_be_read_at_all_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,body\n1,text\n")
    with pytest.raises(InputError, match=r"rows\.csv has no column 'text'; its columns: body, id"):
        read(tmp_path / "rows.csv")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz"):
        read(tmp_path / "cut.jsonl.gz")
    (tmp_path / "no.parquet").write_text("not Parquet")
    with pytest.raises(InputError, match=r"no\.parquet"):
        read(tmp_path / "no.parquet")
    with pytest.raises(InputError, match="no such file or folder"):
        read(tmp_path / "missing")


def test_kept_columns_hold_what_all_their_values_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"i": 1, "f": 1, "b": True, "s": "x", "m": 1}, {"f": 0.5, "m": "x", "o": {"a": 1}, "big": 2**70}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = Columns(kept=("i", "f", "b", "s", "m", "o", "big", "none"))
    sources = find([str(path)], None)[0]
    found = survey(sources, columns, columns.reading("utf-8", 1000))
    assert found.rows == 2
    assert found.kinds == ("int64", "double", "bool", "string", "json", "json", "json", "string")
