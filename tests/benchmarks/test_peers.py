"""Contenders as processes: what goes over the pipe, who fails, and how the best way is chosen."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers import environment
from benchmarks.peers.driver import Team, Worker, WorkerError
from benchmarks.peers.environment import PeerError
from benchmarks.peers.event import Event
from benchmarks.peers.lineup import LINEUP, Contender, Workload, sizes_to_try
from benchmarks.peers.protocol import Ids, Vectors, in_padded_batches
from benchmarks.race import Race

SEGMENTS: list[Ids] = [np.arange(length, dtype=np.int32) + 1 for length in (3, 9, 1, 5, 5)]

# A contender whose vector of a segment is its length and its sum; it prints, as libraries do.
ENGINE = """
import numpy as np
from benchmarks.peers.protocol import in_padded_batches, serve

class Engine:
    def __init__(self, folder, **options):
        if options.get("broken"):
            raise RuntimeError("cannot load")
        print("loading", folder)
    def embed(self, segments, batch, threads):
        return in_padded_batches(segments, batch, lambda ids, mask: np.stack([mask.sum(1), (ids * mask).sum(1)], 1))
    def describe(self):
        return {"kind": "toy"}

serve(Engine)
"""


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_batches_are_padded_sorted_and_answered_in_order(batch: int) -> None:
    padded = []

    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        padded.append(int((mask == 0).sum()))
        assert not ids[mask == 0].any()
        sums: Vectors = (ids * mask).sum(axis=1, keepdims=True).astype(np.float32)
        return sums

    vectors = in_padded_batches(SEGMENTS, batch, forward)
    np.testing.assert_array_equal(vectors[:, 0], [ids.sum() for ids in SEGMENTS])
    if batch == 1:
        assert padded == [0] * 5
    if batch == 2:
        assert padded == [4, 2, 0], "neighbours in length share a batch"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker("toy", [sys.executable, "-c", ENGINE], tmp_path / "toy.log")
    yield worker
    worker.close()


def test_a_worker_loads_runs_and_times_itself_whatever_it_prints(worker: Worker) -> None:
    worker.send(op="load", model="m", folder="f", options={})
    worker.send(op="workload", name="w", segments=[ids.tolist() for ids in SEGMENTS])
    assert worker.receive() == {"kind": "toy"}
    assert worker.receive() == {}
    worker.send(op="run", model="m", workload="w", batch=2, threads=1, repeats=3, vectors=True)
    reply = worker.receive()
    seconds = reply["seconds"]
    assert len(seconds) == 3
    assert all(one > 0 for one in seconds)
    assert reply["vectors"] == [[3, 6], [9, 45], [1, 1], [5, 15], [5, 15]]


def test_shares_deal_out_every_segment_once(worker: Worker) -> None:
    worker.send(op="load", model="m", folder="f", options={})
    worker.send(op="workload", name="w", segments=[ids.tolist() for ids in SEGMENTS])
    worker.receive(), worker.receive()
    lengths: list[float] = []
    for share in (0, 1):
        worker.send(op="run", model="m", workload="w", batch=1, threads=1, share=[share, 2], vectors=True)
        lengths += [vector[0] for vector in worker.receive()["vectors"]]
    assert sorted(lengths) == [1, 3, 5, 5, 9]


def test_a_failure_is_told_and_the_worker_lives_on(worker: Worker) -> None:
    worker.send(op="load", model="m", folder="f", options={"broken": True})
    with pytest.raises(WorkerError, match="toy: RuntimeError: cannot load"):
        worker.receive()
    worker.send(op="load", model="m", folder="f", options={})
    assert worker.receive() == {"kind": "toy"}


def test_a_worker_that_dies_is_told_with_its_last_line(tmp_path: Path) -> None:
    worker = Worker("toy", [sys.executable, "-c", "raise SystemExit('no such library')"], tmp_path / "toy.log")
    worker.send(op="load", model="m", folder="f", options={})
    with pytest.raises(WorkerError, match="ended with status 1; its last line was: no such library"):
        worker.receive()
    worker.close()


def test_nothing_is_installed_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(PeerError, match="openvino is not installed, and --no-install forbids it"):
        Team("openvino", 1, tmp_path, install=False)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_of_other_requirements_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = tmp_path / "octavo" / "peers" / "openvino"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").touch()
    (home / "requirements.blake2b").write_text("of older requirements")
    with pytest.raises(PeerError, match="not installed"):
        environment.interpreter("openvino", install=False)


def test_every_peer_has_pinned_requirements_and_a_worker() -> None:
    folder = Path(environment.__file__).parent
    for peer in {contender.peer for contender in LINEUP}:
        assert (folder / f"worker_{peer}.py").exists()
        if peer != "octavo":
            lines = (folder / f"{peer}.txt").read_text().split()
            assert lines
            assert all("==" in line for line in lines), peer


def test_a_contender_without_a_choice_of_batches_keeps_its_own() -> None:
    workload = Workload("w", Path(), SEGMENTS, batches=(2, 4, 64))
    assert sizes_to_try((1, 8, 32), workload) == (2, 4), "none is larger than the work"
    assert sizes_to_try((0,), workload) == (0,)


def test_the_best_way_is_the_one_with_the_least_median_and_ratios_take_the_strongest_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = Event([Workload("content", Path(), SEGMENTS)], cores=2, install=False)
    seconds = {
        "octavo/content/streams": [1.0, 1.0, 1.0],
        "bf16/content/batch1": [2.0, 9.0, 2.0],
        "bf16/content/batch8": [4.0, 1.0, 4.0],
        "bf16_compiled/content/batch8": [3.0, 3.0, 3.0],
    }
    monkeypatch.setattr(event, "_race", Race({}, seconds))
    assert event.best("bf16", "content").way == "batch1"
    assert event.over("content", "bf16", "bf16_compiled").value == 2.0
    assert event.over("content", "bf16_compiled").value == 3.0
    with pytest.raises(LookupError, match="openvino did not run content"):
        event.over("content", "openvino")


def test_a_peer_that_cannot_start_is_missing_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lineup = (Contender("openvino", "openvino", ("content",), alone=(1,)),)
    workloads = [Workload("content", Path(), SEGMENTS), Workload("check", Path(), SEGMENTS)]
    with Event(workloads, cores=2, install=False, lineup=lineup) as event:
        event.race(rounds=1, at_most=1.0)
        with pytest.raises(LookupError, match="openvino is not installed"):
            event.over("content", "openvino")
        assert "openvino is not installed" in str(event.speeds()["speed.openvino.content"])
