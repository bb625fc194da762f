"""The DCGAN pair: how it starts."""

import pytest
import torch
from torch import nn

from gan.networks import DCGANDiscriminator, DCGANGenerator


@pytest.mark.parametrize("cls", [DCGANGenerator, DCGANDiscriminator])
def test_starts_as_the_paper_says(cls):
    """Weights N(0, 0.02), scales of a normalisation N(1, 0.02), biases 0; torch's own start is another."""
    torch.manual_seed(0)
    network = cls((1, 28, 28), norm="batch")
    layers = [layer for layer in network.modules() if not list(layer.children()) and list(layer.parameters())]
    assert len(layers) == (5 if cls is DCGANGenerator else 6)
    for layer in layers:
        weight, count = layer.weight.detach(), layer.weight.numel()
        mean = 1 if isinstance(layer, nn.BatchNorm2d) else 0
        assert weight.mean().item() == pytest.approx(mean, abs=5 * 0.02 / count**0.5)
        assert weight.std().item() == pytest.approx(0.02, rel=5 / (2 * count) ** 0.5)
        assert layer.bias is None or not layer.bias.any()
