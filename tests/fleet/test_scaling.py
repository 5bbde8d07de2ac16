"""How many replicas a queue asks for, and the command that has no Ray."""

import pytest
from click.testing import CliRunner

from benchmarks.fleet.served import has_ray
from server.commands.fleet import fleet
from server.fleet.scaling import QUEUED_TOKENS, replicas_for


@pytest.mark.parametrize(
    ("queued", "replicas", "wanted"),
    [(0, 3, 2), (1, 3, 3), (QUEUED_TOKENS * 3, 3, 3), (QUEUED_TOKENS * 3 + 1, 3, 4), (QUEUED_TOKENS * 9.5, 1, 10)],
)
def test_queues_ask_for_replicas(queued: float, replicas: int, wanted: int) -> None:
    assert replicas_for(queued, replicas) == wanted


@pytest.mark.skipif(has_ray(), reason="Ray is installed")
def test_the_command_says_that_it_needs_ray() -> None:
    done = CliRunner().invoke(fleet, ["--model", "splade-tiny"])
    assert done.exit_code == 1
    assert "pip install 'octavo[ray]'" in done.output


def test_faults_of_settings_are_told_first() -> None:
    done = CliRunner().invoke(fleet, ["--set", "compute.threads=many"])
    assert done.exit_code == 2
    assert "compute.threads" in done.output
