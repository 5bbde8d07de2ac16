"""Cursors open nothing and fit one stream alone."""

import base64

import pytest

from server.errors import CursorMismatch
from server.inference.cursor import Cursors

SECRET = bytes(range(32))
SUBJECT = (b"tenant", b"document", b"fingerprint", b"task")


@pytest.mark.parametrize("sent", [(42,), (3, 0, 7)])
def test_a_cursor_says_how_many_segments_of_each_trunk_were_sent(sent: tuple[int, ...]) -> None:
    cursor = Cursors(SECRET, SUBJECT, len(sent)).after(sent)
    assert Cursors(SECRET, SUBJECT, len(sent)).sent(cursor) == sent


def test_a_cursor_of_more_trunks_is_refused() -> None:
    with pytest.raises(CursorMismatch):
        Cursors(SECRET, SUBJECT).sent(Cursors(SECRET, SUBJECT, 2).after([1, 2]))


@pytest.mark.parametrize("changed", range(len(SUBJECT)))
def test_a_cursor_of_another_subject_is_refused(changed: int) -> None:
    other = tuple(b"other" if i == changed else fact for i, fact in enumerate(SUBJECT))
    with pytest.raises(CursorMismatch):
        Cursors(SECRET, SUBJECT).sent(Cursors(SECRET, other).after([3]))


def test_facts_do_not_run_into_each_other() -> None:
    with pytest.raises(CursorMismatch):
        Cursors(SECRET, (b"ab", b"c")).sent(Cursors(SECRET, (b"a", b"bc")).after([3]))


def test_a_cursor_of_another_deployment_is_refused() -> None:
    with pytest.raises(CursorMismatch):
        Cursors(SECRET, SUBJECT).sent(Cursors(SECRET[::-1], SUBJECT).after([3]))


def test_a_cursor_that_was_tampered_with_is_refused() -> None:
    raw = bytearray(base64.urlsafe_b64decode(Cursors(SECRET, SUBJECT).after([3])))
    for i in range(len(raw)):
        changed = raw.copy()
        changed[i] ^= 1
        with pytest.raises(CursorMismatch):
            Cursors(SECRET, SUBJECT).sent(base64.urlsafe_b64encode(changed).decode())


@pytest.mark.parametrize("nonsense", ["", "x", "äöü", "AAAA", "!" * 40, "=" * 3])
def test_nonsense_is_refused(nonsense: str) -> None:
    with pytest.raises(CursorMismatch):
        Cursors(SECRET, SUBJECT).sent(nonsense)
