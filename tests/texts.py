"""A small text, its data and networks, for tests of what is done with texts."""

from pathlib import Path

import torch

from gan import GAN
from gan.data import TextDataModule
from gan.losses import Wasserstein
from gan.networks import TextDiscriminator, TextGenerator
from gan.penalties import GradientPenalty

SENTENCE = "the quick brown fox jumps over the lazy dog, and the dog sleeps. "
TEXT = ["--config", "text", "--data.file", "small.txt", "--data.length", "12", "--data.batch_size", "8"]
TEXT += ["--model.generator.channels", "8", "--model.discriminator.channels", "8"]
TEXT += ["--trainer.callbacks+", "NgramTracker", "--trainer.callbacks.every", "4"]
TEXT += ["--trainer.callbacks.num_samples", "60", "--trainer.callbacks.final_samples", "70"]
TEXT += ["--trainer.callbacks+", "TextLogger", "--trainer.callbacks.every", "4"]


def small_text(folder: Path) -> Path:
    path = folder / "small.txt"
    path.write_text(SENTENCE * 20, encoding="utf-8")
    return path


def make_data(folder: Path, **settings) -> TextDataModule:
    return TextDataModule(str(small_text(folder)), **{"length": 12, "batch_size": 8, **settings})


def make_gan(data: TextDataModule, **settings) -> GAN:
    torch.manual_seed(0)
    few = {"channels": 8, "blocks": 1}
    generator = TextGenerator(data.sample_shape, data.characters, latents=2, **few)
    discriminator = TextDiscriminator(data.sample_shape, **few)
    settings = {"loss": Wasserstein(), "penalties": [GradientPenalty()], "num_fixed_latents": 6, **settings}
    return GAN(generator, discriminator, **settings)
