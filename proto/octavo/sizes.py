"""Sizes in bytes as people write them."""

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT]?)(i?)B")


def parse_size(text: str) -> int | None:
    """Parse "4GB" (powers of 1000) or "1.5 GiB" (powers of 1024); None for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    number, prefix, binary = match.groups()
    power = " kMGT".index(prefix.replace("K", "k") or " ")
    return round(float(number) * float(1024 if binary else 1000) ** power)
