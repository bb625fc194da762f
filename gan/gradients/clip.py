"""Clipping of gradients: by norm, by value, adaptively per unit, or at a percentile of the norms so far.

All work in place, on whole gradients as on shards (FSDP2): a norm is that of all shards, and every process comes to
the same decision. A gradient that is not finite is left as it is, never turned into numbers.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.conv import _ConvTransposeNd

from gan.errors import GANError
from gan.gradients.norms import layer_of, local, total_norm
from gan.gradients.places import Places


class NamedParameter(NamedTuple):
    """A parameter of a network, and what it is there."""

    name: str
    parameter: nn.Parameter
    transposed_groups: int  # of the transposed convolution that it is the weight of, 0 elsewhere
    in_last_layer: bool


class Gradients:
    """The gradients of a network, whole or in shards, as one vector. Made once, it sees those of each step.

    Those of the parameters that the network has then: another may have come into the place of one.

    Args:
        network: The network. One in shards (`fully_shard`) must be so already; then all its processes must make every
            call here together.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.places = Places([network], buffers=False)
        self.present()

    def look(self) -> None:
        """Takes in the parameters that the network has."""
        network = self.network
        transposed = {
            parameter: module.groups
            for module in network.modules()
            if isinstance(module, _ConvTransposeNd)
            for parameter in module.parameters()
            if parameter.ndim > 1
        }
        matrices = [name for name, parameter in network.named_parameters() if parameter.ndim > 1]
        last = layer_of(matrices[-1]) if matrices else None
        self.named = [
            NamedParameter(name, parameter, transposed.get(parameter, 0), layer_of(name) == last)
            for name, parameter in network.named_parameters()
        ]
        self.parameters = [named.parameter for named in self.named]
        sharded = [parameter for parameter in self.parameters if isinstance(parameter, DTensor)]
        self.group = sharded[0].device_mesh.get_group() if sharded else None
        example = self.parameters[0]
        self.device = example.device
        self.narrow = torch.promote_types(example.dtype, torch.float32)
        self.wide = self.narrow if self.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
        # Twice as much as a rounding of each value could add to a norm.
        self.margin = 1 - 4 * torch.finfo(example.dtype).eps

    def present(self) -> list[Tensor]:
        """The gradients that there are."""
        if self.places.changed():
            self.look()
        return [gradient for parameter in self.parameters if (gradient := parameter.grad) is not None]

    def local(self) -> list[Tensor]:
        """What this process has of each gradient that there is."""
        return self.present() if self.group is None else [local(gradient) for gradient in self.present()]

    def norm(self) -> float:
        """The Euclidean norm of all gradients together; 0 without any, infinity or NaN if one of them is not finite."""
        return total_norm(self.present())

    def finite(self, losses: Sequence[Tensor] = ()) -> bool:
        """Whether all gradients and `losses` are finite: one look at the device, and a second in case of doubt."""
        tensors = [*self.local(), *losses]
        if not tensors:
            sums = [torch.zeros((), device=self.device)]
        elif self.device.type == "cpu":
            sums = [tensor.sum() for tensor in tensors]  # what is not finite stays so in a sum, and in a norm
        else:
            # In one kernel, which has no public name.
            sums = torch._foreach_norm(tensors)  # pyright: ignore[reportPrivateImportUsage]
        if math.isfinite(self.over_shards(torch.stack(sums).sum())):
            return True
        return math.isfinite(self.norm()) and math.isfinite(total_norm(losses))  # a sum may be infinite by itself

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiplies all gradients by a factor, in place."""
        gradients = self.local()
        if gradients:
            torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage] # no public name

    def over_shards(self, values: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """What the processes that share the network have, put together."""
        if self.group is not None:
            dist.all_reduce(values, op, self.group)
        return values

    def unit_norms(self, parameters: Sequence[NamedParameter], tensors: Sequence[Tensor]) -> list[Tensor]:
        """The norm of each unit of `tensors`, the local parts of parameters or gradients, ready to broadcast to them.

        A unit is what one output channel of a layer has: a row of a weight, for transposed convolutions a column, and
        all of a bias or a scale together.
        """
        squares, shared = [], []
        for named, tensor in zip(parameters, tensors, strict=True):
            if named.transposed_groups:
                per_pair = tensor.to(self.wide).square().flatten(2).sum(2)  # (in, out / groups)
                units = per_pair.new_zeros(named.transposed_groups, per_pair.shape[1])
                units.index_add_(0, self.groups_of_rows(named, tensor), per_pair)
            elif named.parameter.ndim > 1:
                units = torch.linalg.vector_norm(tensor.flatten(1), dim=1, dtype=self.wide).square()  # (out,)
            else:
                units = torch.linalg.vector_norm(tensor, dtype=self.wide).square()
            squares.append(units)
            if named.transposed_groups or named.parameter.ndim < 2:  # spread over the shards, which are cut by rows
                shared.append(units)
        if shared and self.group is not None:
            together = self.over_shards(torch.cat([units.flatten() for units in shared]))
            for units, total in zip(shared, together.split([units.numel() for units in shared]), strict=True):
                units.copy_(total.view_as(units))
        return [self._broadcast(*each) for each in zip(parameters, tensors, squares, strict=True)]

    def _broadcast(self, named: NamedParameter, tensor: Tensor, squares: Tensor) -> Tensor:
        if named.transposed_groups:
            squares = squares[self.groups_of_rows(named, tensor)]  # (in, out / groups)
        return squares.sqrt().view(*squares.shape, *(1,) * (tensor.ndim - squares.ndim))

    def groups_of_rows(self, named: NamedParameter, tensor: Tensor) -> Tensor:
        """To which group each of this process's rows of a transposed convolution belongs."""
        rows = len(named.parameter)
        first = 0 if self.group is None else dist.get_rank(self.group) * -(-rows // dist.get_world_size(self.group))
        return torch.arange(first, first + len(tensor), device=tensor.device) // (rows // named.transposed_groups)


class Clipped(NamedTuple):
    """What was measured."""

    before: float  # norm of the gradient
    after: float
    clipped: bool  # whether a value changed


class Clip(ABC):
    """A way to clip the gradients of one network."""

    @abstractmethod
    def __call__(self, gradients: Gradients) -> Clipped:
        """Clips gradients in place. Those that are not finite stay as they are."""

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on must know, as plain data."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027, most have none
        """Goes on from there."""


class ByNorm(Clip):
    """Shortens the gradient to `max_norm` where it is longer (Pascanu et al. 2013, arXiv:1211.5063).

    It keeps its direction.

    Args:
        max_norm: Largest Euclidean norm of the network's gradient, above 0.
    """

    def __init__(self, max_norm: float):
        self.max_norm = positive(max_norm, "ByNorm's max_norm")

    def __call__(self, gradients: Gradients) -> Clipped:
        return shorten(gradients, gradients.norm(), self.max_norm)


class ByValue(Clip):
    """Clamps each value of the gradient to [-max_value, max_value], which turns its direction.

    Args:
        max_value: Largest magnitude of a value, above 0.
    """

    def __init__(self, max_value: float):
        self.max_value = positive(max_value, "ByValue's max_value")

    @torch.no_grad()
    def __call__(self, gradients: Gradients) -> Clipped:
        before = gradients.norm()
        if not math.isfinite(before):
            return Clipped(before, before, False)
        largest = torch.zeros((), dtype=gradients.narrow, device=gradients.device)
        for gradient in gradients.local():
            if gradient.numel():
                largest = torch.maximum(largest, torch.stack(gradient.aminmax()).abs().max())
        if float(gradients.over_shards(largest, dist.ReduceOp.MAX)) <= self.max_value:
            return Clipped(before, before, False)
        for gradient in gradients.local():
            gradient.clamp_(-self.max_value, self.max_value)
        return Clipped(before, gradients.norm(), True)


class Adaptive(Clip):
    """AGC: shortens what a unit gets to `ratio` times the norm of its weights (Brock et al. 2021, arXiv:2102.06171).

    A unit is one output channel: a row of a linear layer or of a convolution, a column of a transposed convolution;
    and all of a bias or of a normalisation's scale counts as one. As in the paper, the last layer is not clipped: the
    last one in order of definition that has a weight.

    Args:
        ratio: Largest norm of a unit's gradient in units of the norm of its weights, above 0. The paper takes 0.01 for
            batches of 4096, and more for smaller ones.
        eps: Least norm that a unit's weights are taken to have, above 0, so that those at 0 can leave it.
    """

    def __init__(self, ratio: float = 0.01, eps: float = 1e-3):
        self.ratio = positive(ratio, "Adaptive's ratio")
        self.eps = positive(eps, "Adaptive's eps")

    @torch.no_grad()
    def __call__(self, gradients: Gradients) -> Clipped:
        before = gradients.norm()
        clippable = [named for named in gradients.named if named.parameter.grad is not None and not named.in_last_layer]
        if not math.isfinite(before) or not clippable:
            return Clipped(before, before, False)
        weights = gradients.unit_norms(clippable, [local(named.parameter) for named in clippable])
        # All of them have a gradient, which a type checker cannot know.
        units = [local(gradient) for named in clippable if (gradient := named.parameter.grad) is not None]
        norms = gradients.unit_norms(clippable, units)
        clipped = torch.zeros((), device=gradients.device)
        for unit, norm, weight in zip(units, norms, weights, strict=True):
            bound = self.ratio * weight.clamp(min=self.eps)
            unit.mul_(torch.where(norm > bound, bound / norm * gradients.margin, 1.0))
            clipped += (norm > bound).any()
        if not gradients.over_shards(clipped):
            return Clipped(before, before, False)
        return Clipped(before, gradients.norm(), True)


class Auto(Clip):
    """AutoClip: shortens the gradient to a percentile of its norms so far (Seetharaman et al. 2020, arXiv:2007.14469).

    The present norm counts among them. The paper looks back over the whole run; a window follows a GAN, whose norms
    move as long as it trains.

    Args:
        percentile: From 0, the least of the norms, to 100, the largest, which clips nothing; the paper takes 10.
        window: Steps to look back, at least 1.
    """

    def __init__(self, percentile: float = 10, window: int = 1000):
        if not 0 <= percentile <= 100:
            raise GANError(f"Auto's percentile must be from 0 to 100, got {percentile}")
        if not window >= 1:
            raise GANError(f"Auto's window must be at least 1 step, got {window}")
        self.percentile = percentile
        self.window = window
        self.norms: deque[float] = deque()
        self.ordered: list[float] = []

    def __call__(self, gradients: Gradients) -> Clipped:
        norm = gradients.norm()
        if not math.isfinite(norm):
            return Clipped(norm, norm, False)
        self.remember(norm)
        return shorten(gradients, norm, self.threshold())

    def remember(self, norm: float) -> None:
        """Adds the latest norm to the window, which may push out the oldest."""
        self.norms.append(norm)
        insort(self.ordered, norm)
        if len(self.norms) > self.window:
            del self.ordered[bisect_left(self.ordered, self.norms.popleft())]

    def threshold(self) -> float:
        """The percentile of the norms in the window, between two of them by linear interpolation."""
        position = self.percentile / 100 * (len(self.ordered) - 1)
        lower = int(position)
        upper = min(lower + 1, len(self.ordered) - 1)
        return self.ordered[lower] + (position - lower) * (self.ordered[upper] - self.ordered[lower])

    def state_dict(self) -> dict[str, Any]:
        return {"norms": list(self.norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.norms = deque(state.get("norms", [])[-self.window :])
        self.ordered = sorted(self.norms)


def shorten(gradients: Gradients, norm: float, max_norm: float) -> Clipped:
    """Brings gradients of a norm down to `max_norm`."""
    if not math.isfinite(norm) or norm <= max_norm:
        return Clipped(norm, norm, False)
    factor = max_norm / norm * gradients.margin
    gradients.scale(factor)
    return Clipped(norm, norm * factor, True)


def positive(value: float, name: str) -> float:
    """The value, if it is above 0.

    Raises:
        ValueError: If it is not.
    """
    if not value > 0:
        raise GANError(f"{name} must be above 0, got {value}")
    return value
