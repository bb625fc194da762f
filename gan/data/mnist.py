"""MNIST, embedded in the package: its authors' own files, checked by their SHA-256 on every load."""

import gzip
import hashlib
import zlib
from pathlib import Path

import torch
from torch import Tensor

from gan.data.memory import InMemoryDataModule
from gan.errors import GANError

FILES = Path(__file__).parent / "files"

SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class MNISTDataModule(InMemoryDataModule):
    """Handwritten digits, 28 x 28: 60,000 to train on (validation included), 10,000 to test on, ten classes.

    The files are part of the package: no download, no folder to name. See `gan/data/files/LICENSE`.

    Args:
        batch_size: Training images per process and batch.
        validation_size: Images kept out of training for validation, the same ones for every seed; 0 for none.
        seed: Seed of the order of the training images.
        train_size: Images to train on, the same ones for every seed; all but the validation images if not given.
        labels: Images to train on that keep their label, as many of each class, drawn by the seed; all others are told
            as -1, and every fourth image of a batch is one of these. All keep theirs if not given.

    Raises:
        ValueError: If a setting is out of range, or an embedded file is missing or altered.
    """

    image_shape = (1, 28, 28)
    num_classes = 10
    extractor = "mnist_cnn"

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """uint8 images `(60000 or 10000, 1, 28, 28)`, 0 the background, and int64 labels, the digits."""
        prefix = "train" if train else "t10k"
        images = _read_idx(f"{prefix}-images-idx3-ubyte.gz")  # (N, 28, 28)
        labels = _read_idx(f"{prefix}-labels-idx1-ubyte.gz")  # (N,)
        return images.unsqueeze(1), labels.long()


def _read_idx(name: str) -> Tensor:
    """The uint8 tensor in an embedded IDX file.

    IDX: two zero bytes, a type (8 is uint8), the number of dimensions, each as a big-endian uint32, the data.
    """
    path = FILES / name
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _unusable(path, str(error)) from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise _unusable(path, "its content is not that of MNIST, the SHA-256 differs")
    assert content[:3] == b"\0\0\x08"
    ndim = content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, 4 + 4 * ndim, 4)]
    # bytearray, because PyTorch warns of a tensor over bytes, which are read-only.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * ndim).view(shape)


def _unusable(path: Path, reason: str) -> GANError:
    return GANError(
        f"the embedded MNIST file {path} cannot be used: {reason}. Reinstall the package, "
        f"or in a clone run `git checkout -- gan/data/files`"
    )
