"""The weights that images come from: lent, and given back."""

import pytest
import torch
from conftest import same_weights
from lightning import Callback

from gan.callbacks import RunCheckpoint
from gan.weights import holding, sampled, weights_of


def test_images_come_from_the_average_where_there_is_one(make_gan):
    gan = make_gan()
    assert sampled(gan) is gan.generator
    gan.add_ema()
    assert sampled(gan) is gan.generator_ema


def test_weights_are_given_back_whatever_happens(make_gan):
    gan, before, lent = make_gan(), make_gan(), make_gan()
    for parameter in lent.generator.parameters():
        parameter.data.add_(1)

    def fails() -> None:
        with holding(gan.generator, lent.generator.state_dict()):
            assert same_weights(gan.generator, lent.generator)
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        fails()
    assert same_weights(gan, before)
    with holding(gan.generator, None):
        assert same_weights(gan, before)


def test_weights_of_a_batch_are_those_of_its_checkpoint(make_gan, make_trainer, data):
    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 2:
                self.then = {name: value.clone() for name, value in pl_module.generator.state_dict().items()}
            if trainer.global_step == 4:
                self.weights = [weights_of(step, trainer, pl_module) for step in (-1, 2, 4)]

    look = Look()
    make_trainer(max_steps=4, callbacks=[look, RunCheckpoint(every=2)]).fit(make_gan(), data)
    none, of_batch, now = look.weights
    assert none is None
    assert now is None  # the network has them
    assert of_batch.keys() == look.then.keys()
    assert all(torch.equal(of_batch[name], look.then[name]) for name in of_batch)
    with pytest.warns(UserWarning, match="of batch 3, cannot be scored again"):
        make_trainer(max_steps=5, callbacks=[Missing()]).fit(make_gan(), data)


class Missing(Callback):
    def on_train_end(self, trainer, pl_module):
        assert weights_of(3, trainer, pl_module) is None
