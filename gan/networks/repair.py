"""Wrappers that mend a network of one's own by its class path alone, without a change to its code.

    --model.discriminator '{class_path: gan.networks.repair.Logit, init_args: {network: {class_path: mine.Judge}}}'

What the data says of its images reaches a network of one's own in there as written: image_shape is one of its
`init_args`, where it takes it. Wrappers hold each other, too: `Normalized` in `Logit` mends both.
"""

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gan.errors import GANError
from gan.networks.network import Wrapper, innermost

EPS = 1e-6  # how far from 0 and 1 a probability is taken to be, of which nothing more is known
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed


# ---------------------------------------------------------------------- what a network ends in

SIGMOIDS = {"sigmoid", "sigmoid_", "special_expit", "expit"}
TANHS = {"tanh", "tanh_"}
ENDS = SIGMOIDS | {  # of a network's last layer, which its images then are
    *("relu", "relu_", "leaky_relu", "leaky_relu_", "hardtanh", "hardtanh_", "hardsigmoid"),
    *("softplus", "elu", "elu_", "clamp", "clamp_", "clip", "clip_"),
}
SHAPES = {  # which change no value
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "__getitem__", "select", "permute"),
    *("transpose", "movedim", "contiguous", "float", "to", "clone", "view_as", "reshape_as", "ravel"),
}


