"""What surrounds the two steps: the numbers of what is logged, schedules, checks before a run, checkpoints."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from commands import equal, load
from conftest import Pairs, Recorder, SmallMNIST, TableLogger, same_weights
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from texts import make_data
from texts import make_gan as make_gan_of_texts
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from gan import GAN
from gan.augment import DiffAugment
from gan.callbacks import GeneratorEMA, GradientDoctor, GradientMonitor
from gan.errors import GANError
from gan.generate import export, sample
from gan.gradients.rules import Thresholds
from gan.images import to_uint8
from gan.losses import Wasserstein
from gan.networks import (
    AuxiliaryDCGANDiscriminator,
    ClassifierDCGANDiscriminator,
    ConditionalDCGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    Discriminator,
    MLPDiscriminator,
    MLPGenerator,
    PatchDiscriminator,
    ProjectionDCGANDiscriminator,
    UNetGenerator,
)
from gan.optim import WarmupCosine
from gan.penalties import DRAGAN, R1, ApproximateR1, ApproximateR2, GradientPenalty
from gan.terms import Classification, SemiSupervised

SHAPE = (1, 28, 28)


def test_everything_counts_training_batches(make_gan, make_trainer, data, tmp_path):
    recorder, table = Recorder(), TableLogger()
    checkpoints = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    trainer = make_trainer(max_steps=12, logger=table, log_every_n_steps=4, callbacks=[recorder, checkpoints])
    trainer.fit(make_gan(), data)
    assert recorder.global_steps == list(range(1, 13))
    assert recorder.optimizer_steps == ["d", "g"] * 12
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=10.ckpt", "step=5.ckpt"]
    assert [step for step, _ in table.rows] == [4, 8, 12]
    assert set(table.rows[0][1]) == {"loss/discriminator", "loss/generator"}


@pytest.mark.parametrize("where", ["on_train_batch_start", "training_step", "on_train_batch_end"])
def test_what_a_user_logs_has_the_number_of_its_batch(make_gan, make_trainer, data, tmp_path, where):
    """By Lightning's own `log`, in the module or a callback, from the first batch on; files keep their names."""

    class Own(Callback):
        def __getattribute__(self, name):
            return self.note if name == where else super().__getattribute__(name)

        def note(self, trainer, pl_module, *args):
            pl_module.log("own", float(pl_module.global_step + (where == "on_train_batch_start")))

    class OwnGAN(GAN):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.log("own", float(self.global_step))

    gan, table = make_gan(), TableLogger()
    if where == "training_step":
        gan.__class__ = OwnGAN
    checkpoints = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    own = [] if where == "training_step" else [Own()]
    trainer = make_trainer(max_steps=12, logger=table, log_every_n_steps=4, callbacks=[checkpoints, *own])
    trainer.fit(gan, data)
    noted = [(step, metrics["own"]) for step, metrics in table.rows if "own" in metrics]
    assert noted == [(4, 4.0), (8, 8.0), (12, 12.0)]
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=10.ckpt", "step=5.ckpt"]


def test_plain_sgd_and_schedulers(make_gan, make_trainer, data):
    gan = make_gan(
        discriminator_optimizer=partial(SGD, lr=1.0),
        generator_optimizer=partial(Adam, lr=1.0),
        discriminator_scheduler=partial(WarmupCosine, warmup=2),
        n_critic=2,
    )
    trainer = make_trainer(max_steps=4)
    trainer.fit(gan, data)
    discriminators, generators = trainer.optimizers
    assert isinstance(discriminators, SGD)
    assert discriminators.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)  # at the end of max_steps
    assert generators.param_groups[0]["lr"] == 1.0


