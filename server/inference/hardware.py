"""Tells an operator in one sentence that a model could be served faster."""

from dataclasses import dataclass

_NAMES = {"int8": "8 bits", "bf16": "bfloat16", "fp32": "32-bit floats"}


@dataclass(frozen=True, slots=True)
class Cause:
    """Why faster kernels are not used.

    Attributes:
        sign: part of the encoder's reason.
        why: the cause, after "because".
        remedy: what would make it faster.
    """

    sign: str
    why: str
    remedy: str


_CAUSES = (
    Cause("limits the instruction set", "an environment variable limits the instruction set", "unset it"),
    Cause(
        "is not built",
        "the native kernels are not built",
        "build them with `python -m encoder.native.build`, which needs a C++ compiler",
    ),
    Cause("VNNI", "this processor has no AVX-512 VNNI", "a processor with AVX-512 VNNI or AMX would be faster"),
    Cause("AVX", "this processor has no AVX-512", "a processor with AVX-512 VNNI or AMX would be faster"),
    Cause("", "faster kernels are unavailable", "`octavo doctor` says why"),
)


def advice(name: str, scheme: str, kernels: str, reason: str) -> str:
    """What serves a model, why it is not faster, and what would help; empty if nothing would or it was requested.

    Args:
        name: the model's name.
        scheme: the encoder's number scheme.
        kernels: the encoder's kernels.
        reason: why the encoder does not use faster ones; empty if there are none.
    """
    if not reason or "was requested" in reason:
        return ""
    cause = next(cause for cause in _CAUSES if cause.sign in reason)
    return f"{name} is served in {_NAMES[scheme]} by {kernels}, because {cause.why}; {cause.remedy}"
