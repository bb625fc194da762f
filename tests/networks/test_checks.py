"""Whether two networks fit each other and the data."""

import pytest
import torch
from torch import nn

from gan.networks import (
    ConditionalDCGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    ProjectionDCGANDiscriminator,
    check_pair,
)

MNIST = (1, 28, 28)


class Column(MLPDiscriminator):
    """A logit too many dimensions: (N, 1) against (N,) would broadcast to N x N pairs."""

    def forward(self, images):
        return super().forward(images)[:, None]


class Lying(MLPGenerator):
    """Says that it takes other latents than it does."""

    def __init__(self):
        super().__init__(MNIST, 8)
        self.latent_dim = 9


TOLD = ConditionalDCGANGenerator(MNIST, 3, 8, 4)


@pytest.mark.parametrize(
    ("generator", "discriminator", "image_shape", "message"),
    [
        (Lying(), MLPDiscriminator(MNIST), MNIST, r"Lying does not take latents \(N, 9\), as its latent_dim says"),
        (
            MLPGenerator(MNIST),
            MLPDiscriminator(MNIST),
            (3, 32, 32),
            r"makes images \(1, 28, 28\), and the data has",
        ),
        (MLPGenerator(MNIST), MLPDiscriminator((3, 32, 32)), None, r"does not take images \(1, 28, 28\)"),
        (MLPGenerator(MNIST), Column(MNIST), MNIST, r"Column must return one logit per image, \(N,\), got \(4, 1\)"),
    ],
)
def test_what_does_not_fit_is_named(generator, discriminator, image_shape, message):
    with pytest.raises(ValueError, match=message):
        check_pair(generator, discriminator, image_shape)


@pytest.mark.parametrize(
    ("generator", "discriminator", "num_classes", "message"),
    [
        (DCGANGenerator(MNIST, 8, 4), ProjectionDCGANDiscriminator(MNIST, 3, 4), None, "DCGANGenerator is not"),
        (TOLD, DCGANDiscriminator(MNIST, 4), None, "nothing says how many there are: let it, or the data module"),
        (TOLD, ProjectionDCGANDiscriminator(MNIST, 3, 4), 1, "the data has one class: give the data module labels"),
    ],
)
def test_classes_that_do_not_fit_are_named(generator, discriminator, num_classes, message):
    with pytest.raises(ValueError, match=message):
        check_pair(generator, discriminator, MNIST, num_classes)


def test_conditional_pairs_fit():
    check_pair(TOLD, ProjectionDCGANDiscriminator(MNIST, 3, 4), MNIST, 3)
    check_pair(TOLD, DCGANDiscriminator(MNIST, 4), MNIST, 2)


def test_leaves_no_trace():
    """Not in batch norms, not in torch's random numbers, not in the mode of any part."""
    torch.manual_seed(0)
    pair = DCGANGenerator(MNIST, 8, 4), DCGANDiscriminator(MNIST, 4, "batch")
    nn.init.ones_(pair[0].norm1.running_mean)
    before = [{key: value.clone() for key, value in network.state_dict().items()} for network in pair]
    state = torch.get_rng_state()
    check_pair(*pair, MNIST)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(network.training for network in pair)
    for network, values in zip(pair, before, strict=True):
        for key, value in network.state_dict().items():
            assert torch.equal(value, values[key]), key
