"""A run that something is wrong with, without training: where its trials begin, how long they are, what they change."""

from pathlib import Path

import pytest
import yaml
from test_cure import finding

from gan.callbacks import FIDTracker, GradientDoctor, GradientMonitor
from gan.case import (
    Case,
    Treatment,
    changes_what_is_saved,
    cut,
    default_budget,
    name_of,
    often,
    plan,
    run_itself,
    well_checkpoints,
    whole,
)
from gan.trials import Outcome

RATE = ("--model.generator_optimizer.lr", "0.1")
SCORED = {"num_samples": 100, "final_samples": 1000}
NETWORK = ("--model.generator.norm", "batch")


def case(tmp_path, since=100, max_steps=300, saved=(), **model) -> Case:
    callbacks = [
        {"class_path": "gan.callbacks.GradientMonitor", "init_args": {"every": 10}},
        {"class_path": "gan.callbacks.GradientDoctor", "init_args": {"patience": 2}},
    ]
    trainer = {"max_steps": max_steps, "max_epochs": 3, "logger": False, "callbacks": callbacks}
    (tmp_path / "checkpoints").mkdir()
    for step in saved:
        (tmp_path / "checkpoints" / f"step_{step:06d}.ckpt").touch()
    told = finding(RATE, NETWORK, since=since)
    config = {"data": {}, "model": model, "trainer": trainer, "seed_everything": 1}
    return Case(tmp_path, config, [], [told], [told])


@pytest.mark.parametrize(
    ("since", "max_steps", "budget"), [(100, 300, 300), (100, 9000, 1000), (2000, 9000, 4000), (9000, 9000, 9000)]
)
def test_default_budget(tmp_path, since, max_steps, budget):
    assert default_budget(case(tmp_path, since, max_steps)) == budget


def test_default_budget_of_a_run_by_epochs(tmp_path):
    run = case(tmp_path, max_steps=-1)
    assert default_budget(run) == 1000
    (tmp_path / "metrics.csv").write_text("step,loss\n50,1\n400,1\n", "utf-8")
    assert default_budget(run) == 400


def test_a_trial_begins_where_the_run_was_still_well(tmp_path):
    """The condition shows twice before it is told; what fits no other network begins anew."""
    run = case(tmp_path, since=100, saved=(40, 80, 90, 120))
    assert list(well_checkpoints(run)) == [40, 80]
    trial = plan(run, RATE, 50)
    assert (trial.begin, trial.end, trial.checkpoint) == (80, 130, tmp_path / "checkpoints" / "step_000080.ckpt")
    trial = plan(run, NETWORK, 50)
    assert (trial.begin, trial.end, trial.checkpoint) == (0, 50, None)
    assert plan(run, (), 50, 80).checkpoint == tmp_path / "checkpoints" / "step_000080.ckpt"
    assert plan(run, (), 50, 0).checkpoint is None


class OwnDoctor(GradientDoctor):
    """One that derives from ours."""


def test_callbacks_of_ones_own_are_what_they_derive_from(tmp_path):
    run = case(tmp_path, since=100, saved=(40, 80, 90))
    run.config["trainer"]["callbacks"][1]["class_path"] = f"{__name__}.OwnDoctor"
    assert list(well_checkpoints(run)) == [40, 80]  # by its patience of 2
    run.config["trainer"]["callbacks"][1]["class_path"] = "no.such.Doctor"
    assert name_of(run.config["trainer"]["callbacks"][1]) == "Doctor"


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--data.batch_size", "8"], True),
        (["--data=gan.data.MNISTDataModule"], True),
        (["--model.generator.norm=batch"], True),
        (["--model.discriminator", "MLPDiscriminator"], True),
        (["--model.n_critic", "2", "--model.generator.init_args.norm", "batch"], True),
        (["--model.generator_optimizer.lr", "1"], False),
        (["--model.discriminator_scheduler", "null"], False),
        (["--model.penalties+=R1", "--model.penalties.weight=1"], False),
    ],
)
def test_settings_that_a_checkpoint_does_not_fit(words, changes):
    assert changes_what_is_saved(words) == changes


@pytest.mark.parametrize(
    ("words", "brief"),
    [
        (["--model.n_critic", "1"], ["n_critic 1"]),
        (
            [
                "--model.penalties",
                "[{class_path: gan.penalties.R1, init_args: {weight: 1, every: 4}}]",
                "--model.weight_clip=null",
                "--model.n_critic",
                "1",
            ],
            ["penalties [R1(weight=1, every=4)]", "weight_clip null", "n_critic 1"],
        ),
        (
            [
                "--model.discriminator",
                "{class_path: gan.networks.repair.Normalized, init_args: {network: {class_path: "
                "gan.networks.repair.Logit, init_args: {network: "
                "{class_path: own.Critic, init_args: {a: 1, b: 2, c: 3, d: 4}}}}}}",
            ],
            ["discriminator Normalized(Logit(Critic))"],
        ),
    ],
)
def test_words_in_short(words, brief):
    assert Treatment(tuple(words)).brief == brief


