"""Reads handwritten digits with a network of one hidden layer, in numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

INK = 16.0
"""The darkest grey value: inputs are scaled to 0..1, as they were when the network was trained."""


class Digits:
    """The network: 64 grey values, a hidden layer with a rectifier, ten scores."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.hidden = weights["hidden.weight"], weights["hidden.bias"]
        self.scores = weights["scores.weight"], weights["scores.bias"]

    def infer_with_tensors(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the digit in `image` and the probability of each."""
        matrix, bias = self.hidden
        hidden = np.maximum(matrix @ (tensors["image"].reshape(64) / INK) + bias, 0)
        matrix, bias = self.scores
        scores = matrix @ hidden + bias
        likely = np.exp(scores - scores.max())  # the highest becomes 1, so that none overflows
        probabilities = (likely / likely.sum()).astype(np.float32)
        return {"digit": np.array(probabilities.argmax(), np.int64), "probabilities": probabilities}


def load(weights: Mapping[str, np.ndarray]) -> Digits:
    """Make the network from its four tensors; this is the package's entry point."""
    return Digits(weights)
