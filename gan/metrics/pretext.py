"""What features are learnt from: the classes of images or, without them, a task that the images themselves set."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Change = Callable[[Tensor], Tensor]  # images (N, C, H, W) to images as large, changed at random


class Task(ABC):
    """What a network is to say of images.

    Attributes:
        outputs: How many values it is to say it by.
        told: What a share of right answers is called, in a card.
        guess: That of a guess.
    """

    outputs: int
    told: str
    guess: float

    @abstractmethod
    def learn(self, network: nn.Module, images: Tensor, labels: Tensor, change: Change) -> tuple[Tensor, Tensor]:
        """The loss (), with its graph, and which answers were right, bool (M,).

        Args:
            network: Images to outputs (N, `outputs`).
            images: (N, C, H, W) in [-1, 1].
            labels: int64 (N,), of the classes.
            change: What is done to images so that none is learnt by heart.
        """


class Classes(Task):
    """The class of an image.

    Args:
        num_classes: How many there are.
    """

    told = "Accuracy"

    def __init__(self, num_classes: int) -> None:
        self.outputs, self.guess = num_classes, 1 / num_classes

    def learn(self, network: nn.Module, images: Tensor, labels: Tensor, change: Change) -> tuple[Tensor, Tensor]:
        logits = network(change(images))
        return F.cross_entropy(logits, labels), logits.argmax(1) == labels


class Turns(Task):
    """By how many quarters an image is turned: Gidaris et al. 2018, arXiv:1803.07728.

    To tell, a network must know what is in the image. One that is not square is turned by halves. Of images that have
    no up and down, as the sky's have none, it can only guess.

    Args:
        image_shape: Channels, height and width of an image.
    """

    told = "Turns told"

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        self.outputs = 4 if image_shape[1] == image_shape[2] else 2
        self.guess = 1 / self.outputs

    def learn(self, network: nn.Module, images: Tensor, labels: Tensor, change: Change) -> tuple[Tensor, Tensor]:
        turns = torch.arange(len(images)) % self.outputs  # images come in another order in each epoch
        turned = change(images).clone()
        for turn in range(1, self.outputs):
            turned[turns == turn] = turned[turns == turn].rot90(turn * 4 // self.outputs, (2, 3))
        logits = network(turned)
        return F.cross_entropy(logits, turns), logits.argmax(1) == turns
