"""A look into a network while it computes and while gradients flow back through it."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SATURATED = 0.99  # of the way to either end of a tanh or sigmoid: the slope left is 2 % of a tanh's, 4 % of a sigmoid's
RELU = {torch.ops.aten.relu.default, torch.ops.aten.relu_.default}
LOWER_BOUND = {  # ReLUs where the bound is 0
    torch.ops.aten.clamp.default,
    torch.ops.aten.clamp_.default,
    torch.ops.aten.clamp_min.default,
    torch.ops.aten.clamp_min_.default,
    torch.ops.aten.hardtanh.default,
    torch.ops.aten.hardtanh_.default,
}
TANH = {torch.ops.aten.tanh.default, torch.ops.aten.tanh_.default}
SIGMOID = {torch.ops.aten.sigmoid.default, torch.ops.aten.sigmoid_.default}


class Probe(TorchDispatchMode):
    """Looks on while a network computes and, later, while gradients flow back through what it computed.

    Activations are seen as operations, since most networks do not have them as modules. One belongs to the layer that
    ran last before it.

    Args:
        network: The network.
        num: Images in the batch whose mean loss flows back.

    Attributes:
        layers: The modules with parameters of their own, by name, in order of execution.
        norms: By layer, for each of its calls, ||dl/dh|| of each row, times `num`.
        spectral_norms: By layer, the largest singular value of its weight.
        relu_maxima: Of each unit after a ReLU, the largest value; by layer and number of the ReLU after it.
        saturated_counts: By layer, for each tanh or sigmoid after it, how many values lie at the ends, and how many
            there are.
    """

    def __init__(self, network: nn.Module, num: int) -> None:
        super().__init__()
        self.network = network
        self.num = num
        self.layers: dict[str, nn.Module] = {}
        self.norms: dict[str, list[Tensor]] = {}
        self.spectral_norms: dict[str, float] = {}
        self.relu_maxima: dict[tuple[str, int], Tensor] = {}
        self.saturated_counts: dict[str, list[Tensor]] = {}
        self.recording = False  # not before the network runs

    def __enter__(self) -> "Probe":
        self.hooks = [self.network.register_forward_pre_hook(self.on_start)]
        for name, module in self.network.named_modules():
            if "parametrizations" not in name.split(".") and is_layer(module):
                self.hooks.append(module.register_forward_hook(partial(self.on_output, name or "self")))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    def on_start(self, network: nn.Module, inputs: Any) -> None:
        """The network's hook before a forward pass."""
        self.layer, self.recording = "input", True
        self.relus_after: dict[str, int] = {}  # in this pass, by layer

    def on_output(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """The hook after a layer's forward pass."""
        self.layer = name
        if name not in self.layers:
            self.layers[name] = module
            # Here and now, since weights in shards are whole only while their network computes.
            self.recording = False
            if (largest := largest_singular_value(module)) is not None:
                self.spectral_norms[name] = largest
            self.recording = True
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(partial(self.on_gradient, name))  # unmoved by what is done in place later

    def on_gradient(self, name: str, gradient: Tensor) -> None:
        """The hook of what a layer has made, when the gradient comes back to it."""
        self.norms.setdefault(name, []).append(self.num * row_norms(gradient))

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if not self.recording:
            return result
        if operation in RELU or (operation in LOWER_BOUND and args[1:2] == (0,)):
            number = self.relus_after.get(self.layer, 0)
            self.relus_after[self.layer] = number + 1
            others = [dim for dim in range(result.ndim) if dim != 1]
            largest: Tensor = result.detach().amax(others).reshape(-1).cpu().double()
            before = self.relu_maxima.get((self.layer, number), largest)
            self.relu_maxima[self.layer, number] = torch.maximum(before, largest)
        elif operation in TANH or operation in SIGMOID:
            values = result.detach() if operation in TANH else 2 * result.detach() - 1
            beyond = (values.abs() > SATURATED).sum().cpu().double()
            counts = torch.stack([beyond, beyond.new_tensor(values.numel())])
            self.saturated_counts.setdefault(self.layer, []).append(counts)
        return result


def is_layer(module: nn.Module) -> bool:
    """Whether it has parameters of its own, parametrized ones too."""
    return is_parametrized(module) or any(True for _ in module.parameters(recurse=False))


@torch.no_grad()
def largest_singular_value(layer: nn.Module) -> float | None:
    """The largest singular value of a layer's weights, None for one that has no matrix."""
    names = [name for name, _ in layer.named_parameters(recurse=False)]
    parametrized = getattr(layer, "parametrizations", None)
    names += list(parametrized) if isinstance(parametrized, nn.ModuleDict) else []
    matrices = [weight for name in names if (weight := getattr(layer, name)).ndim > 1]
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        matrices = [weight.transpose(0, 1) for weight in matrices]
    return max(map(spectral_norm, matrices), default=None)


def spectral_norm(weight: Tensor) -> float:
    """The largest singular value of a weight (out, ...), as a matrix (out, ...). NaN if it is not finite."""
    matrix = weight.detach().flatten(1)
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    scale = matrix.abs().amax()
    if not 0 < scale < float("inf"):
        return 0.0 if scale == 0 else float("nan")
    matrix = matrix / scale
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix  # the smaller one: far faster
    return (scale * torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt()).item()


def row_norms(tensor: Tensor) -> Tensor:
    """The norm of each row of a tensor (N, ...): float64 (N,), on the CPU."""
    # In float32, squares of what has vanished would be 0, and of what explodes infinite.
    rows = tensor.detach().reshape(len(tensor) if tensor.ndim else 1, -1)
    rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no float64
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).cpu()
