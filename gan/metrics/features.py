"""The features that images are compared in: the penultimate layer of a small classifier that this project trains.

Inception's features need a download, and a network of ImageNet is a poor judge of digits: it hardly sees that a class
is missing. `gan.train_features` wrote the files beside this one, each with a card that says how good it is.
Scores by two extractors do not compare, whence `fingerprint`.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gan.errors import GANError, or_meant
from gan.paths import local_path

FILES = Path(__file__).parent / "files"

SHA256 = {  # of the files that are part of this package, each by its name
    "mnist_cnn": "a20a90896e8919eb3830c64062a4d4d08e590611e9b99f1a87ae88c41356a245",
    "fashion_mnist_cnn": "d69b213fa750e6df705701f23065a5e6d4bf3548770bb7a95e052b750de23073",
}

KEY = "CNNFeatures"  # of the constructor's arguments in a file's metadata; without the package, which gets other names

ACCURACY = re.compile(r" on the ([\d,]+) test images: ([\d.]+)%(?:; a guess: ([\d.]+)%)?")  # in a card

CELLS = 3  # features are read from a grid of CELLS x CELLS, because a digit is where its strokes are


class ImageFeatures(nn.Module):
    """Images to features in (-1, 1).

    tanh bounds the features, so that no image far from the data can dominate a mean or a covariance. The layers have
    no batch norm, because it is folded into their weights after training: an image's features do not depend on the
    images beside it. The first convolution halves the image; one thread of a CPU takes thousands of digits a second.

    It always is in eval mode: `train` does nothing. `load_features` gives one that is trained.

    Args:
        image_shape: Channels, height and width of an image.
        dim: Number of features; a covariance of them needs more images than this.

    Raises:
        ValueError: If an argument is out of range, or images of another shape or of integers are given.
    """

    def __init__(self, image_shape: tuple[int, int, int] = (1, 28, 28), dim: int = 64) -> None:
        super().__init__()
        if len(image_shape) != 3 or image_shape[0] < 1 or min(image_shape[1:]) < 4 * CELLS:
            raise GANError(
                f"image_shape must be channels, height and width, with a height and a width of {4 * CELLS} at least, "
                f"got {tuple(image_shape)}"
            )
        if not dim >= 1:
            raise GANError(f"dim must be >= 1, got {dim}")
        self.image_shape = tuple(image_shape)
        self.dim = dim
        self.layers = nn.Sequential(  # (N, C, H, W)
            nn.Conv2d(image_shape[0], 16, 5, stride=2, padding=2),
            nn.ReLU(),  # (N, 16, H/2, W/2)
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),  # (N, 64, H/4, W/4)
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(CELLS),
            nn.Flatten(),  # (N, 64 * CELLS * CELLS)
            nn.Linear(64 * CELLS * CELLS, dim),
            nn.Tanh(),
        )
        self.to(memory_format=torch.channels_last)  # nearly twice as fast on a CPU
        super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """The features of each image, in float32 even under autocast.

        Args:
            images: Floating (N, *image_shape) in [-1, 1].

        Returns:
            (N, dim), each in [-1, 1].
        """
        if tuple(images.shape[1:]) != self.image_shape:
            raise GANError(f"this extractor takes images (N, *{self.image_shape}), got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise GANError(f"the extractor takes floating images in [-1, 1], got {images.dtype}")
        with torch.autocast(images.device.type, enabled=False):
            return self.layers(images.float())

    def train(self, mode: bool = True) -> Self:
        """Do nothing: a trainer that sets its modules to train mode must not reach the extractor."""
        return self


class CNNFeatures(ImageFeatures):
    """Images to features in (-1, 1) as `ImageFeatures`, and those to the logits of a classifier.

    Args:
        image_shape: Channels, height and width of an image.
        num_classes: Classes that `classify` tells apart, 2 at least.
        dim: Number of features; a covariance of them needs more images than this.

    Raises:
        ValueError: If an argument is out of range, or images of another shape or of integers are given.
    """

    def __init__(self, image_shape: tuple[int, int, int] = (1, 28, 28), num_classes: int = 10, dim: int = 64) -> None:
        if not (num_classes >= 2 and dim >= 1):
            raise GANError(f"num_classes must be >= 2 and dim >= 1, got {num_classes} and {dim}")
        super().__init__(image_shape, dim)
        self.num_classes = num_classes
        self.head = nn.Linear(dim, num_classes).train(False)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, num_classes) of features (N, dim)."""
        return self.head(features)


