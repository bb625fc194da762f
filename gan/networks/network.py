"""What every shipped network has in common: a contract, and a memory of how it was built.

Neither is required of your own networks. Any `nn.Module` that keeps the contract of `Generator` or
`Discriminator` can be trained; one that also derives from them is rebuilt from a checkpoint without being
described again.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from gan.errors import GANError
from gan.spec import Described, of_call, plain, uncompiled


class Network(nn.Module):
    """A module that remembers the arguments of its constructor.

    `spec` is plain data, so it can be stored in a checkpoint that loads with `weights_only=True`.
    It is taken in `__new__`, so that a subclass has nothing to call or to declare.
    """

    def __new__(cls, *args, **kwargs):
        network = super().__new__(cls)
        # Not in the state dict. deepcopy and pickle come here without arguments and restore it afterwards.
        network.__dict__["_spec"] = of_call(cls, args, kwargs)
        return network

    @property
    def spec(self) -> dict[str, Any]:
        """`{"class_path": ..., "init_args": {...}}` as plain data, with the defaults filled in.

        Raises:
            TypeError: If an argument is not plain (int, float, str, bool, None; lists, tuples, dicts of them) or
                cannot be passed by name (`*args`), or the class is not at the top of an importable module.
        """
        if isinstance(self._spec, str):
            raise TypeError(self._spec)
        return plain(self._spec)


class ImageNetwork(Network):
    """A network that makes images or judges them.

    Args:
        image_shape: Channels, height and width of an image, each at least 1.
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if image_shape is None:
            raise GANError(
                f"{type(self).__name__} is for images, and the data has other samples: for texts take TextGenerator "
                "and TextDiscriminator, as --config text does"
            )
        shape = tuple(image_shape)
        if len(shape) != 3 or not all(isinstance(n, int) and n >= 1 for n in shape):
            raise GANError(
                "image_shape must be (channels, height, width), three integers of at least 1, "
                f"got {shape}. Grey images have the shape (1, height, width)."
            )
        self.image_shape = shape


class Generator(ImageNetwork):
    """Turns latents `(N, latent_dim)`, float32, into images `(N, C, H, W)` in [-1, 1].

    A conditional one is `forward(self, z, condition)`: with labels `(N,)` from 0 to its `num_classes - 1`, or with
    source images `(N, *condition_shape)` in [-1, 1].

    Args:
        image_shape: Channels, height and width of an image, each at least 1.
        latent_dim: Size of a latent vector, at least 1.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int = 100) -> None:
        super().__init__(image_shape)
        if not latent_dim >= 1:
            raise GANError(f"latent_dim must be at least 1, got {latent_dim}")
        self.latent_dim = latent_dim

    def forward(self, z: Tensor) -> Tensor:
        """Latents to images; a subclass implements it."""
        raise NotImplementedError


class Discriminator(ImageNetwork):
    """Turns images `(N, C, H, W)` in [-1, 1] into logits `(N,)`: positive means real; no probabilities.

    One that judges patches returns a logit for each, `(N, ...)`. A conditional one is
    `forward(self, images, condition)`.

    Args:
        image_shape: Channels, height and width of an image, each at least 1.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits; a subclass implements it."""
        raise NotImplementedError


CONTRACT = (
    *("latent_dim", "num_classes", "condition_shape", "image_shape", "sample_shape", "characters"),
    *("classify", "features"),
)


class Wrapper(Described, nn.Module):
    """A network around another one, which is told what that one is told and is rebuilt with it from a checkpoint.

    What the contract asks of a network is the inner one's.

    Args:
        network: The other one.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name) if name in CONTRACT else super().__getattr__(name)

    def forward(self, inputs: Tensor, *condition: Tensor) -> Tensor:
        """What the inner network makes of it."""
        return self.network(inputs, *condition)


