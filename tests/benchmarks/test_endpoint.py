"""Which server is measured: the one that is named, with its key and encryption, or one of our own."""

from pathlib import Path
from typing import Any

import click
import pytest

from benchmarks.endpoint import Endpoint, named, server_options


def parsed(*arguments: str) -> dict[str, Any]:
    @server_options
    def run(**where: Any) -> None:
        del where

    options = list(reversed(run.__click_params__))  # type: ignore[attr-defined]
    return click.Command("scenario", params=options).make_context("scenario", list(arguments)).params


def test_without_a_name_there_is_none() -> None:
    assert named(parsed()) is None


def test_the_key_comes_from_the_environment_and_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OCTAVO_API_KEY", "oct_a_b")
    ca = tmp_path / "ca.pem"
    ca.touch()
    found = named(parsed("--server", "there:1", "--ca", str(ca)))
    assert found == Endpoint("there:1", "oct_a_b", tls=True, ca=ca)
    assert "oct_a_b" not in repr(found)


def test_a_key_is_not_sent_where_others_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_API_KEY", "oct_a_b")
    found = named(parsed("--server", "there:1"))
    assert found is not None
    with pytest.raises(ValueError, match="without encryption"):
        found.client()
    allowed = named(parsed("--server", "there:1", "--allow-plaintext-token"))
    assert allowed is not None
    allowed.client().close()


def test_encryption_of_no_server_is_a_mistake() -> None:
    with pytest.raises(click.UsageError, match="name it"):
        named(parsed("--tls"))
