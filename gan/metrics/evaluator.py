"""How well a generator does: its images held against real ones, by all processes together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from statistics import mean
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import MetricCollection

from gan.errors import GANError
from gan.images import to_float, to_uint8
from gan.metrics.cas import CAS
from gan.metrics.drawn import drawn
from gan.metrics.feature_cache import (
    CHUNK,
    broadcast,
    extract,
    gather,
    images_at,
    in_memory,
    labels_of,
    pairs_at,
    processes,
    real_features,
    turns,
)
from gan.metrics.fid import FID, PER_DIMENSION, fid_infinity
from gan.metrics.inception_score import ClassEntropy, InceptionScore, ModesCovered
from gan.metrics.kid import KID
from gan.metrics.paired import LPIPS, PairedScores, done_nothing
from gan.metrics.prdc import PRDC, nearest

TEST, TRAINING = 10_000, 60_000  # real images that are looked at, at most; all of MNIST's
DRAWS = 5  # of training images, at most, whose distances are the floor
LEAK = 0.01  # of the test images; data sets have a few pictures twice
NEIGHBOURS = 6  # rows that precision to coverage need at least: five neighbours and the image itself


class NotFinite(Exception):
    """Generated images, or their features, are NaN or infinite: there is no score."""


@dataclass
class Generated:
    """Generated images as an extractor sees them: the same on every process."""

    features: Tensor  # (N, D)
    fid: float
    pairs: Tensor | None = None  # (N, numbers), of each image and its target, where it has one


class Evaluator:
    """Scores generators by the features of their images, which are made once, against test images.

    Where torch.distributed is in use, its processes share the work: all of them must call each method. Images come
    from a callable, `make(number)`: chunk `number` of images (CHUNK, C, H, W) in [-1, 1] on the device, always the
    same ones, so that it does not matter which process makes them.

    Args:
        extractor: Images (N, C, H, W) in [-1, 1] to features (N, D), on `device`; see `gan.metrics.features`. It may
            have a method `classify` that turns those into logits (N, K).
        train: Loader of the training images; see `real_features`, and `drawn` for streams.
        test: Loader of the test images.
        device: Where features are made and scored.
        say: Is told, before it takes its time, what is measured.
        paired: Whether images are made from the sources of the test images, and are to be those: see `PairedScores`.
        lpips: For `PairedScores`.

    Raises:
        ValueError: If the extractor does not take the images or gives no features (N, D), there are too few images, or
            a loader's data cannot be indexed.
    """

    def __init__(
        self,
        extractor: nn.Module,
        train: Any,
        test: Any,
        device: torch.device | str = "cpu",
        say: Callable[[str], None] = lambda text: None,
        paired: bool = False,
        lpips: LPIPS | None = None,
    ) -> None:
        self.extractor, self.device = extractor, device
        self.train, self.test = drawn(train, say, "training"), drawn(test, say)
        self.paired: PairedScores | None = None
        self._pair: tuple[int, tuple[Tensor, Tensor]] | None = None  # of the chunk that was asked for last
        self.real, self.test_order = real_features(self.test, extractor, TEST, device, say)
        self.training, self.order = real_features(self.train, extractor, TRAINING, device, say)
        for features, split in ((self.real, "test"), (self.training, "training")):
            if len(features) < NEIGHBOURS:
                there = f"there {'is' if len(features) == 1 else 'are'} {len(features)}"
                raise GANError(
                    f"FIDTracker needs at least {NEIGHBOURS} {split} images, and {there}: leave it out, or use more"
                )
            if not features.isfinite().all():
                name = type(extractor).__name__
                raise GANError(f"FIDTracker's extractor {name} makes features of {split} images that are not finite")
        self.labels = labels_of(self.test, self.test_order)
        # All processes hold all features: there is nothing to sync.
        self.dim, settings = self.real.shape[1], {"sync_on_compute": False}
        self._fid = FID(self.dim, reset_real_features=False, **settings).to(device)
        self._fid.update(self.real, real=True)
        logits = self.logits(self.real)
        self.num_classes = None if logits is None else logits.shape[1]
        self._classes: MetricCollection | None = None
        if logits is not None:
            kinds = {"modes_covered": ModesCovered, "entropy": ClassEntropy, "inception_score": InceptionScore}
            self._classes = MetricCollection(
                {name: kind(self.num_classes, **settings) for name, kind in kinds.items()}
            ).to(device)
            self.class_scores(logits)  # raises now what it would raise at the first score
        self._floors: dict[int, list[float]] = {}
        if paired:
            self.paired = PairedScores(tuple(self.pairs(0)[0].shape[1:]), lpips)

    # ------------------------------------------------------------------ what the scores are worth

    def doubts(self, **sizes: int) -> Iterator[str]:
        """Why scores mean little by these images and features, a sentence each, with the way out.

        Args:
            **sizes: How many images are generated for a score, by the setting that says so.
        """
        counts = {**sizes, "test images": len(self.real), "training images": len(self.training)}
        few = [f"{name} {count:,}" for name, count in counts.items() if count <= self.dim]
        if few:
            yield (
                f"{', '.join(few)}: of no more images than features, {self.dim:,}, the covariance has no full rank, "
                "and FID says little; take more images, or features of a lower dimension"
            )
        leaked = self.leaked()
        if leaked >= LEAK * len(self.real):
            what = "is a training image" if leaked == 1 else "are training images"
            yield (
                f"{leaked:,} of {len(self.real):,} test images {what}: a generator that learns those by "
                "heart has the best scores; give the data module test images that it does not train on"
            )

    def leaked(self) -> int:
        """How many test images are training images too: by their features, and of those by the pixels of a sample."""
        step = 1e-3 * self.training.std().clamp_min(1e-12)  # what rounding makes of equal images is less
        train, test = (
            [  # digests: the features of Inception would be gigabytes once more
                blake2b(row, digest_size=16).digest()
                for part in features.split(CHUNK)
                for row in (part / step).round().long().cpu().numpy()
            ]
            for features in (self.training, self.real)
        )
        known = {row: number for number, row in enumerate(train)}
        pairs = torch.tensor([(number, known[row]) for number, row in enumerate(test) if row in known]).long()
        if not len(pairs):
            return 0
        sample = pairs[torch.linspace(0, len(pairs) - 1, min(CHUNK, len(pairs))).long()]
        (one,) = images_at(self.test, [self.test_order[sample[:, 0]]])
        (other,) = images_at(self.train, [self.order[sample[:, 1]]])
        equal = (one.cpu() == other.cpu()).flatten(1).all(1)
        return round(len(pairs) * equal.float().mean().item())

    # ------------------------------------------------------------------ images to features

    def generate(self, make: Callable[[int], Tensor], num: int) -> Generated:
        """`num` images as the extractor sees them.

        Raises:
            NotFinite: If images or features are NaN or infinite; on every process alike.
        """
        made, pairs, broken = [], [], torch.zeros((), device=self.device)
        for number in turns(num):
            images = make(number)
            broken += images[: max(0, num - number * CHUNK)].isfinite().logical_not().any()
            levels = to_uint8(images)
            made.append(extract(self.extractor, levels))
            if self.paired is not None:
                pairs.append(self.paired.rows(levels, self.pairs(number)[0]))
        if processes()[1] > 1:
            dist.all_reduce(broken)
        if broken > 0:
            raise NotFinite("the generator makes images that are NaN or infinite")
        features = gather(made, num)
        logits = self.logits(features)
        if not features.isfinite().all() or not (logits is None or logits.isfinite().all()):
            raise NotFinite("the extractor makes features or logits of generated images that are NaN or infinite")
        return Generated(features, self.fid(features), gather(pairs, num) if pairs else None)

    def pairs(self, number: int) -> tuple[Tensor, Tensor]:
        """The test images of chunk `number`, uint8 (CHUNK, C, H, W), and the sources (CHUNK, C', H', W') of each.

        The test images one after the other, and again from the first where there are no more.

        Raises:
            ValueError: If the test data has no sources.
        """
        if self._pair is None or self._pair[0] != number:
            chunk = self.test_order[torch.arange(number * CHUNK, (number + 1) * CHUNK) % len(self.test_order)]
            images, sources = pairs_at(self.test, chunk)
            self._pair = number, (images.to(self.device), sources.to(self.device))
        return self._pair[1]

    # ------------------------------------------------------------------ features to scores

    def fid(self, features: Tensor) -> float:
        """The Frechet distance of features (N, D) from those of the test images."""
        self._fid.reset()
        self._fid.update(features, real=False)
        return self._fid.compute().item()

    @property
    def variance(self) -> float:
        """The sum of the variances of the test images' features: the FID of one and the same image, their mean."""
        return self._fid.moments(real=True)[1].trace().item()

    def floor(self, num: int) -> list[float]:
        """The FIDs of a few draws of `num` real training images: a generator does not get below them."""
        num = min(num, len(self.training))
        if num not in self._floors:
            draws = self.training[: len(self.training) // num * num].split(num)[:DRAWS]
            self._floors[num] = [self.fid(draw) for draw in draws]
        return self._floors[num]

    def scores(self, generated: Generated) -> dict[str, float]:
        """FID, KID, precision to coverage; where the extractor is a classifier, what it makes of the classes.

        And of images with a target, how near they come to it.
        """
        fake = generated.features
        real = self.real[: len(fake)]
        kid = KID(self.dim, subsets=max(10, len(fake) // 100), sync_on_compute=False)
        prdc = PRDC(self.dim, sync_on_compute=False)
        for metric, part in ((kid, fake), (prdc, fake[: len(real)])):
            metric.to(self.device)
            metric.update(real, real=True)
            metric.update(part, real=False)
        scores = {"fid": generated.fid, "kid": kid.compute()[0].item()}
        scores |= {name: value.item() for name, value in prdc.compute().items()}
        logits = self.logits(fake)
        if logits is not None:
            scores |= self.class_scores(logits)
        return scores | self.pair_scores(generated)

    def pair_scores(self, generated: Generated) -> dict[str, float]:
        """PSNR and so on; nothing of images that have no target."""
        return {} if self.paired is None or generated.pairs is None else self.paired.scores(generated.pairs)

    def source_scores(self, num: int) -> dict[str, float] | None:
        """FID, PSNR and so on of `num` sources, resized and nothing else done; None where they have other channels."""
        image_shape = tuple(self.pairs(0)[0].shape[1:])
        if done_nothing(self.pairs(0)[1], image_shape) is None:
            return None
        generated = self.generate(lambda number: cast(Tensor, done_nothing(self.pairs(number)[1], image_shape)), num)
        return {"fid": generated.fid} | self.pair_scores(generated)

    def class_scores(self, logits: Tensor) -> dict[str, float]:
        """What the extractor's classifier makes of the classes, by its logits (N, K)."""
        assert self._classes is not None
        self._classes.reset()
        self._classes.update(logits)
        return {name: value.item() for name, value in self._classes.compute().items()}

    def condition_scores(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """How many images are of the class that was asked for, and the mean of the FIDs within the classes.

        The second for classes with more images than features, real and generated; both, where there is what tells them.

        Args:
            features: (N, D), of generated or of real images.
            labels: int64 (N,), what was asked for.
        """
        scores, logits, labels = {}, self.logits(features), labels.to(features.device)
        if logits is not None and logits.shape[1] > int(labels.max()):
            scores["class_accuracy"] = (logits.argmax(1) == labels).double().mean().item()
        if self.labels is None:
            return scores
        real, fids = self.labels.to(features.device), []
        for label in labels.unique().tolist():
            parts = self.real[real == label], features[labels == label]
            if min(map(len, parts)) <= self.dim:
                return scores
            fid = FID(self.dim, sync_on_compute=False).to(self.device)
            for part, is_real in zip(parts, (True, False), strict=True):
                fid.update(part, real=is_real)
            fids.append(fid.compute().item())
        return scores | {"fid_within_classes": mean(fids)}

    def logits(self, features: Tensor) -> Tensor | None:
        """What the extractor's classifier makes of features: (N, K), or None where it has none."""
        if not hasattr(self.extractor, "classify"):
            return None
        with torch.no_grad():
            return cast(Callable[[Tensor], Tensor], self.extractor.classify)(features)

    def real_scores(self, num: int) -> dict[str, float]:
        """The scores of `num` training images: what a generator can hope for."""
        training, labels = self.training[:num], labels_of(self.train, self.order[:num])
        scores = self.scores(Generated(training, mean(self.floor(num))))
        return scores if labels is None else scores | self.condition_scores(training, labels)

    @cached_property
    def largest_class(self) -> float | None:
        """The share of the training images that the extractor's classifier puts in the most frequent class, or None."""
        logits = self.logits(self.training)
        return None if logits is None else (logits.argmax(1).bincount().max() / len(logits)).item()

    def fid_infinity(self, generated: Generated) -> float | None:
        """The FID that infinitely many images would have; None where there are too few to tell."""
        if len(generated.features) < max(20, PER_DIMENSION * self.dim):
            return None
        return fid_infinity(generated.features, *self._fid.moments(real=True))

    # ------------------------------------------------------------------ images

    def accuracy_score(self, make: Callable[[int], tuple[Tensor, Tensor]], num: int) -> float | None:
        """The accuracy on test images of a classifier that has seen nothing but `num` generated ones.

        `make` gives images and what they were asked to be, int64 (CHUNK,). None for real images that are not in memory,
        or have no labels.
        """
        real = in_memory(self.test)
        if real is None or self.labels is None:
            return None
        chunks = [make(number) for number in turns(num)]
        images = gather([to_uint8(part) for part, _ in chunks], num)
        labels = gather([part for _, part in chunks], num)
        score = error = None
        if processes()[0] == 0:
            cas = CAS((real.shape[1], real.shape[2], real.shape[3]), sync_on_compute=False).to(self.device)
            try:
                cas.update(to_float(images), labels, real=False)
                cas.update(to_float(real), self.test.labels, real=True)
                score = cas.compute().item()
            except ValueError as reason:  # all processes must hear of it
                error = str(reason)
        score, error = broadcast((score, error))
        if error is not None:
            raise GANError(error)
        return score

    def nearest_images(self, images: Tensor) -> Tensor:
        """Generated images, and the training images nearest to each, by feature and by pixel: uint8 (3, N, C, H, W).

        Where they are the same picture, the generator has learnt it by heart.

        Args:
            images: (N, C, H, W) in [-1, 1], on the device.
        """
        generated = to_uint8(images)
        _, by_feature = nearest(extract(self.extractor, generated).cpu(), self.training.cpu())
        (like,) = images_at(self.train, [self.order[by_feature]])
        generated = generated.cpu()
        best, same = torch.full((len(images),), torch.inf, dtype=torch.float64), generated.clone()
        for part in images_at(self.train, self.order.split(CHUNK)):
            distances, indices = nearest(generated.flatten(1).float(), part.cpu().flatten(1).float())
            closer = distances < best
            best[closer], same[closer] = distances[closer], part.cpu()[indices[closer]]
        return torch.stack([generated, like.cpu(), same])
