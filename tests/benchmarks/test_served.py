"""Servers that scenarios start: what is said when one does not come up."""

import pytest

from benchmarks.served import ServerError, serve


def test_a_server_that_will_not_start_is_told_with_its_last_line() -> None:
    with (
        pytest.raises(ServerError, match=r"the server: ended with status 2; .*server\.listne"),
        serve("--set", "server.listne=127.0.0.1:1"),
    ):
        pytest.fail("it started")
