"""How well a generator does: its images held against real ones, by all processes together."""

from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer
from torch import Tensor, nn

from gan.data import InMemoryLoader
from gan.images import to_float, to_uint8
from gan.metrics import (
    Moments,
    class_scores,
    classification_accuracy_score,
    fid_infinity,
    frechet_distance,
    kernel_distance,
    nearest,
    neighbour_scores,
)
from gan.metrics.feature_cache import CHUNK, extract, gather, images_at, real_features, share, turns
from gan.metrics.fid import PER_DIMENSION
from gan.module import GAN

TEST, TRAINING = 10_000, 60_000  # real images that are looked at, at most; all of MNIST's
DRAWS = 5  # of training images, at most, whose distances are the floor
NEIGHBOURS = 6  # rows that precision to coverage need at least: five neighbours and the image itself


class NotFinite(Exception):
    """Generated images, or their features, are NaN or infinite: there is no score."""


@dataclass
class Generated:
    """Generated images as an extractor sees them: the same on every process."""

    features: Tensor  # (N, D)
    moments: Moments


@dataclass
class Judge:
    """Scores generators by the features of their images, against test images.

    Args:
        trainer: Whose processes share the work. All of them must call each method.
        extractor: Images (N, C, H, W) in [-1, 1] to features (N, D), on the trainer's device; see `gan.metrics`.
        train: Loader of the training images.
        test: Loader of the test images.

    Raises:
        ValueError: if the extractor does not take the images or gives no features (N, D), there are too few images, or
            a loader's data cannot be indexed.
    """

    trainer: Trainer
    extractor: nn.Module
    train: Any
    test: Any
    floors: dict[int, list[float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.real, _ = real_features(self.trainer, self.test, self.extractor, TEST)
        self.training, self.order = real_features(self.trainer, self.train, self.extractor, TRAINING)
        for features, split in ((self.real, "test"), (self.training, "training")):
            if len(features) < NEIGHBOURS:
                raise ValueError(
                    f"FIDTracker needs at least {NEIGHBOURS} {split} images, and there are {len(features)}: "
                    "leave it out, or use more"
                )
            if not features.isfinite().all():
                name = type(self.extractor).__name__
                raise ValueError(f"FIDTracker's extractor {name} makes features of {split} images that are not finite")
        self.moments = moments(self.real)
        logits = self.logits(self.real)
        self.num_classes = None if logits is None else logits.shape[1]
        if logits is not None:
            class_scores(logits)  # raises now what it would raise at the first score

    # ------------------------------------------------------------------ images to features

    def generate(self, gan: GAN, num: int, noise: str) -> Generated:
        """`num` images by the averaged generator, where there is one.

        Chunk i has the noise of (seed, `noise`, i): whatever the number of processes, these are the same images.

        Raises:
            NotFinite: on every process, if images or features are NaN or infinite.
        """
        self.agree(gan)
        made, broken = [], torch.zeros((), device=gan.device)
        for number in turns(self.trainer, num):
            images = gan(self.latents(gan, noise, number))
            broken += images[: max(0, num - number * CHUNK)].isfinite().logical_not().any()
            made.append(extract(self.extractor, to_uint8(images)))
        own = moments(torch.cat(made)[: share(self.trainer, num)])
        for tensor in (*own.tensors(), broken):
            self.add_up(tensor)
        if broken > 0:
            raise NotFinite("the generator makes images that are NaN or infinite")
        features = gather(self.trainer, made, num)
        logits = self.logits(features)
        if not own.is_finite or not (logits is None or logits.isfinite().all()):
            raise NotFinite("the extractor makes features or logits of generated images that are NaN or infinite")
        return Generated(features, own)

    def agree(self, gan: GAN) -> None:
        """Gives all processes the first one's buffers, as a checkpoint has them: each has batch statistics of its own.

        They are used in evaluation alone.
        """
        if self.trainer.world_size > 1:
            for buffer in sampled(gan).buffers():
                dist.broadcast(buffer, 0)

    def latents(self, gan: GAN, noise: str, number: int) -> Tensor:
        """The latents (CHUNK, latent_dim) of a chunk."""
        return gan.latents(CHUNK, gan.rng("score", noise, number))

    def add_up(self, tensor: Tensor) -> None:
        """Sums a tensor over all processes, in place."""
        if self.trainer.world_size > 1:
            tensor.copy_(self.trainer.strategy.reduce(tensor, reduce_op="sum"))

    # ------------------------------------------------------------------ features to scores

    def fid(self, generated: Generated) -> float:
        return frechet_distance(
            generated.moments.mean, generated.moments.covariance, self.moments.mean, self.moments.covariance
        )

    def floor(self, num: int) -> list[float]:
        """The FIDs of a few draws of `num` real training images: a generator does not get below them."""
        num = min(num, len(self.training))
        if num not in self.floors:
            draws = self.training[: len(self.training) // num * num].split(num)[:DRAWS]
            self.floors[num] = [self.fid(Generated(draw, moments(draw))) for draw in draws]
        return self.floors[num]

    def scores(self, generated: Generated) -> dict[str, float]:
        """FID, KID, precision to coverage and, where the extractor is a classifier, what it makes of the classes."""
        features = generated.features
        real = self.real[: len(features)]
        kid, _ = kernel_distance(real, features, subsets=max(10, len(features) // 100))
        scores = {"fid": self.fid(generated), "kid": kid} | neighbour_scores(real, features[: len(real)])._asdict()
        logits = self.logits(features)
        if logits is not None:
            classes = class_scores(logits)._asdict()
            scores |= {name: classes[name] for name in ("modes_covered", "entropy", "inception_score")}
        return scores

    def logits(self, features: Tensor) -> Tensor | None:
        """What the extractor's classifier makes of features: (N, K), or None where it has none."""
        if not hasattr(self.extractor, "classify"):
            return None
        with torch.no_grad():
            return self.extractor.classify(features)

    def real_scores(self, num: int) -> dict[str, float]:
        """The scores of `num` training images: what a generator can hope for."""
        draw = self.training[:num]
        return self.scores(Generated(draw, moments(draw))) | {"fid": mean(self.floor(num))}

    def fid_infinity(self, generated: Generated) -> float | None:
        """The FID that infinitely many images would have; None where there are too few to tell."""
        num, dim = generated.features.shape
        if num < max(20, PER_DIMENSION * dim):
            return None
        return fid_infinity(generated.features, self.moments.mean, self.moments.covariance)

    # ------------------------------------------------------------------ images

    def accuracy_score(self, gan: GAN, num: int, noise: str) -> float | None:
        """The accuracy on test images of a classifier that has seen nothing but `num` generated ones.

        None for a generator that does not say what it was asked for, by a method `labels(latents) -> int64 (N,)`, and
        for real images that are not in memory.
        """
        if not hasattr(gan.generator, "labels") or not isinstance(self.test, InMemoryLoader):
            return None
        self.agree(gan)
        latents = [self.latents(gan, noise, number) for number in turns(self.trainer, num)]
        images = gather(self.trainer, [to_uint8(gan(part)) for part in latents], num)
        labels = gather(self.trainer, [gan.generator.labels(part) for part in latents], num)
        score = error = None
        if self.trainer.is_global_zero:
            try:
                score = classification_accuracy_score(
                    to_float(images), labels, to_float(self.test.images), self.test.labels
                )
            except ValueError as reason:  # all processes must hear of it
                error = str(reason)
        score, error = self.trainer.strategy.broadcast((score, error))
        if error is not None:
            raise ValueError(f"{type(gan.generator).__name__}.labels: {error}")
        return score

    def nearest_images(self, gan: GAN, num: int, noise: str) -> Tensor:
        """Generated images, and the training images nearest to each, by feature and by pixel: uint8 (3, num, C, H, W).

        Where they are the same picture, the generator has learnt it by heart.
        """
        self.agree(gan)
        generated = to_uint8(gan(self.latents(gan, noise, 0)[:num]))
        _, by_feature = nearest(extract(self.extractor, generated).cpu(), self.training.cpu())
        (like,) = images_at(self.train, [self.order[by_feature]])
        generated = generated.cpu()
        best, same = torch.full((num,), torch.inf, dtype=torch.float64), generated.clone()
        for images in images_at(self.train, self.order.split(CHUNK)):
            distances, indices = nearest(generated.flatten(1).float(), images.cpu().flatten(1).float())
            closer = distances < best
            best[closer], same[closer] = distances[closer], images.cpu()[indices[closer]]
        return torch.stack([generated, like.cpu(), same])


def sampled(gan: GAN) -> nn.Module:
    """The network that images come from: the average where there is one."""
    return gan.generator if gan.generator_ema is None else gan.generator_ema


def moments(features: Tensor) -> Moments:
    sums = Moments(features.shape[1], "cpu" if features.device.type == "mps" else features.device)  # it has no float64
    sums.update(features)
    return sums
