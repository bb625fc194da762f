"""What batches of training have in common: whether they are drawn at random, come again, or are of one class."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gan.gradients.norms import OverProcesses
from gan.gradients.stats import BatchStats

LOOK = 16  # batches in a row that are held against each other
SIDE = 4  # pixels, at which they are looked at
SAME = 0.02  # of the distance that chance puts between the means of two batches: below, they have the same images
MANY = 100_000  # labels, beyond which they are no classes


class Batches:
    """The latest batches, each as the mean of its small images."""

    def __init__(self) -> None:
        self.means: deque[Tensor] = deque(maxlen=LOOK)
        self.images: deque[int] = deque(maxlen=LOOK)
        self.small = torch.zeros(0)  # the images of the latest

    @torch.no_grad()
    def see(self, images: Tensor) -> None:
        """Takes the next batch, (N, C, H, W), or (N, ...) of other samples."""
        sides = [min(SIDE, side) for side in images.shape[2:]]
        self.small = (interpolate(images.float(), sides, mode="area") if sides else images.float()).flatten(1)
        if self.means and self.means[-1].device != images.device:  # of a checkpoint, which is read to the CPU
            self.means = deque((mean.to(images.device) for mean in self.means), maxlen=LOOK)
        self.means.append(self.small.mean(0))
        self.images.append(len(images))

    @torch.no_grad()
    def stats(self, labels: Tensor | None, epoch: int | None, over_processes: OverProcesses) -> BatchStats:
        """What the latest batch has in common with others; all processes must ask.

        Args:
            labels: Its labels, (N,); None without any.
            epoch: Batches in an epoch; None where there is no telling.
            over_processes: The mean, sum or maximum of a tensor over all processes.
        """
        counts = torch.tensor(self.images).double()
        sums = torch.stack(list(self.means)).cpu().double() * counts[:, None]
        latest = self.small.cpu().double()
        sums[-1] = latest.sum(0)  # of all digits, which the variance needs
        squares = latest.square().sum(0)
        joint = over_processes(torch.cat([sums, counts[:, None], squares.expand(len(sums), -1)], 1), "sum")
        counts, squares = joint[:, sums.shape[1]], joint[-1, sums.shape[1] + 1 :]
        means = joint[:, : sums.shape[1]] / counts[:, None]
        num = counts[-1].item()
        variance = (squares / num - means[-1].square()).clamp(min=0).sum() * num / max(1, num - 1)
        apart = (means[:, None] - means).square().sum(2)
        by_chance = variance * (1 / counts[:, None] + 1 / counts)
        same = (apart <= SAME * by_chance).tril(-1).any(1)
        most = most_frequent(labels, over_processes)
        return BatchStats(
            images=round(num),
            mean=tuple(means[-1].tolist()),
            variance=variance.item(),
            seen=len(means),
            distinct=int((~same).sum()),
            epoch=epoch,
            label=None if most is None else most[0],
            label_share=None if most is None else most[1],
        )

    def state(self) -> list[Any]:
        """What is kept in a checkpoint."""
        return [list(self.means), list(self.images)]

    def restore(self, state: list[Any]) -> None:
        """Takes what `state` gave."""
        self.means, self.images = (deque(part, maxlen=LOOK) for part in state)


def most_frequent(labels: Tensor | None, over_processes: OverProcesses) -> tuple[int, float] | None:
    """The most frequent of the labels (N,) of all processes, and its share; None if they are no classes."""
    if labels is None:
        return None
    labels = labels.cpu()
    lowest, highest = over_processes(torch.stack([-labels.min(), labels.max()]).double(), "max").tolist()
    if lowest > 0 or highest >= MANY:
        return None
    counts = over_processes(torch.bincount(labels.long(), minlength=int(highest) + 1).double(), "sum")
    return int(counts.argmax()), (counts.max() / counts.sum()).item()


def between_over_within(batches: Sequence[BatchStats]) -> float:
    """How far the means of batches are apart, over how far they would be by chance: about 1 if they are drawn so.

    Far above 1 where each batch has images that are like each other and unlike those of other batches: the ratio F of
    an analysis of variance, over all pixels. NaN where all images of each batch are one.
    """
    means = torch.tensor([batch.mean for batch in batches]).double()
    between = means.var(0).sum().item()
    by_chance = sum(batch.variance / batch.images for batch in batches) / len(batches)
    return between / by_chance if by_chance > 0 else float("nan")
