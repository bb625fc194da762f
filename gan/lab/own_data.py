"""Digits as a data module of one's own may come to hand them out, with a slip in each: for runs that are to fail.

`--data gan.lab.own_data.SortedMNIST`, and so on.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gan.data import MNISTDataModule


def scaled(images: Tensor, labels: Tensor) -> TensorDataset:
    """Images in uint8 as a data set of images in [-1, 1]."""
    return TensorDataset(images.float() / 127.5 - 1, labels)


class SortedMNIST(MNISTDataModule):
    """MNIST as a folder for each digit lists it, digit by digit, with a loader that does not shuffle.

    Args:
        batch_size: Training images per process and batch.
        validation_size: Images kept out of training for validation, the same ones for every seed; 0 for none.
        seed: Seed of the order of the training images, which this loader has no use for.
    """

    def train_dataloader(self) -> Any:
        """The digits in the order of their files; the slip is what is not said of `shuffle`."""
        images, labels = self.load(train=True)
        order = labels.argsort(stable=True)
        return DataLoader(scaled(images[order], labels[order]), batch_size=self.batch_size, drop_last=True)


class RepeatedMNIST(MNISTDataModule):
    """MNIST of which the first batch comes again and again, as in the article's training loop.

    Args:
        batch_size: Training images per process and batch.
        validation_size: Images kept out of training for validation, the same ones for every seed; 0 for none.
        seed: Seed of the order of the training images, which this loader has no use for.
    """

    def train_dataloader(self) -> Any:
        """An endless stream, with its slip."""
        return DataLoader(FirstBatches(scaled(*self.load(train=True)), self.batch_size), batch_size=None)


class FirstBatches(IterableDataset[Any]):
    """A stream of batches; the slip is `next(iter(...))`, which begins anew each time.

    Args:
        data: What there is.
        batch_size: Samples in a batch.
    """

    def __init__(self, data: TensorDataset, batch_size: int) -> None:
        super().__init__()
        self.loader: DataLoader[Any] = DataLoader(data, batch_size=batch_size)

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield next(iter(self.loader))


class ConstantMNIST(MNISTDataModule):
    """MNIST whose training images are all the first one.

    Args:
        batch_size: Training images per process and batch.
        validation_size: Images kept out of training for validation, the same ones for every seed; 0 for none.
        seed: Seed of the order of the training images.
    """

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Images and labels; the slip is a 0 that should be an index."""
        images, labels = super().load(train)
        return (torch.stack([images[0] for _ in labels]), labels) if train else (images, labels)


class MostlyOnes(MNISTDataModule):
    """MNIST with the ones and a few of the other digits, as a search that found them badly leaves it.

    Args:
        batch_size: Training images per process and batch.
        validation_size: Images kept out of training for validation, the same ones for every seed; 0 for none.
        seed: Seed of the order of the training images.
    """

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Images and labels; for training, those of a few ones and next to nothing else."""
        images, labels = super().load(train)
        if not train:
            return images, labels
        found = (labels == 1) | (torch.arange(len(labels)) % 150 == 0)
        return images[found], labels[found]
