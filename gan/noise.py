"""All randomness of training, keyed: what a batch draws depends on the seed, the batch's number and the process alone.

So a run that is resumed draws what it would have drawn, and no state of a generator is kept.
"""

import hashlib
import random
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class NeedsNoise(Protocol):
    """A penalty, for what concerns noise."""

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of the noise that one image needs; None for none."""
        ...


def keyed(seed: int, *key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator on `device` whose numbers are those of `seed` and `key`."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


def seed_layers(generator: torch.Generator) -> None:
    """Keys what layers draw by themselves, as dropout does, from torch's own generators of the CPU and the device."""
    seed = generator.initial_seed()
    torch.default_generator.manual_seed(seed)
    if generator.device.type != "cpu":
        torch.get_device_module(generator.device).manual_seed(seed)


def seed_all(generator: torch.Generator) -> None:
    """Keys all that data is drawn from by whoever has no generator of his own: torch's, numpy's and Python's."""
    seed_layers(generator)
    np.random.seed(generator.initial_seed() % 2**32)  # noqa: NPY002 # what others draw from
    random.seed(generator.initial_seed())


class Noise:
    """The noise of one batch, of which each process has its own rows.

    Every process draws the noise of all and takes its part, which belongs to the images that the loader gives it:
    however many share a batch, they train on the same one.

    Args:
        generator: Of this batch, the same on all processes. What is drawn first, second and so on is told apart by the
            order alone.
        latent_dim: Size of a latent vector.
        dtype: Of all that is drawn.
        process: The number of this process.
        processes: How many share the batch.
    """

    def __init__(
        self,
        generator: torch.Generator,
        latent_dim: int,
        dtype: torch.dtype = torch.float32,
        process: int = 0,
        processes: int = 1,
    ):
        self.generator = generator
        self.latent_dim = latent_dim
        self.settings: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": dtype}
        self.process, self.processes = process, processes
        self.branches = 0

    def latents(self, num: int) -> Tensor:
        """Standard normal latents (num, latent_dim)."""
        return self.part(torch.randn(self.processes * num, self.latent_dim, **self.settings))

    def uniform(self, num: int, *shape: int) -> Tensor:
        """Numbers from U[0, 1), (num, *shape)."""
        return self.part(torch.rand(self.processes * num, *shape, **self.settings))

    def wide_uniform(self, num: int, *shape: int) -> Tensor:
        """Likewise, in float32 at least: 16 bits are few for what is compared with a probability."""
        dtype = torch.promote_types(self.settings["dtype"], torch.float32)
        return self.part(torch.rand(self.processes * num, *shape, **{**self.settings, "dtype": dtype}))

    def for_penalties(self, penalties: Iterable[NeedsNoise], images: Tensor) -> list[Tensor | None]:
        """What each of the penalties needs for images (N, C, H, W)."""
        shapes = [penalty.noise_shape(images.shape[1:]) for penalty in penalties]
        return [None if shape is None else self.uniform(len(images), *shape) for shape in shapes]

    def branch(self) -> "Noise":
        """Noise of its own, told apart from other branches by their order, that leaves what is drawn here as it is."""
        self.branches += 1
        generator = keyed(self.generator.initial_seed(), "branch", self.branches, device=self.generator.device)
        return Noise(generator, self.latent_dim, self.settings["dtype"], self.process, self.processes)

    def part(self, whole: Tensor) -> Tensor:
        """This process's rows of what all have drawn."""
        return whole.chunk(self.processes)[self.process]
