"""Numbers that move: their closed forms, what each batch has of them, and that a run that goes on has the same."""

import csv
import math
import pickle
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from commands import SHORT, command, equal, fit, load, resume
from conftest import SmallMNIST, TableLogger, same_weights
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, IterableDataset

from gan import GAN
from gan.augment import DiffAugment, InstanceNoise, ScheduledAugment
from gan.callbacks import GeneratorEMA
from gan.games import Lookahead
from gan.losses import RelativisticPaired
from gan.optim import ScheduledAdam
from gan.penalties import DRAGAN, R1, R2, GradientPenalty
from gan.schedule import Schedule, ends, schedules_in
from gan.spec import described
from gan.terms import Reconstruction

# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("step", [0, 1, 3, 7, 9, 10, 25])
def test_closed_form(step):
    """Half a cosine, or a line, over the batches that it takes; then what it has come to."""
    part = min(1, step / 10)
    cosine = 0.05 + 0.5 * (2 - 0.05) * (1 + math.cos(math.pi * part))
    for ways in ({"batches": 10}, {"share": 0.5}, {}):
        length = {"batches": None, "share": 20}.get(next(iter(ways), ""), 10)
        assert Schedule(2, 0.05, **ways).at(step, length) == pytest.approx(cosine, abs=1e-12)
        line = Schedule(2, 0.05, "linear", **ways).at(step, length)
        assert line == pytest.approx(2 - 1.95 * part, abs=1e-12)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_it_stays_between_its_ends_and_reaches_them_to_the_bit(kind):
    for start, end in ((0.9, 0.99), (0.1, 0.0), (0.3, 0.7), (5e3, 1e-3)):
        schedule = Schedule(start, end, kind, batches=97)
        values = [schedule.at(step) for step in range(120)]
        assert values[0] == start
        assert set(values[97:]) == {end}
        assert values == sorted(values, reverse=start > end)


def test_it_is_a_number_that_moves():
    schedule = Schedule(1, 0, "linear", batches=4)
    assert float(schedule) == 1
    schedule.move(3)
    assert float(schedule) == 0.25
    assert schedule == Schedule(1, 0, "linear", batches=4)  # where it is, is no setting
    assert described(schedule) == {"start": 1, "end": 0, "kind": "linear", "batches": 4, "share": None}
    assert ends(schedule) == (1, 0)
    assert ends(3.0) == (3.0,)


def test_schedules_are_found_by_name():
    optimizer = ScheduledAdam([torch.nn.Parameter(torch.zeros(1))], betas=(0.0, Schedule(0.9, 0.99)))
    found = dict(schedules_in([("r1", R1(Schedule(1, 0))), ("adam", optimizer), ("r2", R2(1.0))]))
    assert found == {"r1.weight": Schedule(1, 0), "adam.betas.1": Schedule(0.9, 0.99)}


def test_two_of_a_name_both_move(make_gan, make_trainer, data):
    """As two penalties R1 are, and two callbacks of a class."""
    penalties = [R1(Schedule(1, 0, "linear")), R1(Schedule(2, 0, "linear", batches=2), every=2)]
    gan = make_gan(penalties=penalties)
    make_trainer(max_steps=4).fit(gan, data)
    assert [name for name, _ in gan.scheduled] == ["r1.weight", "r1_2.weight"]
    assert [float(penalty.weight) for penalty in penalties] == [0, 0]


# ---------------------------------------------------------------------- beyond the range


