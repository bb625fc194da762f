"""Digits classified by few labels: a semi-supervised GAN, and generated images, beside the same classifier alone.

One network, five ways to train it on the same labelled images: these alone, with small rotations, shifts and scales,
with images of a conditional GAN that has seen no others, with both, and as the discriminator of
`configs/semisupervised.yaml`. Accuracies are of the 10,000 test images after the last batch. What has been measured
stays in files, and a run that was stopped goes on.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import cast

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.transforms.v2 import InterpolationMode, RandomAffine

from benchmarks.runs import gan
from gan import GAN
from gan.augment import DiffAugment
from gan.callbacks import GeneratorEMA
from gan.callbacks.accuracy_tracker import ACCURACY
from gan.data import InMemoryDataModule, InMemoryLoader, MNISTDataModule
from gan.data.memory import UNLABELLED
from gan.images import to_float, to_uint8
from gan.networks import ClassifierDCGANDiscriminator, ConditionalDCGANGenerator, ProjectionDCGANDiscriminator
from gan.optim import WarmupCosine
from gan.penalties import R1
from gan.run import CONFIGS

BATCH_SIZE = 64
GENERATED = 10_000  # images that are added
SHAPE, CLASSES = MNISTDataModule.image_shape, MNISTDataModule.num_classes
Images = tuple[Tensor, Tensor]  # uint8 (N, 1, 28, 28), and labels int64 (N,)
Way = Callable[[argparse.Namespace, int, int], float]  # settings, labels and seed to an accuracy

PUBLISHED = {  # Salimans et al. 2016, arXiv:1606.03498, table 1: errors of 10,000 by labels, permutation-invariant
    20: "1677 +- 452",
    50: "221 +- 136",
    100: "93 +- 6.5",
    200: "90 +- 4.2",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 100, 1000], help="in all, as many of each class")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS], help="of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="of labels, weights and order")
    parser.add_argument("--batches", type=int, help="of all training, for a try; as is good for each if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/classify"), help="folder of what is measured")


def measure(settings: argparse.Namespace) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for way in settings.ways:
        cells = [spread([kept(settings, way, labels, seed) for seed in settings.seeds]) for labels in settings.labels]
        rows.append(f"| {WAYS[way][0]} | {' | '.join(cells)} |")
        print(f"classify  {way}: {', '.join(cells)}", flush=True)
    print(f"classify  test accuracy in %, mean and standard deviation of seeds {', '.join(map(str, settings.seeds))}\n")
    print(f"| trained on | {' | '.join(f'{labels:,} labels' for labels in settings.labels)} |")
    print("|---" * (1 + len(settings.labels)) + "|\n" + "\n".join(rows))
    errors = ", ".join(f"{error} of {labels} labels" for labels, error in PUBLISHED.items())
    print(f"\npublished (Salimans et al. 2016, fully connected), wrong of 10,000: {errors}")


def spread(accuracies: list[float]) -> str:
    """Mean and standard deviation in percent."""
    deviation = stdev(accuracies) if len(accuracies) > 1 else 0.0
    return f"{100 * mean(accuracies):.2f} +- {100 * deviation:.2f}"


def kept(settings: argparse.Namespace, way: str, labels: int, seed: int) -> float:
    """The accuracy of one training, made if its file is not there."""
    file = settings.out / f"{way}-{kind(settings, labels, seed)}.json"
    if not file.exists():
        accuracy = WAYS[way][1](settings, labels, seed)
        file.write_text(json.dumps({"accuracy": accuracy}), encoding="utf-8")
        print(f"classify  {way}, {labels} labels, seed {seed}: {accuracy:.2%}", flush=True)
    return json.loads(file.read_text(encoding="utf-8"))["accuracy"]


def kind(settings: argparse.Namespace, labels: int, seed: int) -> str:
    """What a file is of: a try of so many batches is none of a whole training."""
    return f"{labels}-{seed}" + (f"-{settings.batches}" if settings.batches else "")


# ---------------------------------------------------------------------- data


def labelled(labels: int, seed: int) -> Images:
    """The training images that `data.labels` keeps the labels of."""
    data = MNISTDataModule(labels=labels, seed=seed)
    data.setup("fit")
    loader = cast(InMemoryLoader, data.train_dataloader())
    known = loader.labels != UNLABELLED
    return loader.images[known], loader.labels[known]


class Labelled(InMemoryDataModule):
    """The labelled images alone, again and again, so that an epoch is no shorter than that of all.

    Args:
        labels: How many.
        seed: Which, and their order.
    """

    image_shape = SHAPE
    num_classes = CLASSES

    def __init__(self, labels: int, seed: int) -> None:
        super().__init__(BATCH_SIZE, 0, seed)
        self.few = labels

    def load(self, train: bool) -> Images:
        images, labels = labelled(self.few, self.seed)
        times = -(-10_000 // self.few)
        return images.repeat(times, 1, 1, 1), labels.repeat(times)


# ---------------------------------------------------------------------- ways


def plain(settings: argparse.Namespace, labels: int, seed: int, augment: bool = False, added: bool = False) -> float:
    """The discriminator's network as a classifier, by cross-entropy; half of a batch is generated if `added`."""
    sources = [labelled(labels, seed)]
    if added:
        sources.append(generated(settings, labels, seed))
    torch.manual_seed(seed)
    network = ClassifierDCGANDiscriminator(SHAPE, CLASSES)
    batches = settings.batches or 1000
    optimizer = Adam(network.parameters(), lr=1e-3, fused=True)
    schedule = OneCycleLR(optimizer, max_lr=1e-3, total_steps=batches)
    around = RandomAffine([-10, 10], (0.1, 0.1), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR)
    for _ in range(batches):
        drawn = [torch.randint(len(known), (BATCH_SIZE // len(sources),)) for _, known in sources]
        images = torch.cat([images[some] for (images, _), some in zip(sources, drawn, strict=True)])
        truth = torch.cat([known[some] for (_, known), some in zip(sources, drawn, strict=True)])
        if augment:
            images = torch.stack([around(image) for image in images])
        optimizer.zero_grad()
        cross_entropy(network.classify(to_float(images)), truth).backward()
        optimizer.step()
        schedule.step()
    return accuracy(network)


@torch.no_grad()
def accuracy(network: ClassifierDCGANDiscriminator) -> float:
    """The share of the test images that a classifier tells right."""
    images, truth = MNISTDataModule().load(train=False)
    right = [(network.classify(to_float(part)).argmax(1) == of_part).sum() for part, of_part in batches(images, truth)]
    return int(sum(right)) / len(truth)


def batches(images: Tensor, labels: Tensor) -> Iterator[Images]:
    """By the thousand."""
    return zip(images.split(1000), labels.split(1000), strict=True)


def generated(settings: argparse.Namespace, labels: int, seed: int) -> Images:
    """Images of the classes in turn, by a conditional GAN that is trained on the labelled images; kept in a file."""
    file = settings.out / f"generated-{kind(settings, labels, seed)}.pt"
    if not file.exists():
        torch.manual_seed(seed)
        adam = partial(Adam, lr=0.004, betas=(0.0, 0.9), fused=True)
        model = GAN(
            ConditionalDCGANGenerator(SHAPE, CLASSES, latent_dim=16),
            ProjectionDCGANDiscriminator(SHAPE, CLASSES),
            penalties=R1(1, every=16),
            augment=DiffAugment(),  # without, the discriminator learns so few images by heart
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            generator_scheduler=partial(WarmupCosine, warmup=50),
            discriminator_scheduler=partial(WarmupCosine, warmup=50),
            seed=seed,
        )
        trainer = Trainer(
            max_steps=settings.batches or 500,
            accelerator="cpu",
            callbacks=[GeneratorEMA()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, Labelled(labels, seed))
        torch.save((to_uint8(model.sample(GENERATED, seed)), torch.arange(GENERATED) % CLASSES), file)
    return torch.load(file)


def semisupervised(settings: argparse.Namespace, labels: int, seed: int) -> float:
    """The discriminator of `configs/semisupervised.yaml`, by the real command."""
    run_dir = settings.out / f"run-{kind(settings, labels, seed)}"
    words: list[object] = ["--config", CONFIGS / "semisupervised.yaml", "--data.labels", labels]
    if settings.batches:
        words += ["--trainer.max_steps", settings.batches]
    gan("fit", "--run_dir", run_dir, "--resume", "auto", "--seed_everything", seed, *words)
    with (run_dir / "metrics.csv").open(encoding="utf-8") as file:
        return float([row[ACCURACY] for row in csv.DictReader(file) if row.get(ACCURACY)][-1])


WAYS: dict[str, tuple[str, Way]] = {
    "alone": ("these alone", plain),
    "augmented": ("with affine augmentation", partial(plain, augment=True)),
    "generated": ("with generated images", partial(plain, added=True)),
    "both": ("with generated images, all augmented", partial(plain, augment=True, added=True)),
    "semisupervised": ("with all others, unlabelled: `semisupervised.yaml`", semisupervised),
}