def test_python_checkpoint_loads_with_weights_only(make_gan, make_trainer, data, tmp_path):
    gan = make_gan(
        loss=Wasserstein(),
        penalties=[GradientPenalty(3.0, every=2)],
        generator_optimizer=partial(Adam, lr=1e-3, betas=(0.0, 0.9)),
        n_critic=2,
    )
    trainer = make_trainer(callbacks=[GeneratorEMA()])
    trainer.fit(gan, data)
    path = tmp_path / "gan.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    loaded = GAN.load_from_checkpoint(path, weights_only=True)
    assert same_weights(gan, loaded)
    assert type(loaded.loss) is Wasserstein
    assert loaded.n_critic == 2
    assert (loaded.penalties[0].weight, loaded.penalties[0].every) == (3.0, 2)
    optimizer = loaded.make_optimizer[1](loaded.generator.parameters())
    assert optimizer.defaults["betas"] == (0.0, 0.9)
    latents = torch.randn(4, 8)
    assert torch.equal(gan(latents), loaded(latents))  # by the averaged generator, in both


class TakesWhatThereIs(torch.nn.Module):
    """Is told something of each image, and does not say what."""

    def __init__(self, latent_dim=8):
        super().__init__()
        self.latent_dim = latent_dim
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, z, condition):
        of_image = condition.flatten(1).mean(1) if condition.ndim > 1 else condition / 10
        return (self.scale * of_image).tanh()[:, None, None, None].expand(-1, *SHAPE)


@pytest.mark.parametrize("says", [True, False])
def test_python_checkpoint_knows_what_its_generator_is_told(told, make_trainer, tmp_path, says):
    """Which the generator says or, where it takes what there is, the data."""
    gan, data = told()
    if not says:
        gan = GAN(TakesWhatThereIs(), gan.discriminator)
    trainer = make_trainer(max_steps=2, callbacks=[GeneratorEMA()])
    trainer.fit(gan, data)
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    loaded = GAN.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True, trust="test_lifecycle")
    assert same_weights(gan, loaded)
    assert (loaded.num_classes, loaded.condition_shape) == (gan.num_classes, gan.condition_shape)
    assert (gan.num_classes, gan.condition_shape) in ((10, None), (None, (1, 7, 7)))
    assert torch.equal(gan.sample(64, condition=gan.fixed_condition), loaded.sample(64, condition=gan.fixed_condition))


def test_pairs_to_watch_are_the_first_test_images(make_trainer):
    """Those of the validation set where there is no test set; sources again and again, where there are too few."""
    shapes = SHAPE, Pairs.condition_shape

    def watched(data, num=4):
        generator = UNetGenerator(*shapes, latent_dim=8, base_channels=4)
        gan = GAN(generator, PatchDiscriminator(*shapes, base_channels=4), num_fixed_latents=num)
        make_trainer(max_steps=1, limit_val_batches=0).fit(gan, data)
        return gan.fixed_sources, gan.fixed_target

    class WithoutTest(Pairs):
        def test_dataloader(self):
            return []

    class Few(Pairs):
        def load(self, train):
            return tuple(part[: 512 if train else 3] for part in super().load(train))

    data = Pairs(16, validation_size=0)
    data.setup("test")
    images, sources = next(iter(data.test_dataloader()))
    assert equal(watched(data), (sources[:4], images[:4]))
    few = watched(Few(16, validation_size=0), 7)
    assert equal(few, (sources[[0, 1, 2, 0, 1, 2, 0]], images[:3]))
    data = WithoutTest(16, validation_size=32)
    data.setup("validate")
    images, sources = next(iter(data.val_dataloader()))
    assert equal(watched(data), (sources[:4], images[:4]))
    assert watched(WithoutTest(16, validation_size=0)) == (None, None)


def test_pairs_to_watch_come_as_batches_do(make_trainer):
    """By the hooks of a data module that scales images on the device."""

    class Levels(Pairs):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [part.flip(-1) for part in batch]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [(part + 1) * 127.5 / 255 for part in batch]

    def watched(data):
        gan = GAN(UNetGenerator(SHAPE, (1, 7, 7), 8, 4), PatchDiscriminator(SHAPE, (1, 7, 7), 4), num_fixed_latents=4)
        make_trainer(max_steps=1).fit(gan, data)
        return gan.fixed_sources, gan.fixed_target

    plain, levels = (watched(data(16, validation_size=0)) for data in (Pairs, Levels))
    for one, other in zip(plain, levels, strict=True):
        torch.testing.assert_close((one.flip(-1) + 1) / 2, other)


