"""A real long document, end to end: equal to sentence-transformers, and a million tokens in bounded memory.

The server is started as by a user, the document goes through gRPC and the public client, and memory and event loop lag
are measured from outside.
"""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from benchmarks import workloads
from benchmarks.figures import Figure, Figures, attempt
from benchmarks.served import serve
from benchmarks.streaming import stream
from octavo.client import Client
from server.config.schema import ModelSettings

_LENGTHS = (*range(1, 34), *range(40, 512, 10), 63, 64, 65, 127, 128, 129, 255, 256, 257, 383, 384, 385, 509)
_SMALL_TOKENS = 10_000
_LAG = "octavo_event_loop_lag_max_seconds"  # the worst since the scrape before


@click.option("--tokens", default=1_000_000, show_default=True, help="Tokens of the long document.")
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
def run(tokens: int, model: str) -> Figures:
    """Compare vectors in fp32, then stream the long document in the default configuration."""
    folder = ModelSettings(path=model).folder
    return attempt(["st_max_diff"], lambda: _against_sentence_transformers(folder)) | attempt(
        ["memory_1m_mb", "loop_block_ms", "first_segment_share"], lambda: _long(folder, tokens)
    )


def _against_sentence_transformers(folder: Path) -> Figures:
    """Embed texts of exactly so many tokens both ways."""
    from chunking import load_tokenizer

    texts = workloads.with_tokens(_LENGTHS, load_tokenizer(folder))
    config = f'[[models]]\npath = "{folder}"\nscheme = "fp32"\n'
    with serve(config=config) as server, Client(server.address) as client:
        results = {length: client.embed(text, timeout=120) for length, text in texts.items()}
    counted = {length: result.usage.tokens for length, result in results.items()}
    if wrong := {length: count for length, count in counted.items() if length != count}:
        raise ValueError(f"texts were not as long as they should be (meant: counted): {wrong}")
    expected = _sentence_transformers(folder)
    differences = [float(np.abs(results[length].vector - expected(texts[length])).max()) for length in texts]
    return {"st_max_diff": Figure(max(differences), "", n=len(differences))}


def _sentence_transformers(folder: Path) -> Callable[[str], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.max_seq_length = 512  # its configuration stops reading at 256
    return lambda text: np.asarray(model.encode(text, show_progress_bar=False), np.float32)


def _long(folder: Path, tokens: int) -> Figures:
    """Stream a small and then a long document; what the long one takes more, and the loop's worst lag in it."""
    long, small = workloads.consecutive([tokens, min(_SMALL_TOKENS, tokens)])  # no segment in common
    with serve("--model", str(folder)) as server, Client(server.address) as client:
        stream(client, small)  # warm-up: what is allocated once belongs to neither
        server.forget_peak()
        stream(client, small)
        small_peak = server.peak_memory()
        server.metric(_LAG)
        server.forget_peak()
        cost = stream(client, long)
        long_peak, lag = server.peak_memory(), server.metric(_LAG)
    return {
        "memory_1m_mb": Figure(long_peak - small_peak, "MB"),
        "loop_block_ms": Figure(1000 * lag, "ms"),
        "first_segment_share": Figure(100 * cost.first / cost.total, "%"),
        "first_segment_ms": Figure(1000 * cost.first, "ms"),
        "long_document_s": Figure(cost.total, "s"),
        "long_document_speed": Figure(cost.tokens / cost.total, "tokens/s"),
        "small_document_peak_mb": Figure(small_peak, "MB"),
    }
