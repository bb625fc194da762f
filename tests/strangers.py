"""Networks as their owners write them: no class of this package's, digits of 28x28, names of arguments of their own.

Those that draw their form from arguments are what `sick` makes its random failures with; those at the end are written
as they are, so that no setting heals what is wrong with them.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODULES = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "none": nn.Identity,
    "hardtanh": nn.Hardtanh,
}
CALLS = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "elu": F.elu,
    "none": lambda x: x,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(-1, 1),
}


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)


def make(name: str) -> nn.Module:
    return Clamp() if name == "clamp" else MODULES[name]()


def reset(network: nn.Module, std: float | None) -> None:
    """All weights from N(0, std); torch's own without a std."""
    for module in network.modules():
        if std is not None and isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)


class Block(nn.Module):
    """A linear layer and what follows it."""

    def __init__(self, fan_in: int, fan_out: int, act: str, bn: bool, skip: bool):
        super().__init__()
        self.fc = nn.Linear(fan_in, fan_out)
        self.bn = nn.BatchNorm1d(fan_out) if bn else nn.Identity()
        self.act = make(act)
        self.skip = skip and fan_in == fan_out

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn(self.fc(x)))
        return x + h if self.skip else h


# ---------------------------------------------------------------------- of modules


class Painter(nn.Module):
    def __init__(
        self,
        latent_dim: int = 16,
        layers: int = 3,
        hidden: int = 128,
        act: str = "relu",
        out: str = "tanh",
        bn: bool = False,
        skip: bool = False,
        std: float | None = None,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        sizes = [latent_dim, *[hidden] * layers]
        blocks = [Block(*pair, act, bn, skip) for pair in pairwise(sizes)]
        self.net = nn.Sequential(*blocks, nn.Linear(hidden, 784), make(out))
        reset(self, std)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).view(-1, 1, 28, 28)


class Critic(nn.Module):
    def __init__(
        self,
        layers: int = 3,
        hidden: int = 128,
        act: str = "leaky_relu",
        out: str = "none",
        bn: bool = False,
        skip: bool = False,
        std: float | None = None,
    ):
        super().__init__()
        sizes = [784, *[hidden] * layers]
        blocks = [Block(*pair, act, bn, skip) for pair in pairwise(sizes)]
        self.net = nn.Sequential(nn.Flatten(), *blocks, nn.Linear(hidden, 1), make(out))
        reset(self, std)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1)


# ---------------------------------------------------------------------- of calls, and told the image shape


class Sculptor(nn.Module):
    def __init__(
        self,
        image_shape: tuple[int, int, int],
        noise: int = 16,
        depth: int = 3,
        width: int = 128,
        nonlin: str = "relu",
        end: str = "tanh",
        norm: bool = False,
        residual: bool = False,
        sigma: float | None = None,
    ):
        super().__init__()
        self.latent_dim, self.shape = noise, image_shape
        self.nonlin, self.end, self.residual = CALLS[nonlin], CALLS[end], residual
        self.first = nn.Linear(noise, width)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm else nn.Identity() for _ in range(depth))
        self.last = nn.Linear(width, image_shape[0] * image_shape[1] * image_shape[2])
        reset(self, sigma)

    def forward(self, z: Tensor) -> Tensor:
        h = self.nonlin(self.norms[0](self.first(z)))
        for layer, norm in zip(self.rest, self.norms[1:], strict=True):
            y = self.nonlin(norm(layer(h)))
            h = h + y if self.residual else y
        return self.end(self.last(h)).view(-1, *self.shape)


class Judge(nn.Module):
    def __init__(
        self,
        image_shape: tuple[int, int, int],
        depth: int = 3,
        width: int = 128,
        nonlin: str = "leaky_relu",
        end: str = "none",
        norm: bool = False,
        residual: bool = False,
        sigma: float | None = None,
    ):
        super().__init__()
        self.nonlin, self.end, self.residual = CALLS[nonlin], CALLS[end], residual
        self.first = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], width)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm else nn.Identity() for _ in range(depth))
        self.last = nn.Linear(width, 1)
        reset(self, sigma)

    def forward(self, x: Tensor) -> Tensor:
        h = self.nonlin(self.norms[0](self.first(x.flatten(1))))
        for layer, norm in zip(self.rest, self.norms[1:], strict=True):
            y = self.nonlin(norm(layer(h)))
            h = h + y if self.residual else y
        return self.end(self.last(h))[:, 0]


# ---------------------------------------------------------------------- of convolutions


def conv(fan_in: int, fan_out: int, activation: str, batchnorm: bool, stride: int = 1) -> nn.Sequential:
    norm = nn.BatchNorm2d(fan_out) if batchnorm else nn.Identity()
    return nn.Sequential(nn.Conv2d(fan_in, fan_out, 3, stride, 1), norm, make(activation))


