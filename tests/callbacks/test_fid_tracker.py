"""Scores of a run: right, warned of, kept, and without effect on training."""

import re
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
import torchvision
from commands import LOST, Pooled
from conftest import Halves, SmallMNIST, mnist, same_weights
from lightning import Callback, LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.linalg import sqrtm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.image import StructuralSimilarityIndexMeasure

from gan import GAN
from gan.callbacks import FIDTracker, GeneratorEMA, RunCheckpoint, RunProgress
from gan.callbacks.fid_tracker import latents
from gan.generate import load
from gan.images import to_uint8
from gan.metrics.evaluator import Evaluator
from gan.metrics.feature_cache import extract
from gan.networks import MLPDiscriminator, MLPGenerator

SCORES = [
    "fid_floor",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "modes_covered",
    "entropy",
    "inception_score",
]


class Rows(Callback):
    """Keeps all that is logged of scores."""

    def __init__(self):
        self.rows = {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.endswith("/pooled")}
        if scores and scores != (list(self.rows.values()) or [None])[-1]:
            self.rows[trainer.global_step] = scores


class Fixed(nn.Module):
    """A generator that makes what it was given, chosen by the latents."""

    latent_dim = 8

    def __init__(self, images: Tensor):
        super().__init__()
        self.register_buffer("images", images)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, latents: Tensor) -> Tensor:
        chosen = latents[:, 0].mul(1e4).long().remainder(len(self.images))
        return self.images[chosen] + 0 * self.unused


class Labelled(Fixed):
    """Makes real digits of the classes that it is told, each `wrong` classes further."""

    num_classes = 10
    wrong = 0

    def forward(self, latents: Tensor, condition: Tensor) -> Tensor:
        images = torch.empty(len(latents), *self.images.shape[1:])
        for label in range(10):
            of_class = self.images[mnist()[1] == (label + self.wrong) % 10]
            asked = condition == label
            images[asked] = of_class[latents[asked, 0].mul(1e4).long().remainder(len(of_class))]
        return images + 0 * self.unused


