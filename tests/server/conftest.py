"""One real server for all tests of this room that do not need one of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.config.folders import cache_home
from tests.models import CLASSES, ENTITY_LABELS, write_model
from tests.server.helpers import E5, MINILM, TINY, Server, model, serving, settings


@pytest.fixture(scope="session")
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The deployment's secret is made here, not in the home of whoever tests."""
    home = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def models(state_home: Path) -> Path:
    """The folder of the packaged models."""
    folder = cache_home() / "models"
    if missing := [name for name in (TINY, MINILM, E5) if not (folder / name).is_dir()]:
        pytest.skip(f"not installed: {', '.join(missing)}; `make setup` fetches them")
    return folder


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[Server]:
    """Three real models; the smallest is the default."""
    with serving(settings(model(TINY, "auto"), model(MINILM), model(E5))) as server:
        yield server


@pytest.fixture(scope="session")
def head_models(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of small models with heads: finder (entities), sorter (classes), tagger (any number of classes)."""
    folder = tmp_path_factory.mktemp("heads")
    write_model(folder / "finder", "tokens", models / TINY, ENTITY_LABELS)
    write_model(folder / "sorter", "sequence", models / TINY, CLASSES, seed=1)
    write_model(folder / "tagger", "sequence", models / TINY, CLASSES, multi_label=True, seed=2)
    return folder


@pytest.fixture(scope="session")
def task_server(head_models: Path) -> Iterator[Server]:
    """A server of every task: the smallest packaged model, which is the default, and those of `head_models`."""
    heads = (model(str(head_models / name)) for name in ("finder", "sorter", "tagger"))
    with serving(settings(model(TINY), *heads)) as server:
        yield server


@pytest.fixture
def nothing_internal(server: Server) -> Iterator[None]:
    """INTERNAL and UNKNOWN are bugs, whatever a test sends."""
    yield
    for code in ("INTERNAL", "UNKNOWN"):
        assert server.sample("requests_total", code=code) == 0
