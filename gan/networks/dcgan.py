"""DCGAN: strided convolutions, Radford et al. 2015 (arXiv:1511.06434), as deep as the image is large.

An image is halved until its shorter side is 4 to 7 pixels, at least twice: 28x28 to 7x7, 64x64 to 4x4 (the paper's
networks, if `base_channels` is 128), 256x256 to 4x4 by six halvings. Below, B is `base_channels`, and k the number of
halvings. Feature maps have B channels at half the image's resolution, and twice as many at each further halving, up to
`max_channels`.

Initialisation: the paper's. Weights are N(0, 0.02), scales of a normalisation N(1, 0.02), biases 0. Those of attention
have variance 1/fan_in; modulation has its own.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.networks.layers import (
    MinibatchStd,
    Norm,
    SelfAttention,
    SelfModulation,
    channel_plan,
    halved,
    halvings,
    level_of,
    normalization,
    normalize_weights,
)
from gan.networks.network import Discriminator, Generator


class DCGANGenerator(Generator):
    """Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1] by transposed convolutions, one a doubling.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation before each ReLU.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.
        modulation: Hidden units of the layer by which the latents scale and shift what each `norm` has normalised,
            "batch", "layer" or "group", see `SelfModulation`; if not given, scales and shifts are weights.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, or has nothing to modulate,
            `max_channels` is below `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 100,
        base_channels: int = 32,
        norm: Norm = "batch",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
        modulation: int | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim)
        self.depth = halvings(self.image_shape)
        self.attention_level = level_of(attention_resolution, self.image_shape)
        self.channels = channel_plan(base_channels, self.depth, max_channels)[::-1]
        self.grid = (self.channels[0], *halved(self.image_shape, self.depth))
        # Here the bias stays: it differs by position, and batch norm subtracts one mean per channel.
        self.project = nn.Linear(latent_dim, math.prod(self.grid))
        self.modulated = modulation is not None
        for number, (wide, narrow) in enumerate(pairwise([*self.channels, self.image_shape[0]]), start=1):
            if modulation is None:
                layer = normalization(norm, wide)
            else:
                layer = SelfModulation(norm, wide, latent_dim, modulation)
            self.add_module(f"norm{number}", layer)
            if self.attention_level == self.depth - number + 1:
                self.attention = SelfAttention(wide)
            bias = norm != "batch" or number == self.depth  # batch norm subtracts it again
            self.add_module(f"up{number}", nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=bias))
        initialize(self)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, z: Tensor) -> Tensor:
        return self.draw(z, z) if self.modulated else self.draw(z)

    def draw(self, z: Tensor, *by: Tensor) -> Tensor:
        """Images of latents; `by` is what the normalisations go by beside their input: nothing, latents or labels."""
        x = self.project(z).unflatten(1, self.grid)  # (N, 2^(k-1) B, H/2^k, W/2^k): for 28x28, (N, 2B, 7, 7)
        for number in range(1, self.depth + 1):
            norm, up = self.get_submodule(f"norm{number}"), self.get_submodule(f"up{number}")
            x = F.relu(norm(x, *by))
            if self.attention_level == self.depth - number + 1:
                x = self.attention(x)
            x = up(x)  # half the channels, twice the resolution: (N, B, H/2, W/2), and (N, C, H, W) in the end
        return torch.tanh(x)


class DCGANDiscriminator(Discriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)` by strided convolutions, one more than the generator's.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels,
            and then once more, rounding down.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation before each LeakyReLU except the first, as in the paper. With "batch" a logit
            depends on the rest of its batch, which per-sample gradient penalties (R1, WGAN-GP) do not allow.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.
        minibatch_std: Tell the last convolution how much the 4 images of a group differ (PGGAN); logits then depend on
            the rest of the group.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, `max_channels` is below
            `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        base_channels: int = 32,
        norm: Norm = "none",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
        minibatch_std: bool = False,
    ) -> None:
        super().__init__(image_shape)
        self.depth = halvings(self.image_shape)
        self.attention_level = level_of(attention_resolution, self.image_shape)
        plan = channel_plan(base_channels, self.depth + 1, max_channels)
        bias = norm != "batch"  # batch norm subtracts it again
        self.down1 = nn.Conv2d(self.image_shape[0], base_channels, 4, stride=2, padding=1)
        for number, (narrow, wide) in enumerate(pairwise(plan), start=2):
            if self.attention_level == number - 1:
                self.attention = SelfAttention(narrow)
            more = minibatch_std and number == self.depth + 1
            self.add_module(f"down{number}", nn.Conv2d(narrow + more, wide, 4, stride=2, padding=1, bias=bias))
            self.add_module(f"norm{number}", normalization(norm, wide))
        self.minibatch_std = MinibatchStd() if minibatch_std else None
        self.output = nn.Linear(plan[-1] * math.prod(halved(self.image_shape, self.depth + 1)), 1)
        initialize(self)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.features(images)).squeeze(1)  # (N,)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer judges by: (N, features)."""
        x = F.leaky_relu(self.down1(images), 0.2)  # (N, B, H/2, W/2)
        for number in range(2, self.depth + 2):
            if self.attention_level == number - 1:
                x = self.attention(x)
            if self.minibatch_std is not None and number == self.depth + 1:
                x = self.minibatch_std(x)  # one channel more
            down, norm = self.get_submodule(f"down{number}"), self.get_submodule(f"norm{number}")
            x = norm(down(x))  # (N, 2B, H/4, W/4), and so on; the last rounded down: 28 -> 14 -> 7 -> 3
            x = F.leaky_relu(x, 0.2)
        return x.flatten(1)  # (N, 2^k B * H/2^(k+1) * W/2^(k+1)): for 28x28, (N, 4B * 3 * 3)


def initialize(network: nn.Module) -> None:
    """The initialisation of the module docstring."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, 0.02)
        if isinstance(bias := getattr(layer, "bias", None), Tensor):
            nn.init.zeros_(bias)
    for layer in network.modules():
        if isinstance(layer, SelfAttention | SelfModulation):
            layer.initialize()
