"""docs/client.md and docs/upsert.md are run as they stand, and every option is named."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from octavo.client import Client, Embed
from octavo.client.arguments import (
    CallArguments,
    EmbedManyArguments,
    ProcessArguments,
    SegmentArguments,
    SyncArguments,
)
from tests.server.conftest import models as models  # noqa: PLC0414 - a fixture
from tests.server.conftest import state_home as state_home  # noqa: PLC0414
from tests.server.helpers import serving, settings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "client.md").read_text("utf-8")


@pytest.mark.usefixtures("models")
def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert examples
    names: dict[str, Any] = {}
    with serving(settings()) as server:
        for example in examples:
            exec(example.replace("127.0.0.1:50051", server.address), names)  # noqa: S102 - our own page
    said = capsys.readouterr().out
    for line in ("texts[1]: the document has no token", "\n1 EMPTY_DOCUMENT\n", "\nb EMPTY_DOCUMENT\n"):
        assert line in said
    assert "InvalidArgument INVALID_OPTION embed.dimensions\n" in said


@pytest.mark.usefixtures("models")
def test_the_example_of_an_index_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "upsert.md").read_text("utf-8"), re.DOTALL)
    with serving(settings()) as server:
        exec(example.replace("127.0.0.1:50051", server.address), {})  # noqa: S102 - our own page
    added, unchanged, deleted, computed, kept = map(int, capsys.readouterr().out.splitlines()[-1].split())
    assert 0 < added <= 4 < unchanged
    assert deleted <= added
    assert computed < kept


def test_every_option_is_named() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    options = {*CallArguments.__annotations__, *EmbedManyArguments.__annotations__, *ProcessArguments.__annotations__}
    options |= {*SegmentArguments.__annotations__, *SyncArguments.__annotations__, "dry_run"}
    options |= set(inspect.signature(Embed).parameters) | {"resume", "partial", "return_exceptions"}
    made = set(inspect.signature(Client).parameters)
    assert options | made <= named