adam = partial(ScheduledAdam, [torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ends(Schedule(math.nan, 1)), "start and end must be finite numbers, got nan"),
        (lambda: ends(Schedule(0, math.inf)), "start and end must be finite numbers"),
        (lambda: ends(Schedule(0, 1, "stairs")), "kind must be cosine or linear, got 'stairs'"),
        (lambda: ends(Schedule(0, 1, batches=0)), "batches must be at least 1, got 0"),
        (lambda: ends(Schedule(0, 1, share=0)), "share must be above 0 and up to 1"),
        (lambda: ends(Schedule(0, 1, share=1.5)), "share must be above 0 and up to 1"),
        (lambda: ends(Schedule(0, 1, batches=5, share=1)), "leave one out"),
        (lambda: R1(Schedule(1, -1)), "R1: weight must be a finite number >= 0, got 1 to -1 over the whole run"),
        (lambda: GradientPenalty(Schedule(-1, 10)), "GradientPenalty: weight must be"),
        (lambda: GeneratorEMA(Schedule(-1, 500)), "half_life must be a number of images above 0"),
        (lambda: GeneratorEMA(Schedule(0, 0)), "half_life must be a number of images above 0"),
        (lambda: InstanceNoise(Schedule(0.5, -0.1)), "level must be a finite number >= 0"),
        (lambda: ScheduledAugment(Schedule(0, 1.1)), "probability must be from 0 to 1"),
        (lambda: DiffAugment(cutout=Schedule(0, 2)), "cutout must be from 0 to 1"),
        (lambda: DiffAugment(color=Schedule(0, -1)), "color must be a finite number >= 0"),
        (
            lambda: adam(betas=(0.0, Schedule(0.9, 1.0))),
            "betas must be two, each at least 0 and below 1, got 0.0, 0.9 to 1",
        ),
        (lambda: adam(betas=(-0.1, 0.9)), "betas must be two, each at least 0 and below 1, got -0.1, 0.9"),
        (lambda: adam(betas=(0.0, math.nan)), "betas must be two, each at least 0 and below 1"),
        (lambda: adam(betas=(0.9,)), "betas must be two, each at least 0 and below 1, got 0.9"),
        (lambda: adam(lr=Schedule(1, 0)), r"Schedule \(1 to 0 over .* stands where a plain number is wanted: take"),
        (lambda: R1(1.0, every=Schedule(1, 2)), "stands where a plain number is wanted"),
        (lambda: RelativisticPaired(Schedule(0, 1)), "stands where a plain number is wanted"),
        (lambda: Reconstruction(Schedule(0, 1)), "stands where a plain number is wanted"),
    ],
)
def test_beyond_the_range_is_a_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_longer_than_the_run_is_refused(make_gan, make_trainer, data):
    gan = make_gan(penalties=[R1(Schedule(1, 0, batches=9))])
    message = r"r1\.weight: its schedule takes 9 batches, and the run has 8: set .* or its share"
    with pytest.raises(ValueError, match=message):
        make_trainer(max_steps=8).fit(gan, data)
    make_trainer(max_steps=9).fit(gan, data)


class Stream(IterableDataset):
    """Digits without an end."""

    def __iter__(self):
        while True:
            yield torch.zeros(1, 28, 28)


def test_a_share_of_a_run_without_a_known_length_is_refused(make_gan, make_trainer):
    settings = {"max_steps": -1, "max_epochs": None, "max_time": {"seconds": 60}}
    for schedule, what in ((Schedule(1, 0), "the whole"), (Schedule(1, 0, share=0.5), "a share of the")):
        gan = make_gan(penalties=[R1(schedule)])
        with pytest.raises(ValueError, match=f"schedule takes {what} run, and nothing tells .* trainer.max_steps"):
            make_trainer(**settings).fit(gan, DataLoader(Stream(), 8))


# ---------------------------------------------------------------------- in each batch


class Seen(Callback):
    """What the numbers are, at the start and the end of each batch, and what optimizers step with."""

    def __init__(self):
        self.at_start, self.at_end, self.betas = [], [], []

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.at_start.append([float(schedule) for _, schedule in pl_module.schedules()])

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.at_end.append([float(schedule) for _, schedule in pl_module.schedules()])
        self.betas.append([optimizer.param_groups[0]["betas"] for optimizer in trainer.optimizers])


