"""What is wrong with the data, whatever the networks: images that are alike, of one class, or come in a bad order."""

from gan.gradients.batches import between_over_within
from gan.gradients.rules import WINDOW, Finding, Record, Rule, Thresholds
from gan.gradients.stats import BatchStats

CONSTANT, ONE_CLASS = "constant data", "data nearly all of one class"
REPEATED, UNSHUFFLED = "batches that repeat", "batches that are not shuffled"


def batches_of(record: Record) -> list[BatchStats]:
    """The batches that were looked at, the oldest first."""
    return [stats.batch for stats in record.stats if stats.batch is not None]


def constant_data(record: Record, limits: Thresholds) -> Finding | None:
    """Real images that are one image."""
    if not all(stats.spread_real < limits.alike for stats in record.stats):
        return None
    return Finding(
        CONSTANT,
        f"two real images of a batch are {record.latest.spread_real:.2g} apart, less than rounding to 8 bits makes: "
        "they are one image again and again, and there is nothing else to learn",
        "Goodfellow et al. 2014, arXiv:1406.2661",
        certain=len(record.stats) > 1,
    )


def one_class(record: Record, limits: Thresholds) -> Finding | None:
    """Real images of which nearly all are of one class, by their labels or else by the classifier that scores."""
    batches = batches_of(record)
    known = [(each.label, each.label_share) for each in batches if each.label_share is not None]
    labels, shares = {label for label, _ in known}, [share for _, share in known]
    share = sum(shares) / len(shares) if len(labels) == 1 and len(shares) >= WINDOW // 2 else 0.0
    by = "by its labels"
    if share == 1 and not record.conditional:
        share = 0.0  # the folder has one class, and is meant to
    score = record.scores[-1] if record.scores else None
    if score is not None and score.largest_class is not None and not share:
        share, by = score.largest_class, "by the classifier that scores images"
    if not share >= limits.one_class:
        return None
    return Finding(
        ONE_CLASS,
        f"{share:.0%} of the training data is of one class, {by}: the discriminator sees next to nothing of the "
        "others, and what the generator makes of them is not missed",
        "Buda et al. 2018, arXiv:1710.05381",
        beyond=share / limits.one_class,
    )


def repeated_batches(record: Record, limits: Thresholds) -> Finding | None:
    """Batches that have the images of earlier ones, while the data has more."""
    batch = record.latest.batch
    if batch is None or batch.seen < WINDOW or not batch.variance > 0:
        return None
    if batch.distinct > limits.repeated * batch.seen or (batch.epoch is not None and batch.distinct >= batch.epoch):
        return None
    there = "of an epoch without end" if batch.epoch is None else f"though an epoch has {batch.epoch:,}"
    return Finding(
        REPEATED,
        f"of the latest {batch.seen} batches only {batch.distinct} {'has' if batch.distinct == 1 else 'have'} images "
        f"that none before had, {there}: the networks are trained on these few alone",
        "Bottou 2012, Stochastic gradient descent tricks; Karras et al. 2020, arXiv:2006.06676",
        beyond=limits.repeated * batch.seen / batch.distinct,
    )


def unshuffled_batches(record: Record, limits: Thresholds) -> Finding | None:
    """Batches each of which has images that are like each other, and unlike those of other batches."""
    batches = batches_of(record)
    if len(batches) < WINDOW // 2:
        return None
    ratio = between_over_within(batches)
    if not ratio > limits.unshuffled:
        return None
    return Finding(
        UNSHUFFLED,
        f"the mean images of {len(batches)} batches are {ratio:.2g} times as far apart, in variance, as those of "
        "batches drawn at random would be: each batch has images of a kind, as data has that is sorted by class or "
        "by time, and the networks forget one kind over the next",
        "Bottou 2012, Stochastic gradient descent tricks; Bengio 2012, arXiv:1206.5533",
        beyond=ratio / limits.unshuffled,
    )


OF_DATA: tuple[Rule, ...] = (constant_data, one_class, repeated_batches, unshuffled_batches)
