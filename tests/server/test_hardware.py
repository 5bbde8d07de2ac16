"""The sentence about kernels that are not the fastest; tests/server/test_serve_process.py has it from a real start."""

import pytest

from server.inference.hardware import advice


@pytest.mark.parametrize(("scheme", "words"), [("int8", "8 bits"), ("bf16", "bfloat16"), ("fp32", "32-bit floats")])
def test_the_sentence_names_what_serves_and_why(scheme: str, words: str) -> None:
    told = advice("minilm", scheme, "PyTorch on AVX2", "the native core is not built")
    assert told == f"minilm is served in {words} by PyTorch on AVX2, because the native core is not built"


@pytest.mark.parametrize("reason", ["", "scheme fp32 was requested"])
def test_the_fastest_kernels_and_those_that_were_asked_for_need_no_sentence(reason: str) -> None:
    assert advice("minilm", "fp32", "PyTorch on AVX2", reason) == ""
