"""Lightning's own callbacks, loggers and schedules beside ours: each works, or is one line that says what does."""

import copy
import csv
import json
import os
import pickle
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import SHORT, At, Watch, command, equal, fit, load, resume
from conftest import TableLogger, same_weights
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, ThroughputMonitor
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.loggers import CSVLogger, Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from gan import GAN
from gan.callbacks import FIDTracker, GradientMonitor, ImageLogger, RunCheckpoint
from gan.loggers import MetricsTable

LIGHTNING = "--trainer.callbacks+=lightning.pytorch.callbacks."
LOGGERS = "--trainer.logger+=lightning.pytorch.loggers."
SCORED = ["--data", "commands.Digits", "--data.batch_size", "8", "--data.validation_size", "16"]
SCORED += ["--trainer.callbacks+=gan.callbacks.FIDTracker", "--trainer.callbacks.num_samples=100"]
SCORED += ["--trainer.callbacks.final_samples=100", "--trainer.callbacks.every"]  # batches


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must fail with a line alone, and returns it."""

    def run(*words) -> str:
        with pytest.raises(SystemExit) as end:
            command("fit", *SHORT, "--run_dir", tmp_path / "refused", *words)
        assert end.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1, lines
        return lines[0].removeprefix("error: ")

    return run


def rows(folder) -> dict[int, dict[str, str]]:
    """The rows of metrics.csv, by step, without what differs from run to run."""
    with (Path(folder) / "metrics.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert len({row["step"] for row in found}) == len(found)
    return {int(row.pop("step")): {k: v for k, v in row.items() if v and k != "images_per_second"} for row in found}


# ---------------------------------------------------------------------- copies


def square(epoch: int) -> float:
    """A rate's factor."""
    return 1 / (1 + epoch) ** 2


@pytest.mark.parametrize(
    ("schedule", "make_copy"),
    [
        ("gan.optim.WarmupCosine", copy.deepcopy),
        ("torch.optim.lr_scheduler.StepLR", lambda gan: pickle.loads(pickle.dumps(gan))),
    ],
)
def test_a_gan_from_the_command_line_can_be_copied(tmp_path, make_copy, schedule):
    """As it is while it trains, and it makes the same optimizers."""
    watch = Watch()
    words = ["--model.generator_scheduler", schedule, "--model.discriminator_optimizer", "torch.optim.AdamW"]
    words += ["--model.generator_scheduler.step_size=2"] if schedule.endswith("StepLR") else []
    fit(tmp_path / "run", *words, callbacks=[watch])
    again = make_copy(watch.gan)
    assert same_weights(again, watch.gan)
    assert again.generator is not watch.gan.generator
    for make, own in zip(again.make_optimizer, watch.gan.make_optimizer, strict=True):
        parameters = [torch.nn.Parameter(torch.zeros(1))]
        assert type(make(parameters)) is type(own(parameters))
        assert make(parameters).defaults == own(parameters).defaults
    assert [make and make.keywords for make in again.make_scheduler] == [
        make and make.keywords for make in watch.gan.make_scheduler
    ]


@pytest.mark.parametrize("name", ["WeightAveraging", "EMAWeightAveraging"])
def test_lightnings_averages_go_on_bit_for_bit(tmp_path, name):
    words = [f"{LIGHTNING}{name}", "--trainer.max_steps", "6"]
    whole = load(fit(tmp_path / "whole", *words))
    stop = At(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit, match="130"):
        fit(tmp_path / "parts", *words, callbacks=[stop])
    parts = load(resume(tmp_path / "parts"))
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        assert equal(whole[key], parts[key]), key


# ---------------------------------------------------------------------- one number


