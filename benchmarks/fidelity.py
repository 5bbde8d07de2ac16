"""The default scheme's accuracy: vectors, neighbours and decisions compared with fp32.

Both are Octavo: tests compare the encoder in fp32 with transformers. Vectors in fp32 take minutes and do not change, so
they are stored in `$XDG_CACHE_HOME/octavo/benchmarks`, under a digest of the token ids and of everything that
determines the encoder's results; the folder can be removed at any time.

Decisions: a logistic regression is trained on the fp32 vectors of four fifths of the documents and applied to the last
fifth, once to the fp32 vectors and once to those of the scheme under test. It is never trained on the latter, because
an existing index or head must keep working.
"""

import hashlib
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import texts, workloads
from benchmarks.figures import Figure, Figures, attempt
from benchmarks.peers.protocol import Ids, Vectors
from benchmarks.statistics import proportion, summarise
from chunking import Policy, Tokenizer, load_tokenizer
from server.config.folders import cache_home
from server.config.schema import ModelSettings

Embed = Callable[[Sequence[Ids]], Vectors]

_NEAREST = 10
_COSINES = 200
_WINDOW = 64
_POSITIONS = 512


class Embedders(NamedTuple):
    """The reference and what is held against it."""

    fp32: Embed
    default: Embed
    windowed: Embed


@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
@click.option("--segments", default=2_000, show_default=True, help="Segments among which neighbours are sought.")
@click.option("--documents", default=340, show_default=True, help="Most documents of each labelled corpus, by seed.")
@click.option("--quick", is_flag=True, help="A small sample: 300 segments, 60 documents of each corpus.")
def run(model: str, segments: int, documents: int, quick: bool) -> Figures:
    """Compare the default scheme, and the default scheme with a window, to fp32."""
    folder = ModelSettings(path=model).folder
    if quick:
        segments, documents = 300, 60
    embedders = Embedders(embedder(folder, "fp32"), embedder(folder, "auto"), embedder(folder, "auto", _WINDOW))
    pool = workloads.content_segments(folder, count=segments)
    tokenizer = load_tokenizer(folder)
    corpora = labelled(tokenizer, documents)
    figures = attempt(["cos_mean", "cos_min", "top10_overlap", "window_64_cos"], lambda: _vectors(pool, embedders))
    figures |= attempt(["flips", "window_64_flips"], lambda: _decisions(corpora, embedders, tokenizer))
    return figures


