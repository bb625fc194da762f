"""Wrappers that mend a network of one's own by its class path alone, without a change to its code.

    --model.discriminator '{class_path: gan.networks.repair.Logit, init_args: {network: {class_path: mine.Judge}}}'

What the data says of its images reaches a network of one's own in there as written: image_shape is one of its
`init_args`, where it takes it. Wrappers hold each other, too: `Normalized` in `Logit` mends both.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from gan.errors import GANError
from gan.networks.network import Wrapper, innermost, is_conditional, trial_condition

EPS = 1e-6  # how far from 0 and 1 a probability is taken to be, of which nothing more is known
SPREAD = (
    0.3  # of a unit as it starts: near-linear for a tanh. With 1, discriminators of eight tanh layers did not learn
)
TRIALS = 64  # random inputs by which a network is scaled
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
        """What a tensor is without the function that it ends in, and that function; None if it ends in none.

        Nor is anything known of what was made where no gradient is kept, as reentrant checkpoints do.
        """
        found = self.kept.get(id(result))
        return None if found is None or found[1].requires_grad != result.requires_grad else found[1:]


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
        return torch.logit(result.float(), EPS)  # 1 - EPS is 1 in 16 bits


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

    - Each unit starts with a mean of 0 and a standard deviation of 0.3 over a batch of random inputs: data-dependent
      initialisation (Salimans & Kingma 2016, arXiv:1602.07868; Mishkin & Matas 2016, arXiv:1511.06422). Layers are
      taken in the order in which they run, so that sums of residual branches are counted in. Weights keep the
      directions that they were drawn with; those of a layer that is all zero are drawn.
    - Each linear layer and convolution but the first is given its input less the mean of it in the sample, which for a
      linear layer is the same as to centre the weights of each unit (Qiao et al. 2019, arXiv:1903.10520; Brock et al.
      2021, arXiv:2101.08692). Sigmoids make numbers about 1/2: of what tells images apart, each layer would lose most.

    There is no layer normalisation: in a discriminator it makes logits steep where an image has little contrast. What
    comes of one image does not depend on the rest of its batch. Which layer is first goes by the order in which
    `__init__` makes them. Names of weights do not change, but for the `network.` in front.

    Args:
        network: Generator or discriminator.
        image_shape: Channels, height and width of an image, by which a discriminator's inputs are drawn; the
            network's own if not given.
        num_classes: Classes that a conditional network is told of; its own if not given.
        condition_shape: Channels, height and width of the sources that it is told in their place; likewise.

    Raises:
        ValueError: If there are not two such layers, or no shape is known.
    """

    def __init__(
        self,
        network: nn.Module,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        condition_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(network)
        told = is_conditional(network)
        self.image_shape = image_shape or getattr(network, "image_shape", None)
        self.num_classes = getattr(network, "num_classes", num_classes if told and condition_shape is None else None)
        self.condition_shape = getattr(network, "condition_shape", condition_shape if told else None)
        layers = [layer for layer in network.modules() if isinstance(layer, Weighted)]
        if len(layers) < 2:
            raise GANError(
                f"{type(innermost(network)).__name__} has no two linear layers or convolutions, between which there "
                "is something to normalise: leave repair.Normalized out"
            )
        rng = torch.Generator().manual_seed(0)
        for layer in layers[1:]:
            layer.register_forward_pre_hook(centre)
        hooks = [layer.register_forward_hook(partial(standardize, rng=rng, done=set())) for layer in layers]
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                network(*self.random_inputs(rng))
        finally:
            for hook in hooks:
                hook.remove()
            for buffer, before in buffers:
                buffer.copy_(before)

    def random_inputs(self, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Latents, or images of all degrees of detail, and what they are of."""
        latent_dim = getattr(self.network, "latent_dim", None)
        if latent_dim is not None:
            inputs = torch.randn(TRIALS, latent_dim, generator=rng)
        else:
            shape = self.image_shape
            if shape is None:
                name = type(innermost(self)).__name__
                raise GANError(
                    f"repair.Normalized draws images for {name}: give it image_shape=(channels, height, width)"
                )
            sizes = {min(size, side) for size in (1, 4, 16, 64) for side in shape[1:]}
            parts = [torch.randn(TRIALS, shape[0], size, size, generator=rng) for size in sorted(sizes)]
            inputs = (
                torch.stack([F.interpolate(part, list(shape[1:]), mode="bilinear") for part in parts]).sum(0).tanh()
            )
        if not is_conditional(self.network):
            return (inputs,)
        condition = trial_condition(TRIALS, self.num_classes, self.condition_shape, inputs)
        if condition is None:
            name = type(innermost(self)).__name__
            raise GANError(
                f"{name} is conditional, and repair.Normalized does not know what it is told: give it num_classes, or "
                "condition_shape=(channels, height, width)"
            )
        return inputs, condition


def standardize(layer: Weighted, inputs: Any, output: Tensor, rng: torch.Generator, done: set[nn.Module]) -> Tensor:
    """The hook after a layer, for the first time that it runs: scales each unit, and moves it by its bias."""
    weight, bias = (dict(layer.named_parameters(recurse=False)).get(name) for name in ("weight", "bias"))
    if layer in done or weight is None:  # of a parametrized layer it is none
        return output
    done.add(layer)
    if not weight.any():
        weight.copy_(torch.randn(weight.shape, generator=rng))
        output = layer.forward(inputs[0])
    units = -1 if isinstance(layer, nn.Linear) else 1
    others = [dim for dim in range(output.ndim) if dim != units % output.ndim]
    mean, std = output.mean(others, keepdim=True), output.std(others, keepdim=True)
    std = torch.where(std > EPS * std.max(), std, torch.ones_like(std))  # of a unit that says nothing
    std = std / SPREAD
    dim = 1 if isinstance(layer, Transposed) else 0
    if std.numel() != weight.shape[dim]:  # of groups of transposed convolutions, whose weights share their dimension
        std = std.square().mean().sqrt().expand_as(std)
        weight.div_(std.flatten()[0])
    else:
        weight.div_(std.flatten().view([-1 if each == dim else 1 for each in range(weight.ndim)]))
    if bias is None:
        return output / std
    bias.copy_((bias - mean.flatten()) / std.flatten())
    return (output - mean) / std


def sample_dims(layer: nn.Module, values: Tensor) -> tuple[int, ...]:
    """Over which dimensions what a layer takes or makes of one sample is normalised."""
    return (-1,) if isinstance(layer, nn.Linear) else tuple(range(1, values.ndim))


def centre(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The hook before a layer: its input without its mean."""
    x, *others = inputs
    return (x - x.mean(sample_dims(layer, x), keepdim=True), *others)


class Unmixed(Wrapper):
    """A discriminator that judges each image by itself: a layer norm (of one group) where it has batch norms.

    Penalties are about each image's own gradient, and a batch norm mixes the images of a batch; it also sees real and
    generated images apart, each by their own mean.

    Args:
        network: The discriminator.

    Raises:
        ValueError: If it has no batch norm.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        names = network.named_modules(remove_duplicate=False)  # also one that has two names
        norms = {name: norm for name, norm in names if name and isinstance(norm, _BatchNorm)}
        if not norms:
            raise GANError(f"{type(innermost(network)).__name__} has no batch norm: leave repair.Unmixed out")
        new = {norm: nn.GroupNorm(1, norm.num_features) for norm in norms.values()}
        for name, norm in norms.items():
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, new[norm])


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


@torch.no_grad()
def adds(network: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a network has blocks that ScaledResiduals can scale: all that keep the shape of what comes in add to it.

    With weights of zero, such a block adds the same to whatever comes in.

    Args:
        network: A copy, which is of no use afterwards.
        inputs: A batch of what it takes.
    """
    came: dict[nn.Module, tuple[Any, ...]] = {}

    def look(block: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.shape == given[0].shape and output is not given[0]:
            came[block] = given

    hooks = [block.register_forward_hook(look) for block in blocks_of(network)]
    with torch.random.fork_rng(devices=[]):
        network(*inputs)
        for hook in hooks:
            hook.remove()
        for block, given in came.items():
            for parameter in block.parameters():
                parameter.zero_()
            added = block(*given) - given[0]
            if not torch.allclose(added, added[:1].expand_as(added), atol=1e-4 * float(given[0].abs().max())):
                return False
    return len(came) > 1


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
