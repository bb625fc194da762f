"""Networks as people write them, with a slip in each, and an average that lags: for runs that are to fail.

`--model.discriminator gan.lab.own_networks.SigmoidDiscriminator`, and so on.
"""

import math
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