def slerp(start: Tensor, end: Tensor, t: Tensor | float) -> Tensor:
    """The point at `t` in [0, 1] on the great circle between latents (N, D).

    A straight line between Gaussian latents runs through lengths that the generator never saw (White 2016,
    arXiv:1609.04468).
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=-1).clamp(-1, 1).unsqueeze(-1)  # (N, 1)
    angle = torch.acos(cosine)
    straight = torch.lerp(start, end, t)
    arc = (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)
    return torch.where(torch.sin(angle).abs() < 1e-6, straight, arc)


# ---------------------------------------------------------------------- what a network is told


def innermost(network: nn.Module) -> nn.Module:
    """A network without what is wrapped around it."""
    network = uncompiled(network)
    return innermost(network.network) if isinstance(network, Wrapper) else network


@cache
def takes_condition(network: type[nn.Module]) -> bool:
    """Whether networks of a class are conditional: whether `forward` has a second input, and no default for it."""
    inputs = list(inspect.signature(network.forward).parameters.values())[1:]  # without self
    positional = [one for one in inputs if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 and positional[1].default is positional[1].empty


def is_conditional(network: nn.Module) -> bool:
    """Whether a network is told what an image is, or is to be, of."""
    return takes_condition(type(innermost(network)))


def misses_condition(network: nn.Module) -> bool:
    """Whether a network has an input for a condition that it would never be told: one with a default, or by name only.

    By such an input's name, or by what a generator says that it is told.
    """
    inputs = list(inspect.signature(type(innermost(network)).forward).parameters)[2:]  # without self and the first
    told = [getattr(network, name, None) for name in ("num_classes", "condition_shape")]
    says = hasattr(network, "latent_dim") and told != [None, None]
    return not is_conditional(network) and ("condition" in inputs or (says and inputs != []))


def classes_of(generator: nn.Module) -> int | None:
    """How many classes a conditional generator tells apart, if it says so by `num_classes`; None for any other."""
    return getattr(generator, "num_classes", None) if is_conditional(generator) else None


def sources_of(generator: nn.Module) -> tuple[int, int, int] | None:
    """Channels, height and width of the images that a generator is told, if it says so by `condition_shape`."""
    return getattr(generator, "condition_shape", None) if is_conditional(generator) else None


def trial_condition(
    num: int, num_classes: int | None, condition_shape: tuple[int, ...] | None, weight: Tensor
) -> Tensor | None:
    """What networks can be told to see whether they work: the classes in turn, or grey sources; None for nothing.

    Args:
        num: Images that are told of.
        num_classes: Classes that the generator is told of.
        condition_shape: Channels, height and width of the sources that it is told.
        weight: Where and of which type sources are to be.
    """
    if condition_shape is not None:
        return weight.new_zeros(num, *condition_shape)
    return None if num_classes is None else torch.arange(num, device=weight.device) % num_classes


class Preparation(Protocol):
    """What is done to the inputs of a network first."""

    def __call__(self, inputs: Tensor, /) -> Tensor:
        """Inputs as the network gets them."""
        ...

    def again(self, inputs: Tensor, /) -> Tensor:
        """The same as in the call before, chance included, to other inputs."""
        ...


class Told:
    """A network as a function of its first input alone: a conditional one is told the condition.

    Args:
        network: The network.
        condition: What the images of a batch are of: int64 labels (N,), or source images (N, C', H', W') in [-1, 1];
            None where there is nothing.

    Attributes:
        before: What is done to each input first; nothing if None.
        after: What is done to what comes out; nothing if None.
    """

    before: Preparation | None = None
    after: Callable[[Tensor], Tensor] | None = None

    def __init__(self, network: nn.Module, condition: Tensor | None) -> None:
        self.network = network
        self.condition = condition
        self.others = (condition,) if is_conditional(network) else ()

    def __call__(self, inputs: Tensor) -> Tensor:
        out = self.network(self.prepared(inputs), *self.others)
        return out if self.after is None else self.after(out)

    def again(self, inputs: Tensor) -> Tensor:
        """As a call, with what chance has done to the inputs of the one before: the same function at another point."""
        out = self.network(inputs if self.before is None else self.before.again(inputs), *self.others)
        return out if self.after is None else self.after(out)

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, K) of the classes of images, by a discriminator that tells them."""
        classify: Callable[[Tensor], Tensor] = cast(Any, self.network).classify
        return classify(self.prepared(images))

    def features(self, images: Tensor) -> Tensor:
        """Features (N, F) of images, by a discriminator that has some to show."""
        features: Callable[[Tensor], Tensor] = cast(Any, self.network).features
        return features(self.prepared(images))

    def prepared(self, inputs: Tensor) -> Tensor:
        """Inputs after what is done to them first."""
        return inputs if self.before is None else self.before(inputs)


def given(condition: Tensor | None, *networks: nn.Module) -> list[Told]:
    """Networks that are told what the images of a batch are of."""
    return [Told(network, condition) for network in networks]
