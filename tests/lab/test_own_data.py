"""Data with a slip: that it has the one that it is said to have."""

from itertools import islice

import pytest
import torch

from gan.lab.own_data import ConstantMNIST, MostlyOnes, RepeatedMNIST, SortedMNIST


def batches(data, num):
    return list(islice(iter(data.train_dataloader()), num))


def test_sorted_batches_are_of_one_digit_each():
    found = batches(SortedMNIST(64), 100)
    assert [labels.unique().tolist() for _, labels in found[:3]] == [[0], [0], [0]]
    assert found[-1][1].unique().tolist() == [1]
    assert not torch.equal(found[0][0], found[1][0])
    assert (found[0][0].min(), found[0][0].max()) == (-1, 1)


def test_the_first_batch_comes_again():
    first, *others = batches(RepeatedMNIST(16), 3)
    assert len(first[0].flatten(1).unique(dim=0)) == 16
    assert all(torch.equal(images, first[0]) for images, _ in others)


@pytest.mark.parametrize("train", [True, False])
def test_images_for_training_are_the_first_one(train):
    images, labels = ConstantMNIST().load(train)
    assert len(labels.unique()) == 10
    assert (images == images[0]).all() == train


def test_nearly_all_are_ones():
    _, labels = MostlyOnes().load(train=True)
    assert 0.9 < (labels == 1).double().mean() < 0.99
    assert len(labels.unique()) > 1
    assert len(MostlyOnes().load(train=False)[1]) == 10_000
