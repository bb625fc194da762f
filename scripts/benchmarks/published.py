"""Two GANs that many have begun with, written from their published description, to race against.

Both train alike: a step of the generator, then one of the discriminator on the same generated images, by the binary
cross entropy of probabilities and Adam of 0.0002. What would take time and change nothing, such as gradients of the
discriminator in the generator's step, is left out.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_DIM = 100


class MLP(nn.Module):
    """The generator of Lightning's example: latents (N, 100) to images (N, *image_shape)."""

    latent_dim = LATENT_DIM

    def __init__(self, image_shape: tuple[int, int, int]):
        super().__init__()
        self.image_shape = image_shape
        layers: list[nn.Module] = [nn.Linear(LATENT_DIM, 128), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise((128, 256, 512, 1024)):
            layers += [nn.Linear(narrow, wide), nn.BatchNorm1d(wide, 0.8), nn.LeakyReLU(0.2)]  # 0.8 is its epsilon
        self.layers = nn.Sequential(*layers, nn.Linear(1024, math.prod(image_shape)), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.image_shape)


def mlp_discriminator(image_shape: tuple[int, int, int]) -> nn.Module:
    """The discriminator of Lightning's example: images to probabilities (N, 1)."""
    layers = [nn.Linear(math.prod(image_shape), 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(256, 1), nn.Sigmoid())


class Upsampling(nn.Module):
    """The generator of the DCGAN script: latents (N, 100) to images (N, 1, 32, 32)."""

    latent_dim = LATENT_DIM

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(LATENT_DIM, 128 * 8 * 8)
        self.layers = nn.Sequential(  # (N, 128, 8, 8)
            nn.BatchNorm2d(128),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128, 0.8),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64, 0.8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 1, 3, padding=1),
            nn.Tanh(),
        )
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.project(z).unflatten(1, (128, 8, 8)))


def dropping_out() -> nn.Module:
    """The discriminator of the DCGAN script: images (N, 1, 32, 32) to probabilities (N, 1)."""
    layers: list[nn.Module] = []
    for narrow, wide in pairwise((1, 16, 32, 64, 128)):
        layers += [nn.Conv2d(narrow, wide, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(0.25)]
        layers += [nn.BatchNorm2d(wide, 0.8)] if narrow > 1 else []
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 2 * 2, 1), nn.Sigmoid())
    initialize(network)
    return network


def initialize(network: nn.Module) -> None:
    """DCGAN's normal weights of convolutions and normalisations; all else stays as torch has it."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)


def published_loop(generator: nn.Module, discriminator: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Trains both networks by a batch at each `next`, and gives its images.

    Args:
        generator: Latents (N, 100) to images.
        discriminator: Images to probabilities (N, 1).
        batches: Of real images (N, ...), as the discriminator takes them.
    """
    of_generator, of_discriminator = (
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in (generator, discriminator)
    )
    for real in batches:
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)

        discriminator.requires_grad_(False)
        fake = generator(torch.randn(len(real), LATENT_DIM))
        loss = F.binary_cross_entropy(discriminator(fake), ones)
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        discriminator.requires_grad_(True)

        of_real = F.binary_cross_entropy(discriminator(real), ones)
        of_fake = F.binary_cross_entropy(discriminator(fake.detach()), zeros)
        of_discriminator.zero_grad()
        ((of_real + of_fake) / 2).backward()
        of_discriminator.step()
        yield real