WAYS = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "n_critic": {"n_critic": 2},
    "extragradient": {"extragradient": True, "lookahead": Lookahead(every=3)},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_batch_has_its_own_numbers(way, make_gan, make_trainer):
    """Whoever looks in a batch, at its start or its end, sees what `at` says of the batches completed before."""
    weight, beta, half_life = Schedule(1, 0.1), Schedule(0.9, 0.99, batches=6), Schedule(0, 100, "linear", share=0.5)
    seen, rows = Seen(), TableLogger()
    make = partial(ScheduledAdam, lr=1e-3, betas=(0.5, beta))
    settings = deepcopy(WAYS[way])
    gan = make_gan(penalties=[R1(weight)], discriminator_optimizer=make, generator_optimizer=make, **settings)
    data = SmallMNIST(16 // settings.get("accumulate", 1), validation_size=0)
    make_trainer(max_steps=12, callbacks=[GeneratorEMA(half_life), seen], logger=rows).fit(gan, data)
    want = [[each.at(step, 12) for each in (weight, beta, beta, half_life)] for step in range(12)]
    assert seen.at_start == want
    assert seen.at_end == want
    stepped = [b[0] for b in seen.betas]
    assert stepped == [(0.5, beta.at(step, 12)) for step in range(12)]
    names = ["r1.weight", "discriminator_optimizer.betas.1", "generator_optimizer.betas.1", "GeneratorEMA.half_life"]
    logged = [[row[f"schedule/{name}"] for name in names] for _, row in rows.rows if "loss/discriminator" in row]
    assert logged == want


def test_the_penalty_of_a_batch_has_its_weight(make_gan, make_trainer, data):
    """`every` times what the schedule says of the batches completed."""
    contributions = []

    class Ones(R1):
        def contribution(self, penalties):
            contributions.append(float(super().contribution(torch.ones(4))))
            return super().contribution(penalties)

    gan = make_gan(penalties=[Ones(Schedule(3, 1, "linear"), every=2)])
    make_trainer(max_steps=8).fit(gan, data)
    assert contributions == pytest.approx([2 * (3 - 2 * step / 8) for step in (0, 2, 4, 6)])


def test_a_penalty_that_has_come_to_0_costs_nothing():
    penalty = R1(Schedule(1, 0, batches=3))
    assert penalty.is_due(2)
    penalty.weight.move(3)
    assert not penalty.is_due(3)


def test_a_schedule_that_stays_is_its_number(make_gan, make_trainer, data):
    """To the bit; and torch's Adam is ours."""
    trained = []
    for number, optimizer in ((lambda x: x, Adam), (lambda x: Schedule(x, x), ScheduledAdam)):
        make = partial(optimizer, lr=2e-3, betas=(number(0.5), number(0.9)))
        noise = {"penalties": [R1(number(2.0), every=3)], "augment": DiffAugment(number(1.0), cutout=number(0.25))}
        gan = make_gan(generator_optimizer=make, discriminator_optimizer=make, **noise)
        make_trainer(max_steps=8, callbacks=[GeneratorEMA(number(60.0))]).fit(gan, data)
        trained.append(gan)
    assert same_weights(*trained)


def test_a_beta_without_a_schedule_is_left_to_others():
    """OneCycleLR moves the first one, as of torch's Adam."""
    optimizer = ScheduledAdam([torch.nn.Parameter(torch.ones(1))], betas=(0.5, Schedule(0.9, 0.99)))
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=4)
    for _ in range(3):
        moved = optimizer.param_groups[0]["betas"][0]
        optimizer.step()
        assert optimizer.param_groups[0]["betas"] == (moved, 0.9)
        scheduler.step()
    assert moved != 0.5


