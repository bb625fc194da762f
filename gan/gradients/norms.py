"""Gradients, norms and updates of a network's parameters, whole or in shards (FSDP2), with a loss scale or without."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler, OptState
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from gan.gradients.probe import row_norms

OverProcesses = Callable[[Tensor, Literal["mean", "sum", "max"]], Tensor]


def one_process(tensor: Tensor, how: str) -> Tensor:
    """What one process has over all processes."""
    return tensor


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, the same memory. To be called without a graph."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def unscale(optimizer: Optimizer, scaler: GradScaler | None) -> None:
    """Takes the loss scale of float16 training out of an optimizer's gradients, unless that is done.

    Lightning does so before its hooks, but leaves it to fused optimizers to do in their own step. Those take gradients
    without a scale just as well.
    """
    if scaler is not None and scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:  # private
        scaler.unscale_(optimizer)


@torch.no_grad()
def total_norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of tensors together, whole or in shards: torch's, also where that loses its digits.

    Returns:
        0 without any, infinity or NaN if a value is not finite. If they are in shards, all processes must ask.
    """
    tensors = [tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in tensors]
    tensors = [tensor if tensor.dtype.itemsize >= 4 else tensor.float() for tensor in tensors]
    norm = norm_by_rows(tensors)
    if 1e-15 < norm < 1e15:
        return norm
    # Squares leave the range of float32 far sooner than the values do.
    return norm_by_rows([(tensor.cpu() if tensor.device.type == "mps" else tensor).double() for tensor in tensors])


def norm_by_rows(tensors: Sequence[Tensor]) -> float:
    """Torch's total norm, on a CPU by way of the norms of rows."""
    if tensors and tensors[0].device.type == "cpu":
        # There, torch adds up one value after another: of a million, the float32 norm is wrong by 5e-5.
        tensors = [
            torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim))) if tensor.ndim > 1 else tensor.view(-1)
            for tensor in tensors
        ]
        if not isinstance(tensors[0], DTensor):
            return float(torch.linalg.vector_norm(torch.cat(tensors)))  # as below, without sorting by device and type
    norm = get_total_norm(tensors)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a network that learn, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


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
    if not parameters:
        return []
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        # Autograd knows only the whole weights, which exist in between; sharding puts its part in `.grad`.
        with gradients_set_aside(networks):
            objective.backward()
            return [
                torch.zeros_like(local(parameter.detach()))
                if parameter.grad is None
                else local(parameter.grad.detach())
                for parameter in parameters
            ]
    gradients = torch.autograd.grad(objective, parameters, allow_unused=True, materialize_grads=True)
    wide = [gradient.flatten().to(torch.promote_types(gradient.dtype, torch.float32)) for gradient in gradients]
    return list(over_processes(torch.cat(wide), "mean").split([gradient.numel() for gradient in gradients]))


def parameter_norms(tensors: Sequence[Tensor], network: nn.Module, over_processes: OverProcesses) -> Tensor:
    """The norms of tensors that belong to the trainable parameters, over all shards: float64 (parameters,)."""
    if not tensors:
        return torch.zeros(0).double()
    norms = torch.cat(
        [row_norms(tensor.reshape(1, -1)) if tensor.numel() else torch.zeros(1).double() for tensor in tensors]
    )
    if any(isinstance(parameter, DTensor) for parameter in network.parameters()):
        norms = over_processes(norms.square(), "sum").sqrt()
    return norms


def by_layer(squares: Tensor, network: nn.Module, layers: Iterable[str]) -> dict[str, float]:
    """Norms by layer from squared norms by trainable parameter.

    A parameter belongs to the innermost layer around it. That of a module which never ran by itself thus counts for
    the one that used it; if there is none, for no layer.
    """
    sums = dict.fromkeys(layers, 0.0)
    for name, square in zip(trainable(network), squares.tolist(), strict=True):
        layer = layer_of(name)
        while layer and layer not in sums:
            layer = layer.rpartition(".")[0]
        if (layer or "self") in sums:
            sums[layer or "self"] += square
    return {layer: square**0.5 for layer, square in sums.items()}


def layer_of(parameter: str) -> str:
    """The name of the layer that a parameter of that name belongs to, parametrized or not."""
    layer, parametrized, _ = parameter.partition(".parametrizations.")
    return layer if parametrized else parameter.rpartition(".")[0]


def weights(network: nn.Module) -> list[Tensor]:
    """A copy of the trainable parameters, or of this process's shards of them."""
    return [local(parameter.detach()).clone() for parameter in trainable(network).values()]


def updates(
    network: nn.Module, before: Sequence[Tensor], layers: Iterable[str], over_processes: OverProcesses = one_process
) -> tuple[float, dict[str, float]]:
    """How much the trainable parameters have changed: ||change|| / ||before||, of the network and by layer.

    Args:
        network: The network, as it is now.
        before: Its `weights` before.
        layers: Names of its layers.
        over_processes: The sum of a tensor over all processes.

    Returns:
        The ratio of all parameters, NaN if there are none or they were all 0; and the ratios by layer, without those
        that were all 0.
    """
    changes = [now - then for now, then in zip(weights(network), before, strict=True)]
    changed = parameter_norms(changes, network, over_processes).square()
    were = parameter_norms(before, network, over_processes).square()
    total = (changed.sum() / were.sum()).sqrt().item()
    changed, were = by_layer(changed, network, layers), by_layer(were, network, layers)
    return total, {name: changed[name] / were[name] for name in changed if were[name] > 0}


@contextmanager
def gradients_set_aside(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Takes away the `.grad` of all parameters, and puts it back."""
    kept = [(parameter, parameter.grad) for network in networks for parameter in network.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient
