"""Networks of any depth: what each choice builds, and what it does to a gradient."""

import pytest
import torch
from torch import nn

from gan.gradients import Probe
from gan.networks import DeepMLPDiscriminator, DeepMLPGenerator, hidden_layers

SHAPE = (1, 8, 8)


def ratio(**settings) -> float:
    """||dl/dh|| at the first hidden layer over that at the last."""
    torch.manual_seed(0)
    discriminator = DeepMLPDiscriminator((1, 28, 28), **settings)
    images = torch.rand(64, 1, 28, 28) * 2 - 1
    with Probe(discriminator, 64) as probe:
        logits = discriminator(images)
    logits.mean().backward()
    first, last = (torch.cat(probe.norms[f"hidden.{layer}.linear"]).norm() for layer in (0, settings["depth"] - 1))
    return (first / last).item()


def test_shapes():
    generator = DeepMLPGenerator(SHAPE, latent_dim=5, width=7, depth=3)
    discriminator = DeepMLPDiscriminator(SHAPE, width=7, depth=3)
    images = generator(torch.randn(4, 5))
    assert images.shape == (4, *SHAPE)
    assert images.abs().max() < 1
    assert discriminator(images).shape == (4,)
    assert len(generator.hidden) == len(discriminator.hidden) == 3


def test_the_sum_of_a_layer():
    torch.manual_seed(0)
    first, second = hidden_layers(5, 7, 2, "tanh", residual="scaled")
    x = torch.randn(4, 5)
    expected = torch.tanh(first.linear(x))  # 5 features to 7: nothing to add
    assert torch.allclose(first(x), expected)
    assert torch.allclose(second(expected), expected + torch.tanh(second.linear(expected)) / 2**0.5)


@pytest.mark.parametrize(
    ("init", "std"), [("default", (1 / 3 / 400) ** 0.5), ("normal", 0.02), ("xavier", 1 / 20), ("he", (2 / 400) ** 0.5)]
)
def test_initialisation(init, std):
    torch.manual_seed(0)
    (layer,) = hidden_layers(400, 500, 1, init=init)
    assert layer.linear.weight.std().item() == pytest.approx(std, rel=0.02)
    assert bool(layer.linear.bias.any()) == (init == "default")


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm), ("none", nn.Identity)])
def test_normalisation(norm, kind):
    assert all(isinstance(layer.norm, kind) for layer in DeepMLPGenerator(SHAPE, norm=norm).hidden)


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"activation": "sigmoid"}, 0, 1e-12),
        ({"activation": "relu", "init": "normal"}, 0, 1e-10),
        ({"activation": "relu", "init": "he"}, 0.2, 5),
        ({"activation": "relu", "init": "he", "residual": "plain"}, 300, 1e6),
        ({"activation": "relu", "init": "he", "residual": "scaled"}, 0.5, 10),
        ({"activation": "relu", "norm": "batch"}, 3, 500),
    ],
)
def test_what_depth_does_to_a_gradient(settings, low, high):
    """The table of `gan/lab/depth.py`, in six rows: what vanishes, what stays, what explodes."""
    assert low <= ratio(depth=20, **settings) <= high


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
        ({"activation": "gelu"}, "activation must be one of sigmoid, tanh, relu, leaky_relu"),
        ({"norm": "group"}, "norm must be one of batch, layer, none"),
        ({"residual": "yes"}, "residual must be one of none, plain, scaled"),
        ({"init": "zeros"}, "init must be one of default, normal, xavier, he"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    for network in (DeepMLPGenerator, DeepMLPDiscriminator):
        with pytest.raises(ValueError, match=words):
            network(SHAPE, **settings)
