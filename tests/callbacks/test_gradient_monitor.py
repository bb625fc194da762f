"""The monitor: measures when it is due, changes nothing, survives a resume, and draws what it has measured."""

import csv
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import LOST, equal, load
from conftest import SmallMNIST, TableLogger, same_weights
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import SGD, Adam

from gan import GAN
from gan.callbacks import GradientClipping, GradientMonitor, NonFiniteGuard, RunCheckpoint
from gan.callbacks.gradient_doctor import figures
from gan.callbacks.gradient_monitor import MAX_COLUMNS
from gan.errors import GANError
from gan.gradients import measure
from gan.gradients.clip import ByNorm
from gan.loggers import MetricsTable
from gan.losses import RelativisticPaired
from gan.networks import DCGANDiscriminator, DCGANGenerator, MLPGenerator, given
from gan.optim import OPTIMIZER_ORDER
from gan.penalties import DRAGAN, R1

SHAPE = (1, 28, 28)


def make(norm="spectral", **settings) -> GAN:
    """Batch norm, spectral norm, dropout."""
    torch.manual_seed(0)
    generator, discriminator = DCGANGenerator(SHAPE, 8, 4), DCGANDiscriminator(SHAPE, 4, norm=norm)
    discriminator.output = nn.Sequential(nn.Dropout(0.3), discriminator.output)
    return GAN(generator, discriminator, **settings)


