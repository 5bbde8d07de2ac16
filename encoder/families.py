"""The supported model families and their differences. All are post-norm encoders (Devlin et al., 2019).

To add a family that differs only in tensor names and positions, add an entry to `FAMILIES` and a golden test against
transformers. The rest of `encoder` depends only on `Architecture`.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from encoder.errors import DamagedFileError, UnsupportedError

Activation = Literal["gelu", "gelu_tanh", "relu"]

# Transformers' names for these functions.
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Maximum segment length, even for models that can read more.
MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Family:
    """How a family differs from the others.

    Attributes:
        prefix: prefix of tensor names in checkpoints that include a head.
        positions_follow_padding: positions start at `pad_token_id + 1` (as in fairseq) instead of 0.
        version: incremented when our code for the family changes its results; part of every state's identity.
    """

    prefix: str
    positions_follow_padding: bool
    version: int = 1


FAMILIES = {
    "bert": Family(prefix="bert.", positions_follow_padding=False),
    "roberta": Family(prefix="roberta.", positions_follow_padding=True),
    "xlm-roberta": Family(prefix="roberta.", positions_follow_padding=True),
    "camembert": Family(prefix="roberta.", positions_follow_padding=True),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's shape: everything in its configuration that affects the computation.

    Attributes:
        positions: rows in the position table.
        first_position: row for a segment's first token.
        pairs: the model scores pairs of texts (a cross-encoder), of which the second may have a token type of its own.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    activation: Activation
    eps: float
    vocabulary: int
    positions: int
    token_types: int
    first_position: int
    pairs: bool = False

    @property
    def max_tokens(self) -> int:
        """Maximum tokens in a segment, including special tokens."""
        return min(MAX_TOKENS, self.positions - self.first_position)

    @property
    def types(self) -> int:
        """Token types that segments use."""
        return min(2 if self.pairs else 1, self.token_types)

    def canonical(self) -> str:
        """What a state depends on besides its tensors. Omits the number of layers, which no state depends on."""
        fields = asdict(self)
        shape = "·".join(f"{key}={fields[key]}" for key in ("hidden", "heads", "activation", "eps", "first_position"))
        return f"post-norm·{shape}·code={FAMILIES[self.family].version}"


FIELDS = {
    "model_type",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "type_vocab_size",
    "vocab_size",
}
"""All that `architecture` needs of a configuration."""


def architecture(config: dict[str, Any]) -> Architecture:
    """Parse a configuration that uses transformers' field names.

    Raises:
        UnsupportedError: an unsupported family, or an unsupported variant of one.
        DamagedFileError: a field is missing or invalid.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UnsupportedError(f"model family {kind!r} is not supported; supported: {', '.join(FAMILIES)}")
    _refuse_variants(config)
    try:
        activation = _ACTIVATIONS[config["hidden_act"]]
    except KeyError as error:
        raise UnsupportedError(f"hidden_act {config.get('hidden_act')!r} is not supported") from error
    follow = FAMILIES[kind].positions_follow_padding
    return Architecture(
        family=kind,
        layers=_positive(config, "num_hidden_layers"),
        hidden=_positive(config, "hidden_size"),
        heads=_divisor(config, "num_attention_heads", of="hidden_size"),
        intermediate=_positive(config, "intermediate_size"),
        activation=activation,
        eps=float(config["layer_norm_eps"]),
        vocabulary=_positive(config, "vocab_size"),
        positions=_positive(config, "max_position_embeddings"),
        token_types=_positive(config, "type_vocab_size"),
        first_position=_token(config, "pad_token_id") + 1 if follow else 0,
        pairs=is_cross_encoder(config),
    )


def is_cross_encoder(config: dict[str, Any]) -> bool:
    """Whether a configuration is that of a classifier of sequences with one label: it scores pairs of texts."""
    names, labels = config.get("architectures") or [""], config.get("id2label") or {}
    return str(names[0]).endswith("ForSequenceClassification") and len(labels) == 1


def _refuse_variants(config: dict[str, Any]) -> None:
    if (position := config.get("position_embedding_type", "absolute")) != "absolute":
        raise UnsupportedError(f"position_embedding_type {position!r} is not supported")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise UnsupportedError("decoders are not supported")


def _positive(config: dict[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or value < 1:
        raise DamagedFileError(f"config.json: {field} must be a positive integer")
    return value


def _token(config: dict[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or value < 0:
        raise DamagedFileError(f"config.json: {field} must be a token's id")
    return value


def _divisor(config: dict[str, Any], field: str, *, of: str) -> int:
    value = _positive(config, field)
    if cast("int", config[of]) % value:
        raise DamagedFileError(f"config.json: {field} must divide {of}")
    return value
