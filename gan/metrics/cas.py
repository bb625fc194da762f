"""The classification accuracy score (Ravuri & Vinyals 2019, arXiv:1905.10887), or GAN-train (Shmelkov et al. 2018)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from gan.errors import GANError, counted
from gan.metrics.base import Float64Metric
from gan.metrics.checks import check_finite

BATCH_SIZE = 64  # images in a step of training
LARGEST = 32  # pixels of a side that the classifier sees


class CAS(Float64Metric):
    """The classification accuracy score of generated images of known classes; see `classification_accuracy_score`.

    `compute` trains a classifier, on every process the same one. Its states are float32 images and int64 labels.

    Args:
        image_shape: Channels, height and width of an image.
        steps: Steps of training, of 64 images each.
        seed: Of the classifier's weights and the order of the images.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If `steps` is below 1.
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, image_shape: tuple[int, int, int], steps: int = 200, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not steps >= 1:
            raise GANError(f"steps must be at least 1, got {steps}")
        self.image_shape, self.steps, self.seed = tuple(image_shape), steps, seed
        for images in ("real", "fake"):
            self.add_rows(f"{images}_images", *image_shape, dtype=torch.float32)
            self.add_rows(f"{images}_labels", dtype=torch.int64)

    def update(self, images: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images and their classes.

        Args:
            images: (N, *image_shape), floating, in [-1, 1]; N may be 0.
            labels: (N,) the class asked for, or of a real image its own, int64 from 0.
            real: Whether they are real, which the classifier is tested on; it is trained on the others.

        Raises:
            ValueError: If shapes or types do not fit.
        """
        if tuple(images.shape[1:]) != self.image_shape:
            raise GANError(f"images must have the shape (N, *{self.image_shape}), got {tuple(images.shape)}")
        _check_types(images, labels, "")
        self.append("real_images" if real else "fake_images", images)
        self.append("real_labels" if real else "fake_labels", labels)

    def compute(self) -> Tensor:
        """The share of right answers, float64 (), 0 to 1.

        Raises:
            ValueError: If there are no images of a kind, a label is below 0, or an image is not finite.
        """
        fake = self.rows("fake_images"), self.rows("fake_labels")
        real = self.rows("real_images"), self.rows("real_labels")
        return self.score(classification_accuracy_score(*fake, *real, self.steps, self.seed))


def classification_accuracy_score(
    images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor, steps: int = 200, seed: int = 0
) -> float:
    """Accuracy on real images of a classifier that was trained on generated ones.

    It falls if the generator's images are unlike real ones, if they miss some of a class's variety, and if
    they are not of the class that they should be. The same from as many real training images is its ceiling.

    The classifier is a small convolutional network, new in each call. Images larger than 32 pixels are shrunk
    to 32, so that it stays quick. The global random state, gradients and the modes of the caller
    (`inference_mode`, autocast) neither change nor matter.

    Args:
        images: (N, C, H, W) generated, floating, in [-1, 1].
        labels: (N,) the class asked for, int64 from 0.
        test_images: (M, C, H, W) real, in the same range, on the same device.
        test_labels: (M,) their classes.
        steps: Steps of training, of 64 images each.
        seed: Of the classifier's weights and the order of the images.

    Returns:
        Share of right answers, 0 to 1. With generated images of one class, the share of that class.

    Raises:
        ValueError: If a set is empty, shapes or labels do not fit, or values are not finite.
    """
    if not steps >= 1:
        raise GANError(f"steps must be at least 1, got {steps}")
    _check(images, labels, "")
    _check(test_images, test_labels, "test_")
    if images.shape[1:] != test_images.shape[1:]:
        raise GANError(
            f"images and test_images must have one shape (C, H, W), "
            f"got {tuple(images.shape[1:])} and {tuple(test_images.shape[1:])}"
        )
    height, width = (min(side, LARGEST) for side in images.shape[2:])
    size = [height, width]
    classes = 1 + int(max(labels.max(), test_labels.max()))
    with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
            classifier = _classifier(images.shape[1], height, width, classes).to(images.device)
        _train(classifier, images, labels, size, steps, torch.Generator().manual_seed(seed))
    with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
        classifier.eval()
        batches = zip(test_images.split(1000), test_labels.split(1000), strict=True)
        right = sum((classifier(_shrunk(batch, size)).argmax(1) == label).sum() for batch, label in batches)
    return int(right) / len(test_images)


def _classifier(channels: int, height: int, width: int, classes: int) -> nn.Module:
    """Three convolutions that halve the image, and a linear layer: about 70,000 parameters for 28 x 28."""
    layers: list[nn.Module] = []
    for width_in, width_out in ((channels, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(width_in, width_out, 5, stride=2, padding=2), nn.BatchNorm2d(width_out), nn.ReLU()]
        height, width = -(-height // 2), -(-width // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * height * width, classes))


def _train(
    classifier: nn.Module, images: Tensor, labels: Tensor, size: list[int], steps: int, generator: torch.Generator
) -> None:
    optimizer = torch.optim.Adam(classifier.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    rounds = -(-steps * BATCH_SIZE // len(images))
    order = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(rounds)])
    for batch in order[: steps * BATCH_SIZE].to(images.device).split(BATCH_SIZE):
        optimizer.zero_grad()
        cross_entropy(classifier(_shrunk(images[batch], size)), labels[batch]).backward()
        optimizer.step()
        schedule.step()


def _shrunk(images: Tensor, size: list[int]) -> Tensor:
    images = images.detach().float()
    return images if list(images.shape[2:]) == size else interpolate(images, size, mode="area")


def _check(images: Tensor, labels: Tensor, prefix: str) -> None:
    _check_types(images, labels, prefix)
    if 0 in images.shape:
        raise _wrong_images(images, prefix)
    if labels.min() < 0:
        raise GANError(f"{prefix}labels must be at least 0, got {int(labels.min())}")
    check_finite(images, f"{prefix}images")


def _check_types(images: Tensor, labels: Tensor, prefix: str) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise _wrong_images(images, prefix)
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise GANError(
            f"{prefix}labels must be int64, one for each of {counted(len(images), 'image')}, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )


def _wrong_images(images: Tensor, prefix: str) -> GANError:
    return GANError(
        f"{prefix}images must be a floating tensor of the shape (N, C, H, W) with at least one image, "
        f"got {images.dtype} {tuple(images.shape)}"
    )
