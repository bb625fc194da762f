"""The average against its closed form, and its way through a checkpoint."""

import copy
from functools import partial

import pytest
import torch
from commands import OwnGenerator
from conftest import same_weights
from lightning import Callback
from torch import nn
from torch.optim import SGD

from gan import GAN
from gan.callbacks import GeneratorEMA, ImageLogger, RunProgress
from gan.callbacks.generator_ema import average, tensors
from gan.networks import MLPDiscriminator


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


def test_resume_goes_on_averaging_what_is_told(told, make_trainer, tmp_path):
    """In the middle of an epoch of 32 batches; and it is the average that draws what is asked for."""
    (whole, data), (first, _), (second, _) = told(), told(), told()
    make_trainer(max_steps=10, callbacks=[GeneratorEMA()]).fit(whole, data)
    trainer = make_trainer(max_steps=4, callbacks=[GeneratorEMA()])
    trainer.fit(first, data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(max_steps=10, callbacks=[GeneratorEMA()]).fit(second, data, ckpt_path=tmp_path / "half.ckpt")
    assert same_weights(whole, second)
    latents, condition = whole.fixed_latents, whole.fixed_condition
    expected = copy.deepcopy(whole.generator_ema).eval()(latents, condition)
    assert torch.equal(whole(latents, condition), expected)
    assert not torch.equal(expected, copy.deepcopy(whole.generator).eval()(latents, condition))
    other = condition.roll(8, 0)
    assert not torch.equal(whole(latents, other), expected)


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


class Rebinding(OwnGenerator):
    """Puts a new buffer into the place of one in each pass of training; two of its layers share their weights."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 784), nn.Tanh())
        self.layers[2].weight = self.layers[0].weight
        self.register_buffer("level", torch.ones(1))

    def forward(self, latents):
        images = super().forward(latents)
        if self.training:
            self.level = 0.9 * self.level + 0.1 * images.detach().mean()
        return images


class Replace(Callback):
    """Puts new weights into the place of some, once or in each batch, and gives them to the optimizer."""

    def __init__(self, batches=()):
        self.batches, self.history = batches, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        layer, (group,) = pl_module.generator.layers[3], trainer.optimizers[1].param_groups
        self.history.append([parameter.detach().clone() for parameter in pl_module.generator.parameters()])
        if trainer.global_step in self.batches:
            old, new = layer.weight, nn.Parameter(layer.weight.detach().clone())
            layer.weight = new
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]


class Lazy(nn.Module):
    """Makes a buffer in its first forward pass in training, and another shape of it later."""

    latent_dim = 8

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)))
        self.register_buffer("level", None)

    def forward(self, latents):
        if self.training:
            self.level = torch.ones(1) if self.level is None else torch.ones(2)
        return self.layers(latents)


def test_buffers_that_come_late_are_averaged(make_trainer, data):
    gan = GAN(Lazy(), MLPDiscriminator((1, 28, 28)))
    make_trainer(max_steps=3, callbacks=[GeneratorEMA()]).fit(gan, data)
    assert gan.generator_ema.level.shape == (2,)


@pytest.mark.parametrize("batches", [(), (3,), range(9)], ids=["buffer", "once", "always"])
def test_tensors_in_the_place_of_others_are_averaged(make_trainer, data, batches):
    """And tied weights by one step of the average in a batch, not by two."""
    torch.manual_seed(0)
    gan, replace = GAN(Rebinding(), MLPDiscriminator((1, 28, 28))), Replace(batches)
    mean = [parameter.detach().clone() for parameter in gan.generator.parameters()]
    make_trainer(max_steps=9, callbacks=[GeneratorEMA(half_life=20), replace]).fit(gan, data)
    for batch, now in enumerate(replace.history, start=1):
        keep = 0.5 ** (16 / min(20, 16 * batch / 20))
        mean = [keep * one + (1 - keep) * other for one, other in zip(mean, now, strict=True)]
    assert len(mean) == 5
    for expected, parameter in zip(mean, gan.generator_ema.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)
    assert (mean[3] - replace.history[2][3]).abs().max() > 1e-4  # it went on after the third batch
    assert torch.equal(gan.generator_ema.level, gan.generator.level)
    assert float(gan.generator.level) < 0.5


class Keep(Callback):
    """Keeps the generator's weights after each batch."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append(pl_module.generator.output.weight.detach().double().clone())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_16_bits_are_averaged_in_32(make_gan, make_trainer, data, tmp_path, precision):
    """Steps of a two-hundredth are less than half of the last bit of bfloat16: there, the average would stand still."""

    def fit(steps, ckpt_path=None):
        gan, keep = make_gan(generator_optimizer=partial(SGD, lr=0.1), discriminator_optimizer=SGD), Keep()
        start = gan.generator.output.weight.detach().double().clone()
        trainer = make_trainer(max_steps=steps, precision=precision, callbacks=[GeneratorEMA(half_life=2000), keep])
        trainer.fit(gan, data, ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return gan, start, keep.weights

    whole, mean, weights = fit(24)
    for batch, now in enumerate(weights, start=1):
        decay = 0.5 ** (16 / min(2000, 16 * batch / 20))
        mean = decay * mean + (1 - decay) * now
    assert whole.generator.output.weight.dtype == whole.dtype == whole(whole.fixed_latents).dtype != torch.float32
    assert all(tensor.dtype == torch.float32 for tensor in whole.generator_ema.parameters())
    torch.testing.assert_close(whole.generator_ema.output.weight.double(), mean, rtol=0, atol=1e-6)
    # What a checkpoint has of it: to draw from, and to go on with.
    assert same_weights(GAN.load_from_checkpoint(tmp_path / "24.ckpt").generator_ema, whole.generator_ema)
    fit(10)
    assert same_weights(fit(24, tmp_path / "10.ckpt")[0], whole)


def test_a_run_of_16_bits_validates_and_draws_by_the_average(make_gan, make_trainer, data, tmp_path):
    data.validation_size = 64
    callbacks = [GeneratorEMA(), ImageLogger(every=2), RunProgress()]
    gan = make_gan()
    trainer = make_trainer(max_steps=4, precision="bf16-true", callbacks=callbacks, enable_progress_bar=True)
    trainer.fit(gan, data)
    assert (tmp_path / "samples" / "fixed_000004.png").exists()
    (scores,) = trainer.validate(gan, data, verbose=False)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = make_trainer(precision="bf16-true").validate(make_gan(), data, ckpt_path=tmp_path / "x.ckpt", verbose=False)
    assert again == [scores]


def test_bad_half_life():
    with pytest.raises(ValueError, match="half_life"):
        GeneratorEMA(half_life=0)