class DeviceStats(Callback):
    """Logs as Lightning's DeviceStatsMonitor does, and without a package of its own."""

    def note(self, trainer, name):
        if trainer._logger_connector.should_update_logs:
            for logger in trainer.loggers:
                logger.log_metrics({name: 1.0}, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.note(trainer, "start")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.note(trainer, "end")


class Own(Callback):
    """Logs by Lightning's `log`, of batches and of epochs."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("own", float(trainer.global_step), on_epoch=True)

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.log("own_of_epoch", float(trainer.global_step))

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("own_of_validation", float(trainer.global_step))


@pytest.mark.parametrize("every", [1, 4])
def test_a_batch_has_one_number_in_every_logger(make_gan, make_trainer, halves, tmp_path, every):
    """Whatever logs it: GAN, Lightning's callbacks, a user's; an epoch has 16 batches."""
    table, csv_logger = TableLogger(), CSVLogger(tmp_path, name="csv")
    gan = make_gan(generator_scheduler=partial(StepLR, step_size=3), generator_optimizer=partial(Adam, lr=0.001))
    callbacks = [LearningRateMonitor(), ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]), window_size=2)]
    callbacks += [DeviceStats(), Own()]
    trainer = make_trainer(max_steps=20, log_every_n_steps=every, logger=[table, csv_logger], callbacks=callbacks)
    trainer.fit(gan, halves)
    steps = {}
    for step, metrics in table.rows:
        for name in metrics:
            steps.setdefault(name, []).append(step)
    due = list(range(every, 21, every))
    for name in ("loss/generator", "start", "end", "own_step", "train/time"):
        assert steps[name] == due, name
    assert steps["lr/generator"] == sorted(due * 2)  # Lightning's monitor and we
    own = [(step, metrics["own_step"]) for step, metrics in table.rows if "own_step" in metrics]
    assert own == [(step, step) for step in due]
    assert steps["own_epoch"] == steps["own_of_epoch"] == [16, 20]
    with (Path(csv_logger.log_dir) / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert {int(row["step"]) for row in csv.DictReader(file) if row["loss/generator"]} == set(due)


def test_validation_has_the_number_of_the_batch_before(make_gan, make_trainer, data):
    """What Lightning's monitor counts anew there too."""
    table = TableLogger()
    data.validation_size = 64
    callbacks = [Own(), ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]), window_size=2)]
    make_trainer(max_steps=9, logger=table, callbacks=callbacks, val_check_interval=4).fit(make_gan(), data)
    noted = [(step, metrics["own_of_validation"]) for step, metrics in table.rows if "own_of_validation" in metrics]
    assert noted == [(4, 4.0), (8, 8.0)]
    assert {step for step, metrics in table.rows if "validate/time" in metrics} == {4, 8}


def test_a_second_run_by_the_same_logger_has_its_own_numbers(make_gan, make_trainer, data):
    table = TableLogger()
    for length in (3, 2):
        make_trainer(max_steps=length, logger=table, callbacks=[DeviceStats()]).fit(make_gan(), data)
    assert [step for step, metrics in table.rows if "start" in metrics] == [1, 2, 3, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "settings"),
    [
        (3, ["--trainer.log_every_n_steps", "1"]),
        (4, ["--trainer.log_every_n_steps", "3", "--trainer.val_check_interval", "4"]),  # saved after the validation
        (8, ["--trainer.log_every_n_steps", "2"]),  # the end of an epoch
    ],
)
def test_no_row_is_lost_on_resume(tmp_path, stop, settings):
    """Nor comes in another batch: of Lightning's callbacks, and of a user's own."""
    words = [
        f"{LIGHTNING}LearningRateMonitor",
        *(f"--trainer.callbacks+=test_lightning.{x}" for x in ("DeviceStats", "Own")),
    ]
    words += ["--model.generator_scheduler", "gan.optim.WarmupCosine", "--trainer.max_steps", "14", *settings]
    words += ["--trainer.limit_train_batches", "8", "--trainer.check_val_every_n_epoch", "1"]
    fit(tmp_path / "whole", *words)
    with pytest.raises(SystemExit, match="130"):
        fit(tmp_path / "parts", *words, callbacks=[At(stop - 1, lambda: os.kill(os.getpid(), signal.SIGINT))])
    resume(tmp_path / "parts")
    found, expected = rows(tmp_path / "parts"), rows(tmp_path / "whole")
    for step in found | expected:
        for row in (found[step], expected[step]):
            row.pop("own_epoch", None)  # the mean of an epoch begins anew, as Lightning has it
        assert found[step] == expected[step], step
    entries = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {"resumed": stop} in entries


