"""The native core through its C interface (`kernels.h`). Tensors are checked here, so kernels need not check them.

Structures have the names and fields of those in C. They hold addresses, so the tensors must outlive them.
"""

from collections.abc import Sequence
from ctypes import CFUNCTYPE, POINTER, Array, Structure, byref, c_char_p, c_float, c_int32, c_int64, c_void_p, memmove
from itertools import accumulate
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoder import ops
from encoder.families import Activation
from encoder.layers import Linear, Norm
from encoder.native import library
from encoder.native.library import NativeUnavailableError

HEAD_UNIT = 16
"""Head sizes are multiples of this."""
ROW_UNIT = 32
"""Sizes of rows are multiples of this."""
LANES = 16
"""Of a vector: the outputs of a head are scored so many at a time."""
MOST_TOKENS = MOST_INPUTS = 1 << 16
"""A segment's tokens and a row's numbers, so that sums fit 32 bits."""

_ALIGNED = {"q": 4, "packed": 4, "qkv": 4}
"""Bytes to which tensors are aligned that kernels read in words."""

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_tanh", "relu")  # in the order of kernels.h


class _Quantiser(Structure):
    _fields_ = (("columns", c_void_p), ("outliers", c_int64), ("factor", c_void_p), ("zero", c_int32))


class _Rows(Structure):
    _fields_ = (("q", c_void_p), ("scale", c_void_p), ("outliers", c_void_p))


