"""Networks as people write them, with a slip in each, and an average that lags: for runs that are to fail.

`--model.discriminator gan.lab.own_networks.SigmoidDiscriminator`, and so on.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from gan.networks import Discriminator, Generator


class SigmoidDiscriminator(Discriminator):
    """A discriminator that returns a probability, as for `nn.BCELoss`; losses here want the logit before it.

    Args:
        image_shape: Channels, height and width of an image; any size.
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape)
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(math.prod(image_shape), 256), nn.LeakyReLU(0.2)),
            *(nn.Linear(256, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1), nn.Sigmoid()),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)  # (N,)


class RoundedGenerator(Generator):
    """A generator that rounds its pixels to the 256 levels of a file, where no gradient comes through.

    Args:
        image_shape: Channels, height and width of an image; any size.
        latent_dim: Size of a latent vector, at least 1.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int = 64) -> None:
        super().__init__(image_shape, latent_dim)
        self.layers = nn.Sequential(
            *(nn.Linear(latent_dim, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Linear(128, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, math.prod(image_shape)), nn.Tanh()),
        )

    def forward(self, z: Tensor) -> Tensor:
        levels = torch.round(127.5 * self.layers(z) + 127.5)  # (N, C*H*W)
        return (levels / 127.5 - 1).unflatten(1, self.image_shape)  # (N, C, H, W)


class DeafGenerator(Generator):
    """A generator of classes that draws the class and forgets the latents.

    Args:
        image_shape: Channels, height and width of an image; any size.
        num_classes: Classes that there are.
        latent_dim: Size of a latent vector, at least 1.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int = 10, latent_dim: int = 64) -> None:
        super().__init__(image_shape, latent_dim)
        self.num_classes = num_classes
        self.classes = nn.Embedding(num_classes, latent_dim)
        self.layers = nn.Sequential(
            *(nn.Linear(latent_dim, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU()),
            *(nn.Linear(256, math.prod(image_shape)), nn.Tanh()),
        )

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        z = self.classes(condition)  # (N, latent_dim): what was meant is the product of both, or one beside the other
        return self.layers(z).unflatten(1, self.image_shape)  # (N, C, H, W)


class Step(nn.Module):
    """A layer of a perceptron, and what follows it.

    Args:
        fan_in: Units before it.
        fan_out: Its units.
        act: Its activation, by the name that torch.nn has for it.
        bn: Whether there is a batch norm in between.
        skip: Whether what goes in is added to what comes out, where both have the same size.
    """

    def __init__(self, fan_in: int, fan_out: int, act: str, bn: bool, skip: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(fan_in, fan_out), *[nn.BatchNorm1d(fan_out)] * bn, getattr(nn, act)())
        self.skip = skip and fan_in == fan_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.skip else self.layers(x)  # (N, fan_out)


def perceptron(sizes: list[int], act: str, bn: bool, skip: bool) -> nn.Sequential:
    """The hidden layers of a perceptron of some sizes, that of its input the first; see `Step`."""
    return nn.Sequential(*(Step(*pair, act, bn, skip) for pair in pairwise(sizes)))


def reset(network: nn.Module, std: float | None) -> None:
    """Draws all weights from N(0, std), if there is a std."""
    for layer in network.modules():
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)


class PerceptronGenerator(Generator):
    """A generator with a number of hidden layers and an end of one's choice; the slip is the choice.

    Args:
        image_shape: Channels, height and width of an image; any size.
        latent_dim: Size of a latent vector, at least 1.
        layers: Number of hidden layers.
        hidden: Units of each.
        act: Activation of each, by the name that torch.nn has for it.
        bn: Whether each has a batch norm.
        skip: Whether what goes into one is added to what comes out.
        std: Standard deviation that weights start with; torch's own start if not given.
        end: Activation of the images, likewise; Identity for none.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 16,
        layers: int = 2,
        hidden: int = 256,
        act: str = "ReLU",
        bn: bool = True,
        skip: bool = False,
        std: float | None = None,
        end: str = "Tanh",
    ) -> None:
        super().__init__(image_shape, latent_dim)
        self.hidden = perceptron([latent_dim, *[hidden] * layers], act, bn, skip)
        self.output = nn.Sequential(nn.Linear(hidden, math.prod(image_shape)), getattr(nn, end)())
        reset(self, std)

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.hidden(z)).unflatten(1, self.image_shape)  # (N, C, H, W)


class PerceptronDiscriminator(Discriminator):
    """A discriminator with a number of hidden layers of one's choice; the slip is the choice.

    Args:
        image_shape: Channels, height and width of an image; any size.
        layers: Number of hidden layers.
        hidden: Units of each.
        act: Activation of each, by the name that torch.nn has for it.
        bn: Whether each has a batch norm.
        skip: Whether what goes into one is added to what comes out.
        std: Standard deviation that weights start with; torch's own start if not given.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        layers: int = 2,
        hidden: int = 256,
        act: str = "LeakyReLU",
        bn: bool = False,
        skip: bool = False,
        std: float | None = None,
    ) -> None:
        super().__init__(image_shape)
        self.hidden = perceptron([math.prod(image_shape), *[hidden] * layers], act, bn, skip)
        self.output = nn.Linear(hidden, 1)
        reset(self, std)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.hidden(images.flatten(1))).squeeze(1)  # (N,)


class PlainAverage(Callback):
    """The generator's average as many write it, with a decay for each batch, and none that grows from the start.

    Args:
        decay: Of the average, a batch.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit" and pl_module.generator_ema is None:
            pl_module.add_ema()

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for mean, now in zip(pl_module.generator_ema.parameters(), pl_module.generator.parameters(), strict=True):
            mean.lerp_(now, 1 - self.decay)
        for mean, now in zip(pl_module.generator_ema.buffers(), pl_module.generator.buffers(), strict=True):
            mean.copy_(now)