def test_no_row_is_lost_from_python(make_gan, make_trainer, data, tmp_path):
    """Where the table is not told from which step the run goes on, and Lightning's count is one behind."""
    data.validation_size = 64
    for length in (3, 6):
        callbacks = [LearningRateMonitor(), DeviceStats(), RunCheckpoint()]
        settings = {"max_steps": length, "val_check_interval": 3, "logger": MetricsTable(tmp_path)}
        last = tmp_path / "checkpoints" / "last.ckpt"
        gan = make_gan(discriminator_scheduler=partial(StepLR, step_size=2))
        trainer = make_trainer(callbacks=callbacks, **settings)
        trainer.fit(gan, data, ckpt_path=last if last.exists() else None, weights_only=True)
    found = rows(tmp_path)
    assert sorted(step for step in found if step) == [1, 2, 3, 4, 5, 6]
    assert all({"loss/generator", "lr/discriminator", "start", "end"} <= found[step].keys() for step in found if step)


# ---------------------------------------------------------------------- rates


def test_callbacks_that_watched_a_score_do_as_lightning_has_it_in_a_run_without(scored, make_gan, make_trainer, data):
    stopper = EarlyStopping("fid/mnist_cnn")
    scored(stopper)
    with pytest.raises(RuntimeError, match="conditioned on metric `fid/mnist_cnn` which is not available"):
        make_trainer(max_steps=4, callbacks=[stopper]).fit(make_gan(), data)


@pytest.mark.parametrize("monitor", [False, True])
def test_rates_are_those_that_a_batch_was_trained_with(make_gan, make_trainer, data, monitor):
    """By us, and by Lightning's monitor, which agree; each network's under its name."""
    table = TableLogger()
    gan = make_gan(
        generator_optimizer=partial(SGD, lr=1.0),
        discriminator_optimizer=partial(SGD, lr=3.0),
        generator_scheduler=partial(StepLR, step_size=2, gamma=0.5),
        discriminator_scheduler=partial(StepLR, step_size=1, gamma=0.1),
    )
    make_trainer(max_steps=4, logger=table, callbacks=[LearningRateMonitor()] * monitor).fit(gan, data)
    times = 1 + monitor
    for name, expected in (("generator", [1, 1, 0.5, 0.5]), ("discriminator", [3, 0.3, 0.03, 0.003])):
        found = [(step, metrics[f"lr/{name}"]) for step, metrics in table.rows if f"lr/{name}" in metrics]
        pairs = [(step, pytest.approx(rate)) for step, rate in enumerate(expected, start=1) for _ in range(times)]
        assert found == pairs


def test_rates_without_a_schedule_have_the_network_in_their_names(make_gan, make_trainer, data):
    """Both optimizers are of one class, and each may have groups."""

    def groups(parameters):
        first, *others = parameters
        return Adam([{"params": [first], "lr": 1.0}, {"params": others, "lr": 2.0}])

    table = TableLogger()
    gan = make_gan(discriminator_optimizer=groups, discriminator_scheduler=partial(StepLR, step_size=9))
    make_trainer(max_steps=2, logger=table, callbacks=[LearningRateMonitor()]).fit(gan, data)
    names = {name for _, metrics in table.rows for name in metrics if name.startswith("lr")}
    assert names == {"lr-Adam/generator", "lr/discriminator/pg1", "lr/discriminator/pg2"}
    table = TableLogger()
    make_trainer(max_steps=2, logger=table, callbacks=[LearningRateMonitor()]).fit(make_gan(), data)
    names = {name for _, metrics in table.rows for name in metrics if name.startswith("lr")}
    assert {name.rpartition("/")[2] for name in names} == {"generator", "discriminator"}


# ---------------------------------------------------------------------- schedules that wait, or end


