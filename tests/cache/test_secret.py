import os
import stat
import threading
from pathlib import Path

import pytest

from cache import SecretError, load_secret


def test_it_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "octavo" / "secret"
    secret = load_secret(path)
    assert len(secret) == 32
    assert load_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["secret"]  # noqa: PTH208
    assert load_secret(tmp_path / "other") != secret


def test_those_who_start_together_agree(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    barrier, found = threading.Barrier(8), set[bytes]()

    def start() -> None:
        barrier.wait()
        found.add(load_secret(path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_one_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    secret = load_secret(path)
    path.chmod(mode)
    with pytest.raises(SecretError, match="others may read or write") as caught:
        load_secret(path)
    assert secret.hex() not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"abcd", b"g" * 64, b"\xff" * 64, b"a" * 63])
def test_a_malformed_one_is_refused_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SecretError, match="64 hexadecimal digits"):
        load_secret(path)
    assert path.read_bytes() == content


def test_a_longer_one_made_by_hand_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("ab" * 48 + "\n")
    path.chmod(0o600)
    assert load_secret(path) == b"\xab" * 48


def test_it_never_lies_in_the_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    for path in (tmp_path / "cache" / "secret", tmp_path / "cache" / "a" / "secret", tmp_path / "link" / "secret"):
        with pytest.raises(SecretError, match="must not lie in the cache folder"):
            load_secret(path, tmp_path / "cache")
        assert not path.exists()


def test_a_path_that_cannot_be_used_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SecretError, match="cannot be used: File exists"):
        load_secret(tmp_path / "file" / "secret")
    with pytest.raises(SecretError, match="Is a directory"):
        load_secret(tmp_path)


def test_another_users_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = tmp_path / "secret"
    load_secret(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(SecretError, match="another user"):
        load_secret(path)


def test_one_that_is_missing_can_be_required(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file"):
        load_secret(tmp_path / "secret", create=False)
    assert not (tmp_path / "secret").exists()