def load_features(name_or_path: str | Path) -> ImageFeatures:
    """A trained extractor, its parameters frozen.

    Args:
        name_or_path: "mnist_cnn" or another name of `SHA256`, the files of this package; or the path of a file that
            `python -m gan.cli train_features` wrote.

    Raises:
        ValueError: If there is no such file, or it is damaged or something else. Nothing stands in for it.
    """
    shipped = str(name_or_path) in SHA256
    path = file_of(name_or_path)
    if not path.is_file():
        if shipped:
            raise _damaged(path, "it is missing")
        raise GANError(
            f"there is no feature extractor {str(name_or_path)!r}: it is neither one of {', '.join(SHA256)} nor the "
            f"path of a file{or_meant(str(name_or_path), SHA256)}. `python -m gan.cli train_features` trains one for "
            "your data set"
        )
    if shipped and hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[str(name_or_path)]:
        raise _damaged(path, "its SHA-256 differs")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no iterator
    except (SafetensorError, OSError) as error:
        raise GANError(f"{path} cannot be read as safetensors, it is damaged or something else: {error}") from error
    if KEY not in metadata:
        raise GANError(f"{path} holds no extractor of this project: `python -m gan.cli train_features` writes them")
    try:
        arguments = json.loads(metadata[KEY])
        match arguments:
            case {"num_classes": None, **others}:
                extractor = ImageFeatures(**others)
            case _:
                extractor = CNNFeatures(**arguments)
        extractor.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GANError(f"{path} is not what this version of train_features writes: {error}") from error
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise GANError(f"{path} has weights that are not finite: its training has diverged")
    return extractor.requires_grad_(False)


def file_of(name_or_path: str | Path) -> Path:
    """Where an extractor is, that is given as `load_features` takes it."""
    if str(name_or_path) in SHA256:
        return FILES / f"{name_or_path}.safetensors"
    return local_path(name_or_path, "extractor")


def doubt(name_or_path: str | Path, num_classes: int | None) -> str | None:
    """Why an extractor is of little worth by its own card, the `.md` beside its file; None if it has none, or is good.

    Args:
        name_or_path: As `load_features` takes it.
        num_classes: Classes that it tells apart; None if it has learnt without: its card says what guesses get.
    """
    path = file_of(name_or_path).with_suffix(".md")
    try:
        match = ACCURACY.search(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    if match is None:
        return None
    images, accuracy = int(match[1].replace(",", "")), float(match[2]) / 100
    chance = float(match[3] or 0) / 100 if num_classes is None else 1 / num_classes
    # Three standard deviations of a guess, at least a fifth more.
    if accuracy > chance + max(0.2 * chance, 3 * (chance * (1 - chance) / max(images, 1)) ** 0.5):
        return None
    return (
        f"the features are no better than chance: by {path} their classifier is right about {accuracy:.1%} of the test "
        f"images, and a guess about {chance:.1%}; train others, with labels that the images show"
    )


def save_features(extractor: ImageFeatures, path: str | Path) -> None:
    """Write an extractor as `load_features` reads it: the same weights give the same bytes.

    Args:
        extractor: The extractor, trained.
        path: The file, by its convention `<name>.safetensors`.
    """
    arguments = {name: getattr(extractor, name, None) for name in ("image_shape", "num_classes", "dim")}
    # One key for all of them: safetensors writes several in an order of chance.
    save_file(
        {name: tensor.contiguous() for name, tensor in extractor.state_dict().items()},
        path,
        metadata={KEY: json.dumps(arguments)},
    )


def fingerprint(extractor: nn.Module) -> str:
    """12 hexadecimal digits that tell extractors apart: a SHA-256 of the class and of all weights and buffers.

    The class counts without the name of its package, which a user may change. The digits depend neither on the device
    nor on the layout in memory. Settings that are not in `state_dict`, such as a stride, are not part of them.

    Args:
        extractor: Any module.
    """
    kind = type(extractor)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".partition(".")[2].encode())
    for name, tensor in sorted(extractor.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _damaged(path: Path, reason: str) -> GANError:
    return GANError(
        f"the extractor {path} of this package cannot be used: {reason}. Reinstall the package, "
        f"or in a clone run `git checkout -- gan/metrics/files`"
    )
