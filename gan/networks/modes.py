"""Networks for a while in another state: in evaluation mode, or with no gradient for their parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Puts `network` in evaluation mode, and each of its parts back into the mode that it was in."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Keeps gradients out of the parameters of `network`; they still pass through it to its input."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