def floats(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tracker(**settings) -> FIDTracker:
    return FIDTracker(Pooled(), **({"every": 4, "num_samples": 300, "final_samples": 260} | settings))


def by_hand(gan: GAN, num: int, noise: str) -> float:
    """The FID by NumPy and SciPy, of images in one batch, by the average where there is one."""
    latents = torch.cat([gan.latents(250, gan.rng("score", noise, chunk)) for chunk in range(-(-num // 250))])[:num]
    extractor = Pooled()
    network = deepcopy(gan.generator_ema or gan.generator).eval()
    with torch.no_grad():
        generated = extract(extractor, to_uint8(network(latents))).double().numpy()
    real = extract(extractor, mnist()[0][256:]).double().numpy()
    one, two = np.cov(generated.T), np.cov(real.T)
    difference = generated.mean(0) - real.mean(0)
    return float(difference @ difference + np.trace(one + two - 2 * sqrtm(one @ two).real))


def test_scores_come_when_they_are_due_and_are_right(make_gan, make_trainer, halves):
    rows, fids = Rows(), {}

    class ByHand(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step in (4, 8, 10):
                fids[trainer.global_step] = by_hand(pl_module, 300, "curve")

    make_trainer(max_steps=10, callbacks=[GeneratorEMA(), tracker(), rows, ByHand()]).fit(make_gan(), halves)
    assert list(rows.rows) == [4, 8, 10]
    for step, scores in rows.rows.items():
        assert scores["fid/pooled"] == pytest.approx(fids[step], rel=1e-6)
        assert set(scores) == {"fid/pooled", *(f"scores/{name}/pooled" for name in SCORES)}


def test_epochs_can_be_the_unit(make_gan, make_trainer, halves):
    rows = Rows()
    make_trainer(max_steps=40, callbacks=[tracker(every=1, unit="epochs"), rows]).fit(make_gan(), halves)
    assert list(rows.rows) == [17, 33, 40]  # as seen one batch after an epoch of 16, and the end


def test_training_is_the_same_to_the_bit_with_and_without(make_gan, make_trainer, halves):
    with_tracker, without = make_gan(), make_gan()
    torch.manual_seed(1)
    make_trainer(callbacks=[GeneratorEMA(), tracker(every=2)]).fit(with_tracker, halves)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    make_trainer(callbacks=[GeneratorEMA()]).fit(without, halves)
    assert same_weights(with_tracker, without)
    assert torch.equal(drawn, torch.rand(1))


class WithLoaders(LightningDataModule):
    """A data module as Lightning documents it: data sets made when they are asked for, and loaders of torch's."""

    def setup(self, stage):
        images, labels = floats(mnist()[0]), mnist()[1]
        if stage in ("fit", "validate"):
            self.training = TensorDataset(images[:256], labels[:256])
        if stage == "test":
            self.test = TensorDataset(images[256:], labels[256:])

    def train_dataloader(self):
        return DataLoader(self.training, batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.training, batch_size=64)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=64)


def test_the_order_of_loaders_is_the_same_with_and_without(make_gan, make_trainer):
    """Torch's loaders draw it from the global generator."""
    gans = []
    for callbacks in ([], [tracker(every=2)], [FIDTracker("mnist_cnn", num_samples=50, final_samples=50)]):
        gans.append(make_gan())
        torch.manual_seed(1)
        make_trainer(max_steps=20, callbacks=callbacks).fit(gans[-1], datamodule=WithLoaders())
    assert same_weights(gans[0], gans[1])
    assert same_weights(gans[0], gans[2])


def test_a_data_module_of_ones_own_is_scored_in_validate_too(make_gan, make_trainer):
    (scores,) = make_trainer(callbacks=[tracker()]).validate(make_gan(), datamodule=WithLoaders(), verbose=False)
    assert scores["fid/pooled"] == pytest.approx(by_hand(make_gan(), 260, "report"), rel=1e-6)


def test_a_data_module_without_test_images_is_refused(make_gan, make_trainer):
    class TrainsOnly(WithLoaders):
        test_dataloader = LightningDataModule.test_dataloader

    with pytest.raises(ValueError, match="needs training and test images, and TrainsOnly does not give both"):
        make_trainer(callbacks=[tracker()]).fit(make_gan(), datamodule=TrainsOnly())


def test_the_extractor_is_nobodys_but_the_trackers(make_gan, make_trainer, halves, tmp_path):
    gan, extractor = make_gan(), Pooled()
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    extractor.train()
    callbacks = [FIDTracker(extractor, every=2, num_samples=50, final_samples=50), RunCheckpoint()]
    make_trainer(callbacks=callbacks).fit(gan, halves)
    assert extractor not in list(gan.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert all(torch.equal(before[name], value) for name, value in extractor.state_dict().items())
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"generator", "discriminator", "fixed_latents"}


class Stop(Callback):
    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = trainer.global_step == 5


@pytest.mark.parametrize(("settings", "end"), [({"max_steps": -1, "max_epochs": 1}, 16), ({"max_steps": 30}, 5)])
def test_the_end_is_scored_however_a_run_ends(make_gan, make_trainer, halves, settings, end, tmp_path):
    scores = tracker(every=500)
    callbacks = [scores, RunCheckpoint()] + [Stop()] * (end == 5)
    make_trainer(callbacks=callbacks, **settings).fit(make_gan(), halves)
    assert scores.best_step == end
    assert (tmp_path / "samples" / f"nearest_{end:06d}.png").is_file()
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == end


def test_a_second_run_starts_anew(make_gan, make_trainer, halves):
    scores = tracker(every=2)
    make_trainer(callbacks=[scores]).fit(make_gan(), halves)
    first = scores.best, scores.best_step
    scores.best = 0.0
    make_trainer(callbacks=[scores]).fit(make_gan(), halves)
    assert (scores.best, scores.best_step) == first


def test_other_data_on_the_same_trainer_have_their_own_scores(make_gan, make_trainer, halves):
    class Swapped(Halves):
        def load(self, train):
            return super().load(not train)

    trainer, seen = make_trainer(callbacks=[tracker()]), []
    for data in (Halves(16, 16), Swapped(16, 16)):
        seen.append(trainer.validate(make_gan(), data, verbose=False)[0]["fid/pooled"])
    fresh = make_trainer(callbacks=[tracker()]).validate(make_gan(), Swapped(16, 16), verbose=False)
    assert seen[0] != seen[1] == fresh[0]["fid/pooled"]


# ---------------------------------------------------------------------- no score, or one too good


class Breaks(Callback):
    """Makes the generator's images NaN from a batch on."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == 3:
            next(pl_module.generator.parameters()).data.mul_(torch.nan)


def test_images_that_are_nan_have_no_score_and_the_run_goes_on(make_gan, make_trainer, halves):
    rows, trained = Rows(), tracker(every=2)
    trainer = make_trainer(max_steps=6, callbacks=[Breaks(), trained, rows])
    with pytest.warns(UserWarning, match="no FID of batch 4: the generator makes images that are NaN"):
        trainer.fit(make_gan(), halves)
    assert trainer.global_step == 6
    assert list(rows.rows) == [2]
    assert trained.best_step == 2


def test_constant_images_have_a_score(make_trainer, halves):
    gan = GAN(Fixed(torch.full((1, 1, 28, 28), -1.0)), MLPDiscriminator((1, 28, 28)))
    rows = Rows()
    make_trainer(callbacks=[tracker(), rows]).fit(gan, halves)
    scores = rows.rows[4]
    assert all(np.isfinite(value) for value in scores.values())
    assert scores["fid/pooled"] > 10 * scores["scores/fid_floor/pooled"]
    assert scores["scores/coverage/pooled"] < 0.02
    assert scores["scores/modes_covered/pooled"] == 1
    assert scores["scores/entropy/pooled"] == 0
    assert scores["scores/inception_score/pooled"] == pytest.approx(1)


def test_fewer_images_than_dimensions(make_gan, make_trainer, halves):
    class Wide(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, ::8]

    wide = FIDTracker(Wide(), every=4, num_samples=20, final_samples=20)
    with pytest.warns(UserWarning, match="num_samples 20, final_samples 20: of no more images than features, 98"):
        make_trainer(callbacks=[wide]).fit(make_gan(), halves)
    assert 0 < wide.best < torch.inf


def test_test_images_are_too_good_to_be_true(make_trainer, halves):
    gan = GAN(Fixed(floats(mnist()[0][256:])), MLPDiscriminator((1, 28, 28)))
    with pytest.warns(UserWarning, match="below the floor, .*: too good to be true"):
        make_trainer(callbacks=[tracker(num_samples=250)]).fit(gan, halves)


def test_training_images_by_heart_are_near_the_floor(make_trainer, halves):
    gan = GAN(Fixed(floats(mnist()[0][:256])), MLPDiscriminator((1, 28, 28)))
    memory = tracker(num_samples=250)
    make_trainer(callbacks=[memory]).fit(gan, halves)
    (floor,) = memory.evaluator.floor(250)
    assert floor < memory.best < 4 * floor  # drawn with repetition, which counts as fewer images


def test_no_alarm_where_there_are_too_few_real_images_to_tell(make_trainer, recwarn):
    """The floor is then of fewer images than the score, and so too high."""

    class Few(SmallMNIST):
        def load(self, train):
            return tuple(part[:40] if train else part[256:] for part in mnist())

    gan = GAN(Fixed(floats(mnist()[0][40:256])), MLPDiscriminator((1, 28, 28)))
    few = tracker(num_samples=1000)
    make_trainer(callbacks=[few]).fit(gan, Few(16, validation_size=0))
    assert few.best < min(few.evaluator.floor(1000))
    assert "(of 40)" in few.terms(1000)
    assert not [warning for warning in recwarn if "too good" in str(warning.message)]


def test_images_beyond_the_last_do_not_matter(halves):
    gan = GAN(Fixed(floats(mnist()[0])), MLPDiscriminator((1, 28, 28)))
    forward = gan.generator.forward

    def broken(latents):
        images = forward(latents).clone()
        images[20:] = torch.nan
        return images

    gan.generator.forward = broken
    make = lambda number: gan(latents(gan, "curve", number))  # noqa: E731
    evaluator = Evaluator(Pooled(), halves.train_dataloader(), halves.test_dataloader())
    assert evaluator.generate(make, 20).features.isfinite().all()


class Leaky(Halves):
    """Tests on some of the images that it trains on."""

    def load(self, train):
        return tuple(part[:256] if train else part[192:448] for part in mnist())


class FewTests(Halves):
    def load(self, train):
        return tuple(part[:256] if train else part[256:270] for part in mnist())


@pytest.mark.parametrize(
    ("data", "samples", "told"),
    [
        (Leaky, 300, [r"6\d of 256 test images are training images"]),
        (SmallMNIST, 300, ["(512|496) of 512 test images are training images"]),
        (FewTests, 300, ["test images 14: of no more images than features, 16"]),
        (Leaky, 20, [r"6\d of 256 test images are training images"]),
        (Halves, 300, []),
    ],
)
@pytest.mark.parametrize("door", ["fit", "validate"])
def test_scores_of_little_worth_are_a_warning_each_at_the_start(make_gan, make_trainer, data, samples, told, door):
    scores = tracker(num_samples=samples, final_samples=samples)
    trainer = make_trainer(max_steps=1, callbacks=[scores])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(trainer, door)(make_gan(), datamodule=data(batch_size=16, validation_size=0 if door == "fit" else 16))
    texts = [str(warning.message) for warning in caught if "of little worth" in str(warning.message)]
    assert len(texts) == len(told)
    for text, part in zip(texts, told, strict=True):
        assert text.startswith("scores by pooled are of little worth: ")
        assert re.search(part, text)  # validation images are no training images
        assert "\n" not in text


# ---------------------------------------------------------------------- the best


class Drift(Callback):
    """Makes the generator's images dark, as digits are, after four batches, and too bright after all others."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        list(pl_module.generator.parameters())[-1].data.fill_(-2 if trainer.global_step == 4 else 2)


def test_the_best_is_kept_and_scored_again_with_other_latents(make_gan, make_trainer, halves, tmp_path):
    gan, best = make_gan(), tracker(every=2)
    trainer = make_trainer(max_steps=10, callbacks=[Drift(), best, RunCheckpoint(keep=1)], logger=True)
    trainer.fit(gan, halves)
    assert best.best_step == 4
    checkpoints = tmp_path / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "step_000004.ckpt",
        "step_000010.ckpt",
    ]
    kept = load(str(checkpoints / "best.ckpt"))
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["global_step"] == 4
    assert best.best == pytest.approx(by_hand(kept, 300, "curve"), rel=1e-6)
    events = EventAccumulator(trainer.logger.log_dir).Reload()
    (final,) = events.Scalars("scores/fid_of_best/pooled")
    assert final.value == pytest.approx(by_hand(kept, 260, "report"), rel=1e-5)
    assert final.value != pytest.approx(best.best, rel=1e-5)
    last = load(str(checkpoints / "last.ckpt"))
    assert same_weights(last.generator, gan.generator)  # the best weights were lent, and given back


def test_a_best_that_is_damaged_costs_its_report_alone(make_gan, make_trainer, halves, tmp_path):
    class Damage(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 8:
                (tmp_path / "checkpoints" / "step_000004.ckpt").write_bytes(b"")

    best = tracker(every=2)
    settings = {"max_steps": -1, "max_epochs": 1, "logger": True}
    trainer = make_trainer(callbacks=[Drift(), best, RunCheckpoint(), Damage()], **settings)
    with pytest.warns(UserWarning, match="the best generator, of batch 4, cannot be scored again"):
        trainer.fit(make_gan(), halves)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 16
    assert "scores/fid_of_best/pooled" not in EventAccumulator(trainer.logger.log_dir).Reload().Tags()["scalars"]


@pytest.mark.parametrize("error", LOST)
def test_another_process_that_is_gone_is_nothing_of_the_best(make_gan, make_trainer, halves, error, monkeypatch):
    """Shards are read by all processes together."""
    trainer = make_trainer(max_steps=6, callbacks=[Drift(), tracker(every=2), RunCheckpoint()])

    def lost(*args, **kwargs):
        raise error

    monkeypatch.setattr(trainer.strategy, "load_checkpoint", lost)
    with pytest.raises(type(error)):
        trainer.fit(make_gan(), halves)


@pytest.mark.parametrize("before", [True, False])
def test_the_best_of_before_an_average_came_or_went(make_gan, make_trainer, halves, tmp_path, before):
    averages = [[GeneratorEMA(half_life=0.1)], []]
    for max_steps, average in zip((6, 8), averages if before else averages[::-1], strict=True):
        gan, best = make_gan(), tracker(every=2)
        callbacks = [Drift(), *average, best, RunCheckpoint()]
        last = tmp_path / "checkpoints" / "last.ckpt" if max_steps == 8 else None
        trainer = make_trainer(max_steps=max_steps, callbacks=callbacks, logger=True)
        trainer.fit(gan, halves, ckpt_path=last, weights_only=True)
        assert best.best_step == 4
        assert (gan.generator_ema is None) == (not average)
    events = EventAccumulator(trainer.logger.log_dir).Reload()
    (final,) = events.Scalars("scores/fid_of_best/pooled")
    kept = load(str(tmp_path / "checkpoints" / "best.ckpt"))
    assert final.value == pytest.approx(by_hand(kept, 260, "report"), rel=1e-5)


def test_the_best_survives_resume(make_gan, make_trainer, halves, tmp_path):
    first = tracker(every=2)
    make_trainer(max_steps=6, callbacks=[first, RunCheckpoint()]).fit(make_gan(), halves)
    for again, best in ((tracker(every=2), first.best), (tracker(every=2, num_samples=299), None)):
        trainer = make_trainer(max_steps=6, callbacks=[again, RunCheckpoint()])
        trainer.fit(make_gan(), halves, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        assert again.best == best  # of another number of images, it would not compare


def test_model_checkpoint_can_watch_it(make_gan, make_trainer, halves, tmp_path):
    watching = ModelCheckpoint(tmp_path / "watched", monitor="fid/pooled", every_n_train_steps=2, filename="{step}")
    best = tracker(every=2)
    make_trainer(max_steps=8, callbacks=[Drift(), best, watching]).fit(make_gan(), halves)
    assert watching.best_model_score == pytest.approx(best.best)
    assert watching.best_model_path.endswith(f"step={best.best_step}.ckpt")


# ---------------------------------------------------------------------- real images


def test_real_images_are_measured_once(make_gan, make_trainer, halves, cache):
    first = tracker()
    make_trainer(callbacks=[first]).fit(make_gan(), halves)
    assert len(list(cache.iterdir())) == 2  # test and training
    second = tracker()
    make_trainer(callbacks=[second]).fit(make_gan(), halves)
    generated = 2 * 500 + 500 + 16  # two scores, the report, the sheet
    assert second.extractor.images == generated + 2 * 250  # a look at whether they are the same features still
    assert first.extractor.images == generated + 256 + 256 + 2 * 250
    assert second.best == first.best


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"every": 0}, "every is a number of batches of at least 1"),
        ({"num_samples": 19}, "num_samples is a number of images of at least 20"),
        ({"final_samples": 1}, "final_samples is a number of images of at least 20"),
    ],
)
def test_settings_out_of_range(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        FIDTracker(**settings)


def test_data_without_features_have_no_fid_and_it_is_said(make_gan, make_trainer, data, capsys):
    idle = FIDTracker()
    callbacks = [RunProgress(), idle]
    make_trainer(callbacks=callbacks, enable_progress_bar=True).fit(make_gan(), data)
    assert "FID            none: no features are shipped for SmallMNIST" in capsys.readouterr().out
    assert idle.best is None


class Elsewhere(LightningDataModule):
    """Loaders of other data, as a module that is none of ours."""

    def __init__(self, data):
        super().__init__()
        data.setup()
        self.train_dataloader, self.test_dataloader = data.train_dataloader, data.test_dataloader


@pytest.mark.parametrize(
    ("wrap", "why"),
    [
        (
            lambda data: data,
            "no features are shipped for SmallMNIST; `python -m gan.cli train_features --data conftest.SmallMNIST "
            "--out smallmnist.safetensors` trains some, and `--trainer.callbacks+=FIDTracker "
            "--trainer.callbacks.extractor=smallmnist.safetensors` scores by them",
        ),
        (
            Elsewhere,
            "no features are shipped for Elsewhere; `--trainer.callbacks+=FIDTracker --trainer.callbacks.extractor="
            "CLASS` scores by a network of your own, images to features (docs/scores.md)",
        ),
        (None, "there is no data module that test images could be of: give the trainer one"),
    ],
    ids=["in memory", "of another kind", "none"],
)
def test_why_there_is_no_score_is_said_with_the_way_to_one(make_gan, make_trainer, data, capsys, wrap, why):
    trainer = make_trainer(max_steps=1, callbacks=[RunProgress(), FIDTracker()], enable_progress_bar=True)
    if wrap is None:
        data.setup()
        trainer.fit(make_gan(), data.train_dataloader())
    else:
        trainer.fit(make_gan(), wrap(data))
    assert f"FID            none: {why}" in capsys.readouterr().out.splitlines()


class Scalar(nn.Module):
    def forward(self, images):
        return images.mean((1, 2, 3))


class ForColour(nn.Module):
    def forward(self, images):
        raise ValueError("this extractor takes images (N, 3, 32, 32)")


@pytest.mark.parametrize(
    ("extractor", "complaint"),
    [(Scalar(), r"must give features \(N, D\)"), (ForColour(), r"takes images \(N, 3, 32, 32\)")],
)
def test_an_extractor_that_does_not_fit_is_refused_before_training(
    make_gan, make_trainer, halves, extractor, complaint
):
    gan, trainer = make_gan(), make_trainer(callbacks=[FIDTracker(extractor)])
    with pytest.raises(ValueError, match=complaint):
        trainer.fit(gan, halves)
    assert trainer.global_step == 0


def test_loaders_without_a_data_module_are_refused(make_gan, make_trainer, data):
    loader = DataLoader(TensorDataset(floats(mnist()[0]), mnist()[1]), batch_size=16)
    with pytest.raises(ValueError, match="FIDTracker needs training and test images: give the trainer a data module"):
        make_trainer(callbacks=[tracker()]).fit(make_gan(), loader)


# ---------------------------------------------------------------------- validate, and pictures


def test_validate_scores_as_the_end_of_training_does(make_gan, make_trainer, halves, capsys):
    gan = make_gan()
    make_trainer().fit(gan, halves)
    halves = Halves(batch_size=16, validation_size=16)
    (scores,) = make_trainer(callbacks=[tracker()]).validate(gan, halves)
    assert scores["fid/pooled"] == pytest.approx(by_hand(gan, 260, "report"), rel=1e-6)
    assert scores["scores/fid_infinity/pooled"] < scores["fid/pooled"]
    assert "validation/discriminator" in scores
    table = capsys.readouterr().out
    assert f"{scores['fid/pooled']:.3f}" in table
    assert "Scores of 260 images against 256 test images, by pooled " in table
    assert table.count("FID") == 2
    assert "validation/discriminator" not in table  # Lightning's own table


@pytest.mark.slow
def test_a_generator_that_knows_its_labels_is_scored_by_them(make_trainer):
    gan = GAN(Labelled(floats(mnist()[0])), MLPDiscriminator((1, 28, 28)))
    data = SmallMNIST(batch_size=16, validation_size=16)
    (scores,) = make_trainer(callbacks=[tracker(final_samples=1000)]).validate(gan, data, verbose=False)
    assert scores["scores/accuracy_score/pooled"] > 0.8

    class Wrong(Labelled):
        wrong = 1

    gan = GAN(Wrong(floats(mnist()[0])), MLPDiscriminator((1, 28, 28)))
    (scores,) = make_trainer(callbacks=[tracker(final_samples=1000)]).validate(gan, data, verbose=False)
    assert scores["scores/accuracy_score/pooled"] < 0.1


def test_the_nearest_training_images_show_what_was_learnt_by_heart(make_gan, make_trainer, halves, tmp_path):
    known = GAN(Fixed(floats(mnist()[0][:256])), MLPDiscriminator((1, 28, 28)))
    memory = tracker()
    trainer = make_trainer(callbacks=[memory], logger=TensorBoardLogger(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(known, halves)
    generated, by_feature, by_pixel = memory.evaluator.nearest_images(known(latents(known, "report", 0)[:16]))
    assert torch.equal(generated, by_pixel)
    assert torch.equal(generated, by_feature)
    assert (tmp_path / "samples" / "nearest_000008.png").is_file()
    events = EventAccumulator(trainer.logger.log_dir, {"images": 0, "histograms": 0}).Reload()
    assert [event.step for event in events.Images("samples/nearest")] == [8]
    histogram = events.Histograms("scores/classes/pooled")
    assert [event.step for event in histogram] == [4, 8]
    assert histogram[0].histogram_value.num == 300

    gan = make_gan()
    new, by_feature, by_pixel = memory.evaluator.nearest_images(gan(latents(gan, "report", 0)[:16]))
    distances = (new.flatten(1)[:, None].double() - mnist()[0][:256].flatten(1)).norm(dim=2)
    assert torch.equal(by_pixel, mnist()[0][:256][distances.argmin(1)])


# ---------------------------------------------------------------------- images made from images


class Small(Halves):
    """Digits, and those of 14 x 14 that they are to be made from."""

    condition_shape = (1, 14, 14)

    def load(self, train):
        images, _ = super().load(train)
        return images, images[:, :, ::2, ::2]


class Enlarge(nn.Module):
    """A generator that makes blocks of the pixels of its source, each lighter by what its latents say."""

    latent_dim = 8
    condition_shape = (1, 14, 14)

    def __init__(self, lighter: float = 0.0):
        super().__init__()
        self.lighter = lighter
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, latents: Tensor, condition: Tensor) -> Tensor:
        light = self.lighter * latents[:, :1, None, None]
        return (self.upsampled(condition) + light).clamp(-1, 1) + 0 * self.unused

    def upsampled(self, condition: Tensor) -> Tensor:
        return condition.repeat_interleave(2, 2).repeat_interleave(2, 3)


def small() -> Small:
    return Small(batch_size=16, validation_size=16)


def enlarges(lighter: float = 0.0) -> GAN:
    return GAN(Enlarge(lighter), MLPDiscriminator((1, 28, 28)))


def test_what_is_made_of_the_test_images_sources_is_held_against_them(make_trainer):
    """By NumPy, of as many pairs as images; the same images by torchmetrics' own SSIM."""
    gan, scored = enlarges(0.1), tracker(final_samples=300)
    (logged,) = make_trainer(callbacks=[scored]).validate(gan, small(), verbose=False)
    order = scored.evaluator.test_order[torch.arange(300) % 256]  # there are 256 test images
    targets = mnist()[0][256:][order]
    latents_ = torch.cat([latents(gan, "report", chunk) for chunk in range(2)])[:300]
    images = to_uint8(gan(latents_, floats(targets[:, :, ::2, ::2])))
    error = ((images.double() - targets.double()) / 255).square().mean().item()
    assert scored.scores["psnr"] == pytest.approx(-10 * np.log10(error), rel=1e-5)
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0)(images / 255, targets / 255).item()
    assert scored.scores["ssim"] == pytest.approx(ssim, rel=1e-5)
    assert logged["scores/psnr/pooled"] == pytest.approx(scored.scores["psnr"])
    assert "lpips" not in scored.scores


def test_the_source_has_a_column_of_its_own(make_trainer, capsys):
    """Resized by Pillow's kernel, it comes nearer than blocks of its pixels."""
    gan, scored = enlarges(), tracker()
    (logged,) = make_trainer(callbacks=[scored]).validate(gan, small(), verbose=True)
    assert scored.source_scores.keys() == {"fid", "psnr", "ssim"}
    assert logged["scores/fid_of_source/pooled"] == pytest.approx(scored.source_scores["fid"])
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "PSNR, dB" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["PSNR, dB", f"{scored.scores['psnr']:.2f}", "", f"{scored.source_scores['psnr']:.2f}"]
    targets = mnist()[0][256:]
    sources = nn.functional.interpolate(floats(targets[:, :, ::2, ::2]), (28, 28), mode="bicubic", antialias=True)
    error = ((to_uint8(sources).double() - targets.double()) / 255).square()
    all_of = -10 * np.log10(error[scored.evaluator.test_order[torch.arange(260) % 256]].mean().item())
    assert scored.source_scores["psnr"] == pytest.approx(all_of, rel=1e-5)


def test_scores_of_pairs_in_training_are_watched_and_those_of_loaders_the_same(make_trainer):
    """A ModelCheckpoint may monitor one; data sets of a user's own have the same scores."""

    class Loaded(LightningDataModule):
        def setup(self, stage):
            images, self.sets = floats(mnist()[0]), {}
            for name, part in (("train", slice(0, 256)), ("test", slice(256, 512))):
                self.sets[name] = TensorDataset(images[part], images[part][:, :, ::2, ::2])

        def train_dataloader(self):
            return DataLoader(self.sets["train"], batch_size=16, shuffle=True)

        def test_dataloader(self):
            return DataLoader(self.sets["test"], batch_size=16)

    found = []
    for data in (small(), Loaded()):
        rows, gan = Rows(), enlarges()
        best = ModelCheckpoint(monitor="scores/psnr/pooled", mode="max")
        trainer = make_trainer(
            callbacks=[tracker(every=2), rows, best], limit_val_batches=0, enable_checkpointing=True, max_steps=4
        )
        trainer.fit(gan, datamodule=data)
        (scores,) = rows.rows.values()  # of batch 2, and the same of batch 4: nothing has moved
        assert best.best_model_score == pytest.approx(scores["scores/psnr/pooled"])
        found.append({name: value for name, value in scores.items() if "floor" not in name})  # of other training images
    assert found[0] == found[1]


def test_a_translation_that_is_right_is_not_too_good_to_be_true(make_trainer, recwarn):
    class Same(Small):
        condition_shape = (1, 28, 28)

        def load(self, train):
            images = Halves.load(self, train)[0]
            return images, images

    class Copy(Enlarge):
        condition_shape = (1, 28, 28)

        def upsampled(self, condition):
            return condition

    gan, scored = (
        GAN(Copy(), MLPDiscriminator((1, 28, 28))),
        tracker(final_samples=200),
    )  # no more than there are training images
    make_trainer(callbacks=[scored]).validate(gan, Same(16, 16), verbose=False)
    assert scored.scores["fid"] < min(scored.evaluator.floor(200))
    assert scored.scores["psnr"] == np.inf
    assert scored.scores["ssim"] == pytest.approx(1)
    assert not [warning for warning in recwarn if "too good" in str(warning.message)]


@pytest.mark.slow
def test_lpips_where_its_weights_are_given(make_trainer, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    file = str(tmp_path / "alexnet.pth")
    scored = tracker(final_samples=20, lpips=file)
    make_trainer(callbacks=[scored]).validate(enlarges(), small(), verbose=False)
    assert 0 < scored.scores["lpips"] < scored.source_scores["lpips"] * 10
    assert scored.scalars[-1] == "scores/lpips/pooled"
    with pytest.raises(ValueError, match="lpips holds images against targets, and MLPGenerator makes none from images"):
        make_trainer(callbacks=[tracker(lpips=file)]).fit(
            GAN(MLPGenerator((1, 28, 28), latent_dim=8), MLPDiscriminator((1, 28, 28))), Halves(16, 16)
        )


def test_a_source_of_other_channels_has_no_column(make_trainer, capsys):
    class Coloured(Small):
        condition_shape = (3, 14, 14)

        def load(self, train):
            images, sources = super().load(train)
            return images, sources.expand(-1, 3, -1, -1)

    class FromColour(Enlarge):
        condition_shape = (3, 14, 14)

        def upsampled(self, condition):
            return super().upsampled(condition[:, :1])

    gan, scored = GAN(FromColour(), MLPDiscriminator((1, 28, 28))), tracker()
    make_trainer(callbacks=[scored]).validate(gan, Coloured(16, 16), verbose=True)
    assert scored.source_scores is None
    assert "psnr" in scored.scores
    assert "source" not in capsys.readouterr().out


def test_pairs_without_features_have_no_scores_and_it_is_said(make_trainer, capsys):
    make_trainer(callbacks=[RunProgress(), FIDTracker()], enable_progress_bar=True).fit(enlarges(0.1), small())
    assert "scores by them, and PSNR and SSIM are measured beside FID" in capsys.readouterr().out