@pytest.mark.parametrize("copied", [deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_of_the_optimizer_has_its_schedule(copied):
    schedule = Schedule(0.9, 0.99, "linear", batches=2)
    optimizer = ScheduledAdam([torch.nn.Parameter(torch.ones(1))], betas=(0.5, schedule))
    schedule.move(1)
    optimizer.step()
    copy = copied(optimizer)
    copy.load_state_dict(copy.state_dict())
    assert len(copy._optimizer_step_pre_hooks) == 1
    copy.step()
    assert copy.param_groups[0]["betas"] == pytest.approx((0.5, 0.945))
    dict(schedules_in([("adam", copy)]))["adam.betas.1"].move(2)
    copy.step()
    assert copy.param_groups[0]["betas"] == (0.5, 0.99)
    optimizer.step()
    assert optimizer.param_groups[0]["betas"] == pytest.approx((0.5, 0.945))  # it goes by its own


def test_a_half_life_of_0_is_no_average(make_gan, make_trainer, data):
    for steps, same in ((1, True), (4, False)):
        gan = make_gan()
        average = GeneratorEMA(Schedule(0, 500, batches=steps))
        make_trainer(max_steps=steps, callbacks=[average]).fit(gan, data)
        assert same_weights(gan.generator, gan.generator_ema) is same


# ---------------------------------------------------------------------- a run that goes on


SCHEDULED = {
    "penalty": {"penalties": [DRAGAN(Schedule(1, 0.1)), R1(Schedule(0, 2, "linear", batches=6), every=2)]},
    "noise": {"augment": InstanceNoise(Schedule(0.8, 0, share=0.9))},
    "DiffAugment": {"augment": DiffAugment(Schedule(0, 1), Schedule(0, 0.2), Schedule(0.5, 0))},
    "augmentation": {"augment": ScheduledAugment(Schedule(0, 0.8))},
    "betas": {
        "generator_optimizer": partial(ScheduledAdam, lr=2e-3, betas=(Schedule(0, 0.5), Schedule(0.9, 0.99))),
        "discriminator_optimizer": partial(ScheduledAdam, lr=2e-3, betas=(0.0, Schedule(0.99, 0.9, batches=7))),
    },
    "half-life": {},
    "accumulate": {"accumulate": 2, "penalties": [R1(Schedule(1, 0.1))], "augment": InstanceNoise(Schedule(0.8, 0))},
    "extragradient": {"extragradient": True, "penalties": [R1(Schedule(1, 0.1))]},
}


@pytest.mark.parametrize("case", SCHEDULED)
def test_goes_on_bit_for_bit(case, make_gan, make_trainer, tmp_path):
    """From the middle of a schedule, by weights, average, optimizers and scalars; without a word of it in a file."""

    def train(**given):
        settings = deepcopy(SCHEDULED[case])
        rows, trainer_settings = TableLogger(), {"max_steps": 10}
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
        callbacks = [GeneratorEMA(Schedule(0, 200)), saves]
        gan = make_gan(**settings)
        trainer = make_trainer(callbacks=callbacks, logger=rows, **trainer_settings)
        trainer.fit(gan, SmallMNIST(16 // settings.get("accumulate", 1), validation_size=0), **given)
        return gan, [optimizer.state_dict() for optimizer in trainer.optimizers], rows.rows

    whole, states, rows = train()
    resumed, resumed_states, later = train(ckpt_path=tmp_path / "step=4.ckpt", weights_only=True)
    assert same_weights(whole, resumed)
    assert equal(states, resumed_states)
    assert later == rows[-len(later) :]
    assert len(later) >= 6


# ---------------------------------------------------------------------- by the command line


CONFIG = {
    "model": {
        "penalties": [{"class_path": "gan.penalties.R1", "init_args": {"weight": {"start": 2, "end": 0.5}}}],
        "generator_optimizer": {
            "class_path": "gan.optim.ScheduledAdam",
            "init_args": {"lr": 0.002, "betas": [0.0, {"start": 0.9, "end": 0.99, "share": 0.5}]},
        },
    },
    "trainer": {
        "callbacks+": [
            {
                "class_path": "gan.callbacks.GeneratorEMA",
                "init_args": {"half_life": {"start": 0, "end": 500, "kind": "linear", "batches": 4}},
            }
        ]
    },
}


def test_by_yaml_and_flags(tmp_path, capsys):
    """What YAML and flags set is printed, logged, in the checkpoint as plain data, and goes on bit for bit."""
    Path(tmp_path, "mine.yaml").write_text(yaml.safe_dump(CONFIG), "utf-8")
    words = ["--config", tmp_path / "mine.yaml", "--model.augment", "gan.augment.InstanceNoise"]
    words += ["--model.augment.level.start", "0.5", "--model.augment.level.end", "0"]
    fit(tmp_path / "whole", *words, "--trainer.max_steps", "8")
    told = capsys.readouterr().out
    assert "schedule       r1.weight: 2 to 0.5 over the whole run, cosine" in told
    assert "schedule       generator_optimizer.betas.1: 0.9 to 0.99 over 50% of the run, cosine" in told
    assert "schedule       GeneratorEMA.half_life: 0 to 500 over 4 batches, linear" in told
    assert "schedule       augment.level: 0.5 to 0 over the whole run, cosine" in told
    with Path(tmp_path, "whole", "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["schedule/r1.weight"]]
    weight = Schedule(2, 0.5)
    assert [float(row["schedule/r1.weight"]) for row in rows] == [weight.at(step, 8) for step in range(8)]
    checkpoint = load(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    kept = checkpoint["hyper_parameters"]["penalties"][0]["init_args"]["weight"]
    assert kept == {"start": 2.0, "end": 0.5, "kind": "cosine", "batches": None, "share": None}
    gan = GAN.load_from_checkpoint(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    assert gan.penalties[0].weight == weight
    assert gan.augment.level == Schedule(0.5, 0)


class Break(Callback):
    """Breaks a run off after its fifth batch, as a signal would."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 5:
            raise KeyboardInterrupt


def test_a_command_that_was_broken_off_goes_on(tmp_path):
    Path(tmp_path, "mine.yaml").write_text(yaml.safe_dump(CONFIG), "utf-8")
    words = ["--config", tmp_path / "mine.yaml", "--trainer.max_steps", "8"]
    words += ["--trainer.callbacks+=gan.callbacks.RunCheckpoint", "--trainer.callbacks.every=2"]
    whole = fit(tmp_path / "whole", *words)
    with pytest.raises(SystemExit):
        fit(tmp_path / "parts", *words, callbacks=[Break()])
    parts = resume(tmp_path / "parts")
    one, two = load(whole), load(parts)
    assert two["global_step"] == 8
    assert equal(one["state_dict"], two["state_dict"])
    assert equal(one["optimizer_states"], two["optimizer_states"])


def r1_by(weight: str) -> list[str]:
    return ["--model.penalties", f"[{{class_path: gan.penalties.R1, init_args: {{weight: {weight}}}}}]"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (r1_by("{start: 1, end: -1}"), "R1: weight must be a finite number >= 0, got 1 to -1 over the whole run"),
        (r1_by("{start: 1, end: 0, batches: 50}"), "r1.weight: its schedule takes 50 batches, and the run has 3"),
        (r1_by("{start: 1, end: 0, share: 2}"), "share must be above 0 and up to 1"),
        (r1_by("{start: 1, ende: 0}"), "Option 'ende' is not accepted; did you mean end?"),
        (
            [
                "--model.augment=gan.augment.InstanceNoise",
                "--model.augment.level.start=0.5",
                "--model.augment.level.end=-1",
            ],
            "level must be a finite number >= 0",
        ),
        (
            [
                "--model.generator_optimizer=gan.optim.ScheduledAdam",
                "--model.generator_optimizer.betas=[0, {start: 0.9, end: 1}]",
            ],
            "betas must be two, each at least 0 and below 1",
        ),
    ],
)
def test_a_command_beyond_the_range_is_a_line(tmp_path, words, message, capsys):
    with pytest.raises(SystemExit):
        command("fit", *SHORT, "--run_dir", tmp_path / "run", *words)
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
