import contextlib
import os
import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cache import Key, Kind, Store, Tag
from server.commands.cache import cache
from server.config.schema import CacheSettings
from server.errors import StartError
from server.inference.storage import default_secret_path, open_existing_store, open_store


def settings(folder: Path) -> CacheSettings:
    return CacheSettings(dir=folder / "cache", secret_file=folder / "secret", min_free_bytes=0)


def test_the_default_place_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_secret_path({"XDG_STATE_HOME": "/var/state"}) == Path("/var/state/octavo/secret")
    for ignored in ({}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}):
        assert default_secret_path(ignored) == Path("/home/someone/.local/state/octavo/secret")


def test_a_folder_that_others_may_write_to_is_refused_with_the_remedy(tmp_path: Path) -> None:
    open_store(settings(tmp_path)).close()
    folder = tmp_path / "cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for mode in (0o720, 0o702, 0o777):
        folder.chmod(mode)
        with pytest.raises(StartError, match=rf"{folder}: chmod go-w it"):
            open_store(settings(tmp_path))
    folder.chmod(0o755)
    open_store(settings(tmp_path)).close()


def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    open_store(settings(tmp_path)).close()
    os.chown(tmp_path / "cache", 12345, 12345)
    with pytest.raises(StartError, match="belongs to another user"):
        open_store(settings(tmp_path))


def test_inspecting_creates_neither_a_folder_nor_a_secret(tmp_path: Path) -> None:
    for command in (["stats"], ["verify"], ["purge", "--all"]):
        outcome = CliRunner().invoke(cache, [*command, "--cache-dir", str(tmp_path / "typo")])
        assert outcome.exit_code == 1
        assert f"there is no cache in {tmp_path / 'typo'}" in outcome.output
        assert not (tmp_path / "typo").exists()
    open_store(settings(tmp_path)).close()
    (tmp_path / "secret").unlink()
    with pytest.raises(StartError, match="secret"):
        open_existing_store(settings(tmp_path))
    assert not (tmp_path / "secret").exists()


@pytest.mark.parametrize("options", [[], ["--fix"]])
def test_a_check_that_did_not_finish_says_so(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.commands.cache.open_existing_store", lambda _: open_existing_store(settings(tmp_path)))
    open_store(settings(tmp_path)).close()
    index = sqlite3.connect(tmp_path / "cache" / "generation-1" / "cache.db", isolation_level=None)
    with contextlib.closing(index):
        index.execute("BEGIN IMMEDIATE")
        outcome = CliRunner().invoke(cache, ["verify", *options, "--cache-dir", str(tmp_path / "cache")])
    assert outcome.exit_code == 1
    assert "damaged" not in outcome.output
    assert "the check did not finish" in outcome.output
    outcome = CliRunner().invoke(cache, ["verify", *options, "--cache-dir", str(tmp_path / "cache")])
    assert (outcome.exit_code, outcome.output) == (0, "0 valid, 0 invalid, 0 files without a row, index sound\n")


def test_an_entry_of_another_secret_is_never_an_answer(tmp_path: Path) -> None:
    """Somebody who can write to the folder but lacks the secret cannot forge an answer."""
    name, tag = Key(Kind.STATE, bytes(32)), Tag("tenant", "model", bytes(16))

    def put(store: Store, number: int) -> None:
        with store:
            store.put(name, np.full(30_000, number, np.uint16), tag)
            assert store.flush()

    put(open_store(settings(tmp_path)), 1)
    with open_store(settings(tmp_path)) as store:
        found = store.get(name)
        assert found is not None
        assert found[0] == 1
    (tmp_path / "secret").rename(tmp_path / "kept")
    put(open_store(settings(tmp_path)), 2)
    (tmp_path / "kept").rename(tmp_path / "secret")
    with open_store(settings(tmp_path)) as store:
        assert store.get(name) is None
        assert sum(store.stats().faults.values()) == 1
