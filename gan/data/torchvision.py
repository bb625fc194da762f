"""Four data sets by their names, read and downloaded by torchvision, then held in memory like MNIST."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from gan.data.memory import InMemoryDataModule
from gan.errors import GANError
from gan.paths import local_path

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10, MNIST

Name = Literal["FashionMNIST", "KMNIST", "EMNIST", "CIFAR10"]

MNIST_FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]

# name: image shape, classes, the folder in data_dir, the files in it
DATASETS: dict[str, tuple[tuple[int, int, int], int, str, list[str]]] = {
    "FashionMNIST": ((1, 28, 28), 10, "FashionMNIST/raw", MNIST_FILES),
    "KMNIST": ((1, 28, 28), 10, "KMNIST/raw", MNIST_FILES),
    "EMNIST": (
        (1, 28, 28),
        47,
        "EMNIST/raw",
        [f"emnist-balanced-{s}-{kind}-ubyte" for s in ("train", "test") for kind in ("images-idx3", "labels-idx1")],
    ),
    "CIFAR10": (
        (3, 32, 32),
        10,
        "cifar-10-batches-py",
        [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"],
    ),
}


class TorchvisionDataModule(InMemoryDataModule):
    """Fashion-MNIST, Kuzushiji-MNIST, EMNIST (balanced split, 47 letters and digits) or CIFAR-10.

    The files lie unpacked where torchvision puts them:
    `data_dir/FashionMNIST/raw/train-images-idx3-ubyte` and three more, the same for KMNIST;
    `data_dir/EMNIST/raw/emnist-balanced-train-images-idx3-ubyte` and three more;
    `data_dir/cifar-10-batches-py/data_batch_1` and six more.
    torchvision verifies the MD5 of what it downloads and of every CIFAR-10 file, but takes unpacked IDX files
    as they are.

    The download happens in `prepare_data`, which Lightning calls in one process of each node; without a
    trainer, call it yourself.

    Args:
        dataset: Which data set.
        data_dir: Folder that holds the data sets, each in a folder of its own.
        download: Whether to download what is missing in `data_dir`.
        batch_size: Training images per process and batch.
        validation_size: Images kept out of training for validation, the same ones for every seed; 0 for none.
        seed: Seed of the order of the training images.

    Raises:
        ValueError: If a setting is out of range, or the files are missing, unreadable or not to be had.
    """

    def __init__(
        self,
        dataset: Name,
        data_dir: str = "datasets",
        download: bool = False,
        batch_size: int = 32,
        validation_size: int = 5000,
        seed: int = 42,
    ) -> None:
        super().__init__(batch_size, validation_size, seed)
        if dataset not in DATASETS:
            raise GANError(f"dataset must be one of {', '.join(get_args(Name))}, got {dataset!r}")
        self.dataset = dataset
        self.data_dir = str(local_path(data_dir, "data_dir"))
        self.download = download
        self.image_shape, self.num_classes, folder, self._files = DATASETS[dataset]
        self.extractor = "fashion_mnist_cnn" if dataset == "FashionMNIST" else None
        self._folder = Path(self.data_dir, folder).absolute()

    def prepare_data(self) -> None:
        """Download what is missing, if `download` is set."""
        if not self.download:
            return
        for train in (True, False):
            try:
                self._open(train, download=True)
            except Exception as error:  # network, disk and checksums each raise their own
                raise GANError(
                    f"{self.dataset} could not be downloaded. {self._expected()} "
                    f"Try again with a network, or put them there by hand. The cause: {error}"
                ) from error

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """uint8 images `(N, *image_shape)` and int64 labels `(N,)`; EMNIST is turned upright."""
        try:
            data = self._open(train, download=False)
        except Exception as error:  # bad files make torchvision raise anything, assertions included
            raise GANError(
                f"{self.dataset} could not be read. {self._expected()} "
                f"Put them there, or set `download: true`. The cause: {error or type(error).__name__}"
            ) from error
        images, labels = torch.as_tensor(data.data), torch.as_tensor(data.targets)
        if self.dataset == "CIFAR10":
            return images.permute(0, 3, 1, 2), labels  # (N, H, W, C) -> (N, C, H, W)
        if self.dataset == "EMNIST":
            images = images.transpose(1, 2)  # stored column by column
        return images.unsqueeze(1), labels

    def _open(self, train: bool, download: bool) -> "MNIST | CIFAR10":
        from torchvision import datasets  # here, because nothing else in this package reads data with it

        split = {"split": "balanced"} if self.dataset == "EMNIST" else {}
        return getattr(datasets, self.dataset)(self.data_dir, train=train, download=download, **split)

    def _expected(self) -> str:
        return f"Its files are expected in {self._folder}, unpacked: {', '.join(self._files)}."
