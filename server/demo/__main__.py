"""Serves the packaged model on a free loopback port, sends it a long document, and shows the results."""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from octavo.cli.local import local_server
from octavo.client import Client, EmbedResult, Segment
from octavo.client.arguments import CacheModeName

ADDRESS = Path(__file__).with_name("address.txt")
QUESTION = "How could slavery be ended, and who would pay for it?"
EDIT = " This sentence was not in the address when it was delivered."
READ_BY_OTHERS = 256  # tokens that sentence-transformers reads with this model
WIDTH = 72


def main() -> int:
    """Run the demo; return 0 if all answers are bit-identical as promised."""
    text = ADDRESS.read_text("utf-8")
    with tempfile.TemporaryDirectory(prefix="octavo-demo-") as folder:
        arguments = ("--cache-dir", f"{folder}/cache", "--set", f"cache.secret_file={folder}/secret")
        with local_server(listen="127.0.0.1:0", arguments=arguments) as address, Client(address) as client:
            model = client.model()
            print(f"serving {model.ref} ({model.number_scheme}; {model.kernels}) on {address}\n")
            cold, seconds = embed(client, text)
            show_segments(cold.segments)
            show_coverage(cold, seconds)
            show_most_like(client, QUESTION, text, cold.segments)
            return 0 if show_cache(client, text, cold, seconds) else 1


def embed(client: Client, text: str, cache_mode: CacheModeName | None = None) -> tuple[EmbedResult, float]:
    """Embed a document, and measure the seconds that the client waited."""
    began = time.perf_counter()
    result = client.embed(text, segment_vectors=True, cache_mode=cache_mode)
    return result, time.perf_counter() - began


def show_segments(segments: Sequence[Segment]) -> None:
    """List the document's segments."""
    print(f"{'segment':>7}  {'characters':>17}  {'tokens':>6}")
    for segment in segments:
        span = f"{segment.char_start:,}-{segment.char_end:,}"
        print(f"{segment.index:>7}  {span:>17}  {segment.token_count:>6}")


def show_coverage(result: EmbedResult, seconds: float) -> None:
    """Show how much of the document was read, and how fast."""
    owned = sum(segment.token_count for segment in result.segments)
    print(
        f"\n{owned:,} of {result.usage.tokens:,} tokens in {len(result.segments)} segments; "
        f"sentence-transformers reads the first {READ_BY_OTHERS}"
    )
    print(f"{result.usage.processed_tokens:,} tokens processed in {seconds:.2f} s, {owned / seconds:,.0f} tokens/s")


def show_most_like(client: Client, question: str, text: str, segments: Sequence[Segment], count: int = 3) -> None:
    """List the segments most similar to a question."""
    asked = client.embed(question, input_type="query").vector
    scores = np.stack([segment.vector for segment in segments if segment.vector is not None]) @ asked
    print(f"\nmost like “{question}”")
    for index in np.argsort(-scores)[:count]:
        segment = segments[index]
        words = " ".join(text[segment.char_start : segment.char_end].split())
        print(f"  {scores[index]:.2f}  segment {segment.index:>2}  {words[:WIDTH]}…")


def show_cache(client: Client, text: str, cold: EmbedResult, cold_seconds: float) -> bool:
    """Send the document again, then with a sentence inserted; return whether all answers are bit-identical."""
    again, again_seconds = embed(client, text)
    middle = text.index(". ", len(text) // 2) + 1
    edited_text = text[:middle] + EDIT + text[middle:]
    edited, edited_seconds = embed(client, edited_text)
    afresh, _ = embed(client, edited_text, cache_mode="bypass")
    rows = (
        ("cold", cold, cold_seconds, True),
        ("again", again, again_seconds, same_bits(again, cold)),
        ("one sentence added", edited, edited_seconds, same_bits(edited, afresh)),
    )
    print(f"\n{'':<18}  {'seconds':>8}  {'computed':>14}  bit-identical")
    for name, result, seconds, same in rows:
        layers = [segment.resumed_from_layer for segment in result.segments]
        computed = f"{layers.count(None)} of {len(layers)} segments"
        print(f"{name:<18}  {seconds:>8.3f}  {computed:>14}  {'✓' if same else '✗'}")
    return all(same for *_, same in rows)


def same_bits(one: EmbedResult, other: EmbedResult) -> bool:
    """Whether the document and segment vectors of two answers are equal, bit for bit."""
    ours, theirs = ([result.vector, *(s.vector for s in result.segments)] for result in (one, other))
    return len(ours) == len(theirs) and all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
