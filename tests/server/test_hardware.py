"""The sentence about kernels that are not the fastest; tests/server/test_serve_process.py has it from a real start."""

import pytest

from server.inference.hardware import advice


@pytest.mark.parametrize(
    ("scheme", "reason", "why", "remedy"),
    [
        (
            "fp32",
            "PyTorch uses AVX2 here, not AVX-512; oneDNN's: they need VNNI",
            "no AVX-512 VNNI",
            "a processor with",
        ),
        ("int8", "the native core is not built (python -m …)", "native kernels are not built", "C++ compiler"),
        ("fp32", "the native core is not built; they need VNNI; A=B limits the instruction set", "variable", "unset"),
        ("int8", "PyTorch uses AVX2 here, not AVX-512", "no AVX-512", "a processor with"),
        ("int8", "something new", "faster kernels are unavailable", "octavo doctor"),
    ],
)
def test_the_sentence_names_what_serves_why_and_what_would_help(
    scheme: str, reason: str, why: str, remedy: str
) -> None:
    told = advice("minilm", scheme, "PyTorch on AVX2", reason)
    assert told.startswith(
        f"minilm is served in {'8 bits' if scheme == 'int8' else '32-bit floats'} by PyTorch on AVX2"
    )
    assert why in told.partition(";")[0]
    assert remedy in told.partition(";")[2]


@pytest.mark.parametrize("reason", ["", "scheme fp32 was requested"])
def test_the_fastest_kernels_and_those_that_were_asked_for_need_no_sentence(reason: str) -> None:
    assert advice("minilm", "fp32", "PyTorch on AVX2", reason) == ""