class _Linear(Structure):
    _fields_ = (
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("packed", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("outlier_weight", c_void_p),
        ("input", _Quantiser),
    )


class _Norm(Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("eps", c_float))


class Layer(Structure):
    """A layer, as C reads it; made by `Core.layer`."""

    _fields_ = (
        ("heads", c_int64),
        ("activation", c_int32),
        ("qkv", _Linear),
        ("mix", _Linear),
        ("mix_norm", _Norm),
        ("up", _Linear),
        ("down", _Linear),
        ("down_norm", _Norm),
    )


class _AttentionCall(Structure):
    _fields_ = (
        ("qkv", c_void_p),
        ("out", c_void_p),
        ("offsets", POINTER(c_int32)),
        ("segments", c_int64),
        ("heads", c_int64),
        ("head_size", c_int64),
        ("window", c_int64),
    )


class _LayersCall(Structure):
    _fields_ = (
        ("layers", POINTER(POINTER(Layer))),
        ("count", c_int64),
        ("state", c_void_p),
        ("offsets", POINTER(c_int32)),
        ("segments", c_int64),
        ("window", c_int64),
    )


class _EmbedCall(Structure):
    _fields_ = (
        ("words", c_void_p),
        ("scale", c_void_p),
        ("positions", c_void_p),
        ("norm", _Norm),
        ("hidden", c_int64),
        ("ids", c_void_p),
        ("state", c_void_p),
        ("offsets", POINTER(c_int32)),
        ("segments", c_int64),
    )


class _ScoresCall(Structure):
    _fields_ = (
        ("x", c_void_p),
        ("rows", c_int64),
        ("inputs", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("out", c_void_p),
    )


_P, _N, _THREADS = c_void_p, c_int64, c_int32


class _Kernels(Structure):
    _fields_ = (
        ("attention", CFUNCTYPE(_N, POINTER(_AttentionCall), _THREADS)),
        ("packed_bytes", CFUNCTYPE(_N, _N, _N)),
        ("pack", CFUNCTYPE(None, _P, _N, _N, c_int32, _P)),
        ("product", CFUNCTYPE(None, _P, _N, _N, _P, _N, _P, _THREADS)),
        ("quantise", CFUNCTYPE(None, _P, _N, _N, POINTER(_Quantiser), POINTER(_Rows), _THREADS)),
        ("linear", CFUNCTYPE(None, POINTER(_Rows), _N, POINTER(_Linear), _P, _THREADS)),
        (
            "linear_activate_quantise",
            CFUNCTYPE(
                None, POINTER(_Rows), _N, POINTER(_Linear), c_int32, POINTER(_Quantiser), POINTER(_Rows), _THREADS
            ),
        ),
        (
            "linear_norm_quantise",
            CFUNCTYPE(
                None,
                POINTER(_Rows),
                _N,
                POINTER(_Linear),
                _P,
                POINTER(_Norm),
                POINTER(_Quantiser),
                _P,
                POINTER(_Rows),
                _THREADS,
            ),
        ),
        ("layers", CFUNCTYPE(None, POINTER(_LayersCall), _THREADS)),
        ("embed", CFUNCTYPE(None, POINTER(_EmbedCall), _THREADS)),
        ("begin_scores", CFUNCTYPE(_P, POINTER(_ScoresCall), _THREADS)),
        ("end_scores", CFUNCTYPE(None, _P)),
    )


def runs_here(form: str) -> bool:
    """Whether this processor and operating system can run a form of the core.

    Raises:
        NativeUnavailableError: the library is not built or cannot be loaded.
    """
    return _table(form) is not None


def _table(form: str) -> Any:
    find = library.load().octavo_kernels
    find.argtypes, find.restype = (c_char_p,), POINTER(_Kernels)
    table = find(form.encode())
    return table.contents if table else None


class Core:
    """The kernels of one form. Thread-safe; calls release the interpreter's lock and use torch's number of threads.

    Raises:
        NativeUnavailableError: the library or the machine does not have this form.
        ValueError: (all methods) a tensor has another type or shape, is not contiguous, not aligned or not on the CPU.
    """

    def __init__(self, form: str) -> None:
        self._kernels = _table(form)
        if self._kernels is None:
            raise NativeUnavailableError(f"this machine cannot run the native core's {form} form")

    def attention(self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> tuple[Tensor, int]:
        """The context, (tokens, hidden), and the number of scores computed, over all heads and including padding."""
        tokens, width = qkv.shape
        address = _address(qkv, "qkv", torch.bfloat16, tokens, width)
        if heads <= 0 or width % (3 * heads * HEAD_UNIT):
            raise ValueError(f"a head's size must be a multiple of {HEAD_UNIT}")
        hidden = width // 3
        out = _made((tokens, hidden), torch.bfloat16)
        offsets = _offsets(lengths, tokens)
        call = _AttentionCall(address, out.data_ptr(), offsets, len(lengths), heads, hidden // heads, _checked(window))
        return out, self._kernels.attention(byref(call), torch.get_num_threads())

    def pack(self, weight: Tensor, zero: int) -> Tensor:
        """Weights (outputs, inputs) int8 in the order of products: flat int8."""
        outputs, inputs = weight.shape
        if outputs % ROW_UNIT or inputs % ROW_UNIT or inputs > MOST_INPUTS:
            raise ValueError(f"a weight's sizes must be multiples of {ROW_UNIT}, its inputs at most {MOST_INPUTS:,}")
        if not 0 <= zero <= 255:  # noqa: PLR2004 (a byte)
            raise ValueError("zero must be 0 to 255")
        packed = _made((self._kernels.packed_bytes(outputs, inputs),), torch.int8)
        address = _address(weight, "weight", torch.int8, outputs, inputs)
        self._kernels.pack(address, outputs, inputs, zero, packed.data_ptr())
        return packed

    def product(self, q: Tensor, packed: Tensor) -> Tensor:
        """(tokens, inputs) uint8 times packed weights, minus the zero point's part: (tokens, outputs) int32, exact."""
        tokens, inputs = q.shape
        if inputs % ROW_UNIT:
            raise ValueError(f"rows must have a multiple of {ROW_UNIT} columns")
        outputs = packed.numel() // self._kernels.packed_bytes(ROW_UNIT, inputs) * ROW_UNIT
        weights = _address(packed, "packed", torch.int8, self._kernels.packed_bytes(outputs, inputs))
        out = _made((tokens, outputs), torch.int32)
        rows = _address(q, "q", torch.uint8, tokens, inputs)
        self._kernels.product(rows, tokens, inputs, weights, outputs, out.data_ptr(), torch.get_num_threads())
        return out

    def quantise(self, x: Tensor, to: ops.Quantiser) -> ops.Rows:
        """See `encoder.ops.Operations.quantise`."""
        tokens, inputs = x.shape
        quantiser, rows = _quantiser(to, inputs), _empty_rows(tokens, to)
        address = _address(x, "x", torch.bfloat16, tokens, inputs)
        out = _rows(rows, to)
        self._kernels.quantise(address, tokens, inputs, byref(quantiser), byref(out), torch.get_num_threads())
        return rows

    def linear(self, rows: ops.Rows, linear: ops.Linear8) -> Tensor:
        """See `encoder.ops.Operations.linear`."""
        plain, read = self._linear(linear), _rows(rows, linear.input)
        out = _made((len(rows.q), plain.outputs), torch.bfloat16)
        self._kernels.linear(byref(read), len(rows.q), byref(plain), out.data_ptr(), torch.get_num_threads())
        return out

    def linear_activate_quantise(
        self, rows: ops.Rows, linear: ops.Linear8, activation: Activation, to: ops.Quantiser
    ) -> ops.Rows:
        """See `encoder.ops.Operations.linear_activate_quantise`."""
        plain, read = self._linear(linear), _rows(rows, linear.input)
        quantiser, made = _quantiser(to, plain.outputs), _empty_rows(len(rows.q), to)
        written = _rows(made, to)
        self._kernels.linear_activate_quantise(
            byref(read),
            len(rows.q),
            byref(plain),
            _activation(activation),
            byref(quantiser),
            byref(written),
            torch.get_num_threads(),
        )
        return made

    def linear_norm_quantise(
        self, rows: ops.Rows, linear: ops.Linear8, residual: Tensor, norm: Norm, to: ops.Quantiser | None
    ) -> tuple[Tensor, ops.Rows | None]:
        """See `encoder.ops.Operations.linear_norm_quantise`."""
        plain, read, tokens = self._linear(linear), _rows(rows, linear.input), len(rows.q)
        below = _address(residual, "residual", torch.bfloat16, tokens, plain.outputs)
        state = torch.empty_like(residual)
        made = None if to is None else _empty_rows(tokens, to)
        self._kernels.linear_norm_quantise(
            byref(read),
            tokens,
            byref(plain),
            below,
            byref(_norm(norm, plain.outputs)),
            None if to is None else byref(_quantiser(to, plain.outputs)),
            state.data_ptr(),
            None if to is None or made is None else byref(_rows(made, to)),
            torch.get_num_threads(),
        )
        return state, made

    def layer(self, layer: ops.Layer8, heads: int, activation: Activation) -> Layer:
        """The C structure of a layer, for `layers`. It keeps the layer's tensors."""
        hidden = layer.qkv.input.factor.shape[0]
        if heads <= 0 or hidden % (HEAD_UNIT * heads):
            raise ValueError(f"a head's size must be a multiple of {HEAD_UNIT}")
        wide = layer.down.input.factor.shape[0]
        attended = [(layer.qkv, 3 * hidden, hidden), (layer.mix, hidden, hidden)]
        for linear, outputs, inputs in [*attended, (layer.up, wide, hidden), (layer.down, hidden, wide)]:
            if (linear.scale.shape[0], linear.input.factor.shape[0]) != (outputs, inputs):
                raise ValueError("the layer's parts do not fit each other")
        made = Layer(
            heads,
            _activation(activation),
            self._linear(layer.qkv),
            self._linear(layer.mix),
            _norm(layer.mix_norm, hidden),
            self._linear(layer.up),
            self._linear(layer.down),
            _norm(layer.down_norm, hidden),
        )
        made.owner = layer
        return made

    def layers(self, layers: Sequence[Layer], state: Tensor, lengths: Sequence[int], window: int) -> Tensor:
        """Run layers from `layer`, all of `state`'s size: (tokens, hidden) bfloat16 to the same."""
        tokens, hidden = state.shape
        _address(state, "state", torch.bfloat16, tokens, hidden)
        if any(layer.qkv.inputs != hidden for layer in layers):
            raise ValueError("a layer is for states of another size")
        out, offsets = _made((tokens, hidden), torch.bfloat16), _offsets(lengths, tokens)
        # Not by torch: the threads that it copies with look for more work afterwards, in the way of the core's.
        memmove(out.data_ptr(), state.data_ptr(), state.nbytes)
        pointers = (POINTER(Layer) * len(layers))(*(POINTER(Layer)(layer) for layer in layers))
        call = _LayersCall(pointers, len(layers), out.data_ptr(), offsets, len(lengths), _checked(window))
        self._kernels.layers(byref(call), torch.get_num_threads())
        return out

    def embed(self, tables: ops.Embeddings8, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """See `encoder.ops.Operations.embed`."""
        (vocabulary, hidden), positions = tables.words.shape, tables.positions.shape[0]
        if hidden % ROW_UNIT:
            raise ValueError(f"rows must have a multiple of {ROW_UNIT} columns")
        if max(lengths, default=0) > positions:
            raise ValueError(f"a segment has more than {positions} tokens")
        if ids.dim() != 1 or ids.device.type != "cpu" or ids.dtype not in {torch.int64, torch.int32}:
            raise ValueError("ids must be a CPU tensor of one dimension and of integers")
        numbers = ids.numpy()  # torch would give up the interpreter's lock for each of what follows
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < vocabulary:
            raise ValueError("a token id is not in the vocabulary")
        offsets, narrow = _offsets(lengths, len(numbers)), np.ascontiguousarray(numbers, np.int32)
        state = _made((len(ids), hidden), torch.bfloat16)
        call = _EmbedCall(
            _address(tables.words, "words", torch.int8, vocabulary, hidden),
            _address(tables.scale, "scale", torch.float32, vocabulary),
            _address(tables.positions, "positions", torch.bfloat16, positions, hidden),
            _norm(tables.norm, hidden),
            hidden,
            narrow.ctypes.data,
            state.data_ptr(),
            offsets,
            len(lengths),
        )
        self._kernels.embed(byref(call), torch.get_num_threads())
        return state

    def scores(self, linear: Linear) -> "Scores":
        """A head's linear map, whose inputs are a multiple of 16."""
        return Scores(self._kernels, linear)

    def _linear(self, linear: ops.Linear8) -> _Linear:
        outputs, inputs, outliers = linear.scale.shape[0], linear.input.factor.shape[0], linear.input.columns.shape[0]
        if outputs % ROW_UNIT:
            raise ValueError(f"outputs must be a multiple of {ROW_UNIT}")
        return _Linear(
            inputs,
            outputs,
            _address(linear.packed, "packed", torch.int8, self._kernels.packed_bytes(outputs, inputs)),
            _address(linear.scale, "scale", torch.float32, outputs),
            _address(linear.bias, "bias", torch.float32, outputs),
            _address(linear.outlier_weight, "outlier_weight", torch.bfloat16, outliers, outputs),
            _quantiser(linear.input, inputs),
        )


class Scores:
    """A head's linear map: rows (n, inputs) bfloat16 to (n, outputs) float32."""

    def __init__(self, kernels: Any, linear: Linear) -> None:
        outputs, inputs = linear.weight.shape
        if inputs % LANES or outputs <= 0:
            raise ValueError(f"rows must have a multiple of {LANES} columns, and outputs be more than 0")
        missing = -outputs % LANES
        rows = functional.pad(linear.weight, (0, 0, 0, missing))
        panels = rows.reshape(-1, LANES, inputs).transpose(1, 2).contiguous()  # (inputs, 16) for each sixteen outputs
        bias = functional.pad(linear.bias, (0, missing))
        self._kernels, self._inputs, self._outputs, self._weights = kernels, inputs, outputs, (panels, bias)
        self._panels = _address(panels, "panels", torch.float32, len(rows) // LANES, inputs, LANES)
        self._bias = _address(bias, "bias", torch.float32, len(rows))

    def __call__(self, x: Tensor, threads: int) -> "Scoring":
        """Begin to score rows; with more than one thread, another makes the scores if it is free."""
        x, rows, inputs, outputs = x.contiguous(), x.shape[0], self._inputs, self._outputs
        address, out = _address(x, "x", torch.bfloat16, rows, inputs), _made((rows, outputs), torch.float32)
        call = _ScoresCall(address, rows, inputs, self._panels, self._bias, outputs, out.data_ptr())
        return Scoring(self._kernels, call, out, (x, self._weights), threads)


class Scoring:
    """Scores that another thread makes if one is free. What they are made of stays as it is until they are taken."""

    def __init__(self, kernels: Any, call: _ScoresCall, out: Tensor, inputs: object, threads: int) -> None:
        self._end, self._out, self._inputs = kernels.end_scores, out, inputs
        self._begun: int | None = kernels.begin_scores(byref(call), threads)

    def __call__(self) -> Tensor:
        """Wait for the scores, or make them here if nobody has begun to."""
        self.__del__()
        return self._out

    def __del__(self) -> None:
        begun, self._begun = self._begun, None
        if begun:
            self._end(begun)


def _made(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU, whatever torch's default device is."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def _address(tensor: Tensor, name: str, dtype: torch.dtype, *shape: int) -> int:
    if tensor.device.type != "cpu" or tensor.dtype != dtype or not tensor.is_contiguous():
        raise ValueError(f"{name} must be a contiguous CPU tensor of {dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {shape}")
    address = tensor.data_ptr()
    if address % max(tensor.element_size(), _ALIGNED.get(name, 1)):
        raise ValueError(f"{name} is not aligned")
    return address


def _quantiser(to: ops.Quantiser, inputs: int) -> _Quantiser:
    if inputs % ROW_UNIT or inputs > MOST_INPUTS:
        raise ValueError(f"rows must have a multiple of {ROW_UNIT} columns, at most {MOST_INPUTS:,}")
    if not 1 <= to.zero <= 254:  # noqa: PLR2004 (a byte, with room on both sides)
        raise ValueError("zero must be 1 to 254")
    outliers = to.columns.shape[0]
    columns = _address(to.columns, "columns", torch.int32, outliers)
    if bool((to.columns.diff() <= 0).any()):
        raise ValueError("outlier columns must be ascending")
    if outliers and not 0 <= int(to.columns[0]) <= int(to.columns[-1]) < inputs:
        raise ValueError("an outlier column is out of range")
    return _Quantiser(columns, outliers, _address(to.factor, "factor", torch.float32, inputs), to.zero)


def _norm(norm: Norm, size: int) -> _Norm:
    weight = _address(norm.weight, "norm's weight", torch.float32, size)
    return _Norm(weight, _address(norm.bias, "norm's bias", torch.float32, size), norm.eps)


def _rows(rows: ops.Rows, to: ops.Quantiser) -> _Rows:
    tokens = len(rows.q)
    return _Rows(
        _address(rows.q, "q", torch.uint8, tokens, to.factor.shape[0]),
        _address(rows.scale, "scale", torch.float32, tokens),
        _address(rows.outliers, "outliers", torch.bfloat16, tokens, to.columns.shape[0]),
    )


def _empty_rows(tokens: int, to: ops.Quantiser) -> ops.Rows:
    return ops.Rows(
        _made((tokens, to.factor.shape[0]), torch.uint8),
        _made((tokens,), torch.float32),
        _made((tokens, to.columns.shape[0]), torch.bfloat16),
    )


def _offsets(lengths: Sequence[int], tokens: int) -> Array[c_int32]:
    if any(not 0 <= index(length) <= MOST_TOKENS for length in lengths):
        raise ValueError(f"a segment's length must be 0 to {MOST_TOKENS:,}")
    offsets = [0, *accumulate(lengths)]
    if offsets[-1] != tokens:
        raise ValueError(f"lengths sum to {offsets[-1]} of {tokens} tokens")
    return (c_int32 * len(offsets))(*offsets)


def _activation(name: Activation) -> int:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS.index(name)


def _checked(window: int) -> int:
    if not 0 <= index(window) < 1 << 31:
        raise ValueError("window must be 0 to 2 ** 31 - 1")
    return window