class Scripted(FIDTracker):
    """A tracker whose scores are given, one every two batches."""

    def __init__(self, values, every: int = 2):
        super().__init__(extractor="mnist_cnn", every=every, num_samples=20, final_samples=20)
        self.values = iter(values)
        self.told = []

    def track(self, trainer, pl_module):
        if trainer.global_step == self._scored_at:
            return
        self._scored_at = trainer.global_step
        value = next(self.values)
        self.told.append((trainer.global_step, value))
        pl_module.log_scores({"fid/mnist_cnn": value, "scores/precision/mnist_cnn": -value})

    def on_train_end(self, trainer, pl_module):
        pass


@pytest.fixture
def scored(make_gan, make_trainer, halves):
    """Trains 8 batches with scores of batches 2, 4, 6 and 8. Returns the trainer."""

    def run(*callbacks, values=(4.0, 3.0, 3.5, 2.0), settings=None, ckpt_path=None, **of_gan):
        trainer = make_trainer(**{"max_steps": 8, "callbacks": [Scripted(values), *callbacks]} | (settings or {}))
        trainer.fit(make_gan(**of_gan), halves, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run


def test_a_plateau_of_a_score_lowers_the_rate(scored):
    """One that does not improve twice, counted in scores."""
    plateau = partial(ReduceLROnPlateau, monitor="fid/mnist_cnn", patience=0, factor=0.5)
    upwards = partial(ReduceLROnPlateau, monitor="scores/precision/mnist_cnn", patience=0, factor=0.1, mode="max")
    sgd = partial(SGD, lr=1.0)
    table = TableLogger()
    scored(
        generator_optimizer=sgd,
        discriminator_optimizer=sgd,
        generator_scheduler=plateau,
        discriminator_scheduler=upwards,
        values=(4.0, 5.0, 6.0, 1.0),
        settings={"logger": table},
    )
    for name, expected in (
        ("generator", [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        ("discriminator", [1] * 4 + [0.1] * 2 + [0.01] * 2),
    ):
        rates = [metrics[f"lr/{name}"] for _, metrics in table.rows if f"lr/{name}" in metrics]
        assert rates == pytest.approx(expected)


@pytest.mark.slow
def test_a_plateau_from_the_command_line_goes_on(tmp_path):
    """Its count is in the checkpoint."""
    words = [*SCORED, "2", "--model.generator_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau"]
    words += ["--model.generator_scheduler.monitor", "fid/mnist_cnn", "--model.generator_scheduler.patience", "0"]
    words += ["--model.generator_scheduler.mode", "max", "--trainer.max_steps", "6"]  # so that it never improves twice
    whole = load(fit(tmp_path / "whole", *words))
    with pytest.raises(SystemExit, match="130"):
        fit(tmp_path / "parts", *words, callbacks=[At(3, lambda: os.kill(os.getpid(), signal.SIGINT))])
    parts = load(resume(tmp_path / "parts"))
    assert equal(whole["lr_schedulers"], parts["lr_schedulers"])
    assert equal(whole["state_dict"], parts["state_dict"])


PLATEAU = [
    "--model.generator_scheduler",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "--model.generator_scheduler.monitor",
]

ONE_CYCLE = ["--model.discriminator_scheduler=torch.optim.lr_scheduler.OneCycleLR"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*PLATEAU, "loss/generator"], "model.generator_scheduler: ReduceLROnPlateau must wait for a score"),
        ([*PLATEAU, "fid/mnist_cnn"], "one of this run's: none, for want of a FIDTracker with features"),
        ([*SCORED, "2", *PLATEAU, "fid/inception"], "fid/mnist_cnn, scores/coverage/mnist_cnn, "),
        (
            [*ONE_CYCLE, "--model.discriminator_scheduler.max_lr=0.1", "--model.discriminator_scheduler.total_steps=2"],
            "model.discriminator_scheduler: OneCycleLR ends after total_steps=2 batches, and the run has 3: set its",
        ),
        (["--model.generator_optimizer=test_lightning.Free"], "model.generator_optimizer: Free keeps the weights to"),
    ],
)
def test_a_schedule_or_an_optimizer_that_cannot_go_with_a_gan_is_a_line(refused, words, message):
    assert message in refused(*words)


