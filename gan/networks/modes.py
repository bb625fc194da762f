"""Networks in another state than training's: evaluating, without gradients for their parameters, in more bits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gan.networks.network import given


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


def in_own_precision(network: nn.Module, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
    """What `network` makes of `inputs`, in their precision, where its own is higher, as an average's may be."""
    dtype = torch.promote_types(inputs.dtype, next(network.parameters(), inputs).dtype)
    if condition is not None and condition.is_floating_point():
        condition = condition.to(dtype)
    (generate,) = given(condition, network)
    return generate(inputs) if dtype == inputs.dtype else generate(inputs.to(dtype)).to(inputs.dtype)
