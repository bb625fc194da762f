"""What is known of a run's networks: their classes' arguments, where they stand, what they are made of."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from gan.data import InMemoryDataModule, MNISTDataModule
from gan.gradients.patient import Part, Patient, part, place_of
from gan.lab.own_data import SortedMNIST
from gan.lab.own_networks import SigmoidDiscriminator
from gan.networks import DeepMLPDiscriminator

SHAPES = {"image_shape": [1, 28, 28], "num_classes": 10}


class Mine(nn.Module):
    def __init__(self, image_shape, width: int = 8, how: Literal["a", "b"] | None = "a"):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def test_a_network_of_ones_own():
    known = part(Mine((1, 28, 28), 16), {"class_path": f"{__name__}.Mine", "init_args": {"width": 16}}, SHAPES)
    assert known.spec == {"class_path": f"{__name__}.Mine", "init_args": {"width": 16, "image_shape": [1, 28, 28]}}
    assert known.takes == {"image_shape": (), "width": (), "how": ("a", "b")}
    assert known.layers >= {"Linear", "BatchNorm1d"}
    assert known.name == "Mine"
    assert not known.ours


class Bare(nn.Module):
    def __init__(self, image_shape=(1, 28, 28)):
        super().__init__()


def test_whose_arguments_are_not_known():
    """Those of a network made in Python that does not keep them; the command line knows what it has given."""
    network = Mine((1, 28, 28), 16)
    assert part(network, None, SHAPES).unknown
    assert not part(network, {"class_path": "", "init_args": {}}, SHAPES).unknown
    assert not part(Bare(), None, SHAPES).unknown  # there are none


class Derived(Mine):
    def __init__(self, depth: int = 2, **others):
        super().__init__(**others)


class Unknown(nn.Module):
    def __init__(self, image_shape, table: "no_such_module.Table" = None):  # noqa: F821 # pyright: ignore
        super().__init__()


class Broken(nn.Module):
    def __init__(self, image_shape, table: "torch.NoSuch" = None):  # pyright: ignore
        super().__init__()


def test_what_a_class_takes_by_name_is_what_its_base_takes():
    known = part(Derived(image_shape=(1, 28, 28)), {"class_path": "", "init_args": {"depth": 3}}, SHAPES)
    assert known.takes == {"depth": (), "image_shape": (), "width": (), "how": ("a", "b")}
    assert known.arguments == {"depth": 3, "image_shape": [1, 28, 28]}


@pytest.mark.parametrize("kind", [Unknown, Broken])
def test_types_that_cannot_be_found_leave_the_arguments(kind):
    """They are the texts that `from __future__ import annotations` makes, of names that only a type checker imports."""
    known = part(kind((1, 28, 28)), None, SHAPES)
    assert known.takes == {"image_shape": (), "table": ()}
    assert known.arguments == {"image_shape": [1, 28, 28]}


def test_where_a_class_stands(monkeypatch):
    here = Path(__file__)
    lines = here.read_text(encoding="utf-8").splitlines()
    monkeypatch.chdir(here.parent)
    assert place_of(Mine) == f"Mine ({here.name}, line {lines.index('class Mine(nn.Module):') + 1})"
    monkeypatch.chdir(here.parents[1] / "data")
    assert place_of(Mine).startswith(f"Mine ({here}, line ")
    assert place_of(type("Made", (), {})) == "Made"


def test_what_is_compiled_is_its_network():
    assert part(torch.compile(Mine((1, 28, 28))), None, {}).name == "Mine"


@pytest.mark.parametrize(
    ("name", "value", "can"),
    [
        ("activation", "leaky_relu", True),
        ("activation", "sigmoid", False),
        ("activation", "mish", False),
        ("colour", "leaky_relu", False),
        ("init", "he", True),
    ],
)
def test_what_a_setting_can_be(name, value, can):
    network = DeepMLPDiscriminator((1, 28, 28), width=8, depth=2, activation="sigmoid")
    known = part(network, network.spec, SHAPES)
    assert known.ours
    assert known.can_be(name, value) == can


def test_the_class_that_a_setting_has():
    parts = {"generator": Part({"class_path": "G"}), "discriminator": Part({"class_path": "D"})}
    patient = Patient({"model": {"loss": {"class_path": "gan.losses.Hinge"}, "augment": None}}, parts, 300, 64)
    assert (patient.named("loss"), patient.named("augment"), patient.named("nothing")) == ("Hinge", "", "")


def test_what_could_be_in_the_place_of_ones_own():
    assert part(SortedMNIST(), None, {}).base == "gan.data.MNISTDataModule"
    assert part(SigmoidDiscriminator((1, 28, 28)), None, {}).base == ""  # `Discriminator` is none
    assert not part(SigmoidDiscriminator((1, 28, 28)), None, {}).ours  # the lab has networks as people write them
    assert part(MNISTDataModule(), None, {}).base == ""


class Flowers(InMemoryDataModule):
    image_shape = (3, 64, 64)


def test_what_is_there_to_derive_from_is_nothing_to_take():
    """It loads nothing by itself."""
    assert part(Flowers(), None, {}).base == ""


def test_what_leaving_it_out_says_is_not_given():
    """By the defaults of the class that would be in its place; settings that come later lengthen no prescription."""
    config = {"class_path": "gan.lab.own_data.SortedMNIST", "init_args": {"batch_size": 48, "validation_size": 5000}}
    known = part(SortedMNIST(batch_size=48), config, {})
    assert known.given == {"batch_size": 48}
    assert known.defaults["validation_size"] == 5000
