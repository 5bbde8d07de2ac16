"""Trained heads on pooled vectors, without torch.

They need no states: where the vector is known, as from an embedding, they cost next to nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.folder import HeadFacts, Pooling


@dataclass(frozen=True, slots=True, eq=False)
class PooledHead:
    """Logits from a segment's pooled vector.

    Attributes:
        digest: hexadecimal, of its rules and weights.
        weight: float64 (labels, hidden).
        bias: float64 (labels,).
    """

    facts: HeadFacts
    digest: str
    pooling: Pooling
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, vector: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits, float64 (labels,), of a vector (hidden,) as `encoder.heads.pooling.pool` makes it.

        Products are added one by one: NumPy's sums follow the instruction set.
        """
        own = vector.astype(np.float64)
        if self.facts.normalize:
            own /= max(float(np.sqrt(np.add.accumulate(own * own)[-1])), 1e-12)
        logits: NDArray[np.float64] = np.add.accumulate(self.weight * own, axis=1)[:, -1] + self.bias
        return logits
