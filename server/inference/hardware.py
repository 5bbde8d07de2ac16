"""Tells an operator in one sentence that a model could be served faster."""

_NAMES = {"int8": "8 bits", "bf16": "bfloat16", "fp32": "32-bit floats"}


def advice(name: str, scheme: str, kernels: str, reason: str) -> str:
    """What serves a model, and why not something faster; empty if nothing is faster, or if it was requested.

    Args:
        name: the model's name.
        scheme: the encoder's number scheme.
        kernels: the encoder's kernels.
        reason: why the encoder does not use faster ones; empty if there are none.
    """
    if not reason or "was requested" in reason:
        return ""
    return f"{name} is served in {_NAMES[scheme]} by {kernels}, because {reason}"
