"""The doctor: tells each condition once, everywhere, and goes on telling after a resume as if nothing had been."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import fit, load
from conftest import SmallDisk, SmallMNIST, same_weights
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from texts import make_data
from texts import make_gan as make_gan_of_texts
from torch.utils.checkpoint import checkpoint

from gan import GAN
from gan.callbacks import GeneratorEMA, GradientDoctor, GradientMonitor, NonFiniteGuard, RunCheckpoint, RunProgress
from gan.callbacks import gradient_doctor as doctor_module
from gan.gradients.prescribe import Prescription
from gan.gradients.rules import Finding, Score, Thresholds
from gan.lab.own_networks import PerceptronDiscriminator
from gan.losses import NonSaturating, Wasserstein
from gan.networks import DeepMLPDiscriminator, DeepMLPGenerator, Discriminator, MLPDiscriminator

SHAPE = (1, 28, 28)
ILL = Finding("an illness", "it is 3 and should be 4", "Nobody 2020")
CURES = [Prescription(("--model.n_critic", "4"), "fewer steps"), Prescription((), "rest")]


def schedule(monkeypatch, *ill: int, finding: Finding = ILL) -> None:
    """Lets the diagnosis find something in the measurements of those batches."""
    monkeypatch.setattr(doctor_module, "diagnose", lambda record, _: [finding] if record.stats[-1].step in ill else [])
    monkeypatch.setattr(doctor_module, "prescribe", lambda *_: CURES)


def said(capsys) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith(("doctor", "   "))]


def test_tells_a_condition_once_when_it_begins_and_again_when_it_comes_back(
    make_trainer, make_gan, data, tmp_path, capsys, monkeypatch
):
    schedule(monkeypatch, 1, 3, 4, 5, 8, 9)  # one alone, then a row, and a row again
    board = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    doctor = GradientDoctor(patience=2)
    callbacks = [GradientMonitor(every=1, images=8), doctor, RunProgress()]
    trainer = make_trainer(max_steps=9, callbacks=callbacks, logger=board, enable_progress_bar=True)
    trainer.fit(make_gan(), data)

    told = ["an illness. It is 3 and should be 4.", "cure: fewer steps", "--model.n_critic 4", "or rest"]
    assert said(capsys) == [
        f"doctor         batch 4: {told[0]}",
        *told[1:],
        "doctor         batch 7: an illness is over",
        f"doctor         batch 9: {told[0]}",
        "cure: as told at batch 4",
        f"doctor         an illness; 1 condition came and went, in 9 measurements: {tmp_path / 'report.md'}",
    ]
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# What the gradients say\n\n9 measurements up to batch 9: an illness.\n")
    assert "## An illness: batch 4 to batch 7" in report
    assert "## An illness: batch 9 to now" in report
    assert "- Fewer steps: `--model.n_critic 4`\n- Rest\n" in report
    findings = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))
    prescriptions = [{"settings": ["--model.n_critic", "4"], "text": "fewer steps"}, {"settings": [], "text": "rest"}]
    rest = {"name": "an illness", "why": "it is 3 and should be 4", "symptoms": [], "prescriptions": prescriptions}
    assert findings == [{**rest, "since": 4, "until": 7}, {**rest, "since": 9, "until": None}]
    assert "See Nobody 2020." in report
    assert "gradients/heatmap_generator.png" in report

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    texts = events.Tensors("doctor/text_summary")
    assert [text.step for text in texts] == [4, 9]
    assert b"It is 3 and should be 4." in texts[0].tensor_proto.string_val[0]
    (whole,) = events.Tensors("doctor/report/text_summary")
    assert whole.tensor_proto.string_val[0].decode() == report


def test_tells_at_once_what_is_certain(make_trainer, make_gan, capsys):
    class Unscaled(SmallMNIST):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            images, labels = batch
            return images.add(1).div(2), labels

    callbacks = [GradientMonitor(every=100, images=8), GradientDoctor(), RunProgress()]
    data = Unscaled(batch_size=16, validation_size=0)
    make_trainer(max_steps=2, callbacks=callbacks, enable_progress_bar=True).fit(make_gan(), data)
    first, cure, last = said(capsys)
    assert first.startswith("doctor         batch 1: wrong range. Real images lie in [0, 1] and generated ones in [-0.")
    assert cure.startswith("cure: the images of test_tells_at_once_what_is_certain.<locals>.Unscaled (")
    assert cure.endswith("lie in [0, 1]: scale them there by `images = 2 * (images - 0) / 1 - 1`")
    assert last.startswith("doctor         wrong range, in 1 measurement:")


def test_names_the_layers_in_which_a_gradient_dies(make_trainer, data, tmp_path):
    torch.manual_seed(0)
    generator = DeepMLPGenerator(SHAPE, latent_dim=8, width=16, depth=12, activation="sigmoid")
    gan = GAN(generator, DeepMLPDiscriminator(SHAPE, width=16, depth=2))
    doctor = GradientDoctor()
    make_trainer(max_steps=4, callbacks=[GradientMonitor(every=2, images=8), doctor]).fit(gan, data)
    (told,) = doctor.told
    assert told["name"] == "gradient vanishes through depth"
    assert told["since"] == 2
    assert "layers hidden.0.linear, hidden.1.linear, ..., hidden.1" in told["why"]
    words = ("--model.generator.activation", "leaky_relu", "--model.generator.init", "he")
    assert told["prescriptions"][0]["settings"] == words
    assert "Gradient vanishes through depth: batch 2 to now" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_run_with_nothing_wrong_says_so(make_trainer, make_gan, data, tmp_path, capsys, monkeypatch):
    schedule(monkeypatch)
    callbacks = [GradientMonitor(every=2, images=8), GradientDoctor(), RunProgress()]
    make_trainer(max_steps=4, callbacks=callbacks, enable_progress_bar=True).fit(make_gan(), data)
    assert said(capsys) == [
        f"doctor         nothing wrong with the gradients, in 3 measurements: {tmp_path / 'report.md'}"
    ]
    assert "3 measurements up to batch 4: nothing wrong with the gradients." in (tmp_path / "report.md").read_text(
        encoding="utf-8"
    )


def test_a_run_whose_conditions_are_over_is_no_all_clear_where_it_ends_badly(
    make_trainer, make_gan, data, tmp_path, capsys, monkeypatch
):
    schedule(monkeypatch, 1, 2)
    for fids, badly in (([40.0, 30.0], "FID 30 at the end is more than half of the first, 40"), ([40.0, 3.0], "")):
        doctor = GradientDoctor(patience=1)
        doctor.scores = [Score(step, fid, floor=0.1, variance=20) for step, fid in enumerate(fids, start=1)]
        callbacks = [GradientMonitor(every=1, images=8), doctor, RunProgress()]
        trainer = make_trainer(max_steps=5, callbacks=callbacks, enable_progress_bar=True)
        trainer.fit(make_gan(), data)
        report = (tmp_path / "report.md").read_text("utf-8").splitlines()
        assert report[2] == "5 measurements up to batch 5: nothing wrong with the gradients."
        assert said(capsys)[-1].startswith(f"but {badly}" if badly else "doctor         nothing wrong")
        assert (report[4] == f"But {badly}.") == bool(badly)
    monkeypatch.setattr(doctor_module, "ended_badly", lambda scores: "it is bad")
    words = ["--trainer.callbacks+=GradientMonitor", "--trainer.callbacks.every=1", "--trainer.max_steps=5"]
    fit(tmp_path / "a run", *words, "--trainer.callbacks+=GradientDoctor", "--trainer.callbacks.patience=1")
    way = f"python -m gan.cli cure --run_dir '{tmp_path}/a run'"
    assert f"but it is bad: `{way}` tries what was told last" in said(capsys)
    schedule(monkeypatch, *range(1, 6))
    fit(tmp_path / "another run", *words, "--trainer.callbacks+=GradientDoctor")
    way = way.replace("a run", "another run")
    assert said(capsys)[-1] == f"`{way}` tries what is prescribed, in short runs"


def test_what_is_told_a_third_time_is_told_by_the_first(make_trainer, make_gan, data, tmp_path, capsys, monkeypatch):
    """The batch at which the command stands; another prescription is told whole, with those before in its midst."""
    schedule(monkeypatch, 1, 3, 5)
    callbacks = [GradientMonitor(every=1, images=8), GradientDoctor(patience=1), RunProgress()]
    make_trainer(max_steps=5, callbacks=callbacks, enable_progress_bar=True).fit(make_gan(), data)
    lines = said(capsys)
    assert lines.count("cure: as told at batch 1") == 2
    assert lines.count("--model.n_critic 4") == 1
    more = [*CURES[:1], Prescription(("--model.seed", "1"), "luck"), *CURES[1:]]
    several = iter([CURES, more])
    monkeypatch.setattr(doctor_module, "prescribe", lambda *_: next(several))
    callbacks = [GradientMonitor(every=1, images=8), GradientDoctor(patience=1), RunProgress()]
    monkeypatch.setattr(doctor_module, "diagnose", lambda record, _: [ILL] if record.stats[-1].step in (1, 3) else [])
    make_trainer(max_steps=3, callbacks=callbacks, enable_progress_bar=True).fit(make_gan(), data)
    lines = said(capsys)
    at = lines.index("cure: fewer steps, as told at batch 1")
    assert lines[at + 1 : at + 4] == ["or luck", "--model.seed 1", "or rest"]


def test_no_progress_waits_for_what_may_be_why_and_is_over_at_once(make_trainer, make_gan, data, monkeypatch):
    stuck = Finding("no progress", "it is", "Nobody", certain=True)
    found = {1: [ILL], 2: [ILL, stuck], 3: [stuck], 4: [stuck], 5: [stuck], 6: []}
    monkeypatch.setattr(doctor_module, "diagnose", lambda record, _: found[record.stats[-1].step])
    monkeypatch.setattr(doctor_module, "prescribe", lambda *_: [])
    doctor = GradientDoctor(patience=2)
    make_trainer(max_steps=6, callbacks=[GradientMonitor(every=1, images=8), doctor]).fit(make_gan(), data)
    assert [(told["name"], told["since"], told["until"]) for told in doctor.told] == [
        ("an illness", 2, 4),
        ("no progress", 5, 6),
    ]


def test_the_first_the_best_and_the_latest_scores_are_kept():
    scores = [Score(step, abs(step - 5) + 1.0, floor=0.1) for step in range(20)]
    assert [score.step for score in doctor_module.kept(scores)] == [0, 5, *range(12, 20)]
    assert doctor_module.kept(scores[:3]) == scores[:3]


def test_rules_see_the_latest_measurements_without_histograms(make_trainer, make_gan, data, monkeypatch):
    seen = []
    monkeypatch.setattr(doctor_module, "diagnose", lambda record, _: seen.append(record) or [])
    make_trainer(max_steps=11, callbacks=[GradientMonitor(every=1, images=8), GradientDoctor()]).fit(make_gan(), data)
    steps = [[stats.step for stats in record.stats] for record in seen]
    assert steps == [list(range(max(1, last - 7), last + 1)) for last in range(1, 12)]
    assert all(stats.discriminator.histograms == {} for stats in seen[-1].stats)
    assert seen[-1].stats[-1].discriminator.activation_gradients


class Find(Callback):
    """Finds the doctors and monitors of a run."""

    def on_fit_start(self, trainer, pl_module):
        self.doctors = [callback for callback in trainer.callbacks if isinstance(callback, GradientDoctor)]
        self.monitors = [callback for callback in trainer.callbacks if isinstance(callback, GradientMonitor)]


def test_takes_scores_of_the_tracker(tmp_path):
    words = ["--data", "commands.Digits", "--trainer.callbacks+=FIDTracker", "--trainer.callbacks.every=1"]
    words += ["--trainer.callbacks.num_samples=20", "--trainer.callbacks.final_samples=20"]
    find = Find()
    fit(
        tmp_path / "run",
        *words,
        "--trainer.callbacks+=GradientMonitor",
        "--trainer.callbacks.every=1",
        callbacks=[find],
    )
    (doctor,) = find.doctors
    assert [score.step for score in doctor.scores] == [1, 2, 3]
    for score in doctor.scores:
        assert score.variance > 0
        assert score.classes == 10
        assert 1 <= score.covered <= 10
        assert score.fid > 0


@pytest.mark.parametrize("monitors", [[], [GradientMonitor()]])
def test_needs_a_monitor_before_it(make_trainer, make_gan, data, monitors):
    with pytest.raises(ValueError, match="put a GradientMonitor before it"):
        make_trainer(callbacks=[GradientDoctor(), *monitors]).fit(make_gan(), data)


def test_needs_patience():
    with pytest.raises(ValueError, match="patience must be at least 1 measurement, got 0"):
        GradientDoctor(patience=0)


def test_training_is_bit_identical_with_and_without(make_trainer, make_gan, data):
    one, two = make_gan(), make_gan()
    make_trainer(callbacks=[GradientMonitor(every=1, images=8), GradientDoctor()]).fit(one, data)
    make_trainer().fit(two, data)
    assert same_weights(one, two)


def test_looks_on_where_images_are_of_something(told, make_trainer, tmp_path):
    """Training is the same bits, and the report is of a run that was measured."""
    (one, data), (two, again) = told(), told()
    make_trainer(callbacks=[GradientMonitor(every=1, images=8), GradientDoctor()]).fit(one, data)
    make_trainer().fit(two, again)
    assert same_weights(one, two)
    assert "no measurement" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_resumes_bit_for_bit(make_trainer, make_gan, data, tmp_path, monkeypatch):
    """With a row of bad measurements over the break."""
    schedule(monkeypatch, 2, 4, 5, 6)

    def states(last: int, checkpoint=None) -> dict:
        callbacks = [RunCheckpoint(every=4), GradientMonitor(every=1, images=8), GradientDoctor()]
        trainer = make_trainer(max_steps=last, callbacks=callbacks)
        trainer.fit(make_gan(), data, ckpt_path=checkpoint, weights_only=True)
        return load(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]["GradientDoctor"]

    whole = states(8)
    assert [(told["since"], told["until"]) for told in whole["told"]] == [(5, 8)]
    assert states(4)["seen"] == {"an illness": 1}
    assert repr(states(8, tmp_path / "checkpoints" / "last.ckpt")) == repr(whole)  # equal, NaN included


class Break(Callback):
    """Makes the gradient of the discriminator NaN in some batches."""

    def __init__(self, *batches: int):
        self.batches = batches

    def on_after_backward(self, trainer, pl_module):
        gradient = next(pl_module.discriminator.parameters()).grad
        if trainer.global_step + 1 in self.batches and gradient is not None:
            gradient.fill_(math.nan)


def test_a_run_that_ends_at_nan_has_its_report(make_trainer, make_gan, data, tmp_path, capsys):
    callbacks = [Break(3), NonFiniteGuard("raise"), GradientMonitor(every=1, images=8), GradientDoctor(), RunProgress()]
    with pytest.raises(ValueError, match="batch 3: the gradient of the discriminator is not finite"):
        make_trainer(callbacks=callbacks, enable_progress_bar=True).fit(make_gan(), data)
    first, *cures = said(capsys)
    assert first.startswith("doctor         batch 2: non-finite gradients. Batch 3: the gradient of the discriminator")
    assert cures[0] == "cure: rates ten times lower"
    assert any(line.startswith("--trainer.callbacks+ '[{class_path: gan.callbacks.GradientClipping") for line in cures)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Non-finite gradients: batch 2 to now" in report
    assert "- Gradients longer than 10 are shortened: `--trainer.callbacks+ " in report
    assert "heatmap" not in report  # they are drawn at the end of a run that has one


def test_an_error_after_a_skipped_step_is_not_taken_for_it(make_trainer, make_gan, data, capsys):
    """And what it says is no markup."""

    class Fail(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 3:
                raise RuntimeError("cannot open [/data/x.png]")

    callbacks = [Fail(), Break(3), NonFiniteGuard("skip"), GradientMonitor(every=10, images=8), GradientDoctor()]
    trainer = make_trainer(callbacks=[*callbacks, RunProgress()], enable_progress_bar=True)
    with pytest.warns(UserWarning, match="the step is skipped"), pytest.raises(RuntimeError, match="cannot open"):
        trainer.fit(make_gan(), data)
    assert "A gradient was infinite or NaN, once since" in said(capsys)[0]


def test_text_is_no_markup(make_trainer, make_gan, data, capsys, monkeypatch):
    schedule(monkeypatch, 1, finding=replace(ILL, why="they lie in [nan, nan] and [/x]", certain=True))
    callbacks = [GradientMonitor(every=1, images=8), GradientDoctor(), RunProgress()]
    make_trainer(max_steps=1, callbacks=callbacks, enable_progress_bar=True).fit(make_gan(), data)
    assert "They lie in [nan, nan] and [/x]." in said(capsys)[0]


def test_a_symptom_is_not_over_while_a_cause_hides_it(make_trainer, make_gan, data, monkeypatch):
    collapse, cause = replace(ILL, name="mode collapse"), replace(ILL, name="exploding gradients")
    found = {1: [collapse], 2: [collapse], 3: [cause], 4: [cause], 5: [cause], 6: [], 7: []}
    monkeypatch.setattr(doctor_module, "diagnose", lambda record, _: found[record.stats[-1].step])
    doctor = GradientDoctor(patience=2)
    make_trainer(max_steps=7, callbacks=[GradientMonitor(every=1, images=8), doctor]).fit(make_gan(), data)
    assert [(told["name"], told["since"], told["until"]) for told in doctor.told] == [
        ("mode collapse", 2, 7),
        ("exploding gradients", 4, 7),
    ]


def test_what_is_listed_under_a_cause_is_not_over(make_trainer, make_gan, data, monkeypatch):
    """It holds, and is told no more beside what it follows from."""
    dead, cause = replace(ILL, name="dead discriminator"), replace(ILL, name="constant data")
    whole = replace(cause, symptoms=("dead discriminator",))
    found = {1: [dead], 2: [dead], 3: [whole], 4: [whole], 5: [whole], 6: [cause], 7: [cause]}
    monkeypatch.setattr(doctor_module, "diagnose", lambda record, _: found[record.stats[-1].step])
    monkeypatch.setattr(doctor_module, "can_be_over", lambda *_: True)
    doctor = GradientDoctor(patience=2)
    make_trainer(max_steps=7, callbacks=[GradientMonitor(every=1, images=8), doctor]).fit(make_gan(), data)
    assert [(told["name"], told["since"], told["until"]) for told in doctor.told] == [
        ("dead discriminator", 2, 7),
        ("constant data", 4, None),
    ]


class Dark(Callback):
    """Makes all generated images black from one batch on, and gives the generator its weights again after another."""

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        bias = [*pl_module.generator.parameters()][-1].data
        if trainer.global_step == self.first:
            bias.fill_(-100)
        if trainer.global_step == self.last:
            bias.fill_(0)


def test_a_condition_is_not_over_while_all_images_are_black(make_trainer, make_gan, data, monkeypatch):
    schedule(monkeypatch, *range(1, 6))
    doctor = GradientDoctor(patience=2)
    callbacks = [Dark(3, 8), GradientMonitor(every=1, images=8), doctor]
    make_trainer(max_steps=12, callbacks=callbacks).fit(make_gan(), data)
    assert [(told["name"], told["since"], told["until"]) for told in doctor.told] == [("an illness", 2, 10)]


class Mute(MLPDiscriminator):
    """Says 0 of every image: no gradient comes back."""

    def forward(self, images):
        return super().forward(images) * 0


def test_a_condition_is_not_over_while_no_gradient_comes_back(make_trainer, make_gan, data, monkeypatch):
    schedule(monkeypatch, 1, 2, finding=replace(ILL, name="gradient vanishes through depth"))
    gan, doctor = GAN(make_gan().generator, Mute(SHAPE)), GradientDoctor(patience=2)
    make_trainer(max_steps=8, callbacks=[GradientMonitor(every=1, images=8), doctor]).fit(gan, data)
    assert [(told["since"], told["until"]) for told in doctor.told] == [(2, None)]


def test_a_cause_is_not_over_while_nothing_but_nan_is_seen(make_trainer, make_gan, data, monkeypatch):
    class Breaks(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 3:
                [*pl_module.generator.parameters()][-1].data.fill_(math.nan)

    schedule(monkeypatch, 1, 2, finding=replace(ILL, name="exploding gradients"))
    doctor = GradientDoctor(patience=2)
    make_trainer(callbacks=[Breaks(), GradientMonitor(every=1, images=8), doctor]).fit(make_gan(), data)
    assert [(told["since"], told["until"]) for told in doctor.told] == [(2, None)]


@pytest.mark.parametrize(
    ("ill", "every", "verdict"),
    [
        ((4,), 2, "too little to tell: the latest shows an illness, in 3 measurements: "),
        ((), 10, "too little to tell, in 1 measurement: "),
        ((1,), 10, "too little to tell: the latest shows an illness, in 1 measurement: "),
        ((2,), 2, "nothing wrong with the gradients, in 3 measurements: "),  # and was gone again
    ],
)
def test_what_too_few_measurements_show_is_not_called_nothing(
    make_trainer, make_gan, data, capsys, monkeypatch, ill, every, verdict
):
    schedule(monkeypatch, *ill)
    callbacks = [GradientMonitor(every=every, images=8), GradientDoctor(), RunProgress()]
    make_trainer(max_steps=4, callbacks=callbacks, enable_progress_bar=True).fit(make_gan(), data)
    (line,) = said(capsys)
    assert line.startswith(f"doctor         {verdict}")


def test_a_doctor_that_took_no_measurement_says_so(make_trainer, make_gan, data, capsys):
    callbacks = [GradientMonitor(images=8), GradientDoctor(), RunProgress()]
    make_trainer(max_steps=2, callbacks=callbacks, enable_progress_bar=True).fit(make_gan(n_critic=3), data)
    assert said(capsys) == ["doctor         took no measurement, so nothing can be told of the gradients"]


@pytest.mark.parametrize("size", [1, 2])
def test_batches_of_one_image_and_images_that_are_all_equal(make_trainer, make_gan, size):
    class Equal(SmallMNIST):
        def load(self, train):
            images, labels = super().load(train)
            return images[:1].expand(8, -1, -1, -1).clone(), labels[:8]

    doctor = GradientDoctor(patience=1)
    data = Equal(batch_size=size, validation_size=0)
    make_trainer(callbacks=[GradientMonitor(every=1, images=8), doctor]).fit(make_gan(), data)
    assert math.isnan(doctor.stats[-1].spread)


class Reentrant(DeepMLPDiscriminator):
    """Computes its activations twice rather than keeping them, in the way that only `backward` can go back through."""

    def forward(self, images):
        x = images.flatten(1).clone().requires_grad_()
        return self.output(checkpoint(self.hidden, x, use_reentrant=True)).squeeze(1)


def test_networks_that_cannot_be_measured_train_on(make_trainer, make_gan, data):
    gan = GAN(make_gan().generator, Reentrant(SHAPE, width=8, depth=1))
    monitor, doctor = GradientMonitor(every=1), GradientDoctor()
    trainer = make_trainer(max_steps=3, callbacks=[monitor, doctor])
    with pytest.warns(UserWarning, match="GradientMonitor cannot measure these networks, and stops: "):
        trainer.fit(gan, data)
    assert trainer.global_step == 3
    assert monitor.stats is None
    assert doctor.told == []


def test_tells_of_nan_that_a_guard_has_skipped(make_trainer, make_gan, data):
    doctor = GradientDoctor(patience=1)
    callbacks = [Break(2, 3, 4), NonFiniteGuard("skip", tries=5), GradientMonitor(every=2, images=8), doctor]
    with pytest.warns(UserWarning, match="the step is skipped"):
        make_trainer(callbacks=callbacks).fit(make_gan(), data)
    (told,) = (finding for finding in doctor.told if finding["name"] == "non-finite gradients")
    assert (told["name"], told["since"], told["until"]) == ("non-finite gradients", 2, 6)
    assert told["why"].startswith("a gradient was infinite or NaN, once since the measurement before")


def test_is_part_of_every_run_and_its_thresholds_are_settings(tmp_path):
    """The default config lists each threshold at the value that it has without one."""
    look = Find()
    fit(tmp_path / "one", callbacks=[look])
    (doctor,) = look.doctors
    assert doctor.thresholds == Thresholds()
    words = ["--trainer.callbacks+=GradientMonitor", "--trainer.callbacks.every=2"]
    words += ["--trainer.callbacks+=GradientDoctor", "--trainer.callbacks.thresholds.slope=7"]
    fit(tmp_path / "two", *words, callbacks=[look])
    (doctor,), (monitor,) = look.doctors, look.monitors  # in place of the default's, and in their order
    assert (doctor.thresholds.slope, doctor.measured) == (7, 2)
    assert monitor.every == 2
    assert Path(tmp_path, "two", "report.md").is_file()


def test_a_report_that_cannot_be_written_is_a_warning(make_trainer, make_gan, data, tmp_path):
    (tmp_path / "blocked").write_text("a file where the run's folder should be", encoding="utf-8")
    callbacks = [GradientMonitor(every=1, images=8), GradientDoctor()]
    trainer = make_trainer(max_steps=1, callbacks=callbacks, default_root_dir=tmp_path / "blocked")
    with pytest.warns(UserWarning, match=r"cannot write .*report\.md"):
        trainer.fit(make_gan(), data)


def test_a_report_shows_heat_maps_that_wait_for_room_on_the_disk(make_trainer, make_gan, data, tmp_path):
    class Full(Callback):
        def on_train_end(self, trainer, pl_module):
            full.__enter__()

    class Free(Callback):
        def on_train_end(self, trainer, pl_module):
            full.__exit__()

    full = SmallDisk(0)
    callbacks = [Full(), GradientMonitor(every=1, images=8), Free(), GradientDoctor()]
    with pytest.warns(UserWarning, match=r"cannot write .*heatmap_"):
        make_trainer(max_steps=1, callbacks=callbacks).fit(make_gan(), data)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in ("generator", "discriminator"):
        assert f"![{name}](gradients/heatmap_{name}.png)" in report
        assert (tmp_path / "gradients" / f"heatmap_{name}.png").is_file()


class OneLayer(Discriminator):
    """A discriminator without anything to normalise or to unmix."""

    def __init__(self, image_shape):
        super().__init__(image_shape)
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 1))

    def forward(self, images):
        return self.net(images).squeeze(1)


def known(make_trainer, gan, data):
    """What the doctor knows of a run."""
    doctor = GradientDoctor()
    trainer = make_trainer(max_steps=1, callbacks=[GradientMonitor(every=1, images=8), doctor])
    trainer.fit(gan, data)
    return doctor.patient(trainer, gan)


def test_a_healthy_run_pays_nothing_for_prescriptions(make_trainer, make_gan, data, monkeypatch):
    """No parser, no copy of a network: these are for what is told, and once for all of that."""
    tried = []
    monkeypatch.setattr(doctor_module, "repairs_of", lambda network, _: tried.append(network) or frozenset())
    monkeypatch.setattr(doctor_module, "diagnose", lambda record, _: [ILL] if record.stats[-1].step > 3 else [])
    monkeypatch.setattr(doctor_module, "prescribe", lambda *_: CURES)
    for steps, number in ((3, 0), (8, 2)):
        doctor = GradientDoctor(patience=1)
        gan = make_gan()
        make_trainer(max_steps=steps, callbacks=[GradientMonitor(every=1, images=8), doctor]).fit(gan, data)
        assert len(tried) == number
    doctor.patient(gan.trainer, gan)
    assert len(tried) == 2


def test_knows_what_a_network_takes(make_trainer, make_gan, data):
    patient = known(make_trainer, GAN(make_gan().generator, OneLayer(SHAPE)), data)
    assert patient.parts["discriminator"].repairs == {"Logit", "Tanh"}
    assert "Normalized" in patient.parts["generator"].repairs
    assert "ScaledResiduals" not in patient.parts["generator"].repairs
    for skip in (True, False):
        judge = PerceptronDiscriminator(SHAPE, layers=4, hidden=16, skip=skip)
        patient = known(make_trainer, GAN(make_gan().generator, judge), data)
        assert ("ScaledResiduals" in patient.parts["discriminator"].repairs) == skip
    assert patient.refuses == frozenset()


@pytest.mark.parametrize(
    ("loss", "compiled", "refuses"),
    [(NonSaturating, True, {"second derivatives"}), (Wasserstein, False, {"AdaptiveAugment"})],
)
def test_knows_what_the_run_would_refuse(loss, compiled, refuses, make_trainer, make_gan, data):
    own = make_gan()
    discriminator = torch.compile(own.discriminator, backend="eager") if compiled else own.discriminator
    assert known(make_trainer, GAN(own.generator, discriminator, loss()), data).refuses == refuses


def test_a_trial_asks_the_command_too(tmp_path):
    """By `fast_dev_run` nothing is written, and what is told is checked all the same."""
    fit(tmp_path / "run", "--trainer.fast_dev_run", "true", callbacks=[probe := AsksTheDoctor()])
    assert probe.answers == [True, False]


class AsksTheDoctor(Callback):
    """Asks a run's doctor of a setting that there is, and of one that there is not."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        (doctor,) = [each for each in trainer.callbacks if isinstance(each, GradientDoctor)]
        self.answers = [doctor.accepts(["--model.n_critic", "2"]), doctor.accepts(["--model.nothing", "2"])]


