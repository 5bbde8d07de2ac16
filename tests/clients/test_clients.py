"""Clients of other ecosystems as they are on the index: each embeds, is told what is wrong, and waits as it is told."""

from collections.abc import Iterator

import pytest

from benchmarks.doors.clients import MODEL, PROGRAMS, Doors, NotInstalledError, doors, outcomes, python_of
from server.config.folders import cache_home


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    if not (cache_home() / "models" / MODEL).is_dir():
        pytest.skip(f"{MODEL} is not installed; `make setup` fetches it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        with doors() as made:
            yield made


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_client_works_unchanged(server: Doors, program: str) -> None:
    try:
        python_of(program)
    except NotInstalledError as error:
        pytest.skip(str(error))
    for outcome in outcomes(server, program):
        assert not outcome.faults, outcome.client