def cosines(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    """Cosine of each row of one with the same row of the other, in float64."""
    a, b = _unit(one), _unit(other)
    product: NDArray[np.float64] = (a * b).sum(axis=1)
    return product


def overlaps(one: Vectors, other: Vectors, nearest: int = _NEAREST) -> NDArray[np.float64]:
    """Share of each row's nearest rows by cosine, itself left out, that both find, each among its own vectors."""
    shared = [len(set(a) & set(b)) / nearest for a, b in zip(_near(one, nearest), _near(other, nearest), strict=True)]
    return np.array(shared)


def document_vectors(vectors: Vectors, segments: Sequence[Ids], counts: Sequence[int], specials: int) -> Vectors:
    """Mean of each document's segment vectors, weighted by the tokens that they own, normalised."""
    weights = np.array([len(ids) - specials for ids in segments], np.float64)
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(vectors * weights[:, None], starts, axis=0)
    return _unit(sums).astype(np.float32)


def decisions(fp32: Vectors, others: Sequence[Vectors], labels: Sequence[str], seed: int = 0) -> list[NDArray[np.str_]]:
    """Labels given to fp32's and to the other vectors by one classifier trained on fp32's, five folds."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]

    targets = np.array(labels)
    given = [np.empty_like(targets) for _ in (fp32, *others)]
    for known, asked in StratifiedKFold(5, shuffle=True, random_state=seed).split(fp32, targets):
        judge = LogisticRegression(max_iter=2000).fit(fp32[known], targets[known])
        for answers, vectors in zip(given, (fp32, *others), strict=True):
            answers[asked] = judge.predict(vectors[asked])
    return given


def _vectors(segments: list[Ids], embedders: Embedders) -> Figures:
    expected, ours = embedders.fp32(segments), embedders.default(segments)
    some = np.linspace(0, len(segments) - 1, min(_COSINES, len(segments))).astype(int)
    near = embedders.windowed([segments[i] for i in some])
    ours_cosines = cosines(ours[some], expected[some])
    return {
        "cos_mean": summarise(ours_cosines, "", np.mean),
        "cos_min": Figure(float(ours_cosines.min()), "", n=len(some)),
        "top10_overlap": summarise(overlaps(expected, ours), "", np.mean),
        "window_64_cos": summarise(cosines(near, expected[some]), "", np.mean),
    }


def _decisions(corpora: Mapping[str, Sequence[texts.Document]], embedders: Embedders, tokenizer: Tokenizer) -> Figures:
    changed: dict[str, list[NDArray[np.bool_]]] = {"flips": [], "window_64_flips": []}
    for documents in corpora.values():
        fp32, *others = (read_documents(embed, documents, tokenizer) for embed in embedders)
        reference, *given = decisions(fp32, others, [document.label for document in documents])
        for name, labels in zip(changed, given, strict=True):
            changed[name].append(labels != reference)
    return {name: proportion(np.concatenate(each), "%") for name, each in changed.items()}


def labelled(tokenizer: Tokenizer, most: int, longest: float = float("inf")) -> dict[str, list[texts.Document]]:
    """Draw documents of each labelled corpus by seed: those that have to be cut, and at most `longest` tokens."""
    found: dict[str, list[texts.Document]] = {}
    for name, corpus in (("book_excerpts", texts.book_excerpts()), ("spam_assassin", texts.spam_assassin())):
        taken = found.setdefault(name, [])
        for document in random.Random(0).sample(corpus, len(corpus)):
            # A token has a character at least; hardly any has 16. The longest mails need not be tokenised.
            if _POSITIONS < len(document.text) < 16 * longest:
                (tokens,) = tokenizer.encode([document.text])
                if _POSITIONS < len(tokens) <= longest:
                    taken.append(document)
            if len(taken) == most:
                break
    return found


def read_documents(
    embed: Embed, documents: Sequence[texts.Document], tokenizer: Tokenizer, policy: Policy = "content"
) -> Vectors:
    """Cut documents as the server does, and make the vector of each."""
    own = [list(workloads.document_segments(document.text, tokenizer, policy)) for document in documents]
    segments = [ids for each in own for ids in each]
    return document_vectors(embed(segments), segments, list(map(len, own)), len(tokenizer.frame()))


def embedder(folder: Path, scheme: str, window: int = 0) -> Embed:
    """Make an encoder run as the server runs it; what it makes in fp32, which takes minutes, is kept on disk."""
    from benchmarks.runner import Engine

    engine = Engine(folder, scheme, window)

    def embed(segments: Sequence[Ids]) -> Vectors:
        click.echo(f"{len(segments)} segments, scheme {scheme}, window {window or 'none'} …", err=True)
        return engine.embed(segments)

    own = engine.encoder
    return kept(embed, f"{own.digest} {own.numerics(own.layers)} {window}".encode()) if scheme == "fp32" else embed


def kept(compute: Embed, deciding: bytes) -> Embed:
    """Keep what `compute` makes on disk, under a digest of `deciding` and the ids."""

    def embed(segments: Sequence[Ids]) -> Vectors:
        digest = hashlib.blake2b(deciding, digest_size=16)
        for ids in segments:
            digest.update(len(ids).to_bytes(4, "little") + ids.astype("<i4").tobytes())
        path = cache_home() / "benchmarks" / f"fp32-{digest.hexdigest()}.npy"
        if path.exists():
            found: Vectors = np.load(path, allow_pickle=False)
            return found
        made = compute(segments)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.npy")
        np.save(draft, made)
        draft.replace(path)
        return made

    return embed


def _near(vectors: Vectors, nearest: int) -> NDArray[np.intp]:
    rows = _unit(vectors)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -np.inf)
    found: NDArray[np.intp] = np.argpartition(-scores, nearest, axis=1)[:, :nearest]
    return found


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    rows = vectors.astype(np.float64)
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
