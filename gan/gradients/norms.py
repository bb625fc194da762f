"""Gradients and updates of a network's parameters, whole or in shards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gan.gradients.clip import local
from gan.gradients.probe import row_norms

OverProcesses = Callable[[Tensor, Literal["mean", "sum", "max"]], Tensor]


def alone(tensor: Tensor, how: str) -> Tensor:
    """What one process has over all processes."""
    return tensor


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: one for name, one in network.named_parameters() if one.requires_grad}


def parameter_gradients(
    objective: Tensor, network: nn.Module, networks: Iterable[nn.Module], over_processes: OverProcesses
) -> list[Tensor]:
    """The gradient with respect to each trainable parameter, or this process's shard of it: means over all processes.

    Args:
        objective: A scalar.
        network: Whose parameters.
        networks: All networks that the gradient would flow to.
        over_processes: The mean of a tensor over all processes.
    """
    parameters = list(trainable(network).values())
    if any(isinstance(one, DTensor) for one in parameters):
        # Autograd knows only the whole weights, which exist in between; sharding puts its part in `.grad`.
        with set_aside(networks):
            objective.backward()
            return [
                torch.zeros_like(local(one.detach())) if one.grad is None else local(one.grad.detach())
                for one in parameters
            ]
    gradients = torch.autograd.grad(objective, parameters, allow_unused=True, materialize_grads=True)
    flat = torch.cat([one.flatten().to(torch.promote_types(one.dtype, torch.float32)) for one in gradients])
    return list(over_processes(flat, "mean").split([one.numel() for one in gradients]))


def parameter_norms(tensors: Sequence[Tensor], network: nn.Module, over_processes: OverProcesses) -> Tensor:
    """The norms of tensors that belong to the trainable parameters, over all shards: float64 (parameters,)."""
    norms = [row_norms(one.reshape(1, -1)) if one.numel() else torch.zeros(1).double() for one in tensors]
    norms = torch.cat(norms)
    if any(isinstance(one, DTensor) for one in network.parameters()):
        norms = over_processes(norms.square(), "sum").sqrt()
    return norms


def by_layer(squares: Tensor, network: nn.Module, layers: Iterable[str]) -> dict[str, float]:
    """Norms by layer from squared norms by trainable parameter.

    A parameter belongs to the innermost layer around it. That of a module which never ran by itself thus counts for
    the one that used it; if there is none, for no layer.
    """
    sums = dict.fromkeys(layers, 0.0)
    for name, square in zip(trainable(network), squares.tolist(), strict=True):
        place = name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        while place and place not in sums:
            place = place.rpartition(".")[0]
        if (place or "self") in sums:
            sums[place or "self"] += square
    return {name: one**0.5 for name, one in sums.items()}


def weights(network: nn.Module) -> list[Tensor]:
    """A copy of the trainable parameters, or of this process's shards of them."""
    return [local(one.detach()).clone() for one in trainable(network).values()]


def updates(
    network: nn.Module, before: Sequence[Tensor], layers: Iterable[str], over_processes: OverProcesses = alone
) -> tuple[float, dict[str, float]]:
    """How much the trainable parameters have changed: ||change|| / ||before||, of the network and by layer.

    Args:
        network: The network, as it is now.
        before: Its `weights` before.
        layers: Names of its layers.
        over_processes: The sum of a tensor over all processes.

    Returns:
        The ratio of all parameters, NaN if they were all 0; and the ratios by layer, without those that were all 0.
    """
    changes = [now - then for now, then in zip(weights(network), before, strict=True)]
    changed = parameter_norms(changes, network, over_processes).square()
    were = parameter_norms(before, network, over_processes).square()
    total = (changed.sum() / were.sum()).sqrt().item()
    changed, were = by_layer(changed, network, layers), by_layer(were, network, layers)
    return total, {name: changed[name] / were[name] for name in changed if were[name] > 0}


@contextmanager
def set_aside(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Takes away the `.grad` of all parameters, and puts it back."""
    kept = [(one, one.grad) for network in networks for one in network.parameters()]
    for one, _ in kept:
        one.grad = None
    try:
        yield
    finally:
        for one, gradient in kept:
            one.grad = gradient
