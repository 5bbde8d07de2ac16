"""The model families, told by how they differ. All are encoders after Devlin et al. (2019): a norm after each block.

Adding one: an entry in `FAMILIES`, if tensor names and positions are all that differ, and a golden test against
transformers. The rest of this room knows only `Architecture`.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from encoder.errors import DamagedFileError, UnsupportedError

Activation = Literal["gelu", "gelu_tanh", "relu"]

# Transformers' names for the same three functions.
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Segments are never longer, whatever a model could read: the unit of the cache and of the queue.
MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Family:
    """What tells a family from the others."""

    prefix: str
    """Of tensor names, in checkpoints that hold a head as well."""
    positions_follow_padding: bool
    """Positions count from `pad_token_id + 1` (fairseq's way) instead of from 0."""
    version: int = 1
    """Raised when our code for the family changes its results: part of every state's identity."""


FAMILIES = {
    "bert": Family(prefix="bert.", positions_follow_padding=False),
    "roberta": Family(prefix="roberta.", positions_follow_padding=True),
    "xlm-roberta": Family(prefix="roberta.", positions_follow_padding=True),
    "camembert": Family(prefix="roberta.", positions_follow_padding=True),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's shape: all that its configuration decides about the computation."""

    family: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    activation: Activation
    eps: float
    vocabulary: int
    positions: int
    """Rows of the position table."""
    token_types: int
    first_position: int
    """Row of a segment's first token."""

    @property
    def max_tokens(self) -> int:
        """Longest segment, special tokens included."""
        return min(MAX_TOKENS, self.positions - self.first_position)

    def canonical(self) -> str:
        """What states of equal tensors still depend on; without the depth, which no lower layer can see."""
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
    """Read a configuration, with transformers' names for its fields.

    Raises:
        UnsupportedError: another family, or a member of a family that differs in what we do not compute.
        DamagedFileError: a field is missing or makes no sense.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UnsupportedError(f"model family {kind!r} is not supported; these are: {', '.join(FAMILIES)}")
    _refuse_variants(config)
    try:
        activation = _ACTIVATIONS[config["hidden_act"]]
    except KeyError as error:
        raise UnsupportedError(f"hidden_act {config.get('hidden_act')!r} is not computed") from error
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
        first_position=int(config["pad_token_id"]) + 1 if follow else 0,
    )


def _refuse_variants(config: dict[str, Any]) -> None:
    if (position := config.get("position_embedding_type", "absolute")) != "absolute":
        raise UnsupportedError(f"position_embedding_type {position!r} is not computed")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise UnsupportedError("decoders are not computed")


def _positive(config: dict[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or value < 1:
        raise DamagedFileError(f"config.json: {field} must be a positive integer")
    return value


def _divisor(config: dict[str, Any], field: str, *, of: str) -> int:
    value = _positive(config, field)
    if cast("int", config[of]) % value:
        raise DamagedFileError(f"config.json: {field} must divide {of}")
    return value
