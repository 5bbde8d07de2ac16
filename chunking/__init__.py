"""Splits text into segments: regions, token ids with offsets, and content-defined cuts.

for segments in read(text, load_tokenizer(folder), Cutting()):
    for segment in segments: ...
"""

from chunking.cuts import Cutting, Policy
from chunking.errors import ChunkingError, CuttingError, OffsetError, TextError, TokenizerError
from chunking.loading import load_tokenizer
from chunking.offsets import Ruler, Unit
from chunking.regions import Region, regions
from chunking.segments import Memory, RegionTokens, Segment, read
from chunking.tokenizer import Frame, Ids, Offsets, Tokenizer, Tokens, budget

FORMAT_VERSION = 2
"""Incremented whenever the same text could be cut differently."""

__all__ = [
    "FORMAT_VERSION",
    "ChunkingError",
    "Cutting",
    "CuttingError",
    "Frame",
    "Ids",
    "Memory",
    "OffsetError",
    "Offsets",
    "Policy",
    "Region",
    "RegionTokens",
    "Ruler",
    "Segment",
    "TextError",
    "Tokenizer",
    "TokenizerError",
    "Tokens",
    "Unit",
    "budget",
    "load_tokenizer",
    "read",
    "regions",
]
