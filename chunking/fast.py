"""Hugging Face's fast tokenizers: any `tokenizer.json`."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray

from chunking.errors import TokenizerError
from chunking.files import named_specials, read_object
from chunking.regions import encoded
from chunking.tokenizer import Frame, Ids, Offsets, Tokens, follows_no_space

_NONCHARACTER: Final = "\U0010ffff"


class FastTokenizer:
    """A `tokenizer.json`, without its truncation and padding."""

    def __init__(self, specification: dict[str, Any]) -> None:
        canonical = json.dumps(specification, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        self._tokenizer: Any = tokenizers.Tokenizer.from_str(canonical)
        self.library = f"tokenizers {tokenizers.__version__}"
        self.digest = hashlib.sha256(b"tokenizer.json\0" + canonical.encode("ascii")).hexdigest()
        self._plain = _specials_around(self._tokenizer)
        self._continuing: str | None = specification["model"].get("continuing_subword_prefix")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `tokenizer.json`, and from the files beside it which added tokens are special.

        Raises:
            TokenizerError: the file is not a tokenizer.
        """
        path = folder / "tokenizer.json"
        specification = read_object(path)
        named = named_specials(folder)
        try:
            # Many files contain settings of a training run: MiniLM's truncates and pads to 128 tokens.
            specification |= {"truncation": None, "padding": None}
            named |= set((specification["post_processor"] or {}).get("special_tokens", ()))
            named |= {token["content"] for token in specification["added_tokens"] if token["special"]}
            _hide(named, specification)
            return cls(specification)
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerError(f"{path}: not a readable tokenizer ({type(error).__name__})") from error

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """See `Tokenizer.encode`."""
        for text in texts:
            encoded(text)  # no tokenizer can read a lone surrogate
        # encode_batch releases the GIL; encode does not.
        return [_tokens(encoding) for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def frame(self, prefix: str = "") -> Frame:
        """See `Tokenizer.frame`."""
        head, tail = self._plain
        return Frame(np.concatenate([head, self.encode([prefix])[0].ids]) if prefix else head, tail)

    def pair_frame(self, first: str) -> Frame:
        """See `Tokenizer.pair_frame`."""
        head, between, tail, typed = self._pair
        return Frame(np.concatenate([head, self.encode([first])[0].ids, between]), tail, typed)

    def continues_word(self, ids: Ids, starts: Offsets, text: str) -> NDArray[np.bool_]:
        """See `Tokenizer.continues_word`."""
        return follows_no_space(starts, text) if self._continues is None else self._continues[ids]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        ordinary = [i for i in ids if not self._tokenizer.id_to_token(i).startswith(_NONCHARACTER)]
        text: str = self._tokenizer.decode(ordinary)
        return text

    @cached_property
    def vocabulary(self) -> Sequence[str]:
        """See `Tokenizer.vocabulary`."""
        size = self._tokenizer.get_vocab_size()
        return tuple((self._tokenizer.id_to_token(i) or "").removeprefix(_NONCHARACTER) for i in range(size))

    @cached_property
    def _pair(self) -> tuple[Ids, Ids, Ids, bool]:
        """The special ids before, between and after a pair of texts, and whether the second one has token type 1."""
        encoding = self._tokenizer.encode("a", "a")
        texts = np.array([-1 if text is None else text for text in encoding.sequence_ids])
        first, second = (np.flatnonzero(texts == text) for text in (0, 1))
        ids: Ids = np.array(encoding.ids, np.int32)
        typed = encoding.type_ids[second[0]] == 1
        return ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :], typed

    @cached_property
    def _continues(self) -> NDArray[np.bool_] | None:
        """By id, where the vocabulary says which tokens continue a word."""
        if not self._continuing:
            return None
        return np.array([token.startswith(self._continuing) for token in self.vocabulary])


def _hide(specials: set[str], specification: dict[str, Any]) -> None:
    """Rename special tokens to names that cannot occur in a text, so that their names in a text are ordinary text.

    `encode_special_tokens` is not enough: it misses tokens that the file does not mark as special, and a model such as
    Unigram still finds `<s>` in its vocabulary. Ids do not change.
    """

    def hidden(token: str) -> str:
        return _NONCHARACTER + token if token in specials else token

    for added in specification["added_tokens"]:
        added["content"] = hidden(added["content"])
    model = specification["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden(token): number for token, number in model["vocab"].items()}
    else:  # Unigram: pieces and scores in the order of ids
        model["vocab"] = [[hidden(piece), score] for piece, score in model["vocab"]]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = hidden(model["unk_token"])


def _tokens(encoding: Any) -> Tokens:
    # Twice as fast as np.array over a list of pairs.
    ids: Ids = np.fromiter(encoding.ids, np.int32, len(encoding))
    offsets: Offsets = np.fromiter(chain.from_iterable(encoding.offsets), np.int64, 2 * len(ids)).reshape(-1, 2)
    return Tokens(ids, offsets[:, 0], offsets[:, 1])


def _specials_around(tokenizer: Any) -> tuple[Ids, Ids]:
    """The special ids that the post-processor adds before and after a text, found by encoding one."""
    encoding = tokenizer.encode("a")
    own = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
    ids: Ids = np.array(encoding.ids, np.int32)
    return ids[: own[0]], ids[own[-1] + 1 :]
