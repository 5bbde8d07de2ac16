"""Which files of a folder are indexed, and when a file counts as unchanged."""

import os
from pathlib import Path

import pytest

from octavo.index.files import TEXT_FILES, matches, read, scan

LONG_AGO = 1_000_000_000


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a.md", "*.md", True),
        ("docs/deep/a.md", "*.md", True),
        ("a.MD", "*.md", False),
        ("docs/a.md", "docs/*.md", True),
        ("docs/deep/a.md", "docs/*.md", False),
        ("docs/deep/a.md", "docs/**/*.md", True),
        ("docs/a.md", "docs/**/*.md", True),
        ("a.md", "**/*.md", True),
        ("docs/deep/a.md", "docs/**", True),
        ("other/docs/a.md", "docs/*.md", False),
        ("docs/a1.md", "docs/a[0-9].md", True),
    ],
)
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, pattern) == expected


def test_texts_are_found_and_hidden_or_excluded_files_are_not(tmp_path: Path) -> None:
    names = ("a.md", "b.txt", "c.py", ".hidden.md", ".git/d.md", "sub/e.rst", "node_modules/x/f.md", "sub/old/g.md")
    folder_of(tmp_path, *names)
    (tmp_path / "link.md").symlink_to(tmp_path / "a.md")
    (tmp_path / "broken.md").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.md")
    found = scan(tmp_path, TEXT_FILES, ["node_modules", "sub/old"])
    assert list(found.files) == ["a.md", "b.txt", "link.md", "sub/e.rst"]
    assert found.problems == {}
    assert list(scan(tmp_path, ["*.py"]).files) == ["c.py"]


def test_a_folder_that_cannot_be_read_is_told_and_its_files_are_unknown(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.md", "sub/b.md")
    (tmp_path / "sub").chmod(0)
    if os.access(tmp_path / "sub", os.R_OK):
        (tmp_path / "sub").chmod(0o700)
        pytest.skip("permissions do not bind this user")
    found = scan(tmp_path)
    (tmp_path / "sub").chmod(0o700)
    assert list(found.files) == ["a.md"]
    assert list(found.problems) == ["sub"]
    assert not found.knows("sub/b.md")
    assert found.knows("c.md")


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.md")).write_text("x")
    found = scan(tmp_path)
    assert not found.files
    assert list(found.problems.values()) == ["the name is not UTF-8"]


def test_a_file_is_trusted_once_its_times_are_past(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.md")
    found = scan(tmp_path)
    assert found.files["a.md"].stamp == ""  # a change within the clock's tick would not show
    assert not found.is_settled
    data, file = read(found.files["a.md"])
    assert (data, file.stamp) == (b"a.md", "")


def test_an_older_time_alone_does_not_settle_a_file(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.md")
    os.utime(tmp_path / "a.md", (LONG_AGO, LONG_AGO))  # as `cp -p` and archives do; ctime is now
    assert scan(tmp_path).files["a.md"].stamp == ""
