"""The examples are what their pages say: the digits are read, the echo comes back, the conversation is remembered."""

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file

from mer.content.store import ContentStore
from mer.core.carton import read
from mer.core.specs import check_fit

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "digits"


def module(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert found
    assert found.loader
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


training = module(DIGITS / "train.py")


handler = module(DIGITS / "package/model/digits.py")


@pytest.fixture(scope="module")
def digits():
    return handler.load(load_file(DIGITS / "digits.safetensors"))


@pytest.fixture(scope="module")
def accuracy(digits) -> float:
    _, _, images, labels = training.split()
    return training.accuracy(digits, images, labels)


def test_at_least_95_percent_of_the_digits_held_out_are_read_right(accuracy: float):
    assert accuracy >= 0.95


def test_the_page_gives_the_accuracy_that_the_weights_have(accuracy: float):
    assert f"{accuracy:.1%}".replace("%", " %") in (DIGITS / "README.md").read_text()


def test_an_image_held_out_is_none_that_was_trained_on():
    trained_on, labels, held_out, _ = training.split()
    assert (len(trained_on), len(labels), len(held_out)) == (1438, 1438, 359)
    assert not {image.tobytes() for image in trained_on} & {image.tobytes() for image in held_out}


@pytest.mark.parametrize(("digit", "name"), list(enumerate(training.NAMES)))
def test_each_sample_is_held_out_and_read_right(digits, digit: int, name: str):
    image = np.load(DIGITS / f"{name}.npy")
    _, _, images, labels = training.split()
    assert any(np.array_equal(image, other) for other in images[labels == digit])
    assert digits.infer_with_tensors({"image": image})["digit"] == digit


def test_inputs_and_outputs_fit_the_specs(digits):
    spec = read((DIGITS / "package/carton.toml").read_text())
    image = np.load(DIGITS / "three.npy")
    outputs = digits.infer_with_tensors({"image": image})
    check_fit(spec.inputs, {"image": (image.dtype.name, image.shape)})
    check_fit(spec.outputs, {name: (array.dtype.name, array.shape) for name, array in outputs.items()})
    assert outputs["probabilities"].sum() == pytest.approx(1)
    assert outputs["probabilities"].argmax() == outputs["digit"]


def test_the_weights_are_small_enough_to_be_committed():
    assert (DIGITS / "digits.safetensors").stat().st_size < 1_000_000


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_the_training_script_trains():
    images, labels, held_images, held_labels = training.split()
    tensors = training.train(images[:400], labels[:400])  # a part of them: the whole takes seconds
    assert training.accuracy(handler.load(tensors), held_images, held_labels) >= 0.85


@pytest.mark.parametrize("name", ["digits", "echo", "chat"])
def test_an_example_is_a_package_as_it_is(tmp_path: Path, name: str):
    folder = EXAMPLES / name / "package"
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    manifest = "".join(f"{path}={hashlib.sha256(files[path].read_bytes()).hexdigest()}\n" for path in sorted(files))
    assert ContentStore(tmp_path / "content").add_package(folder).id == hashlib.sha256(manifest.encode()).hexdigest()


def test_echo_gives_its_inputs_back():
    inputs = {"x": memoryview(b"abc")}
    assert module(EXAMPLES / "echo/package/model/echo.py").load()(inputs) is inputs


def test_chat_remembers_what_it_was_told():
    lines = ["@!#START#!@", "one", "@!#STOP#!@", "@!#START#!@", "two", "lines", "@!#STOP#!@"]
    lines += ["@!#START#!@", "history", "@!#STOP#!@", "@!#EXIT#!@", "never read"]
    program = EXAMPLES / "chat/package/model/chat.py"
    replies = subprocess.run(
        [sys.executable, program], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True, timeout=30
    ).stdout.splitlines()
    assert replies[0] == "@!#READY#!@"
    assert replies[1:4] == ["@!#START#!@", "I heard: one. Tell me more.", "@!#STOP#!@"]
    assert replies[-5:] == ["@!#START#!@", "1. one", "2. two", "lines", "@!#STOP#!@"]