def test_texts_are_watched_and_healthy(make_trainer, tmp_path):
    """Softmax outputs are neither in a wrong range nor saturated, and windows of a text no unshuffled batches."""
    data = make_data(tmp_path)
    monitor, doctor = GradientMonitor(every=10), GradientDoctor()
    gan = make_gan_of_texts(data)
    make_trainer(max_steps=120, callbacks=[GeneratorEMA(half_life=100), monitor, doctor]).fit(gan, data)
    assert doctor.measured == 13
    assert doctor.told == []
    assert monitor.stats.generator.ends == "softmax"
    assert monitor.stats.logit_held_out is not None
    assert monitor.stats.batch.distinct > 8
    assert monitor.stats.moved_average > 0


def test_of_texts_it_speaks_as_of_texts(make_trainer, tmp_path, capsys, monkeypatch):
    why, symptoms = "an image is in images.py, and model.images is 3", ("training images learnt by heart",)
    schedule(monkeypatch, 1, finding=Finding("images that are ill", why, "Nobody 2020", symptoms=symptoms))
    monkeypatch.setattr(doctor_module, "prescribe", lambda *_: [Prescription((), "scale images: `images / 2`")])
    data, doctor = make_data(tmp_path), GradientDoctor(patience=1)
    callbacks = [GradientMonitor(every=1, images=4), doctor, RunProgress()]
    make_trainer(max_steps=2, callbacks=callbacks, enable_progress_bar=True).fit(make_gan_of_texts(data), data)
    assert said(capsys)[:4] == [
        "doctor         batch 1: texts that are ill. A text is in images.py, and model.images is 3.",
        "and what follows from it: training texts learnt by heart",
        "cure: scale texts: `images / 2`",
        "doctor         batch 2: texts that are ill is over",
    ]
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Texts that are ill: batch 1 to batch 2" in report
    assert "| logit of real, of generated texts |" in report
    (told,) = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))
    assert told["name"] == "images that are ill"  # by which programs know it
    assert told["why"].startswith("a text is in images.py")


def test_what_texts_refuse_is_not_prescribed(make_trainer, make_gan, tmp_path):
    """`model.augment` is for images."""
    augmentations = {"DiffAugment", "AdaptiveAugment"}
    of_texts = make_gan_of_texts(make_data(tmp_path), loss=NonSaturating())
    assert augmentations <= doctor_module.refused(make_trainer(), of_texts)
    assert not augmentations & doctor_module.refused(make_trainer(), make_gan())
