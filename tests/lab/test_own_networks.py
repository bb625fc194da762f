"""Networks with a slip: that they have the one that they are said to have."""

import pytest
import torch
from torch import nn

from gan.lab.own_networks import (
    DeafGenerator,
    PerceptronDiscriminator,
    PerceptronGenerator,
    PlainAverage,
    RoundedGenerator,
    SigmoidDiscriminator,
)
from gan.module import GAN
from gan.networks import MLPDiscriminator, MLPGenerator

SHAPE = (3, 8, 8)


def test_probabilities():
    values = SigmoidDiscriminator(SHAPE)(9 * torch.randn(16, *SHAPE))
    assert values.shape == (16,)
    assert ((values > 0) & (values < 1)).all()


def test_pixels_are_levels_of_a_file_and_pass_nothing_on():
    generator = RoundedGenerator(SHAPE)
    images = generator(torch.randn(4, 64))
    assert images.shape == (4, *SHAPE)
    levels = 127.5 * images + 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    images.sum().backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in generator.parameters())


def test_latents_are_not_heard():
    generator, labels = DeafGenerator(SHAPE), torch.arange(10)
    one, two = (generator(torch.randn(10, 64), labels) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def kinds(network: nn.Module) -> list[str]:
    return [type(module).__name__ for module in network.modules() if not list(module.children())]


def test_perceptrons_are_as_they_are_asked_for():
    generator = PerceptronGenerator(SHAPE, 4, layers=2, hidden=16, act="ELU", end="Identity")
    assert kinds(generator) == ["Linear", "BatchNorm1d", "ELU", "Linear", "BatchNorm1d", "ELU", "Linear", "Identity"]
    assert generator(torch.randn(5, 4)).shape == (5, *SHAPE)
    discriminator = PerceptronDiscriminator(SHAPE, layers=3, hidden=16, act="Sigmoid")
    assert kinds(discriminator) == [*["Linear", "Sigmoid"] * 3, "Linear"]
    assert discriminator(torch.randn(5, *SHAPE)).shape == (5,)


def test_what_goes_into_a_layer_is_added_to_what_comes_out():
    """But for the first, which changes the size."""
    discriminator = PerceptronDiscriminator(SHAPE, layers=2, hidden=16, act="ReLU", skip=True)
    first, second = discriminator.hidden
    images = torch.randn(5, *SHAPE)
    h = torch.relu(first.layers[0](images.flatten(1)))
    h = h + torch.relu(second.layers[0](h))
    torch.testing.assert_close(discriminator(images), discriminator.output(h).squeeze(1))


@pytest.mark.parametrize("make", [PerceptronGenerator, PerceptronDiscriminator])
def test_weights_start_as_large_as_they_are_asked_to(make):
    linear = [module for module in make(SHAPE, std=0.5).modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 3
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx(0.5, rel=0.2)
    plain = [module for module in make(SHAPE).modules() if isinstance(module, nn.Linear)]
    assert max(layer.weight.std().item() for layer in plain) < 0.2


def test_an_average_of_a_decay():
    gan, average = GAN(MLPGenerator(SHAPE, 4), MLPDiscriminator(SHAPE)), PlainAverage(decay=0.75)
    average.setup(None, gan, "fit")
    before = gan.generator_ema.output.weight.clone()
    with torch.no_grad():
        gan.generator.output.weight.add_(1)
    average.on_train_batch_end(None, gan, None, None, 0)
    torch.testing.assert_close(gan.generator_ema.output.weight, before + 0.25)
