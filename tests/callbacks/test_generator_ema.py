"""The average against its closed form, and its way through a checkpoint."""

import pytest
import torch
from conftest import same_weights
from lightning import Callback
from torch import nn

from gan import GAN
from gan.callbacks import GeneratorEMA
from gan.callbacks.generator_ema import average, tensors


def test_average_closed_form():
    mean, network = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with torch.no_grad():
        mean.weight.fill_(2.0)
        network.weight.fill_(10.0)
        network.running_mean.fill_(5.0)
    for _ in range(3):
        average(tensors(mean), tensors(network), decay=0.75)
    torch.testing.assert_close(mean.weight, torch.full((3,), 10 - 8 * 0.75**3))
    assert torch.equal(mean.running_mean, network.running_mean)  # buffers are copied
    assert mean.num_batches_tracked == network.num_batches_tracked


def test_half_life_is_in_images(make_gan, make_trainer, data):
    """Against the recursion on the generator's own weights, its half-life shortened at the start."""
    gan, history = make_gan(), []

    class Record(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            history.append(pl_module.generator.output.weight.detach().double().clone())

    start = gan.generator.output.weight.detach().double().clone()
    make_trainer(max_steps=30, callbacks=[GeneratorEMA(half_life=20), Record()]).fit(gan, data)
    expected = start
    for batch, weight in enumerate(history, start=1):
        half_life = min(20, 16 * batch / 20)  # images; a batch has 16
        keep = 0.5 ** (16 / half_life)
        expected = keep * expected + (1 - keep) * weight
    torch.testing.assert_close(gan.generator_ema.output.weight.double(), expected, rtol=0, atol=1e-6)
    assert not same_weights(gan.generator_ema, gan.generator)


def test_training_is_the_same_with_and_without(make_gan, make_trainer, data):
    one, two = make_gan(), make_gan()
    make_trainer(callbacks=[GeneratorEMA()]).fit(one, data)
    make_trainer().fit(two, data)
    assert same_weights(one.generator, two.generator)
    assert same_weights(one.discriminator, two.discriminator)
    assert not any(parameter.requires_grad for parameter in one.generator_ema.parameters())


def test_resume_goes_on_averaging(make_gan, make_trainer, data, tmp_path):
    whole, first, second = make_gan(), make_gan(), make_gan()
    make_trainer(max_steps=10, callbacks=[GeneratorEMA()]).fit(whole, data)
    trainer = make_trainer(max_steps=4, callbacks=[GeneratorEMA()])
    trainer.fit(first, data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(max_steps=10, callbacks=[GeneratorEMA()]).fit(second, data, ckpt_path=tmp_path / "half.ckpt")
    assert same_weights(whole, second)


def test_checkpoint_without_average_starts_one(make_gan, make_trainer, data, tmp_path):
    trainer = make_trainer(max_steps=4)
    trainer.fit(make_gan(), data)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert GAN.load_from_checkpoint(tmp_path / "plain.ckpt").generator_ema is None
    gan = make_gan()
    make_trainer(max_steps=4, callbacks=[GeneratorEMA()]).fit(gan, data, ckpt_path=tmp_path / "plain.ckpt")
    assert same_weights(gan.generator_ema, gan.generator)


def test_checkpoint_with_average_in_a_run_without_warns(make_gan, make_trainer, data, tmp_path):
    trainer = make_trainer(max_steps=4, callbacks=[GeneratorEMA()])
    trainer.fit(make_gan(), data)
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    gan = make_gan()
    with pytest.warns(UserWarning, match="averaged generator is dropped"):
        make_trainer(max_steps=5).fit(gan, data, ckpt_path=tmp_path / "ema.ckpt")
    assert gan.generator_ema is None


def test_bad_half_life():
    with pytest.raises(ValueError, match="half_life"):
        GeneratorEMA(half_life=0)
