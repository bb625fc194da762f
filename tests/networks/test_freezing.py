"""Which layers of a network are its first."""

import pytest
import torch
from torch import nn

from gan.networks import (
    DCGANDiscriminator,
    MLPDiscriminator,
    PatchDiscriminator,
    ProjectionDCGANDiscriminator,
    ResNetDiscriminator,
    first_layers,
    given,
)
from gan.networks.deep import DeepMLPDiscriminator
from gan.networks.freezing import layers_of

SHAPE = (1, 28, 28)
LABELS, SOURCES = torch.zeros(2).long(), torch.zeros(2, *SHAPE)


def names(network: nn.Module, condition: torch.Tensor | None = None) -> list[str]:
    """The layers, each with all that belongs to it and has a state."""
    (judge,) = given(condition, network)
    layers = layers_of(network, lambda: judge(torch.zeros(2, *SHAPE)))
    of = {module: name for name, module in network.named_modules()}
    return ["+".join(of[module] for module in modules if module.state_dict()) for modules in layers.values()]


@pytest.mark.parametrize(
    ("network", "condition", "layers"),
    [
        (DCGANDiscriminator(SHAPE, 4), None, "down1 down2 down3 output"),
        (DCGANDiscriminator(SHAPE, 4, "spectral"), None, "down1 down2 down3 output"),
        (DCGANDiscriminator(SHAPE, 4, "batch"), None, "down1 down2+norm2 down3+norm3 output"),
        (DCGANDiscriminator(SHAPE, 4, "layer", None, 14), None, "down1 attention down2+norm2 down3+norm3 output"),
        (ResNetDiscriminator(SHAPE, 4), None, "stem block1 block2 output"),
        (MLPDiscriminator(SHAPE), None, "hidden1 hidden2 output"),
        (DeepMLPDiscriminator(SHAPE, 8, 3), None, "hidden.0 hidden.1 hidden.2 output"),
        (ProjectionDCGANDiscriminator(SHAPE, 10, 4), LABELS, "down1 down2 down3 output projection"),
        (PatchDiscriminator(SHAPE, SHAPE, 4, "layer"), SOURCES, "enter layers.0.0+layers.0.1 output"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_of_what_is_shipped(network, condition, layers):
    assert names(network, condition) == layers.split()


class Reversed(nn.Module):
    """Runs its layers in another order than it defines them in, one of them never, and has a weight of its own."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.last = nn.Linear(4, 1)
        self.first = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return self.last(self.first(self.norm(x * self.scale[0])))


def test_layers_are_those_that_run_in_the_order_in_which_they_do():
    """A normalisation before all layers belongs to none."""
    network = Reversed().train()
    assert layers_of(network, lambda: network(torch.zeros(2, 4))) == {"first": [network.first], "last": [network.last]}
    assert all(module.training for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_compiled_network_has_the_same():
    network = Reversed()
    compiled = torch.compile(network, backend="eager")
    assert list(layers_of(compiled, lambda: network(torch.zeros(2, 4)))) == ["first", "last"]


def test_one_layer_is_left_to_train():
    network = DCGANDiscriminator(SHAPE, 4, "batch")
    run = lambda: network(torch.zeros(2, *SHAPE))  # noqa: E731
    assert list(first_layers(network, 3, run)) == ["down1", "down2", "down3"]
    message = (
        r"model.freeze_discriminator=4 would leave nothing to train: DCGANDiscriminator has 4 layers \(down1, down2, "
        r"down3, output\); freeze 3 at most$"
    )
    with pytest.raises(ValueError, match=message):
        first_layers(network, 4, run)
    one = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"has 1 layer \(0\); freeze none$"):
        first_layers(one, 1, lambda: one(torch.zeros(1, 2)))
