"""What images of each size cost: weights, multiply-adds of an image, memory and processor time of a training batch."""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bare_loop import bare_loop
from gan.networks import DCGANDiscriminator, DCGANGenerator, ResNetDiscriminator, ResNetGenerator

PAIRS = {"DCGAN": (DCGANGenerator, DCGANDiscriminator), "ResNet": (ResNetGenerator, ResNetDiscriminator)}
LATENT_DIM = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="*", default=[16, 28, 32, 64, 128, 256], help="pixels, square")
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[16, 64], help="images")
    parser.add_argument("--channels", type=int, default=3, help="of an image")
    parser.add_argument("--base_channels", type=int, default=32, help="channels at half the image's resolution")
    parser.add_argument("--pairs", nargs="*", default=[*PAIRS], choices=PAIRS, help="networks")


def measure(settings: argparse.Namespace) -> None:
    for name in settings.pairs:
        for size in settings.sizes:
            shape = (settings.channels, size, size)
            with torch.device("meta"):
                networks = pair(name, shape, settings.base_channels)
                inputs = torch.empty(1, LATENT_DIM), torch.empty(1, *shape)
                counts = [multiply_adds(*both) for both in zip(networks, inputs, strict=True)]
            weights = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
            batches = []
            for batch_size in settings.batch_sizes:
                # Each in a process of its own, since the most memory that a process had is never forgotten.
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    cost = pool.apply(batch, (name, shape, settings.base_channels, batch_size))
                batches.append("batch {}: {:.2f} GB, {:.2f} s".format(batch_size, *cost))
            weights = " + ".join(f"{number / 1e6:.2f}" for number in weights)
            counts = " + ".join(f"{number / 1e6:.0f}" for number in counts)
            print(f"sizes     {name:<6} {size:>3}  {weights} M weights  {counts} M multiply-adds  {'  '.join(batches)}")


def pair(name: str, shape: tuple[int, int, int], base_channels: int) -> tuple[nn.Module, nn.Module]:
    """Networks of as many channels, in float32."""
    generator, discriminator = PAIRS[name]
    return generator(shape, LATENT_DIM, base_channels), discriminator(shape, base_channels)


def multiply_adds(network: nn.Module, inputs: Tensor) -> float:
    """Of one image, forward: those of convolutions and of products of matrices."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(inputs)
    return counter.get_total_flops() / 2


def batch(name: str, shape: tuple[int, int, int], base_channels: int, batch_size: int) -> tuple[float, float]:
    """Memory in GB and processor seconds of a batch of the default's training by hand, in which R1 is due.

    The memory is all that comes to the process: weights, gradients, Adam's state, activations.
    """
    torch.manual_seed(0)
    images = torch.rand(batch_size, *shape) * 2 - 1

    def loader() -> Iterator[tuple[Tensor, None]]:
        yield images, None

    before = peak()
    loop = bare_loop(*pair(name, shape, base_channels), SimpleNamespace(train_dataloader=loader), one_pass=False)
    start = time.process_time()
    next(loop)
    return peak() - before, time.process_time() - start


def peak() -> float:
    """The most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