class Free(SGD):
    """An optimizer as those of schedulefree are."""

    def train(self):
        self.mode = "train"

    def eval(self):
        self.mode = "eval"

    def step(self, closure=None):
        if getattr(self, "mode", None) != "train":
            raise Exception("Optimizer was not in train mode when step is called.")
        return super().step(closure)


def test_one_cycle_past_its_end_in_a_run_of_unknown_length_is_a_line(make_gan, make_trainer, data):
    gan = make_gan(generator_scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=2))
    with pytest.raises(ValueError, match=r"model\.generator_scheduler: OneCycleLR is past its end, its total_steps"):
        make_trainer(max_steps=-1, max_time={"minutes": 1}).fit(gan, data)


def test_one_cycle_of_the_length_of_the_run(make_gan, make_trainer, data):
    trainer = make_trainer(max_steps=5)
    trainer.fit(make_gan(generator_scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=5)), data)
    assert trainer.global_step == 5


# ---------------------------------------------------------------------- callbacks that monitor


@pytest.mark.parametrize(
    ("monitor", "settings", "steps"),
    [
        ("fid/mnist_cnn", {}, [8]),  # the best of 4, 3, 3.5, 2
        ("scores/precision/mnist_cnn", {"mode": "max"}, [8]),
        ("scores/precision/mnist_cnn", {"mode": "min"}, [2]),
        ("fid/mnist_cnn", {"save_top_k": 2}, [4, 8]),
        ("fid/mnist_cnn", {"save_top_k": -1}, [2, 4, 6, 8]),
        ("fid/mnist_cnn", {"every_n_train_steps": 4, "save_top_k": -1}, [4, 8]),
        ("fid/mnist_cnn", {"every_n_train_steps": 1, "save_top_k": 1}, [8]),
        ("fid/mnist_cnn", {"save_on_train_epoch_end": True}, [8]),
        ("fid/mnist_cnn", {"every_n_epochs": 1}, [8]),
    ],
)
@pytest.mark.parametrize("validations", [{}, {"check_val_every_n_epoch": 10}, {"val_check_interval": 3}])
def test_model_checkpoint_saves_by_a_score(scored, tmp_path, monitor, settings, steps, validations):
    """Those batches whose score is good enough, with their weights."""
    name = "{step}"
    checkpoint = ModelCheckpoint(
        tmp_path / "best", filename=name, monitor=monitor, auto_insert_metric_name=False, **settings
    )
    scored(checkpoint, settings=validations)
    assert sorted(int(path.stem.partition("-")[0]) for path in (tmp_path / "best").iterdir()) == steps


def test_model_checkpoint_by_a_score_from_the_command_line(tmp_path):
    """As the docstring advises, and by its defaults."""
    words = [*SCORED, "2", f"{LIGHTNING}ModelCheckpoint", "--trainer.callbacks.monitor", "fid/mnist_cnn"]
    fit(tmp_path / "run", *words)
    saved = [path for path in (tmp_path / "run").rglob("*.ckpt") if path.parent != tmp_path / "run" / "checkpoints"]
    assert [load(path)["global_step"] for path in saved] in ([2], [3])


def test_a_model_checkpoint_goes_on(scored, tmp_path):
    """The run's own checkpoint knows of what it saved in the same batch, and removes it when there is a better one."""
    for length, left in ((4, 4), (8, 8)):
        best = ModelCheckpoint(tmp_path / "best", "{step}", monitor="fid/mnist_cnn", auto_insert_metric_name=False)
        last = tmp_path / "checkpoints" / "last.ckpt"
        scored(
            RunCheckpoint(),
            best,
            values=(4.0, 3.0) if length == 4 else (3.5, 2.0),
            settings={"max_steps": length},
            ckpt_path=last if last.exists() else None,
        )
        assert [int(path.stem) for path in (tmp_path / "best").iterdir()] == [left]


