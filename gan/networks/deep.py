"""Fully connected networks of any depth, with and without what lets a gradient pass through it.

For studying vanishing and exploding gradients: `configs/failures` and `gan/lab` train them. Each of the `depth` hidden
layers is a linear map, a normalisation and an activation; with `residual` its input is added to that.
"""

import math
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gan.errors import GANError
from gan.networks.network import Discriminator, Generator

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu"]
VectorNorm = Literal["batch", "layer", "none"]
Residual = Literal["none", "plain", "scaled"]
Init = Literal["default", "normal", "xavier", "he"]

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "leaky_relu": partial(nn.LeakyReLU, 0.2)}
NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}  # Identity takes any argument


class HiddenLayer(nn.Module):
    """Vectors `(N, in_features)` to `(N, width)`: linear, normalised, activated, and added to the input.

    Args:
        in_features: Size of the input. Where it is not `width`, nothing is added.
        width: Size of the output.
        activation: sigmoid, tanh, relu or leaky_relu (slope .2).
        norm: batch (Ioffe & Szegedy 2015, arXiv:1502.03167), layer (Ba et al. 2016, arXiv:1607.06450) or none.
        branch: What the activated part is multiplied by before the input is added to it; 0 for no sum.
    """

    def __init__(self, in_features: int, width: int, activation: Activation, norm: VectorNorm, branch: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, width)
        self.norm = NORMS[norm](width)
        self.activation = ACTIVATIONS[activation]()
        self.branch = branch if in_features == width else 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.linear(x)))  # (N, width)
        return x + self.branch * y if self.branch else y


def hidden_layers(
    in_features: int,
    width: int,
    depth: int,
    activation: Activation = "relu",
    norm: VectorNorm = "none",
    residual: Residual = "none",
    init: Init = "default",
) -> nn.Sequential:
    """`depth` hidden layers.

    Args:
        in_features: Size of the input.
        width: Size of each layer.
        depth: Number of layers, at least 1.
        activation: sigmoid, tanh, relu or leaky_relu (slope .2).
        norm: Before the activation: batch, layer or none.
        residual: none; plain adds each layer's input to its output (He et al. 2015, arXiv:1512.03385), whose squares
            thus add up, layer by layer; scaled divides what is added by the square root of `depth`, so that they stay.
        init: Of the weights: default, torch's U(+-1/sqrt(fan_in)), 1/6 of the signal's power through a ReLU; normal,
            N(0, .02) as for a DCGAN, whose layers are wider; xavier, 1/fan_in (Glorot & Bengio 2010), kept by tanh;
            he, 2/fan_in (He et al. 2015, arXiv:1502.01852), kept by ReLU. All but the default start biases at 0.

    Raises:
        ValueError: If a size is below 1 or a choice is unknown.
    """
    for name, size in (("width", width), ("depth", depth)):
        if not size >= 1:
            raise GANError(f"{name} must be at least 1, got {size}")
    choices = {"activation": (activation, Activation), "norm": (norm, VectorNorm)}
    choices |= {"residual": (residual, Residual), "init": (init, Init)}
    for name, (choice, kind) in choices.items():
        if choice not in get_args(kind):
            raise GANError(f"{name} must be one of {', '.join(get_args(kind))}, got {choice!r}")
    branch = {"none": 0, "plain": 1, "scaled": depth**-0.5}[residual]
    sizes = [in_features, *[width] * depth]
    layers = [HiddenLayer(size, width, activation, norm, branch) for size in sizes[:-1]]
    for layer in layers:
        initialize(layer.linear, init)
    return nn.Sequential(*layers)


def initialize(linear: nn.Linear, init: Init) -> None:
    """One of the initialisations of `hidden_layers`."""
    fan_in = linear.in_features
    if init != "default":
        nn.init.normal_(linear.weight, std={"normal": 0.02, "xavier": fan_in**-0.5, "he": (2 / fan_in) ** 0.5}[init])
        nn.init.zeros_(linear.bias)


class DeepMLPGenerator(Generator):
    """Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1] by `depth` hidden layers.

    Args:
        image_shape: Channels, height and width of an image; any size.
        latent_dim: Size of a latent vector, at least 1.
        width: Size of each hidden layer.
        depth: Number of hidden layers, at least 1.
        activation: sigmoid, tanh, relu or leaky_relu; see `hidden_layers` for this and the rest.
        norm: batch, layer or none.
        residual: none, plain or scaled.
        init: default, normal, xavier or he.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 16,
        width: int = 128,
        depth: int = 10,
        activation: Activation = "relu",
        norm: VectorNorm = "none",
        residual: Residual = "none",
        init: Init = "default",
    ) -> None:
        super().__init__(image_shape, latent_dim)
        self.hidden = hidden_layers(latent_dim, width, depth, activation, norm, residual, init)
        self.output = nn.Linear(width, math.prod(self.image_shape))
        initialize(self.output, "default" if init == "default" else "xavier")

    def forward(self, z: Tensor) -> Tensor:
        x = self.hidden(z)  # (N, width)
        x = torch.tanh(self.output(x))  # (N, C*H*W)
        return x.unflatten(1, self.image_shape)  # (N, C, H, W)


class DeepMLPDiscriminator(Discriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)` by `depth` hidden layers.

    Args:
        image_shape: Channels, height and width of an image; any size.
        width: Size of each hidden layer.
        depth: Number of hidden layers, at least 1.
        activation: sigmoid, tanh, relu or leaky_relu; see `hidden_layers` for this and the rest.
        norm: batch, layer or none.
        residual: none, plain or scaled.
        init: default, normal, xavier or he.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        width: int = 128,
        depth: int = 10,
        activation: Activation = "relu",
        norm: VectorNorm = "none",
        residual: Residual = "none",
        init: Init = "default",
    ) -> None:
        super().__init__(image_shape)
        pixels = math.prod(self.image_shape)
        self.hidden = hidden_layers(pixels, width, depth, activation, norm, residual, init)
        self.output = nn.Linear(width, 1)
        initialize(self.output, "default" if init == "default" else "xavier")

    def forward(self, images: Tensor) -> Tensor:
        x = self.hidden(images.flatten(1))  # (N, width)
        return self.output(x).squeeze(1)  # (N,)
