"""`octavo fleet` on a real Ray: answers, lost replicas, a lost front, another model, an end."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fleet.served import FRONT, NEEDS_RAY, Fleet, fleet, has_ray, wait_for_engines
from octavo.client import Client, Retry
from tests.server.conftest import models, state_home  # noqa: F401 - fixtures
from tests.server.helpers import MINILM, TINY, eventually, prose

pytestmark = pytest.mark.skipif(not has_ray(), reason=NEEDS_RAY)
MODEL = '[[models]]\npath = "{}"\n'


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Fleet]:  # noqa: F811
    with fleet("--replicas", "2", "--threads", "1", config=MODEL.format(TINY)) as served:
        yield served


@pytest.fixture
def client(served: Fleet) -> Iterator[Client]:
    with Client(served.address) as client:
        yield client


def test_two_engines_answer(served: Fleet, client: Client) -> None:
    assert len(served.engines()) == 2
    texts = [prose(300, seed) for seed in range(8)]
    replies = dict(client.process(enumerate(texts)))
    for i, text in enumerate(texts):
        assert (client.embed(text).vector == replies[i].results["embed"].vector).all()


def test_a_killed_engine_is_replaced_and_no_call_fails(served: Fleet, client: Client) -> None:
    (lost, _) = engines = served.engines()
    lost.kill()
    for seed in range(20):
        assert client.embed(prose(200, seed), timeout=30).segments
    eventually(lambda: lost.pid not in {each.pid for each in served.engines()})
    wait_for_engines(served, len(engines))


def test_a_killed_front_comes_back(served: Fleet) -> None:
    (front,) = served.processes(FRONT)
    front.kill()
    with Client(served.address, retry=Retry(attempts=1000)) as client:
        assert client.embed("text", timeout=60).segments


def test_a_change_of_model_replaces_the_engines(served: Fleet, client: Client) -> None:
    (front,) = served.processes(FRONT)
    served.change(MODEL.format(MINILM))
    served.changed()
    assert client.embed("text", timeout=30).model.name == MINILM
    assert served.processes(FRONT) == [front]


def test_a_fault_of_the_settings_changes_nothing(served: Fleet, client: Client) -> None:
    served.change(MODEL.format("no-such-model"))
    eventually(lambda: "not changed: model no-such-model" in served.log())
    assert client.embed("text", timeout=30).model.name == MINILM


def test_the_fleet_ends(served: Fleet) -> None:
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
