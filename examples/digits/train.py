"""Trains the network of this folder and writes digits.safetensors and a sample image of each digit.

    pip install 'mer[test]'         # for scikit-learn
    python examples/digits/train.py

The data are scikit-learn's handwritten digits (1797 images of 8x8 grey values from 0 to 16). Every fifth image is held
out: it is never trained on, and the accuracy is told for these alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "digits.safetensors"
INK = 16.0
HIDDEN = 96
SEED = 7
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images and digits to train on, and those held out: every fifth, whatever a library's shuffle does."""
    digits = load_digits()
    images, labels = digits.images.astype(np.float32), digits.target
    held_out = np.arange(len(images)) % 5 == 4
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def shifted(images: np.ndarray) -> list[np.ndarray]:
    """Return the images moved by one pixel to each side: nobody writes in the very middle."""
    moved = []
    for axis in (1, 2):
        for step in (-1, 1):
            other = np.roll(images, step, axis)
            edge = [slice(None)] * 3
            edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
            other[tuple(edge)] = 0
            moved.append(other)
    return moved


def train(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the network's tensors by name, float32."""
    more = [images, *shifted(images)]
    network = MLPClassifier((HIDDEN,), alpha=0.05, learning_rate_init=0.003, random_state=SEED)
    network.fit(np.concatenate(more).reshape(-1, 64) / INK, np.tile(labels, len(more)))
    tensors = {
        "hidden.weight": network.coefs_[0].T,
        "hidden.bias": network.intercepts_[0],
        "scores.weight": network.coefs_[1].T,
        "scores.bias": network.intercepts_[1],
    }
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


def accuracy(handler, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images that a handler reads right."""
    read = [int(handler.infer_with_tensors({"image": image})["digit"]) for image in images]
    return float(np.mean(np.array(read) == labels))


def main() -> None:
    """Train, write the files, and tell the accuracy."""
    sys.path.insert(0, str(HERE / "package" / "model"))
    from digits import load  # the very handler that is registered

    images, labels, held_images, held_labels = split()
    tensors = train(images, labels)
    WEIGHTS.write_bytes(save(tensors))
    for digit, name in enumerate(NAMES):
        np.save(HERE / f"{name}.npy", held_images[held_labels == digit][0])
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size} bytes")
    print(f"accuracy on {len(held_labels)} images held out: {accuracy(load(tensors), held_images, held_labels):.4f}")


if __name__ == "__main__":
    main()