class Before(TorchFunctionMode):
    """Keeps what an elementwise function was given, and does to it what is then done to the function's result.

    Args:
        names: The functions, as torch calls them.

    Attributes:
        kept: By the identity of a result, the result, what it is without the function, and the function's name.
    """

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names
        self.kept: dict[int, tuple[Tensor, Tensor, str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first = args[0] if args else kwargs.get("input")
        if name in self.names:
            in_place = name.endswith("_") or kwargs.get("inplace")
            before = first.clone() if in_place else first
            result = func(*args, **kwargs)
            self.kept[id(result)] = result, before, name.rstrip("_")
            return result
        result = func(*args, **kwargs)
        if name in SHAPES and id(first) in self.kept and isinstance(result, Tensor):
            _, before, function = self.kept[id(first)]
            self.kept[id(result)] = result, func(before, *args[1:], **kwargs), function
        return result

    def of(self, result: Tensor) -> tuple[Tensor, str] | None:
        """What a tensor is without the function that it ends in, and that function; None if it ends in none."""
        found = self.kept.get(id(result))
        return None if found is None else found[1:]


class Logit(Wrapper):
    """A discriminator that ends in a sigmoid, without it: logits in the place of probabilities.

    What the sigmoid was given is taken, and not the logarithm of what it made: a probability in float32 is exactly 1
    from a logit of 17 on, and has lost its gradient there. The sigmoid may be a module or a function, and be followed
    by what only changes the shape. Of probabilities that are made in another way, as by a softmax, the logit is
    computed, of 1e-6 to 1 - 1e-6: beyond, there is no gradient. Compiled, it runs as it is: `torch.compile` does
    nothing for it.

    Args:
        network: The discriminator.

    Raises:
        ValueError: If it returns, in its first batch, what are no probabilities.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.looked_at = False

    @torch.compiler.disable  # pyright: ignore[reportArgumentType]
    def forward(self, inputs: Tensor, *condition: Tensor) -> Tensor:  # pyright: ignore
        """Images to logits."""
        with Before(SIGMOIDS) as before:
            result = self.network(inputs, *condition)
        if (found := before.of(result)) is not None:
            return found[0]
        if not self.looked_at and not bool(((result >= 0) & (result <= 1)).all()):
            name = type(innermost(self)).__name__
            raise GANError(
                f"{name} returns values from {result.min():.4g} to {result.max():.4g}, which are no probabilities: "
                f"leave repair.Logit out, and give {name} by itself"
            )
        self.looked_at = True
        return torch.logit(result, EPS)


class Tanh(Wrapper):
    """A generator that ends in a tanh, in the place of what it ends in or after it: images in [-1, 1].

    A sigmoid (images in [0, 1]), a ReLU or another activation at its end, as module or as function, is left out.

    Args:
        network: The generator.

    Raises:
        ValueError: If it ends in a tanh already, when it first makes images.
    """

    def forward(self, inputs: Tensor, *condition: Tensor) -> Tensor:
        """Latents to images."""
        with Before(ENDS | TANHS) as before:
            result = self.network(inputs, *condition)
        found = before.of(result)
        if found is None:
            return torch.tanh(result)
        if found[1] == "tanh":
            name = type(innermost(self)).__name__
            raise GANError(f"{name} ends in a tanh already: leave repair.Tanh out, and give {name} by itself")
        return torch.tanh(found[0])


# ---------------------------------------------------------------------- what lies between its layers


class Normalized(Wrapper):
    """A network through whose layers signal and gradient come as it starts, whatever its initialisation.

    - Weights start as they are drawn, but scaled to a root mean square of 1/sqrt(fan_in), and biases at 0, whatever
      they were initialised with. Nothing more is drawn.
    - Each linear layer and convolution but the first is given its input less the mean of it in the sample, which for a
      linear layer is the same as to centre the weights of each unit (Qiao et al. 2019, arXiv:1903.10520; Brock et al.
      2021, arXiv:2101.08692). Sigmoids make numbers about 1/2: of what tells images apart, each layer would lose most.

    There is no layer normalisation: in a discriminator it makes logits steep where an image has little contrast, and it
    healed less. With up to twelve layers of sigmoids a discriminator learns again, though its gradient still shrinks on
    the way back; with thirty it does not, and with eight of tanh, as torch initialises them, it learns worse than
    without. What comes of one image does not depend on the rest of its batch. Which layer is first goes by the order in
    which `__init__` makes them. Names of weights stay, but for the `network.` in front.

    Args:
        network: Generator or discriminator.

    Raises:
        ValueError: If there are not two such layers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        layers = [layer for layer in network.modules() if isinstance(layer, Weighted)]
        if len(layers) < 2:
            raise GANError(
                f"{type(innermost(network)).__name__} has no two linear layers or convolutions, between which there "
                "is something to normalise: leave repair.Normalized out"
            )
        for number, layer in enumerate(layers):
            rescale(layer)
            if number > 0:
                layer.register_forward_pre_hook(centre)


@torch.no_grad()
def rescale(layer: Weighted) -> None:
    """Scales weights, in place, to a root mean square of 1/sqrt(fan_in), and sets biases to 0."""
    weight, bias = (dict(layer.named_parameters(recurse=False)).get(name) for name in ("weight", "bias"))
    if bias is not None:
        bias.zero_()
    if weight is not None:  # of a parametrized layer it is none
        fan_in = weight[0].numel()
        if isinstance(layer, Transposed):
            fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size) / math.prod(layer.stride)
        size = weight.square().mean().sqrt()
        if size > 0:
            weight.mul_(1 / size / math.sqrt(fan_in))


def sample_dims(layer: nn.Module, values: Tensor) -> tuple[int, ...]:
    """Over which dimensions what a layer takes or makes of one sample is normalised."""
    return (-1,) if isinstance(layer, nn.Linear) else tuple(range(1, values.ndim))


def centre(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The hook before a layer: its input without its mean."""
    x, *others = inputs
    return (x - x.mean(sample_dims(layer, x), keepdim=True), *others)


# ---------------------------------------------------------------------- what is added up


class ScaledResiduals(Wrapper):
    """A network of n residual blocks that add what they make of their input, x + f(x): here x + f(x)/sqrt(n).

    Added whole, the squares of n blocks add up, layer by layer, and so do the gradients on their way back (Hanin &
    Rolnick 2018, arXiv:1803.01719). A block is a module of a class that is not torch's, of which the network has two
    or more, outside of each other. Of what a block returns, the difference to its (first) input is scaled, if both
    have the same shape; a block that changes the shape stays as it is. What is added up in the forward of the network
    itself is not seen.

    Args:
        network: Generator or discriminator.

    Raises:
        ValueError: If there are no such blocks, or one adds to its input in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        blocks = list(blocks_of(network))
        if not blocks:
            name = type(innermost(network)).__name__
            raise GANError(
                f"{name} has no two blocks of one class of its own, whose outputs repair.ScaledResiduals could scale: "
                "make the residual block a class, or divide there what is added by the square root of their number"
            )
        for block in blocks:
            block.register_forward_hook(partial(scale_branch, scale=len(blocks) ** -0.5))


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules of classes that are not torch's, of which there are two or more, each with weights."""
    inner = innermost(network)
    own = [module for module in inner.modules() if module is not inner and is_own(module)]
    counts = Counter(type(module) for module in own)
    inside: set[nn.Module] = set()
    for module in own:  # each before those inside of it
        if counts[type(module)] > 1 and module not in inside:
            inside.update(module.modules())
            yield module


def is_own(module: nn.Module) -> bool:
    """Whether a module has weights, and is of a class that is not torch's."""
    return not type(module).__module__.startswith("torch.") and any(True for _ in module.parameters())


def scale_branch(block: nn.Module, inputs: tuple[Any, ...], output: Any, scale: float) -> Any:
    """The hook after a block: its input, and what it adds to it, scaled."""
    x = inputs[0]
    if not isinstance(output, Tensor) or output.shape != x.shape:
        return output
    if output is x:
        raise GANError(
            f"{type(block).__name__} adds to its input in place, where repair.ScaledResiduals sees no difference: "
            "write x = x + f(x)"
        )
    return torch.lerp(x, output, scale)