@pytest.mark.parametrize("settings", [{}, {"monitor": "loss/generator"}])
def test_a_model_checkpoint_that_will_save_nothing_says_so(make_gan, make_trainer, data, tmp_path, settings):
    checkpoint = ModelCheckpoint(tmp_path / "never", **settings)
    with pytest.warns(UserWarning, match="saves nothing: .* Set its every_n_train_steps, or save_on_train_epoch_end"):
        make_trainer(max_steps=4, callbacks=[checkpoint], check_val_every_n_epoch=10).fit(make_gan(), data)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "settings", [{"every_n_train_steps": 2}, {"save_on_train_epoch_end": True}, {"every_n_epochs": 1}]
)
def test_a_model_checkpoint_that_saves_says_nothing(make_gan, make_trainer, data, tmp_path, settings, recwarn):
    checkpoint = ModelCheckpoint(tmp_path / "some", **settings)
    validations = {} if "every_n_epochs" in settings else {"check_val_every_n_epoch": 10}
    make_trainer(max_steps=4, callbacks=[checkpoint], **validations).fit(make_gan(), data)
    assert not [warning for warning in recwarn if "saves nothing" in str(warning.message)]
    assert list((tmp_path / "some").iterdir())


@pytest.mark.parametrize("validations", [{}, {"check_val_every_n_epoch": 10}, {"val_check_interval": 1}])
@pytest.mark.parametrize(
    ("values", "patience", "end"),
    [((4, 5, 6, 7), 2, 6), ((4, 3, 2, 1), 1, 8), ((1, 2, 3, 4), 1, 4), ((4, 5, 3, 4), 2, 8)],
)
def test_early_stopping_counts_scores_and_waits_for_the_first(scored, validations, values, patience, end):
    """Whatever ends in between: validations and epochs bring no new score."""
    stopper = EarlyStopping("fid/mnist_cnn", patience=patience)
    trainer = scored(stopper, values=map(float, values), settings=validations)
    assert trainer.global_step == end


def test_early_stopping_by_what_nobody_measures_is_a_line(refused):
    words = ["--trainer.max_steps", "9", "--trainer.limit_train_batches", "4", "--trainer.check_val_every_n_epoch", "1"]
    message = refused(f"{LIGHTNING}EarlyStopping", "--trainer.callbacks.monitor", "nothing", *words)
    assert message.startswith("Early stopping conditioned on metric `nothing` which is not available.")


# ---------------------------------------------------------------------- those that do not fit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["GradientAccumulationScheduler", "--trainer.callbacks.scheduling", '{"0": 2}'], "use model.accumulate"),
        (["LearningRateFinder"], "set model.generator_optimizer.lr"),
        (["StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"], "GeneratorEMA averages the generator"),
        (["SpikeDetection"], "NonFiniteGuard"),
        (["BackboneFinetuning"], "has not"),
        (["OnExceptionCheckpoint", "--trainer.callbacks.dirpath", "x"], "RunCheckpoint saves"),
        (["EarlyStopping", "--trainer.callbacks.monitor=x", "--trainer.callbacks.mode=up"], "`mode` can be min, max"),
        (["ModelCheckpoint", "--trainer.callbacks.save_top_k=-5"], "Invalid value for save_top_k=-5"),
    ],
)
def test_a_callback_that_cannot_go_with_a_gan_is_a_line(refused, words, message):
    name, *others = words
    assert message in refused(f"{LIGHTNING}{name}", *others)


@pytest.mark.parametrize(
    "words",
    [
        ["RichModelSummary"],
        ["Timer", "--trainer.callbacks.duration", "00:01:00:00"],
        ["ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured", "--trainer.callbacks.amount", "0.5"],
        ["LearningRateMonitor", "--trainer.callbacks.logging_interval", "epoch"],
        [
            "ThroughputMonitor",
            "--trainer.callbacks.batch_size_fn",
            "test_lightning.size",
            "--trainer.callbacks.window_size=2",
        ],
    ],
)
def test_a_callback_of_lightnings_trains_and_goes_on(tmp_path, words):
    """What its arguments are is read again from what the run has written."""
    name, *others = words
    fit(tmp_path / "run", f"{LIGHTNING}{name}", *others)
    checkpoint = resume(tmp_path / "run", "--trainer.max_steps", "5", "--trust", "test_lightning")
    assert load(checkpoint)["global_step"] == 5