class Keep(Callback):
    """Keeps the records of a monitor, and the gradients that training steps with."""

    def __init__(self, monitor: GradientMonitor):
        self.monitor, self.records, self.norms = monitor, [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [parameter.grad.flatten() for group in optimizer.param_groups for parameter in group["params"]]
        self.norms.append(
            (trainer.global_step, trainer.optimizers.index(optimizer), torch.cat(gradients).norm().item())
        )

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        stats = self.monitor.stats
        if stats is not None and stats.step == trainer.global_step:
            self.records.append(stats)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm": "batch", "loss": RelativisticPaired(), "n_critic": 2},
        {"penalties": [R1(1.0, every=2), DRAGAN(1.0)], "accumulate": 2, "norm": "none"},
    ],
)
def test_training_is_bit_identical_with_and_without(make_trainer, settings):
    one, two = make(**settings), make(**settings)
    data = partial(SmallMNIST, 16 // settings.get("accumulate", 1), validation_size=0)
    monitor = GradientMonitor(every=2, images=8)
    make_trainer(callbacks=[monitor]).fit(one, data())
    make_trainer().fit(two, data())
    assert monitor.measured > 2
    assert same_weights(one, two)


@pytest.mark.parametrize(
    "settings", [{}, {"loss": RelativisticPaired(), "penalties": [R1(1.0, every=2), DRAGAN(1.0)], "accumulate": 2}]
)
def test_training_is_bit_identical_with_and_without_a_condition(told, make_trainer, settings):
    (one, data), (two, again) = told("batch", **settings), told("batch", **settings)
    monitor = GradientMonitor(every=2, images=8)
    make_trainer(max_steps=6, callbacks=[monitor]).fit(one, data)
    make_trainer(max_steps=6).fit(two, again)
    assert monitor.measured > 2
    assert same_weights(one, two)


def test_measures_with_what_the_batch_is_of(told, make_trainer):
    """The same by hand; and how far the images of the fixed latents and the fixed condition have moved."""
    found, pictures = {}, []

    class ByHand(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 1:
                generate, judge = given(batch[1][:8], pl_module.generator, pl_module.discriminator)
                rng = pl_module.rng("monitor", 1)
                networks = pl_module.generator, pl_module.discriminator, pl_module.loss, batch[0][:8]
                noise = torch.randn(8, 8, generator=rng), torch.rand(8, 1, 1, 1, generator=rng)
                penalties = [(pl_module.penalties[0], None)]
                record = measure(*networks, *noise, penalties=penalties, step=2, generate=generate, judge=judge)
                found["stats"] = record

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            generator = deepcopy(pl_module.generator).train()
            images = generator(pl_module.fixed_latents, pl_module.fixed_condition).detach()
            pictures.append(torch.nn.functional.adaptive_avg_pool2d(images, 16))

    gan, data = told(penalties=[R1(1.0, every=16)])
    monitor = GradientMonitor(every=2, images=8)
    make_trainer(max_steps=2, callbacks=[ByHand(), monitor]).fit(gan, data)
    stats, expected = monitor.stats, found["stats"]
    for name in ("image_gradient", "slope_real", "slope_between", "logit_gap", "accuracy_fake"):
        assert getattr(stats, name) == getattr(expected, name)
    assert stats.generator.parameter_gradients == expected.generator.parameter_gradients
    assert stats.discriminator.terms == expected.discriminator.terms
    moved = (pictures[1] - pictures[0]).square().flatten(1).sum(1).mean() * 784 / 256
    assert stats.movement == pytest.approx(moved.sqrt().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("every", "n_critic", "expected"),
    [(4, 1, [1, 4, 8, 12]), (5, 2, [2, 6, 10]), (1, 3, [3, 6, 9, 12]), (100, 1, [1]), (3, 1, [1, 3, 6, 9, 12])],
)
def test_measures_when_it_is_due(make_gan, make_trainer, data, every, n_critic, expected):
    monitor = GradientMonitor(every)
    keep = Keep(monitor)
    make_trainer(max_steps=12, callbacks=[monitor, keep]).fit(make_gan(n_critic=n_critic), data)
    assert [stats.step for stats in keep.records] == expected


def test_measures_the_batch_that_is_trained_on(make_gan, make_trainer, data):
    """The same by hand, from the weights that the batch begins with."""
    found = {}

    class ByHand(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step != 3:
                return
            rng = pl_module.rng("monitor", 3)
            found["stats"] = measure(
                pl_module.generator,
                pl_module.discriminator,
                pl_module.loss,
                batch[0][:8],
                torch.randn(8, 8, generator=rng),
                torch.rand(8, 1, 1, 1, generator=rng),
                penalties=[(pl_module.penalties[0], None)],
                step=4,
            )
            found["before"] = [parameter.detach().clone() for parameter in pl_module.generator.parameters()]

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            found.setdefault("after", [parameter.detach().clone() for parameter in pl_module.generator.parameters()])
            if trainer.global_step == 3:
                found.pop("after")

    monitor = GradientMonitor(every=4, images=8)
    settings = {"generator_optimizer": partial(SGD, lr=0.1), "penalties": [R1(1.0, every=16)]}
    make_trainer(max_steps=4, callbacks=[ByHand(), monitor]).fit(make_gan(**settings), data)
    stats, expected = monitor.stats, found["stats"]
    before, after = (torch.cat([parameter.flatten() for parameter in found[when]]) for when in ("before", "after"))
    ratio = ((after - before).norm() / before.norm()).item()
    assert stats.generator.update_ratio == pytest.approx(ratio, rel=1e-4)
    assert list(stats.generator.update_ratios) == ["hidden1", "hidden2", "output"]
    assert stats.discriminator.terms.keys() == {"adversarial", "r1"}
    records = asdict(stats), asdict(expected)
    for record in records:
        del record["movement"], record["logit_held_out"], record["held_out_error"], record["batch"]
        for network in OPTIMIZER_ORDER:
            del record[network]["update_ratio"], record[network]["update_ratios"]
    assert equal(*records)


def test_batch_norm_sees_real_and_generated_images_apart(make_trainer, data):
    found = {}

    class ByHand(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            latents = torch.randn(16, 8, generator=pl_module.rng("monitor", 0))
            generator, discriminator = deepcopy(pl_module.generator), deepcopy(pl_module.discriminator)
            found["fake"] = discriminator(generator(latents)).mean().item()

    torch.manual_seed(0)
    gan = GAN(DCGANGenerator(SHAPE, 8, 4), DCGANDiscriminator(SHAPE, 4, norm="batch"))
    monitor = GradientMonitor()
    make_trainer(max_steps=1, callbacks=[ByHand(), monitor]).fit(gan, data)
    assert monitor.stats.logit_fake == pytest.approx(found["fake"], rel=1e-4)


def test_grad_norm_is_without_the_loss_scale(make_gan, make_trainer, data, tmp_path):
    """Which fused optimizers are given, and take out by themselves."""
    settings = {"discriminator_optimizer": partial(Adam, fused=True), "generator_optimizer": SGD}
    monitor = GradientMonitor()
    keep = Keep(monitor)
    trainer = make_trainer(max_steps=1, callbacks=[monitor, keep], logger=MetricsTable(tmp_path))
    trainer.precision_plugin.scaler = SimpleNamespace(get_scale=lambda: 4.0)  # there is none on a CPU
    trainer.fit(make_gan(**settings), data)
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    (_, _, of_discriminator), (_, _, of_generator) = keep.norms
    assert float(row["grad_norm/discriminator"]) == pytest.approx(of_discriminator / 4, rel=1e-5)
    assert float(row["grad_norm/generator"]) == pytest.approx(of_generator, rel=1e-5)


def test_mixed_precision_is_measured_in_float32(make_trainer, data):
    records = []
    for precision in ("32-true", "bf16-mixed"):
        monitor = GradientMonitor()
        make_trainer(max_steps=1, precision=precision, callbacks=[monitor]).fit(make(penalties=[R1(1.0)]), data)
        record = asdict(monitor.stats)
        for network in OPTIMIZER_ORDER:
            del record[network]["update_ratio"], record[network]["update_ratios"]
        records.append(record)
    assert equal(*records)


def test_half_precision_runs(make_trainer, data):
    monitor = GradientMonitor()
    make_trainer(max_steps=1, precision="bf16-true", callbacks=[monitor]).fit(make(), data)
    assert monitor.stats.generator.total > 0


# ---------------------------------------------------------------------- resume, and the columns


def test_resumes_bit_for_bit(make_trainer, data, tmp_path):
    def run(steps: int, gan: GAN, **settings) -> list:
        monitor = GradientMonitor(every=2)
        keep = Keep(monitor)
        trainer = make_trainer(max_steps=steps, callbacks=[monitor, keep])
        trainer.fit(gan, data, **settings)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return keep.records

    whole = run(9, make())
    expected = load(tmp_path / "9.ckpt")["callbacks"]["GradientMonitor"]
    assert [column["step"] for column in expected["columns"]] == [1, 2, 4, 6, 8]
    run(5, make())
    parts = run(9, make(), ckpt_path=tmp_path / "5.ckpt")
    assert parts == whole[3:]
    assert equal(load(tmp_path / "9.ckpt")["callbacks"]["GradientMonitor"], expected)


def test_a_save_in_a_measured_batch_has_its_column(make_gan, make_trainer, data, tmp_path):
    callbacks = [RunCheckpoint(every=4), GradientMonitor(every=4)]
    make_trainer(max_steps=4, callbacks=callbacks).fit(make_gan(), data)
    state = load(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]["GradientMonitor"]
    assert [column["step"] for column in state["columns"]] == [1, 4]


def test_columns_are_thinned(make_gan, make_trainer, data):
    monitor = GradientMonitor(every=1)
    make_trainer(max_steps=1, callbacks=[monitor]).fit(make_gan(), data)
    first = monitor.stats
    monitor = GradientMonitor(every=1)
    resumed = GradientMonitor(every=1)
    for step in range(1, 1001):
        monitor.keep(replace_step(first, step))
        assert len(monitor.columns) <= MAX_COLUMNS
        if step == 500:
            resumed.load_state_dict(
                {key: list(value) if key == "columns" else value for key, value in monitor.state_dict().items()}
            )
        elif step > 500:
            resumed.keep(replace_step(first, step))
    steps = [column["step"] for column in monitor.columns]
    assert steps == list(range(1, 1001, 8))  # evenly, from the first on
    assert monitor.columns[3]["generator"] == first.generator.activation_gradients
    assert resumed.state_dict() == monitor.state_dict()


def replace_step(stats, step):
    return type(stats)(**(vars(stats) | {"step": step}))


# ---------------------------------------------------------------------- charts and pictures


def test_charts(make_gan, make_trainer, data, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    monitor = GradientMonitor(every=3)
    keep = Keep(monitor)
    loggers = [logger, MetricsTable(tmp_path)]
    gan = make_gan(penalties=[R1(1.0)])
    make_trainer(max_steps=7, logger=loggers, callbacks=[monitor, keep]).fit(gan, data)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()

    def points(tag):
        return [(event.step, event.value) for event in events.Scalars(tag)]

    def expected(value):
        return [(stats.step, pytest.approx(value(stats), rel=1e-6)) for stats in keep.records]

    assert [stats.step for stats in keep.records] == [1, 3, 6]
    assert points("gradients/image_gradient") == expected(lambda stats: stats.image_gradient)
    assert points("gradients/lipschitz") == expected(lambda stats: stats.lipschitz)
    assert points("gradients/logit_gap") == expected(lambda stats: stats.logit_gap)
    assert points("gradients/generator/parameters") == expected(lambda stats: stats.generator.total)
    assert points("gradients/generator/dead") == expected(lambda stats: stats.generator.dead_share)
    assert points("gradients/discriminator/term/r1") == expected(lambda stats: stats.discriminator.terms["r1"])
    assert points("gradients/discriminator/first_to_last") == expected(lambda stats: stats.discriminator.first_to_last)
    assert points("gradients/discriminator/update_ratio") == expected(lambda stats: stats.discriminator.update_ratio)
    assert points("gradients/discriminator/spectral_norm") == expected(
        lambda stats: max(stats.discriminator.spectral_norms.values())
    )
    for kind, values in (
        ("activation", "activation_gradients"),
        ("parameters", "parameter_gradients"),
        ("update_ratio", "update_ratios"),
        ("spectral_norm", "spectral_norms"),
    ):
        wanted = expected(lambda stats, values=values: getattr(stats.generator, values)["hidden2"])
        assert points(f"layers/generator/{kind}/hidden2") == wanted

    # The gradient that training steps with.
    for index, network in enumerate(OPTIMIZER_ORDER):
        norms = [(step, norm) for step, optimizer, norm in keep.norms if optimizer == index]
        norms = [(step + 1 - index, norm) for step, norm in norms]  # the first step has moved the counter
        wanted = [(step, pytest.approx(norm, rel=1e-5)) for step, norm in norms if step in (1, 3, 6)]
        assert points(f"grad_norm/{network}") == wanted

    histogram = events.Histograms("layers/generator/activation_log10/hidden1")[-1]
    assert histogram.step == 6
    assert histogram.histogram_value.num == 16
    counts = keep.records[-1].generator.histograms["hidden1"]
    assert [count for count in histogram.histogram_value.bucket if count] == [count for count in counts if count]
    assert [image.step for image in events.Images("gradients/heatmap_generator")] == [1, 3, 6]
    assert {"gradients/heatmap_generator", "gradients/heatmap_discriminator"} <= set(tags["images"])

    # Charts of single layers are a group of their own, which does not hide the others.
    layers = {name for network in ("generator", "discriminator") for name, _ in getattr(gan, network).named_modules()}
    for kind in ("scalars", "histograms", "images"):
        of_layers = [tag for tag in tags[kind] if tag.rpartition("/")[2] in layers - {"generator", "discriminator"}]
        assert {tag.split("/")[0] for tag in of_layers} <= {"layers"}
    assert len([tag for tag in tags["scalars"] if tag.startswith("gradients/")]) < 30

    header = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert "gradients/generator/parameters" in header
    assert not any("hidden1" in name for name in header)  # single layers would make it wide

    # The picture at the end is the last one on the board.
    drawn = Image.open(tmp_path / "gradients" / "heatmap_generator.png")
    assert np.array_equal(np.asarray(drawn), np.asarray(monitor.draw("generator")))
    board = events.Images("gradients/heatmap_generator")[-1]
    assert (board.width, board.height) == drawn.size


class HeldOut(SmallMNIST):
    """What it trains on is black, and what it does not is white: a logit tells which it was."""

    def load(self, train):
        order = self.validation_first(512)
        images = torch.zeros(512, 1, 28, 28, dtype=torch.uint8)
        images[order[: self.validation_size] if train else slice(None)] = 255
        return images, torch.zeros(512, dtype=torch.int64)


class Brightness(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * images.mean((1, 2, 3))


@pytest.mark.parametrize("validation_size", [64, 3, 0])
def test_measures_images_that_are_not_trained_on(make_trainer, tmp_path, validation_size):
    """Those of the validation data, as many as it has, or else of the test data; training is the same without."""
    torch.manual_seed(0)
    gan = GAN(MLPGenerator(SHAPE, 8), Brightness(), discriminator_optimizer=partial(SGD, lr=0.0))
    monitor, board = GradientMonitor(every=1, images=8), TableLogger()
    trainer = make_trainer(max_steps=2, callbacks=[monitor], logger=board)
    trainer.fit(gan, HeldOut(batch_size=16, validation_size=validation_size))
    assert len(monitor.held_out[0]) == min(8, validation_size or 8)
    assert monitor.stats.logit_real == pytest.approx(-1)
    assert monitor.stats.logit_held_out == pytest.approx(1)
    row = next(row for _, row in board.rows if "gradients/logit_held_out" in row)
    assert row["gradients/logit_held_out"] == pytest.approx(1)
    assert "gradients/by_heart" in row


def test_held_out_images_are_judged_with_their_condition(told, make_trainer):
    gan, data = told(discriminator_optimizer=partial(SGD, lr=0.0))
    data.validation_size = 32
    monitor = GradientMonitor(every=1, images=8)
    make_trainer(max_steps=1, callbacks=[monitor]).fit(gan, data)
    images, condition = monitor.held_out
    kept = [batch[:8] for batch in next(iter(data.val_dataloader()))]
    assert torch.equal(images, kept[0])
    assert torch.equal(condition, kept[1])
    (judge,) = given(condition, gan.discriminator)
    assert monitor.stats.logit_held_out == pytest.approx(judge(images).mean().item(), abs=1e-6)


def test_without_data_held_out_nothing_is_said_of_it(make_gan, make_trainer, data):
    monitor = GradientMonitor(every=1, images=8)
    data.setup("fit")
    make_trainer(max_steps=1, callbacks=[monitor]).fit(make_gan(), data.train_dataloader())
    assert monitor.stats.logit_held_out is None
    assert "not measured: the data holds none out" in "".join(figures(monitor.stats, []))


def test_a_validation_loader_that_fails_is_a_line(make_gan, make_trainer):
    class Broken(SmallMNIST):
        def val_dataloader(self):
            raise OSError("no disk")

    monitor = GradientMonitor(every=1, images=8)
    with pytest.warns(UserWarning, match="GradientMonitor measures no held-out images, since loading them fails: no"):
        make_trainer(max_steps=1, callbacks=[monitor], limit_val_batches=0).fit(make_gan(), Broken(16, 64))
    assert monitor.stats.logit_held_out is None


def test_grad_norm_is_left_to_clipping(make_gan, make_trainer, data, tmp_path):
    class Silent(GradientClipping):
        def on_train_batch_end(self, *args):
            pass

    monitor = GradientMonitor()
    table = MetricsTable(tmp_path)
    make_trainer(max_steps=1, logger=table, callbacks=[Silent(ByNorm(1.0)), monitor]).fit(make_gan(), data)
    text = (tmp_path / "metrics.csv").read_text(encoding="utf-8")
    assert "gradients/generator/parameters" in text
    assert "grad_norm" not in text


def test_a_picture_that_cannot_be_written_does_not_end_the_run(make_gan, make_trainer, data, tmp_path):
    (tmp_path / "gradients").write_text("in the way", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"cannot write .*heatmap_generator\.png"):
        make_trainer(max_steps=2, callbacks=[GradientMonitor()]).fit(make_gan(), data)


@pytest.mark.parametrize("setting", [{"every": 0}, {"images": 1}])
def test_bad_settings(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        GradientMonitor(**setting)


class Level(nn.Module):
    """Images of one level of grey."""

    latent_dim = 8

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, latents):
        return self.level.expand(len(latents), *SHAPE) + 0 * latents.sum()


def test_batches_are_held_against_those_before(make_gan, make_trainer):
    """The latest 16, whenever it measures; an epoch that is one batch is known for it."""
    found = []
    for size in (16, 512):
        monitor = GradientMonitor(every=20, images=8)
        keep = Keep(monitor)
        make_trainer(max_steps=20, callbacks=[monitor, keep]).fit(make_gan(), SmallMNIST(size, validation_size=0))
        found += [stats.batch for stats in keep.records]
    assert [(stats.seen, stats.distinct) for stats in found[:2]] == [(1, 1), (16, 16)]
    assert found[1].images == 16
    assert found[1].label_share < 0.9
    assert found[-1].epoch == 1
    assert found[-1].distinct == 1


class Stays(Callback):
    """An average that nobody updates, or one that is the generator."""

    def __init__(self, follows):
        self.follows = follows

    def setup(self, trainer, pl_module, stage):
        pl_module.add_ema()

    def on_train_batch_end(self, trainer, pl_module, *rest):
        if self.follows:
            pl_module.generator_ema.load_state_dict(pl_module.generator.state_dict())


@pytest.mark.parametrize("follows", [False, True])
def test_how_far_an_average_moves(make_trainer, data, follows):
    gan, monitor = make(norm="none"), GradientMonitor(every=2, images=8)
    keep = Keep(monitor)
    make_trainer(max_steps=4, callbacks=[Stays(follows), monitor, keep]).fit(gan, data)
    first, *others = keep.records
    assert (first.moved, first.moved_average) == (None, None)
    for stats in others:
        assert stats.moved > 0
        assert stats.moved_average == (pytest.approx(stats.moved, rel=0.1) if follows else 0)  # a batch norm of fewer
    assert gan.generator_ema.training


class Lost(MLPGenerator):
    """Its images have lost their graph."""

    def forward(self, z):
        return super().forward(z).detach()


def test_a_generator_without_a_graph_is_a_line(make_gan, make_trainer, data):
    monitor = GradientMonitor(every=1, images=8)
    with pytest.raises(GANError, match=r"^model.generator: no gradient comes back from the images that Lost makes"):
        make_trainer(callbacks=[monitor]).fit(GAN(Lost(SHAPE, 8), make_gan().discriminator), data)
    assert monitor.able


@pytest.mark.parametrize("network", OPTIMIZER_ORDER)
def test_a_network_without_a_weight_that_learns_is_a_line(make_gan, make_trainer, data, network):
    gan = make_gan()
    getattr(gan, network).requires_grad_(False)
    with pytest.raises(GANError, match=rf"^model.{network}: MLP\w+ has no weight that requires a gradient"):
        make_trainer().fit(gan, data)


def test_a_step_that_was_taken_back_changes_nothing_by_itself(make_gan, make_trainer, data):
    """What a NonFiniteGuard skips is no weight that does not move."""

    class Break(Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 4:
                for parameter in pl_module.generator.parameters():
                    if parameter.grad is not None:
                        parameter.grad.fill_(float("nan"))

    monitor = GradientMonitor(every=2, images=8)
    keep = Keep(monitor)
    keep.on_before_optimizer_step = lambda *step: None  # there are gradients that are none
    guard = NonFiniteGuard(policy="skip")
    make_trainer(max_steps=4, callbacks=[Break(), guard, monitor, keep]).fit(make_gan(), data)
    assert guard.counts["generator"] == 1
    ratios = [stats.generator.update_ratio for stats in keep.records]
    assert ratios[-1] is None
    assert all(ratio > 0 for ratio in ratios[:-1])


def test_movement(make_trainer, data):
    """Of all pixels by .3: sqrt(28 * 28) * .3, whatever size the pictures are kept at. Also after a resume."""

    class Move(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            with torch.no_grad():
                pl_module.generator.level.fill_({1: 0.1, 2: 0.4, 3: 0.4, 4: 0.2}[trainer.global_step])

    def fit(last, checkpoint=None):
        gan = GAN(Level(), DCGANDiscriminator(SHAPE, 4, norm="none"), generator_optimizer=partial(SGD, lr=0.0))
        monitor = GradientMonitor(every=1, images=8)
        keep = Keep(monitor)
        callbacks = [Move(), monitor, keep, RunCheckpoint(every=2)]
        trainer = make_trainer(max_steps=last, callbacks=callbacks)
        trainer.fit(gan, data, ckpt_path=checkpoint, weights_only=True)
        return [stats.movement for stats in keep.records], trainer.default_root_dir

    moved, folder = fit(2)
    assert moved == [None, pytest.approx(8.4, rel=1e-5)]
    assert fit(4, f"{folder}/checkpoints/last.ckpt")[0] == [0, pytest.approx(5.6, rel=1e-5)]


@pytest.mark.parametrize("error", LOST)
def test_another_process_that_is_gone_is_nothing_of_these_networks(make_gan, make_trainer, data, error):
    class Lost(GradientMonitor):
        def over_processes(self, trainer):
            raise error

    with pytest.raises(type(error)):
        make_trainer(callbacks=[Lost()]).fit(make_gan(), data)
