"""`octavo keys`, as a person types it."""

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from server.auth.keys import Key, read_keys, split_token
from server.commands.keys import keys

CLIENTS = "[clients.acme]\n[clients.globex]\ndisabled = true\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where keys go; settings with two clients are in force."""
    settings = tmp_path / "octavo.toml"
    settings.write_text(CLIENTS)
    monkeypatch.setenv("OCTAVO_CONFIG", str(settings))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/octavo/keys.json"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(keys, arguments)


def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--format", "json").stdout)
    return found


def test_a_key_is_shown_once_and_kept_as_a_digest(file: Path) -> None:
    result = run("add", "acme")
    assert result.exit_code == 0, result.stderr
    token = result.stdout.strip()
    assert re.fullmatch(r"oct_[0-9a-z]{12}_[0-9a-f]{64}", token)
    identifier, secret = split_token(token) or ("", b"")
    (kept,) = read_keys(file)
    assert (kept.key.id, kept.client, kept.key.matches(secret)) == (identifier, "acme", True)
    told = "".join((file.read_text(), result.stderr, run("list").output, run("list", "--format", "json").output))
    assert identifier in told
    assert secret.hex() not in told
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_keys_file_keeps_its_mode_and_its_link(file: Path) -> None:
    assert run("add", "acme").exit_code == 0
    real = file.with_name("real.json")
    file.rename(real)
    real.chmod(0o640)  # for the server's group
    file.symlink_to(real)
    assert run("add", "acme").exit_code == 0
    assert len(read_keys(file)) == 2
    assert file.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_two_keys_never_share_a_secret_a_salt_or_an_id(file: Path) -> None:
    tokens = {run("add", "acme").stdout for _ in range(3)}
    kept = [each.key for each in read_keys(file)]
    assert len(tokens) == len({key.id for key in kept}) == len({key.salt for key in kept}) == 3


def test_keys_expire_and_are_listed_so(file: Path) -> None:
    assert "valid until" in run("add", "acme", "--expires", "90d").stderr
    assert run("add", "acme").exit_code == 0
    told = rows()
    assert [row["client"] for row in told] == ["acme", "acme"]
    assert told[0]["state"].startswith("valid until ")
    assert (told[1]["state"], told[1]["expires"]) == ("valid for good", None)
    (kept, _) = read_keys(file)
    assert kept.key.expires is not None
    assert (kept.key.expires - kept.created).days == 90


@pytest.mark.parametrize("text", ["90", "0d", "d", "-1d", "1m", "90 d"])
def test_what_is_no_time(file: Path, text: str) -> None:
    result = run("add", "acme", "--expires", text)
    assert result.exit_code == 2
    assert "90d" in result.stderr
    assert not file.exists()


def test_a_client_must_be_known(file: Path) -> None:
    result = run("add", "acne")
    assert result.exit_code == 1
    told = "unknown client 'acne': add a table [clients.acne] to the settings file; known clients: acme, globex"
    assert result.stderr == f"octavo: {told}\n"
    assert "anonymous cannot have keys" in run("add", "anonymous").stderr
    assert not file.exists()


def test_the_list_says_which_keys_do_not_open(file: Path) -> None:
    run("add", "globex")
    assert rows()[0]["state"] == "client disabled"
    assert run("list", "--set", "clients.globex.disabled=false").stdout.endswith("valid for good\n")


def test_a_revoked_key_is_gone(file: Path) -> None:
    run("add", "acme")
    keep = run("add", "acme").stdout
    first, second = (row["id"] for row in rows())
    assert run("revoke", first).stdout == f"revoked {first} of acme\n"
    assert [each.key.id for each in read_keys(file)] == [second] == [keep.split("_")[1]]
    again = run("revoke", first)
    assert (again.exit_code, again.stderr) == (1, f"octavo: there is no key {first}\n")


def test_a_key_in_place_of_its_id_is_not_repeated(file: Path) -> None:
    token = run("add", "acme").stdout.strip()
    result = run("revoke", token)
    assert result.exit_code == 1
    assert token not in result.output


def test_a_record_may_live_in_the_settings(file: Path) -> None:
    result = run("add", "acme", "--inline", "--expires", "1y")
    assert not file.exists()
    match = re.search(r'keys = \["(.*)"\]', result.stderr)
    assert match
    identifier, secret = split_token(result.stdout.strip()) or ("", b"")
    key = Key.parse(match[1])
    assert (key.id, key.matches(secret), str(key)) == (identifier, True, match[1])
    settings = file.parent.parent.parent / "octavo.toml"
    settings.write_text(f'[clients.acme]\nkeys = ["{key}"]\n')
    assert rows()[0]["id"] == identifier
    assert "remove it there" in run("revoke", identifier).stderr


def test_many_who_add_at_the_same_time_lose_nothing(file: Path) -> None:
    from datetime import UTC, datetime

    from server.auth.keys import KeptKey, changing_keys

    def add(_: int) -> None:
        with changing_keys(file) as kept:
            kept.append(KeptKey(Key.make()[0], "acme", datetime.now(UTC)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(read_keys(file)) == 40
    assert [each.name for each in file.parent.iterdir() if each.name.endswith(".json")] == ["keys.json"]


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        ("{", 0o600, "is not JSON"),
        ("[]", 0o600, "is not a file of keys"),
        ('{"format": 2, "keys": []}', 0o600, "has format 2; this version reads 1"),
        ('{"format": 1, "keys": [{"key": "hunter2"}]}', 0o600, "a key's record is"),
        ('{"format": 1, "keys": []}', 0o622, "may be written by others"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_left_alone(file: Path, content: str, mode: int, told: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(content)
    file.chmod(mode)
    for arguments in (("list",), ("add", "acme"), ("revoke", "x")):
        result = run(*arguments)
        assert result.exit_code == 1
        assert told in result.stderr
        assert "hunter2" not in result.stderr
        assert result.stderr.count("\n") == 1
    assert file.read_text() == content


@pytest.mark.parametrize("arguments", [("add", "acme"), ("revoke", "x")])
def test_a_fifo_is_refused_and_not_read(file: Path, arguments: tuple[str, ...]) -> None:
    file.parent.mkdir(parents=True)
    os.mkfifo(file, 0o600)
    writer = Thread(target=file.write_text, args=("{}",), daemon=True)  # ends a read that should not happen
    writer.start()
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("is a FIFO")) == (1, 1)
    assert file.read_text() == "{}"
    writer.join()
