"""Cores by affinity and by the cgroup's quota, in both versions of cgroups."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from encoder.threads import one_thread, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "ascii")


@pytest.mark.parametrize(("quota", "cores"), [("max", 8), ("300000", 3), ("150000", 1), ("20000", 1), ("1600000", 8)])
def test_a_quota_of_version_2(tmp_path: Path, quota: str, cores: int) -> None:
    put(tmp_path / "membership", "0::/service\n")
    put(tmp_path / "group" / "service" / "cpu.max", f"{quota} 100000\n")
    assert usable_cores(tmp_path / "group", tmp_path / "membership") == cores


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    put(tmp_path / "membership", "0::/a/b\n")
    put(tmp_path / "group" / "a" / "b" / "cpu.max", "600000 100000")
    put(tmp_path / "group" / "a" / "cpu.max", "200000 100000")
    put(tmp_path / "group" / "cpu.max", "400000 100000")
    assert usable_cores(tmp_path / "group", tmp_path / "membership") == 2


def test_a_containers_own_group_is_the_root_of_what_it_sees(tmp_path: Path) -> None:
    put(tmp_path / "membership", "0::/host/path/of/the/container\n")
    put(tmp_path / "group" / "cpu.max", "400000 100000")
    assert usable_cores(tmp_path / "group", tmp_path / "membership") == 4


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    put(tmp_path / "membership", "4:memory:/job\n3:cpu,cpuacct:/job\n")
    put(tmp_path / "group" / "cpu" / "job" / "cpu.cfs_quota_us", "250000\n")
    put(tmp_path / "group" / "cpu" / "job" / "cpu.cfs_period_us", "100000\n")
    assert usable_cores(tmp_path / "group", tmp_path / "membership") == 2
    put(tmp_path / "group" / "cpu" / "job" / "cpu.cfs_quota_us", "-1\n")
    assert usable_cores(tmp_path / "group", tmp_path / "membership") == 8


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "group", tmp_path / "membership") == 8


def test_one_thread_holds_in_a_new_thread_and_gives_back() -> None:
    seen = []

    def work() -> None:
        torch.set_num_threads(2)
        with suppress(KeyError), one_thread():
            seen.append(torch.get_num_threads())
            raise KeyError
        seen.append(torch.get_num_threads())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [1, 2]