def test_a_class_that_nobody_judges_by_is_a_warning(make_trainer, data, recwarn):
    def warned(discriminator, **settings):
        recwarn.clear()
        gan = GAN(ConditionalDCGANGenerator(SHAPE, 10, 8, 4), discriminator, **settings)
        make_trainer(max_steps=1).fit(gan, data)
        return [str(warning.message) for warning in recwarn if "nothing holds it" in str(warning.message)]

    judge = AuxiliaryDCGANDiscriminator(SHAPE, 10, 4)
    (text,) = warned(judge)
    assert "ConditionalDCGANGenerator is told the class" in text
    assert warned(judge, classification=Classification()) == warned(ProjectionDCGANDiscriminator(SHAPE, 10, 4)) == []


def test_unknown_network_is_named_where_it_is_needed_and_can_be_given(make_gan, make_trainer, data, tmp_path, recwarn):
    class Mine(torch.nn.Sequential):
        latent_dim = 8

    generator = Mine(torch.nn.Linear(8, 784), torch.nn.Tanh(), torch.nn.Unflatten(1, SHAPE))
    gan = GAN(generator, MLPDiscriminator(image_shape=SHAPE))
    trainer = make_trainer(max_steps=1)
    trainer.fit(gan, data)
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    assert not [warning for warning in recwarn if "rebuild" in str(warning.message)]
    with pytest.raises(ValueError, match=r"cannot rebuild its generator, .* by GAN.load_from_checkpoint\(path, "):
        GAN.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True)
    with pytest.raises(ValueError, match="cannot rebuild its generator"):
        sample(str(tmp_path / "gan.ckpt"), str(tmp_path / "x.png"))
    fresh = Mine(torch.nn.Linear(8, 784), torch.nn.Tanh(), torch.nn.Unflatten(1, SHAPE))
    loaded = GAN.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True, generator=fresh)
    assert same_weights(gan, loaded)


@pytest.mark.parametrize("form", ["o.npy", "o.pt2"])
@pytest.mark.parametrize("make", ["sequence", "nested"])
def test_images_need_no_discriminator(make_trainer, data, tmp_path, form, make):
    """Which may be of a class that no checkpoint can name."""

    class Nested(torch.nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, images):
            return self.body(images)

    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 1), torch.nn.Flatten(0))
    gan = GAN(MLPGenerator(image_shape=SHAPE, latent_dim=8), body if make == "sequence" else Nested(body))
    trainer = make_trainer(max_steps=1)
    trainer.fit(gan, data)
    path = tmp_path / "gan.ckpt"
    trainer.save_checkpoint(path)
    (sample if form == "o.npy" else export)(str(path), str(tmp_path / form))
    if form == "o.npy":
        assert (np.load(tmp_path / form) == to_uint8(gan.sample(64))[:, 0].numpy()).all()
    with pytest.raises(GANError, match="cannot rebuild its discriminator"):
        GAN.load_from_checkpoint(path, weights_only=True)  # which is to train


class Plain(torch.nn.Module):
    """A network as people write them, given from Python."""

    def __init__(self, latent_dim: int = 8, width: int = 5, slope: float = 0.2):
        super().__init__()
        self.latent_dim = latent_dim
        self.width = width
        self.slope = slope
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(latent_dim, width), torch.nn.LeakyReLU(slope), torch.nn.Linear(width, 784), torch.nn.Tanh()
        )

    def forward(self, latents):
        return self.layers(latents).unflatten(1, SHAPE)


