"""What features are learnt from."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gan.metrics.pretext import Classes, Turns


def test_classes_are_learnt_by_cross_entropy():
    images, labels = torch.randn(4, 1, 2, 2), torch.tensor([0, 2, 1, 2])
    logits = torch.tensor([[3.0, 0, 0], [0, 0, 1], [2, 0, 0], [0, 0, 5]])
    seen = []
    loss, right = Classes(3).learn(lambda x: seen.append(x) or logits, images, labels, lambda x: 2 * x)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    assert right.tolist() == [True, True, False, True]
    assert torch.equal(seen[0], 2 * images)
    assert Classes(3).guess == pytest.approx(1 / 3)


@pytest.mark.parametrize(("shape", "turns"), [((1, 3, 3), [0, 1, 2, 3, 0]), ((2, 2, 3), [0, 2, 0, 2, 0])])
def test_images_are_turned_by_quarters_or_if_not_square_by_halves(shape, turns):
    images, seen = torch.randn(5, *shape), []
    task = Turns(shape)
    logits = torch.randn(5, task.outputs)
    before = images.clone()
    loss, right = task.learn(lambda x: seen.append(x) or logits, images, torch.zeros(5), nn.Identity())
    assert torch.equal(images, before)
    for image, turned, turn in zip(images, seen[0], turns, strict=True):
        assert torch.equal(turned, image.rot90(turn, (1, 2)))
    answers = torch.tensor(turns) * task.outputs // 4
    torch.testing.assert_close(loss, F.cross_entropy(logits, answers))
    assert torch.equal(right, logits.argmax(1) == answers)
    assert task.guess == 1 / len(set(turns))