def size(batch) -> int:
    return len(batch[0])


# ---------------------------------------------------------------------- loggers


class Pictures(Logger):
    """A logger of somebody's, with Lightning's `log_image`."""

    name, version = "pictures", 0

    def __init__(self, save_dir: str = "."):
        super().__init__()
        self.pictures, self.metrics = [], []

    def log_metrics(self, metrics, step=None):
        self.metrics += [(step, name) for name in metrics]

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_image(self, key, images, step=None, **kwargs):
        self.pictures += [(key, image.size, step) for image in images]


@pytest.mark.parametrize("way", ["+=", "=", "config"])
def test_a_logger_is_added_to_the_runs_own(tmp_path, way):
    watch, words = Watch(), ["--trainer.logger+=test_lightning.Pictures"]
    if way == "=":
        words = ["--trainer.logger=test_lightning.Pictures"]
    if way == "config":
        (tmp_path / "mine.yaml").write_text("trainer: {logger: {class_path: test_lightning.Pictures}}\n", "utf-8")
        words = ["--config", str(tmp_path / "mine.yaml")]
    fit(tmp_path / "run", *words, callbacks=[watch])
    assert sorted(rows(tmp_path / "run")) == [1, 2, 3]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/generator")] == [1, 2, 3]
    own = watch.trainer.loggers[-1]
    assert type(own) is Pictures
    assert [step for step, name in own.metrics if name == "loss/generator"] == [1, 2, 3]
    found = {(key, step) for key, _, step in own.pictures}
    assert {("samples/fixed", 0), ("samples/fixed", 3), ("samples/real", 0)} <= found
    assert {("gradients/heatmap_generator", 1), ("gradients/heatmap_discriminator", 1)} <= found
    resume(tmp_path / "run", "--trainer.max_steps", "4", "--trust", "test_lightning")
    assert sorted(rows(tmp_path / "run")) == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["test_lightning.Pictures", "conftest.TableLogger"])
def test_a_logger_that_is_added_again_where_a_run_goes_on_is_one(tmp_path, name):
    """The command that began a run is given again; with W&B, each would be another run there."""
    words, watch = [f"--trainer.logger+={name}"], Watch()
    fit(tmp_path / "run", *words)
    resume(tmp_path / "run", *words, "--trainer.max_steps", "4", callbacks=[watch])
    assert [type(logger).__name__ for logger in watch.trainer.loggers].count(name.rpartition(".")[2]) == 1


@pytest.mark.parametrize("words", [["--trainer.logger", "false"], ["--trainer.barebones", "true"]])
def test_a_run_without_loggers_says_what_it_does_not_write(tmp_path, words):
    with pytest.warns(UserWarning, match=r"there will be no metrics\.csv, and nothing to see in TensorBoard"):
        fit(tmp_path / "run", *words)
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_what_a_logger_cannot_take_is_said_once(make_gan, make_trainer, data, recwarn):
    callbacks = [ImageLogger(every=2), GradientMonitor(every=2)]
    make_trainer(logger=TableLogger(), callbacks=callbacks).fit(make_gan(), data)
    lines = [str(warning.message) for warning in recwarn if "TableLogger takes no" in str(warning.message)]
    assert sorted(lines) == [
        "TableLogger takes no histograms: TensorBoard has them",
        "TableLogger takes no pictures: they are in samples/ and gradients/ of the run's folder",
    ]


@pytest.mark.parametrize(
    ("words", "package"),
    [
        ([f"{LOGGERS}WandbLogger"], "wandb"),
        (["--trainer.logger=lightning.pytorch.loggers.MLFlowLogger"], "mlflow"),
        ([f"{LOGGERS}CometLogger"], "comet-ml"),
        ([f"{LIGHTNING}DeviceStatsMonitor"], "psutil"),
    ],
)
def test_a_missing_package_is_one_line(refused, words, package):
    module = {"comet-ml": "comet_ml"}.get(package, package)
    if module in sys.modules or any(Path(path, module).is_dir() for path in sys.path):
        pytest.skip(f"{package} is there")
    assert refused(*words).startswith(f"a package is missing: pip install '{package}")


