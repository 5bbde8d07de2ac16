"""The reference with oneDNN's 8-bit products: exact on processors with VNNI, silently wrong on others.

Activations are unsigned: without AMX, oneDNN runs signed ones on its reference kernel (7 s, not 63 ms, per product).
"""

import torch
from torch import Tensor

from encoder.ops.reference import Reference


class OneDnn(Reference):
    """See `encoder.ops.Operations`."""

    name = "PyTorch with oneDNN products"
    build = ""

    def pack(self, weight: Tensor, zero: int) -> Tensor:  # noqa: ARG002 (oneDNN takes the zero point with each product)
        """See `Operations.pack`."""
        packed: Tensor = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        return packed

    def product(self, q: Tensor, packed: Tensor, zero: int) -> Tensor:
        """See `Reference.product`."""
        outputs = packed.shape[1]
        one, none = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int32)
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, zero, packed, one, none, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return result