@pytest.mark.parametrize("compiled", [False, True])
def test_any_module_that_keeps_its_arguments_is_rebuilt(make_trainer, data, tmp_path, compiled):
    """By sample and export too; what `torch.compile` has wrapped as what it has wrapped."""
    generator = Plain(width=7, slope=0.3)
    given = torch.compile(generator, backend="eager") if compiled else generator
    gan = GAN(given, MLPDiscriminator(image_shape=SHAPE))
    trainer = make_trainer(max_steps=2, callbacks=[GeneratorEMA()])
    trainer.fit(gan, data)
    path = tmp_path / "gan.ckpt"
    trainer.save_checkpoint(path)
    assert not [key for key in load(path)["state_dict"] if "_orig_mod" in key]
    loaded = GAN.load_from_checkpoint(path, weights_only=True, trust="test_lifecycle")
    assert type(loaded.generator) is Plain
    assert (loaded.generator.width, loaded.generator.slope) == (7, 0.3)
    latents = torch.randn(4, 8)
    assert torch.equal(gan(latents), loaded(latents))
    sample(str(path), str(tmp_path / "x.png"), trust="test_lifecycle")
    export(str(path), str(tmp_path / "x.pt2"), trust="test_lifecycle")
    again = GAN(torch.compile(Plain(width=7), backend="eager"), MLPDiscriminator(image_shape=SHAPE))
    trainer = make_trainer(max_steps=3, callbacks=[GeneratorEMA()])
    trainer.fit(again, data, ckpt_path=path, weights_only=True)
    assert trainer.global_step == 3


class Lost(Plain):
    """Loses an argument that no shape shows."""

    def __init__(self, latent_dim: int = 8, width: int = 5, leak: float = 0.2):
        super().__init__(latent_dim, width, leak)


class Hidden(Plain):
    """Keeps an argument under another name alone."""

    def __init__(self, latent_dim: int = 8, width: int = 5, gain: float = 1.0):
        super().__init__(latent_dim, width)
        self._gain = gain


class Buffered(Plain):
    """Has a buffer that no checkpoint holds, changed after its construction."""

    def __init__(self, latent_dim: int = 8, width: int = 5, slope: float = 0.2):
        super().__init__(latent_dim, width, slope)
        self.register_buffer("level", torch.ones(1), persistent=False)


class Changed(Plain):
    """Is changed after its construction."""


@pytest.mark.parametrize("generator", [Lost(leak=0.5), Hidden(gain=5.0), Buffered(), Changed()])
def test_a_module_that_would_be_rebuilt_as_another_is_not(make_trainer, data, tmp_path, generator):
    if isinstance(generator, Changed):
        generator.layers[1] = torch.nn.LeakyReLU(0.7)
    if isinstance(generator, Buffered):
        generator.level.fill_(2)
    assert "generator" not in GAN(generator, MLPDiscriminator(image_shape=SHAPE)).hparams
    if isinstance(generator, Changed | Buffered):
        assert "generator" in GAN(type(generator)(), MLPDiscriminator(image_shape=SHAPE)).hparams


def test_an_inner_part_that_is_compiled_loads_with_an_average(make_trainer, data):
    def make():
        generator = Plain()
        generator.layers = torch.compile(generator.layers, backend="eager")
        return GAN(generator, MLPDiscriminator(image_shape=SHAPE))

    gan = make()
    make_trainer(max_steps=1, callbacks=[GeneratorEMA()]).fit(gan, data)
    loaded = make()
    loaded.load_state_dict(gan.state_dict())
    latents = torch.randn(4, 8)
    assert torch.equal(gan(latents), loaded(latents))


def test_lightnings_predict_makes_images_of_latents(make_gan, make_trainer):
    gan, latents = make_gan(), torch.randn(4, 8)
    (images,) = make_trainer().predict(gan, torch.utils.data.DataLoader(latents, batch_size=4))
    assert torch.equal(images, gan(latents))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("penalty", [R1(1.0), GradientPenalty()])
