"""Token ids that OpenAI's clients send in place of text, read by the vocabulary that made them."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from server.errors import StartError

Decode: TypeAlias = Callable[[Sequence[int]], str]
"""Turns token ids into text; bytes that are not UTF-8, where a caller cut within a character, become U+FFFD.

Raises:
    ValueError: the vocabulary lacks an id.
"""


def decoder(encoding: str) -> Decode:
    """The decoder of one of tiktoken's encodings.

    tiktoken downloads an encoding's ranks the first time, unless the folder `TIKTOKEN_CACHE_DIR` has them.

    Raises:
        StartError: tiktoken is not installed, or has no such encoding, or cannot get its ranks.
    """
    field = "server.http_token_ids"
    try:
        import tiktoken  # noqa: PLC0415 - optional
    except ImportError:
        raise StartError(f"{field} needs tiktoken: pip install 'octavo[tiktoken]'") from None
    if encoding not in (known := tiktoken.list_encoding_names()):
        raise StartError(f"{field}: tiktoken has no encoding {encoding!r}, but {', '.join(sorted(known))}")
    try:
        vocabulary = tiktoken.get_encoding(encoding)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        why = type(error).__name__
        raise StartError(f"{field}: tiktoken cannot get the ranks of {encoding}: {why}") from error

    def decode(ids: Sequence[int]) -> str:
        try:
            return vocabulary.decode(ids)
        except (KeyError, OverflowError):
            raise ValueError(f"an id that {encoding} does not have") from None

    return decode
