"""The benchmark of processors: which figures a processor gives, and what it says of the others."""

from pathlib import Path

import pytest

from benchmarks import processors, targets
from benchmarks.figures import Missing
from benchmarks.peers.lineup import EXACT, LINEUP, named


@pytest.mark.parametrize(
    ("form", "names"),
    [("avx2", ["x_naive_avx2", "x_fp32_best_avx2", "x_ort_int8_avx2"]), ("amx", ["amx_x_bf16"])],
)
def test_ratios_over_peers_of_another_processor_are_no_misses(form: str, names: list[str]) -> None:
    given = processors.over_peers(form, "neon", Path("unused"), [], 1, 1, install=False)
    assert list(given) == names
    for figure in given.values():
        assert isinstance(figure, Missing)
        assert figure.reason.startswith("needs: a processor with")
        assert not figure.is_miss
    assert set(names) <= set(targets.of_scenario("processors"))


def test_contenders_are_found_by_name() -> None:
    assert named("onnxruntime", "fp32") == (
        next(each for each in LINEUP if each.name == "onnxruntime"),
        next(each for each in EXACT if each.name == "fp32"),
    )