@pytest.mark.parametrize(
    ("network", "replaced"),
    [
        ("{class_path: own.Judge, init_args: {width: 8}}", []),
        ("{class_path: gan.networks.repair.Logit, init_args: {network: {class_path: own.Judge}}}", []),
        ("{class_path: gan.networks.DCGANDiscriminator}", ["Judge"]),
    ],
)
def test_whose_networks_are_replaced(network, replaced):
    config = {"model": {"discriminator": {"class_path": "own.Judge"}, "generator": {"class_path": "own.Painter"}}}
    treatment = Treatment(("--model.discriminator", network, "--model.generator.width", "8", "--model.n_critic", "1"))
    assert treatment.replaces(config) == replaced


def test_a_short_run_is_measured_often_enough(tmp_path):
    """And is stopped by its batches alone, logs nowhere else, and leaves the config of the run as it was."""
    config = case(tmp_path).config
    short = cut(config, 100, 160)
    assert short["trainer"]["max_steps"] == 160
    assert short["trainer"]["max_epochs"] is None
    assert short["trainer"]["logger"] is True
    assert short["trainer"]["callbacks"][0]["init_args"]["every"] == 5
    assert (config["trainer"]["max_steps"], config["trainer"]["callbacks"][0]["init_args"]["every"]) == (300, 10)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("GradientMonitor", {"every": 250, "images": 64}, {"every": 10, "images": 64}),
        ("GradientMonitor", {"every": 3}, {"every": 3}),
        ("FIDTracker", {"every": 500} | SCORED, {"every": 30, "unit": "batches"} | SCORED | {"final_samples": 100}),
        ("FIDTracker", {"every": 1, "unit": "epochs"}, {"every": 30, "unit": "batches"}),
        ("ImageLogger", {"every": 200}, {"every": 200}),
    ],
)
def test_how_often(name, before, after):
    assert often(name, dict(before), 120) == after


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_what_a_very_short_run_is_given_can_be_made(batches):
    GradientMonitor(**often("GradientMonitor", {"every": 250}, batches))
    FIDTracker(**often("FIDTracker", {"every": 500, "num_samples": 100, "final_samples": 1000}, batches))


@pytest.mark.parametrize(
    ("end", "schedule", "told"),
    [(300, True, True), (200, True, False), (200, False, True), (150, False, False)],
)
def test_the_run_as_it_was(tmp_path, end, schedule, told):
    """It tells of a batch that it has scored, unless its rates fall to another end."""
    scheduler = {"class_path": "gan.optim.WarmupCosine"} if schedule else None
    run = case(tmp_path, generator_scheduler=scheduler, discriminator_scheduler=None)
    (tmp_path / "metrics.csv").write_text("step,fid/own\n200,50\n300,40\n", "utf-8")
    outcome = run_itself(run, 0, end)
    assert (outcome is not None) == told
    if outcome is not None:
        assert (outcome.fid, outcome.says, outcome.batches) == ({200: 50.0, 300: 40.0}[end], ["fever"], end)


def test_schedules_of_a_short_run(tmp_path):
    """Those that are longer than it are cut, as they would be refused, and the run itself has its own again."""
    weight = {"start": 1, "end": 0, "kind": "cosine", "batches": 200, "share": None}
    given = {"class_path": "gan.penalties.R1", "init_args": {"weight": weight}}
    run = case(tmp_path, penalties=[given, {"class_path": "gan.penalties.R2", "init_args": {"weight": 1}}])
    short = cut(run.config, 0, 60)
    assert short["model"]["penalties"][0]["init_args"]["weight"] == weight | {"batches": 60}
    assert cut(run.config, 150, 250)["model"] == run.config["model"]
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({**short, "data": {}}), "utf-8")
    outcome = Outcome(folder, (), 0, 60, 1.0, [])
    assert whole(run.config, Treatment(()), outcome)["model"] == run.config["model"]
    (tmp_path / "metrics.csv").write_text("step,fid/own\n200,50\n300,40\n", "utf-8")
    assert run_itself(run, 0, 200) is None
    assert run_itself(run, 0, 300) is not None


def test_a_prescription_of_two_conditions_is_tried_once():
    told = [finding(RATE, name="a"), finding(NETWORK, RATE, name="b")]
    run = Case(Path(), {}, [], told, told)
    assert run.treatments == [Treatment(RATE, {"a", "b"}), Treatment(NETWORK, {"b"})]


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("--a.lr 1", "--b.lr 1", "--a.lr 1 --b.lr 1"),
        ("--a.lr 1", "--a.lr 2", None),
        ("--a.lr 1", "--a.lr=1 --b 2", None),
        ("--a.lr 1 --c 3", "--a.lr=1 --b 2", "--a.lr 1 --c 3 --b 2"),
        ("--a X", "--a.lr 1", None),
        ("--a.init_args.lr 1", "--a.lr 2", None),
        ("--a X --a.lr 1", "--a X --a.norm 2", "--a X --a.lr 1 --a.norm 2"),
        ("--p+=R1 --p.weight 1", "--p+=R1 --p.weight 2", None),
        ("--p+=R1 --p.weight 1", "--p null", None),
        ("--a_b 1", "--a 1", "--a_b 1 --a 1"),
    ],
)
def test_two_prescriptions_as_one(one, other, both):
    found = Treatment(tuple(one.split()), {"x"}).with_other(Treatment(tuple(other.split()), {"y"}))
    assert found == (None if both is None else Treatment(tuple(both.split()), {"x", "y"}))