class Upscaler(nn.Module):
    """7x7, `blocks` convolutions, 14x14, 28x28."""

    def __init__(
        self,
        latent_dim: int = 16,
        channels: int = 16,
        blocks: int = 1,
        activation: str = "relu",
        final: str = "tanh",
        batchnorm: bool = True,
        shortcut: bool = False,
        init_scale: float | None = None,
    ):
        super().__init__()
        self.latent_dim, self.channels, self.shortcut = latent_dim, channels, shortcut
        self.project = nn.Linear(latent_dim, channels * 49)
        self.norm = nn.BatchNorm2d(channels) if batchnorm else nn.Identity()
        self.act = make(activation)
        self.body = nn.ModuleList(conv(channels, channels, activation, batchnorm) for _ in range(blocks))
        self.up1 = conv(channels, channels, activation, batchnorm)
        self.up2 = nn.Conv2d(channels, 1, 3, 1, 1)
        self.final = make(final)
        reset(self, init_scale)

    def forward(self, z: Tensor) -> Tensor:
        x = self.act(self.norm(self.project(z).view(-1, self.channels, 7, 7)))
        for block in self.body:
            x = x + block(x) if self.shortcut else block(x)
        x = self.up1(F.interpolate(x, scale_factor=2))
        return self.final(self.up2(F.interpolate(x, scale_factor=2)))


class Watcher(nn.Module):
    """28x28, 14x14, 7x7, `blocks` convolutions, a logit."""

    def __init__(
        self,
        channels: int = 16,
        blocks: int = 1,
        activation: str = "leaky_relu",
        final: str = "none",
        batchnorm: bool = False,
        shortcut: bool = False,
        init_scale: float | None = None,
    ):
        super().__init__()
        self.shortcut = shortcut
        self.down = nn.Sequential(
            conv(1, channels, activation, False, stride=2), conv(channels, channels, activation, batchnorm, stride=2)
        )
        self.body = nn.ModuleList(conv(channels, channels, activation, batchnorm) for _ in range(blocks))
        self.head = nn.Linear(channels * 49, 1)
        self.final = make(final)
        reset(self, init_scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        for block in self.body:
            x = x + block(x) if self.shortcut else block(x)
        return self.final(self.head(x.flatten(1))).view(-1)


# ---------------------------------------------------------------------- written as they are


class Draft(nn.Module):
    """Its owner forgot the tanh."""

    def __init__(self, z_dim: int = 16, sizes: int = 128, n: int = 3):
        super().__init__()
        self.latent_dim = z_dim
        self.layers = nn.ModuleList([nn.Linear(z_dim, sizes), *(nn.Linear(sizes, sizes) for _ in range(n - 1))])
        self.norms = nn.ModuleList(nn.BatchNorm1d(sizes) for _ in range(n))
        self.to_image = nn.Linear(sizes, 784)

    def forward(self, z: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            z = F.relu(norm(layer(z)))
        return self.to_image(z).reshape(-1, 1, 28, 28)


class Negative(Draft):
    """Ends in a sigmoid, as for images in [0, 1]."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(z))


class Fog(nn.Module):
    """Sigmoids throughout."""

    def __init__(self, z_dim: int = 16, sizes: int = 128, n: int = 3):
        super().__init__()
        self.latent_dim = z_dim
        layers = [nn.Linear(z_dim, sizes), nn.Sigmoid()]
        for _ in range(n - 1):
            layers += [nn.Linear(sizes, sizes), nn.Sigmoid()]
        self.main = nn.Sequential(*layers, nn.Linear(sizes, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)))

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class Oracle(nn.Module):
    """Tells probabilities, as for nn.BCELoss."""

    def __init__(self, sizes: int = 128, n: int = 3):
        super().__init__()
        layers = [nn.Flatten(), nn.Linear(784, sizes), nn.LeakyReLU(0.2)]
        for _ in range(n - 1):
            layers += [nn.Linear(sizes, sizes), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*layers, nn.Linear(sizes, 1), nn.Sigmoid())

    def forward(self, img: Tensor) -> Tensor:
        return self.main(img).flatten()


class Mist(nn.Module):
    """Sigmoids throughout."""

    def __init__(self, sizes: int = 128, n: int = 3):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(784, sizes), *(nn.Linear(sizes, sizes) for _ in range(n - 1))])
        self.score = nn.Linear(sizes, 1)

    def forward(self, img: Tensor) -> Tensor:
        h = img.flatten(1)
        for layer in self.layers:
            h = layer(h).sigmoid()
        return self.score(h).flatten()


class Tower(nn.Module):
    """Sums of branches as they come, and He's initialisation."""

    def __init__(self, sizes: int = 128, n: int = 16):
        super().__init__()
        self.stem = nn.Linear(784, sizes)
        self.floors = nn.ModuleList(nn.Sequential(nn.Linear(sizes, sizes), nn.ReLU()) for _ in range(n - 1))
        self.roof = nn.Linear(sizes, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, img: Tensor) -> Tensor:
        h = F.relu(self.stem(img.flatten(1)))
        for each in self.floors:
            h = h + each(h)
        return self.roof(h).flatten()
