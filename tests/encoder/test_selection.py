"""Scheme and kernels are chosen by what is exact here and by settings, and the choice says why none faster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from encoder.ops import select
from encoder.ops.native import NativeUnavailableError
from encoder.ops.onednn import OneDnn
from encoder.ops.probe import exact
from encoder.ops.reference import Reference
from encoder.ops.select import choose


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise NativeUnavailableError("the native core is not built")

    monkeypatch.setattr(select, "best", unavailable)


@pytest.fixture
def with_vnni() -> None:
    if not exact(OneDnn()):
        pytest.skip("oneDNN's 8-bit products are not exact on this machine")


@pytest.mark.usefixtures("without_native", "with_vnni")
def test_without_the_native_core_onednn_serves_and_says_why() -> None:
    choice = choose("auto", "cpu")
    assert (choice.scheme, type(choice.operations)) == ("int8", OneDnn)
    assert "not built" in choice.reason


@pytest.mark.usefixtures("without_native")
def test_where_no_8_bit_product_is_exact_fp32_serves_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "exact", lambda *_: False)
    choice = choose("auto", "cpu")
    assert (choice.scheme, choice.operations) == ("fp32", None)
    assert "not exact here" in choice.reason
    assert "fp32" in choice.kernels


@pytest.mark.usefixtures("without_native")
def test_8_bits_by_name_are_right_everywhere_if_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "exact", lambda *_: False)
    choice = choose("int8", "cpu")
    assert (choice.scheme, type(choice.operations)) == ("int8", Reference)
    assert "not exact here" in choice.reason


@pytest.mark.usefixtures("with_vnni")
def test_settings_choose_the_form() -> None:
    assert type(choose("int8", "cpu", "reference").operations) is Reference
    assert type(choose("int8", "cpu", "onednn").operations) is OneDnn
    assert "onednn were requested" in choose("auto", "cpu", "onednn").reason


@pytest.mark.parametrize("scheme", ["bf16", "fp32"])
def test_another_scheme_by_name_says_that_it_was_asked_for(scheme: str) -> None:
    choice = choose(scheme, "cpu")
    assert choice.scheme == scheme
    assert "requested" in choice.reason


LESSER = {
    "no VNNI": ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, "fp32"),
    "VNNI alone": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "int8"),
}
SERVE = """
import sys, pathlib, numpy as np, encoder
from encoder.heads.pooling import pool
served, right = (encoder.load(pathlib.Path(sys.argv[1]), scheme=scheme, device="cpu") for scheme in ("auto", "fp32"))
ids = np.arange(2, 250)
states = (model.run(model.batch([ids]), 0, model.layers).state for model in (served, right))
one, two = (pool(state, [len(ids)], "mean")[0] for state in states)
print(served.scheme, served.kernels, served.kernels_reason, sep="\\n")
print(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
"""


@pytest.mark.usefixtures("with_vnni")
@pytest.mark.parametrize("machine", LESSER)
def test_a_lesser_machine_serves_what_is_right_there(small_bert: Path, machine: str) -> None:
    limits, expected = LESSER[machine]
    command = [sys.executable, "-c", SERVE, str(small_bert)]
    done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, check=True)
    scheme, _, reason, cosine = done.stdout.splitlines()
    assert scheme == expected
    assert f"ONEDNN_MAX_CPU_ISA={limits['ONEDNN_MAX_CPU_ISA']}" in reason
    assert float(cosine) > 0.999