def test_wandb_and_mlflow_get_pictures_texts_and_histograms(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path / 'ml.db'}"
    fit(
        tmp_path / "run",
        f"{LOGGERS}WandbLogger",
        f"--trainer.logger.save_dir={tmp_path}",
        f"{LOGGERS}MLFlowLogger",
        f"--trainer.logger.tracking_uri={store}",
    )
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/samples/fixed_*.png"))
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/table/doctor/report_*.json"))
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    history = client.get_metric_history(run.info.run_id, "loss/generator")
    assert sorted(metric.step for metric in history) == [1, 2, 3]
    paths = {
        file.path
        for folder in client.list_artifacts(run.info.run_id)
        for file in client.list_artifacts(run.info.run_id, folder.path)
    }
    assert any("samples~fixed" in path and "step+3" in path for path in paths)
    assert "doctor/report_000003.md" in paths


# ---------------------------------------------------------------------- settings that forbid


def test_without_checkpoints(tmp_path):
    with pytest.warns(UserWarning, match=r"nothing of this run will be saved, for trainer\.enable_checkpointing is"):
        fit(tmp_path / "run", "--trainer.enable_checkpointing", "false")
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_without_a_bar(tmp_path, capsys):
    """What runs and why it ends is said still."""
    fit(tmp_path / "run", "--trainer.enable_progress_bar", "false")
    out = capsys.readouterr().out
    assert "device  " in out
    assert "after batch 3: trainer.max_steps 3" in out
    assert "batch 1/3" not in out
    command(
        "validate",
        "--ckpt_path",
        tmp_path / "run" / "checkpoints" / "last.ckpt",
        "--trainer.enable_progress_bar=false",
        *["--trust", "conftest"],
    )


def test_barebones(tmp_path):
    watch = Watch()
    with pytest.warns(UserWarning, match=r"nothing of this run will be saved, for trainer\.barebones is true"):
        fit(tmp_path / "run", "--trainer.barebones", "true", callbacks=[watch])
    assert watch.trainer.global_step == 3


@pytest.mark.parametrize("name", ["RichProgressBar", "TQDMProgressBar"])
def test_another_bar_stands_in_place_of_ours_and_says_so(tmp_path, name):
    with pytest.warns(UserWarning, match=rf"{name} stands in place of gan\.callbacks\.RunProgress"):
        fit(tmp_path / "run", f"{LIGHTNING}{name}")


# ---------------------------------------------------------------------- one of a list


@pytest.mark.parametrize("words", [["R1", "--model.penalties.weight", "3"], ["gan.penalties.GradientPenalty"]])
def test_penalties_take_one_class(tmp_path, words):
    watch = Watch()
    path = fit(tmp_path / "run", "--model.penalties", *words, callbacks=[watch])
    (penalty,) = watch.gan.penalties
    assert type(penalty).__name__ == words[0].rpartition(".")[2]
    assert penalty.weight == (3 if len(words) > 1 else 10)
    (again,) = GAN.load_from_checkpoint(path, weights_only=True).penalties
    assert type(again) is type(penalty)
    assert again.weight == penalty.weight


def test_one_penalty_from_python(make_gan):
    from gan.penalties import R1

    (penalty,) = make_gan(penalties=R1(2.0)).penalties
    assert penalty.weight == 2.0


@pytest.mark.parametrize("extractor", ["mnist_cnn", "fashion_mnist_cnn"])
def test_no_fid_is_not_said_beside_a_fid(tmp_path, capsys, extractor):
    words = ["--trainer.callbacks+=gan.callbacks.FIDTracker", f"--trainer.callbacks.extractor={extractor}"]
    words += ["--trainer.callbacks.num_samples=100", "--trainer.callbacks.final_samples=100"]
    fit(tmp_path / "run", *words)
    out = capsys.readouterr().out
    assert f"by {extractor}" in out
    assert "FID            none" not in out
