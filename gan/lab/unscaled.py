"""The article's scaling of digits: pixels divided by 255, though its text asks for [-1, 1].

A data set for runs that are to fail: `--data gan.lab.unscaled.UnscaledMNIST`.
"""

from torch import Tensor

from gan.data import MNISTDataModule


class UnscaledMNIST(MNISTDataModule):
    """MNIST with pixels in [0, 1], for training, validation and test alike.

    A tanh generator makes pixels in [-1, 1], so that the sign alone gives most of its first fakes away. FIDTracker
    takes the digits from memory and holds fakes against them in [-1, 1], which is fair: that is how fakes are shown.

    Args:
        batch_size: Training images per process and batch.
        validation_size: Images kept out of training for validation, the same ones for every seed; 0 for none.
        seed: Seed of the order of the training images.
    """

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """A batch of the loaders, whose images are in [-1, 1], as training sees it."""
        images, labels = batch
        return unscaled(images), labels


def unscaled(images: Tensor) -> Tensor:
    """Images in [-1, 1] brought to [0, 1]."""
    return (images + 1) / 2