def test_penalties_of_a_compiled_discriminator_are_a_line(make_trainer, data, penalty, in_place):
    discriminator = MLPDiscriminator(image_shape=SHAPE)
    if in_place:
        discriminator.compile(backend="eager")
    else:
        discriminator = torch.compile(discriminator, backend="eager")
    gan = GAN(MLPGenerator(image_shape=SHAPE, latent_dim=8), discriminator, penalties=[penalty])
    with pytest.raises(ValueError, match=f"{type(penalty).__name__} takes derivatives of derivatives, which"):
        make_trainer().fit(gan, data)


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16-mixed"), (False, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_that_is_emulated_is_told_with_its_price(make_gan, make_trainer, data, monkeypatch, has, precision):
    able = {"architecture": "x86_64", "avx512_bf16": has, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make_trainer(max_steps=1, precision=precision).fit(make_gan(), data)
    emulated = [str(each.message) for each in told if "emulates it: a batch of the default took" in str(each.message)]
    assert len(emulated) == (precision == "bf16-mixed" and not has)


def test_approximate_penalties_of_a_compiled_discriminator_train(make_trainer, make_gan, data):
    """To the weights that they have of one that is not compiled."""
    gans = [make_gan(penalties=[ApproximateR1(1.0), ApproximateR2(1.0, every=2)]) for _ in range(2)]
    gans[1].discriminator.compile(backend="eager")
    for gan in gans:
        make_trainer(max_steps=3).fit(gan, data)
    assert same_weights(*gans)
    without = make_gan()
    make_trainer(max_steps=3).fit(without, data)
    assert not same_weights(gans[0], without)


class WrongShape(Discriminator):
    def forward(self, images):
        return images.mean()  # of the batch


@pytest.mark.parametrize(
    ("generator", "discriminator", "message"),
    [
        (MLPGenerator(image_shape=(3, 32, 32)), MLPDiscriminator(image_shape=(3, 32, 32)), "the data has"),
        (MLPGenerator(image_shape=SHAPE), MLPDiscriminator(image_shape=(3, 32, 32)), "does not take images"),
        (MLPGenerator(image_shape=SHAPE), WrongShape(image_shape=SHAPE), "must return a logit for each image"),
        (torch.nn.Linear(8, 784), MLPDiscriminator(image_shape=SHAPE), "needs an attribute latent_dim"),
    ],
)
def test_networks_that_do_not_fit(make_trainer, data, generator, discriminator, message):
    with pytest.raises(ValueError, match=message):
        make_trainer().fit(GAN(generator, discriminator, num_fixed_latents=2), data)


def test_latents_that_do_not_fit(make_trainer, data):
    generator = MLPGenerator(image_shape=SHAPE, latent_dim=8)
    generator.latent_dim = 9
    with pytest.raises(ValueError, match="does not take latents"):
        make_trainer().fit(GAN(generator, MLPDiscriminator(image_shape=SHAPE)), data)


@pytest.mark.parametrize(
    ("settings", "mixing"),
    [
        ({"norm": "batch"}, "BatchNorm2d"),
        ({"minibatch_std": True}, "MinibatchStd"),
        ({"norm": "batch", "minibatch_std": True}, "BatchNorm2d and MinibatchStd"),
    ],
)
def test_what_mixes_a_batch_under_a_penalty_warns(make_trainer, data, settings, mixing):
    gan = GAN(
        DCGANGenerator(image_shape=SHAPE, base_channels=4),
        DCGANDiscriminator(image_shape=SHAPE, base_channels=4, **settings),
        penalties=[GradientPenalty()],
    )
    with pytest.warns(UserWarning, match=f"{mixing} in the discriminator mixes the images of a batch"):
        make_trainer(max_steps=1).fit(gan, data)


@pytest.mark.parametrize(
    ("dtype", "average"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_an_average_has_32_bits_at_least(make_gan, dtype, average):
    """Whether it comes before the conversion that Lightning makes of the module, or after it, or of networks."""
    before, after, networks = make_gan(), make_gan(), make_gan()
    before.add_ema()
    assert before.to(dtype=dtype) is before
    after.to(dtype=dtype).add_ema()
    networks.generator.to(dtype)
    networks.add_ema()
    networks.to(torch.device("cpu"))
    for gan in (before, after, networks):
        assert all(tensor.dtype == average for tensor in gan.generator_ema.parameters())
        assert all(tensor.dtype == dtype for tensor in gan.generator.parameters())
        assert "generator_ema.output.weight" in gan.state_dict()
        latents = torch.zeros(2, 8, dtype=dtype)
        assert gan(latents).dtype == dtype
    assert before.dtype == dtype
    assert before.to("meta").generator_ema.output.weight.is_meta


class Bend(nn.Module):
    """Latents (N, 2) to points on a bent line, (N, 3)."""

    latent_dim = 2

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(2, 16), nn.Linear(16, 3)

    def forward(self, latents):
        return self.output(torch.relu(self.hidden(latents)))


class Judge(nn.Module):
    """Points (N, 3) to logits (N,)."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(3, 16), nn.Linear(16, 1)

    def forward(self, points):
        return self.output(torch.relu(self.hidden(points))).squeeze(1)


def test_samples_need_be_no_images(make_trainer):
    """Points of any range are trained on, watched, and found in no wrong one."""
    torch.manual_seed(0)
    t = torch.linspace(-3, 3, 512)
    points = 20 * torch.stack([t.sin(), t.cos(), t], 1)
    loader = DataLoader(points, batch_size=32, shuffle=True)
    doctor = GradientDoctor(thresholds=Thresholds(slope=1e9))
    gan = GAN(Bend(), Judge(), penalties=[GradientPenalty(), DRAGAN(), R1(1.0)])
    callbacks = [GeneratorEMA(), GradientMonitor(every=4), doctor]
    make_trainer(max_steps=24, callbacks=callbacks).fit(gan, loader)
    assert gan.sample(5).shape == (5, 3)
    assert doctor.measured == 7
    assert "wrong range" not in [told["name"] for told in doctor.told]
    with pytest.raises(GANError, match=r"must have samples of shape \(N, 3\), and has \(32, 4\)"):
        make_trainer(max_steps=30).fit(gan, DataLoader(torch.zeros(64, 4), batch_size=32))


def test_texts_of_other_characters_are_a_line(make_trainer, tmp_path):
    data = make_data(tmp_path)
    gan = make_gan_of_texts(data)
    other = make_data(tmp_path, characters=data.characters[::-1])
    with pytest.raises(
        GANError, match=r"^generator TextGenerator makes texts of ' .*z', and the data has 'z.* ': give"
    ):
        make_trainer().fit(gan, other)
    with pytest.raises(GANError, match=r"^model.augment=DiffAugment changes images, and generator TextGenerator makes"):
        make_trainer().fit(make_gan_of_texts(data, augment=DiffAugment()), data)


@pytest.mark.parametrize("labelled", [slice(0, 1), slice(4, 5)])
def test_few_labels_anywhere_in_a_batch(make_trainer, labelled):
    """Of a loader of one's own, and in two passes, of which one has none."""
    labels, table = torch.full((32,), -1), TableLogger()
    labels.view(4, 8)[:, labelled] = 3
    images = torch.rand(32, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    gan = GAN(
        DCGANGenerator(SHAPE, 8, 4),
        ClassifierDCGANDiscriminator(SHAPE, 10, 4),
        classification=SemiSupervised(),
        accumulate=2,
    )
    trainer = make_trainer(max_steps=2, logger=table, log_every_n_steps=1)
    trainer.fit(gan, DataLoader(TensorDataset(images, labels), batch_size=8))
    assert [0.5 < row["loss/classification"] < 2 for _, row in table.rows] == [True, True]  # half of about log(10)


def test_labels_that_nothing_learns_from_are_said(make_gan, make_trainer):
    few = partial(SmallMNIST, 16, 0, labels=20)
    with pytest.warns(UserWarning, match=r"^data.labels=20: nothing here learns from labels, .* or leave data.labels"):
        make_trainer(max_steps=1).fit(make_gan(), few())
    gan = GAN(DCGANGenerator(SHAPE, 8, 4), ClassifierDCGANDiscriminator(SHAPE, 10, 4), classification=SemiSupervised())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "data.labels")
        make_trainer(max_steps=1).fit(gan, few())
