"""The divergence of n-grams, against a count by hand and SciPy's distance."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch.nn.functional import one_hot
from torchmetrics import MetricCollection

from gan.metrics import NgramDistance


def texts(seed, num=40, characters=7, length=12):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(num, length, generator=generator) ** 2 * characters).long()


def distance(n, real, fake):
    metric = NgramDistance(n, real.shape[1])
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 12])
def test_it_is_the_square_of_scipys_distance(n):
    real, fake = texts(1), texts(2, num=25)

    def counts(rows):
        return Counter(tuple(row[i : i + n]) for row in rows.tolist() for i in range(len(row) - n + 1))

    one, two = counts(real), counts(fake)
    kinds = sorted(one | two)
    expected = jensenshannon(*(np.array([each[kind] for kind in kinds]) for each in (one, two)), base=2) ** 2
    score = distance(n, real, fake)
    assert score.dtype == torch.float64
    assert score.item() == pytest.approx(expected, abs=1e-12)
    assert 0 < score < 1


def test_ends_of_its_range():
    real = texts(1)
    assert distance(3, real, real.repeat(2, 1)) == 0
    assert distance(1, real, real + 7) == 1


def test_long_ngrams_of_many_characters_do_not_overflow():
    real = torch.tensor([[60_000] * 19 + [1]])
    assert distance(20, real, real) == 0
    assert distance(20, real, torch.tensor([[60_000] * 19 + [2]])) == 1


def test_samples_count_by_their_largest_channel():
    real, fake = texts(1), texts(2)
    samples = one_hot(fake, 7).transpose(1, 2).float().softmax(1)
    assert distance(2, real, samples) == distance(2, real, fake)


def test_a_collection_shares_the_texts_and_batches_do_not_matter():
    metrics = {f"ngram/{n}": NgramDistance(n, 12) for n in (1, 2, 3)}
    collection = MetricCollection(metrics, compute_groups=[[*metrics]])
    for _ in range(2):
        for part in texts(2).split(7):
            collection.update(part, real=False)
        collection.update(texts(1), real=True)
        collection.update(texts(1)[:0], real=True)
        scores = collection.compute()
        assert {n: scores[f"ngram/{n}"] for n in (1, 2, 3)} == {n: distance(n, texts(1), texts(2)) for n in (1, 2, 3)}
        collection.reset()


def test_processes_put_their_texts_together():
    whole, parts = NgramDistance(2, 12), [NgramDistance(2, 12) for _ in range(2)]
    for real, rows in ((True, texts(1)), (False, texts(2))):
        whole.update(rows, real=real)
        for metric, part in zip(parts, rows.tensor_split(2), strict=True):
            metric.update(part, real=real)
    parts[0].merge_state(parts[1])
    assert parts[0].compute() == whole.compute()


def test_bad_input_is_one_line():
    for n in (0, 13):
        with pytest.raises(ValueError, match=f"n must be at least 1 and at most the 12 characters of a text, got {n}"):
            NgramDistance(n, 12)
    metric = NgramDistance(2, 12)
    for bad in (texts(1)[:, :5], texts(1).float(), texts(1)[0]):
        with pytest.raises(ValueError, match=r"texts must be integers \(N, 12\) or samples \(N, V, 12\), got"):
            metric.update(bad, real=True)
    metric.update(texts(1), real=True)
    with pytest.raises(ValueError, match="at least 1 generated text is needed, got 0"):
        metric.compute()
