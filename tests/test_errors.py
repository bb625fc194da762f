"""Only errors of our own are lines; everything else keeps its traceback, wherever it passes through."""

import re

import pytest
import torch
from commands import SHORT, command
from conftest import ROOT
from torch._inductor.exc import InvalidCxxCompiler

from gan.cli import for_people
from gan.data import InMemoryDataModule
from gan.errors import GANError, LostConnection, counted, or_meant


def test_ours_are_value_errors():
    """Which is what they have always been for those who catch them in Python."""
    assert issubclass(GANError, ValueError)
    assert issubclass(LostConnection, ConnectionError)
    assert for_people(GANError("line")).args == ("line",)
    assert for_people(LostConnection("line")).args == ("line",)


def test_a_compiler_that_is_missing_later_is_a_line():
    """In a loss of the user's, say: the networks are tried before anything is trained."""

    def fail(*_):
        raise InvalidCxxCompiler

    with pytest.raises(RuntimeError) as raised:
        torch.compile(torch.relu, backend=fail)(torch.zeros(2))
    assert str(for_people(raised.value)).startswith("torch.compile finds no C++ compiler: install one")


def test_every_complaint_is_of_our_class():
    """One that is not would be shown with its traceback."""
    made = re.compile(r"(?<!class )\b(ValueError|ConnectionError)\(")
    for path in sorted((ROOT / "gan").rglob("*.py")):
        assert not made.search(re.sub(r"class \w+\([^)]*\)", "", path.read_text("utf-8"))), path


class Accident(InMemoryDataModule):
    """An accident of unpacking within a call of ours, in a line of the user's."""

    image_shape = (1, 28, 28)

    def load(self, train):
        images, labels = (1, 2, 3)
        return images, labels


class Odd(Accident):
    def load(self, train):
        import torch

        return torch.zeros(64, 1, 28, 28, dtype=torch.uint8), float("no number")


@pytest.mark.parametrize(
    ("data", "message"), [("Accident", "too many values to unpack"), ("Odd", "could not convert string to float")]
)
def test_an_accident_keeps_its_traceback(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        command("fit", *SHORT, "--data", f"test_errors.{data}")
    assert not isinstance(raised.value, GANError)


def test_an_accident_in_a_line_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    """As any bug: it says nothing to a user without the lines that led there."""

    def unpack(self, train):
        one, two = (1, 2, 3)
        return one, two

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gan.data.memory.InMemoryDataModule.load_checked", unpack)
    with pytest.raises(ValueError, match="too many values to unpack"):
        command("fit", *SHORT)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((1, "image"), "1 image"),
        ((0, "image"), "0 images"),
        ((2500, "image"), "2,500 images"),
        ((1, "batch", "batches"), "1 batch"),
        ((2, "batch", "batches"), "2 batches"),
    ],
)
def test_one_of_a_kind(words, text):
    assert counted(*words) == text


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("mnist", ["MNIST", "KMNIST"], "; did you mean MNIST?"),
        ("wgan-pg", ["wgan_gp", "dcgan"], "; did you mean wgan_gp?"),
        ("flowers", ["MNIST", "KMNIST"], ""),
        ("x", [], ""),
    ],
)
def test_what_a_mistaken_name_may_have_meant(name, known, text):
    assert or_meant(name, known) == text
