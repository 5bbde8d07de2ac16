"""Counts the cores that this process may use, and limits torch to one thread."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Cores by affinity, or by the cgroup's quota if that is less; at least one.

    A quota is rounded down: OpenMP ignores quotas, and two spinning threads on 1.5 cores would both be throttled.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affinity, _quota(cgroup, membership)) + 1e-6))


def _quota(cgroup: Path, membership: Path) -> float:
    """The tightest quota in cores, from this process's group up to the root; infinite if there is none."""
    quotas = [math.inf]
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = cgroup
        elif "cpu" in controllers.split(","):
            root = cgroup / "cpu"
        else:
            continue
        group = root / path.lstrip("/")
        quotas += [_group_quota(folder) for folder in (group, *group.parents) if folder.is_relative_to(root)]
        # In a container the path is the host's, and the mounted root is the group itself.
        quotas.append(_group_quota(root))
    return min(quotas)


def _group_quota(folder: Path) -> float:
    """One group's quota in cores: `cpu.max` (v2), or `cpu.cfs_quota_us` / `cpu.cfs_period_us` (v1)."""
    fields = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = int(fields[0]), int(fields[1])
    except (ValueError, IndexError):
        return math.inf  # 'max', or no such file
    return quota / period if quota > 0 and period > 0 else math.inf


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except OSError:
        return ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread in the calling thread, then restore the previous limit.

    It is set even if torch reports 1: a new thread that reports 1 may use two cores until it is set.
    """
    import torch  # noqa: PLC0415 (counting cores must not need torch)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
