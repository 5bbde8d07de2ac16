"""README and docs/ say what the committed records say."""

import re
from pathlib import Path

import pytest

from benchmarks.commands import COMMANDS
from benchmarks.figures import Figure
from benchmarks.registry import scenarios
from benchmarks.reporting.record import Record, read_all, write
from benchmarks.reporting.texts import RESULTS, TextError, claims, held, renewed, texts


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.name)
def test_every_figure_is_the_record_s(path: Path) -> None:
    """After new records, `python -m benchmarks texts` writes them into the texts."""
    wrong = [f"{claim}, not {held(claim)}" for claim in claims(path.read_text("utf-8")) if claim.written != held(claim)]
    assert not wrong


def test_the_readme_names_a_figure_wherever_it_names_a_benchmark() -> None:
    paragraphs = re.split(r"\n\s*\n", Path(RESULTS.parents[1] / "README.md").read_text("utf-8"))
    for paragraph in paragraphs:
        named = {claim.scenario for claim in claims(paragraph)}
        assert set(re.findall(r"python -m benchmarks ([a-z-]+)", paragraph)) <= named


def test_committed_records_can_be_read_and_are_named_for_their_scenarios() -> None:
    assert [record.scenario for record in read_all(RESULTS)] == [path.stem for path in sorted(RESULTS.glob("*.json"))]


def test_every_scenario_and_command_is_documented() -> None:
    text = (RESULTS.parents[1] / "docs" / "benchmarks.md").read_text("utf-8")
    for name in (*scenarios(), *COMMANDS):
        assert re.search(rf"^\| `{name}` \||python -m benchmarks {name}\b", text, re.MULTILINE), name


@pytest.fixture
def results(tmp_path: Path) -> Path:
    figures = {
        "speed": Figure(36_865.4, "tokens/s"),
        "again_ms": Figure(21.75, "ms"),
        "p50_ms.16": Figure(2.4501, "ms"),
    }
    write(Record("document", {}, {}, None, {}, "2020-01-01", 1.0, figures), tmp_path / "document.json")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at 1<!-- document.speed --> tokens/s", "36,865"),
        ("at 30.5<!-- document.speed / 1000 -->k", "36.9"),
        ("| `again_ms` | 9<!-- document.again_ms --> |", "22"),
        ("in 9.00<!-- document.again_ms --> ms", "21.75"),
        ("in 9.1<!-- document.p50_ms.16 --> ms", "2.5"),
    ],
)
def test_a_number_is_rounded_to_the_decimals_that_the_text_writes(results: Path, text: str, expected: str) -> None:
    (claim,) = claims(text)
    assert held(claim, results) == expected
    (after,) = claims(renewed(text, results))
    assert after.written == expected


def test_renewing_leaves_the_rest_alone(results: Path) -> None:
    text = "Of 249 texts, `5<!-- document.speed -->`, 30,000<!-- document.speed --> tokens/s.\n<!-- a remark -->\n"
    assert renewed(text, results) == text.replace("30,000", "36,865")


def test_what_is_not_in_the_records_is_told(results: Path) -> None:
    for text, message in (("1<!-- document.gone -->", "no such figure"), ("1<!-- other.speed -->", "other.json")):
        with pytest.raises(TextError, match=message):
            renewed(text, results)
    with pytest.raises(TextError, match="1 comments that name a figure do not follow a number"):
        claims("fast <!-- document.speed -->")
