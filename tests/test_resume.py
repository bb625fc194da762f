"""A run that was killed, at any moment, and resumed ends as if nothing had been: bit for bit, on disk and in charts."""

import contextlib
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from commands import (
    AUXILIARY,
    FEW_LABELS,
    PROJECTION,
    SHORT,
    SMALL,
    SOURCES,
    TRUSTED,
    command,
    equal,
    fit,
    load,
    process,
    resume,
    table,
)
from conftest import ROOT, SmallMNIST
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from texts import TEXT, small_text

from gan.callbacks import FIDTracker, GradientDoctor, GradientMonitor, ImageLogger, RunCheckpoint
from gan.checkpoints import newest_whole
from gan.cli import main
from gan.config import changes
from gan.folder import RunFolder
from gan.losses import Hinge
from gan.networks import MLPDiscriminator
from gan.optim import OPTIMIZER_ORDER
from gan.outbox import Outbox
from gan.penalties import R1
from gan.resume import rounded_anew

# Four batches an epoch. Critic steps, lazy penalty and saves do not come at the same batches.
RUN = ["--data.batch_size", "100", "--model.n_critic", "2", "--data.validation_size", "112"]
RUN += ["--model.penalties", "[{class_path: gan.penalties.R1, init_args: {weight: 1, every: 16}}]"]
for network in ("generator", "discriminator"):
    RUN += [f"--model.{network}_scheduler", "WarmupCosine", f"--model.{network}_scheduler.warmup", "3"]
START = "on_train_batch_start"
BATCH_NORM = ["--model.generator", "DCGANGenerator", "--model.generator.base_channels", "4"]


def every(batches: int, keep: int = 2) -> list[str]:
    words = ["--trainer.callbacks+", "RunCheckpoint", "--trainer.callbacks.every", batches]
    return [*words, "--trainer.callbacks.keep", keep]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


class KillAt(Callback):
    """Kills the process in a hook of Lightning's, after a given batch: no handler runs, nothing is flushed."""

    def __init__(self, hook: str, batch: int):
        def kill(trainer, *args):
            if trainer.global_step == batch and not trainer.sanity_checking:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self, hook, kill)


def child(action) -> int:
    """Does it in a process of its own, forked: starting Python anew would take seconds. Returns its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            action()
            code = 0
        finally:
            os._exit(code)
    return pid


def killed(action) -> None:
    _, status = os.waitpid(child(action), 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def age(run_dir) -> None:
    """Makes a run an older one: TensorBoard sorts its files by the second that they begin in, and no start of Python
    lies between two runs here."""
    for path in Path(run_dir, "tensorboard").glob("events.*"):
        events, out, tfevents, second, *rest = path.name.split(".")
        path.rename(path.with_name(".".join([events, out, tfevents, f"{int(second) - 1000:010}", *rest])))


def check_same(whole, parts, pictures=True) -> None:
    """All of the last checkpoint, the table, each point of each chart once, and all that is drawn and reported."""
    one, two = load(Path(whole, "checkpoints", "last.ckpt")), load(Path(parts, "checkpoints", "last.ckpt"))
    assert one.keys() == two.keys()
    for name in one:
        assert equal(one[name], two[name]), name
    assert table(whole) == table(parts)
    assert Path(whole, "config.yaml").read_text(encoding="utf-8") == Path(parts, "config.yaml").read_text(
        encoding="utf-8"
    )
    assert charts(whole, pictures) == charts(parts, pictures)
    assert not list(Path(parts).rglob("*.partial"))
    if pictures:
        assert drawn(whole) == drawn(parts)


def drawn(run_dir) -> dict[str, bytes]:
    """The pictures and the report of a run."""
    paths = (path for path in Path(run_dir).rglob("*") if path.suffix in (".png", ".gif", ".md", ".txt"))
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in paths}


def charts(run_dir, pictures) -> dict[str, list]:
    events = EventAccumulator(str(Path(run_dir, "tensorboard")), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    # By its text: NaN, as by_heart is where there is no gap, is none that equals another.
    points = {tag: [(point.step, repr(point.value)) for point in events.Scalars(tag)] for tag in tags["scalars"]}
    points["images_per_second"] = [step for step, _ in points["images_per_second"]]
    return points | {tag: [point.step for point in events.Images(tag)] for tag in tags["images"] if pictures}


# ---------------------------------------------------------------------- one moment


@pytest.mark.parametrize("batch", [19, *(pytest.param(batch, marks=pytest.mark.slow) for batch in (18, 20, 21))])
def test_killed_and_resumed_equals_uninterrupted(batch):
    """Weights with running averages, both optimizers, schedules, average, latents, counters, data; rows and charts."""
    words = [*RUN, *BATCH_NORM, *every(5), "--trainer.max_steps", "26", "--trainer.check_val_every_n_epoch", "2"]
    words += ["--trainer.callbacks+", "ImageLogger", "--trainer.callbacks.every", "4"]
    fit("whole", *words)
    killed(lambda: fit("parts", *words, callbacks=[KillAt("on_train_batch_start", batch)]))
    age("parts")
    assert load("parts/checkpoints/last.ckpt")["global_step"] == (20 if batch > 19 else 15)
    resume("parts")
    check_same("whole", "parts")
    content = load("parts/checkpoints/last.ckpt")
    assert {"optimizer_states", "lr_schedulers", "loops", "callbacks", "scalars", "world_size"} <= content.keys()
    assert content["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{}]  # the order is a matter of the batch


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [PROJECTION, AUXILIARY, SOURCES, FEW_LABELS], ids=["projection", "auxiliary", "sources", "few labels"]
)
def test_killed_in_mid_epoch_with_a_condition(words):
    """Each batch's labels, or sources, belong to its images again; the averages of the norms go on.

    The batch after the checkpoint logs the terms of the generator's last step, which was before it.
    """
    words = [*words, *RUN, *every(6), "--trainer.max_steps", "9", "--trainer.log_every_n_steps", "1"]
    words += ["--trainer.callbacks+", "GradientMonitor", "--trainer.callbacks.every", "3"]
    fit("whole", *words)
    killed(lambda: fit("parts", *words, callbacks=[KillAt(START, 7)]))
    age("parts")
    resume("parts")
    check_same("whole", "parts")


@pytest.mark.slow
@pytest.mark.parametrize("hook", [START, "on_before_optimizer_step"])
def test_killed_where_both_networks_step_at_once(hook):
    """In the midst of a batch too; what the steps look back to is in the optimizers' states."""
    words = [*RUN, *every(6), "--trainer.max_steps", "9", "--trainer.log_every_n_steps", "1", "--model.n_critic", "1"]
    words += ["--model.extragradient", "true", "--model.lookahead", "gan.games.Lookahead", "--model.lookahead.every"]
    words += ["4", "--model.generator_optimizer", "gan.games.OptimisticAdam"]
    words += ["--model.discriminator_optimizer", "gan.muon.Muon", "--model.discriminator_optimizer.momentum", "0.5"]
    fit("whole", *words)
    killed(lambda: fit("parts", *words, callbacks=[KillAt(hook, 7)]))
    age("parts")
    resume("parts")
    check_same("whole", "parts")


def test_killed_and_resumed_with_texts(here):
    """The sequences of each batch, the texts of the samples, and the scores."""
    small_text(here)
    words = ["fit", *TEXT, "--trainer.max_steps", "11", "--trainer.log_every_n_steps", "1", *every(5)]
    words += ["--trainer.callbacks+", "GradientMonitor", "--trainer.callbacks.every", "3"]
    command(*words, "--run_dir", "whole")
    killed(lambda: command(*words, "--run_dir", "parts", callbacks=[KillAt(START, 7)]))
    age("parts")
    resume("parts")
    check_same("whole", "parts")
    assert "samples/fixed_000011.txt" in drawn("parts")


class Dropout(MLPDiscriminator):
    """Draws from torch's own generator."""

    def forward(self, images):
        return super().forward(torch.nn.functional.dropout(images, 0.5, self.training))


def test_layers_that_draw_by_themselves_resume_too():
    words = ["--model.discriminator", "test_resume.Dropout", "--model.penalties", "[]"]
    fit("whole", *words, "--trainer.max_steps", "8")
    killed(lambda: fit("parts", *words, *every(3), "--trainer.max_steps", "8", callbacks=[KillAt(START, 5)]))
    resume("parts")
    whole, parts = (load(f"{run}/checkpoints/last.ckpt") for run in ("whole", "parts"))
    assert equal(whole["state_dict"], parts["state_dict"])
    assert table("whole")[-1] == table("parts")[-1]


def test_weights_alone_cannot_go_on(capsys):
    content = load(fit("run"))
    del content["optimizer_states"], content["loops"]
    torch.save(content, "weights.ckpt")
    with pytest.raises(SystemExit, match="2"):
        command("fit", "--run_dir", "new", "--resume", "weights.ckpt")
    assert "weights.ckpt holds weights alone" in capsys.readouterr().err


# Around the end of the second epoch, with a save after each batch. The trap: from a checkpoint that is made in the last
# batch of an epoch, Lightning neither goes back to the validation that was due, nor counts the epochs right.
VALIDATIONS = {
    "each epoch": ["--trainer.check_val_every_n_epoch", "1"],
    "each second epoch": ["--trainer.check_val_every_n_epoch", "2"],
    "twice an epoch": ["--trainer.check_val_every_n_epoch", "1", "--trainer.val_check_interval", "2"],
    "by epochs": ["--trainer.check_val_every_n_epoch", "1", "--trainer.max_epochs", "3", "--trainer.max_steps", "30"],
    "none": ["--trainer.limit_val_batches", "0"],
}
MOMENTS = [(START, batch) for batch in (7, 8, 9)]
MOMENTS += [("on_validation_start", 6), ("on_validation_start", 8), ("on_validation_end", 8)]
MOMENTS += [("on_train_epoch_end", 8), ("on_train_epoch_start", 8)]


@pytest.mark.slow
@pytest.mark.parametrize("validation", VALIDATIONS)
def test_killed_around_the_end_of_an_epoch(validation):
    words = [*RUN, *every(1), "--trainer.max_steps", "14", *VALIDATIONS[validation]]
    fit("whole", *words)
    moments = [moment for moment in MOMENTS if validation != "none" or not moment[0].startswith("on_validation")]
    done = 0
    for hook, batch in moments:
        run_dir = f"{hook}-{batch}"
        _, status = os.waitpid(child(lambda: fit(run_dir, *words, callbacks=[KillAt(hook, batch)])), 0)  # noqa: B023
        if os.WIFSIGNALED(status):  # else there is no such moment in this run
            age(run_dir)
            resume(run_dir)
            done += 1
        check_same("whole", run_dir)
    assert done >= 5


# Batches of an epoch, and what makes them so many.
CUT_SHORT = {
    "batches": (3, ["--trainer.limit_train_batches", "3"]),
    "share": (4, ["--trainer.limit_train_batches", "0.5", "--data.batch_size", "50"]),
    "overfit": (1, ["--config", ROOT / "configs" / "debug" / "overfit.yaml", *RUN]),
    "overfit share": (2, ["--trainer.overfit_batches", "0.5"]),
}


@pytest.mark.parametrize(
    "cut", ["overfit", *(pytest.param(cut, marks=pytest.mark.slow) for cut in CUT_SHORT if cut != "overfit")]
)
def test_killed_where_epochs_are_cut_short(cut):
    """After the last batch of the second epoch, and again in the middle of the next."""
    length, cut_short = CUT_SHORT[cut]
    words = [*RUN, *cut_short, *every(1), "--trainer.max_steps", "11"]
    fit("whole", *words)
    killed(lambda: fit("parts", *words, callbacks=[KillAt(START, 2 * length)]))
    age("parts")
    killed(lambda: resume("parts", callbacks=[KillAt(START, 2 * length + 1)]))
    age("parts")
    resume("parts")
    check_same("whole", "parts")


@pytest.mark.slow
def test_longer_run_goes_on_in_the_middle_of_an_epoch():
    """A run that came to its end, and is given more batches, counts its epochs as one that had them from the start."""
    words = [*RUN, "--trainer.check_val_every_n_epoch", "1"]
    words += ["--model.generator_scheduler", "null", "--model.discriminator_scheduler", "null"]
    fit("whole", *words, "--trainer.max_steps", "9")
    fit("parts", *words, "--trainer.max_steps", "6")
    age("parts")
    resume("parts", "--trainer.max_steps", "9")
    check_same("whole", "parts", pictures=False)  # a run draws at its end


def test_checkpoint_of_an_earlier_version_still_loads():
    """Without the keys that came later."""
    path = fit("run")
    content = load(path)
    del content["scalars"], content["world_size"], content["epoch_batches"]
    content["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [{"epoch": 0, "position": 24}]
    Path("run/checkpoints/step_000003.ckpt").unlink()
    torch.save(content, path)
    assert load(resume("run", "--trainer.max_steps", "5"))["global_step"] == 5


# ---------------------------------------------------------------------- the end

SCORED = ["--data", "commands.Digits", "--trainer.callbacks+=gan.callbacks.FIDTracker"]
SCORED += [
    "--trainer.callbacks.every=3",
    "--trainer.callbacks.num_samples=100",
    "--trainer.callbacks.final_samples=300",
]
EARLY = ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.patience=1"]
EARLY += ["--trainer.callbacks.monitor=validation/discriminator", "--trainer.callbacks.stopping_threshold=100"]
ENDS = {  # four batches an epoch
    "batches": ["--trainer.max_steps", "7"],
    "epochs": ["--trainer.max_epochs", "2", "--trainer.max_steps", "30"],
    "stopped early": ["--trainer.max_steps", "50", "--trainer.check_val_every_n_epoch", "1", *EARLY],
    "stopped early, and saved": [
        "--trainer.max_steps",
        "50",
        "--trainer.check_val_every_n_epoch",
        "1",
        *EARLY,
        *every(4),
    ],
}
LATE = {  # what a run does at its end, in order
    "saved": (RunCheckpoint, "_asked"),
    "drawn": (ImageLogger, "on_train_end"),
    "scored": (FIDTracker, "on_train_end"),
    "heat maps": (GradientMonitor, "on_train_end"),
    "report": (GradientDoctor, "on_train_end"),
    "written": (Outbox, "give_up"),
    "marked": (RunCheckpoint, "_mark"),
}


def fit_until(moment, run_dir, words) -> None:
    """A run that is killed at its end, when it has done so much of it. In a process of its own."""
    cls, name = LATE[moment]
    method = getattr(cls, name)

    def then_die(*args):
        method(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(cls, name, then_die)
    fit(run_dir, *words)


@pytest.mark.parametrize(
    ("end", "moment"),
    [
        ("batches", "scored"),
        *(pytest.param("batches", moment, marks=pytest.mark.slow) for moment in LATE if moment != "scored"),
        *(pytest.param(end, moment, marks=pytest.mark.slow) for end in [*ENDS][1:] for moment in ("saved", "scored")),
    ],
)
def test_killed_in_its_end(end, moment):
    """It is done again, to the bit."""
    words = [*RUN, *SCORED, *ENDS[end]]
    fit("whole", *words)
    killed(lambda: fit_until(moment, "parts", words))
    assert ("ended" in load("parts/checkpoints/last.ckpt")) == (moment == "marked")
    age("parts")
    resume("parts")
    check_same("whole", "parts")
    contents = [load(path) for path in Path("parts/checkpoints").iterdir()]
    last = max(content["global_step"] for content in contents)
    assert all(("ended" in content) == (content["global_step"] == last) for content in contents)


# ---------------------------------------------------------------------- any moment


class Run:
    """`fit` with `--resume auto` in a process of its own, or in one for each device, which can be killed."""

    def __init__(self, run_dir: str, words: list, real: bool):
        words = [str(word) for word in ["fit", *words, "--run_dir", run_dir, "--resume", "auto"]]
        self.folder = Path(run_dir, "checkpoints")
        self.log = Path(f"{run_dir}.log").open("ab")  # noqa: SIM115
        self.real = real
        if real:
            paths = os.pathsep.join(str(path) for path in (Path(__file__).parents[1], Path(__file__).parent))
            env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
            command = [sys.executable, "-m", "gan.cli", *words]
            self.process = process(command, stdout=self.log, stderr=self.log, env=env, start_new_session=True)
            self.pid = self.process.pid
        else:
            self.pid = child(lambda: self.quiet(words))

    def quiet(self, words: list[str]) -> None:
        for number in (1, 2):
            os.dup2(self.log.fileno(), number)
        main(words)

    def wait(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        assert status == 0, Path(self.log.name).read_text(encoding="utf-8")[-3000:]

    def ended(self) -> bool:
        status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return status is not None

    def wait_for_a_write(self, number: int) -> None:
        """Until the checkpoint of that number, from now on, is being written."""
        writing = False
        while number > 0 and not self.ended():
            now = any(path.endswith(".partial") for path in os.listdir(self.folder)) if self.folder.is_dir() else False
            number -= now and not writing
            writing = now

    def kill(self) -> bool:
        """Returns whether it came in time."""
        ended = self.ended()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        age(self.folder.parent)
        return not ended


def survives(number: int, seed: int, real: bool, devices: int = 1) -> None:
    """Kills runs once to three times each, anywhere or in the middle of a save, and takes them to their end."""
    words = [*SHORT, *RUN, *every(3), "--trainer.max_steps", "60", "--trainer.check_val_every_n_epoch", "1"]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", devices]
    begin = time.monotonic()
    Run("whole", words, real).wait()
    duration = time.monotonic() - begin
    rng, kills = random.Random(seed), 0
    for run_number in range(number):
        run_dir = f"run-{run_number}"
        for _ in range(rng.randint(1, 3)):
            run = Run(run_dir, words, real)
            if rng.random() < 0.5:
                time.sleep(rng.uniform(0, duration))
            else:
                run.wait_for_a_write(rng.randint(1, 8))
                time.sleep(rng.choice([0, rng.uniform(0, 0.02)]))
            had = list(run.folder.glob("*.ckpt"))
            kills += run.kill()
            assert newest_whole(run.folder) or not had  # raises if there are some and none is whole
        Run(run_dir, words, real).wait()
        check_same("whole", run_dir)
        assert sorted(path.name for path in Path(run_dir, "checkpoints").iterdir()) == [
            "last.ckpt",
            "step_000057.ckpt",
            "step_000060.ckpt",
        ]
    assert kills >= number / 2


@pytest.mark.slow
def test_survives_being_killed():
    survives(3, seed=0, real=False)


@pytest.mark.slow
def test_two_processes_survive_being_killed():
    survives(1, seed=2, real=True, devices=2)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_survives_being_killed_25_times(devices):
    """The real command, as a shell starts it: some of the moments lie in its start, before there is a run."""
    survives(25, seed=1, real=True, devices=devices)


# ---------------------------------------------------------------------- what has changed


def said(capsys, run_dir, *words) -> list[str]:
    capsys.readouterr()
    resume(run_dir, *words)
    output, errors = capsys.readouterr()
    assert errors == ""
    return [line for line in output.splitlines() if line.split()[0] in ("changed", "processes", "images/batch")]


def test_changes_are_said_once(capsys):
    fit("run", "--model.generator_optimizer.lr", "0.003")
    assert said(capsys, "run", "--trainer.max_steps", "4") == ["changed        trainer.max_steps: 3 -> 4"]
    words = ["--trainer.max_steps", "5", "--model.n_critic", "2", "--model.generator_optimizer.lr", "0.25"]
    assert said(capsys, "run", *words, "--model.loss", "Hinge") == [
        "changed        trainer.max_steps: 4 -> 5",
        "changed        model.loss: gan.losses.NonSaturating -> gan.losses.Hinge",
        "changed        model.n_critic: 1 -> 2",
        "changed        model.generator_optimizer.lr: 0.003 -> 0.25",
    ]
    assert said(capsys, "run", "--trainer.max_steps", "5", "--model.n_critic", "2") == []  # nothing to train, either


@pytest.mark.slow
def test_changes_from_a_path_into_another_folder(capsys):
    path = fit("old")
    command("fit", "--run_dir", "new", "--resume", path, "--trainer.max_steps", "5", *TRUSTED)
    assert "changed        trainer.max_steps: 3 -> 5" in capsys.readouterr().out.splitlines()
    command("fit", *SHORT, "--run_dir", "fresh")
    assert "changed" not in capsys.readouterr().out


def test_changes_in_lists():
    one = yaml.safe_load("callbacks: [{class_path: A, init_args: {every: 1}}, {class_path: B}]\nbetas: [0.0, 0.9]")
    two = yaml.safe_load("callbacks: [{class_path: A, init_args: {every: 2}}]\nbetas: [0.5, 0.9]\nnew: null")
    assert changes(one, two) == [
        "changed        callbacks.0.every: 1 -> 2",
        "changed        betas: [0.0, 0.9] -> [0.5, 0.9]",
        "changed        callbacks.1: B -> None",
    ]


def test_other_number_of_processes_is_said(capsys):
    """The checkpoint of a run on four processes, as this one would see it."""
    path = fit("run")
    content = load(path)
    assert content["world_size"] == 1
    torch.save(content | {"world_size": 4}, path)
    assert said(capsys, "run", "--trainer.max_steps", "4") == [
        "changed        trainer.max_steps: 3 -> 4",
        "processes      4 -> 1: goes on correctly from batch 3, but not bit for bit as before",
        "images/batch   32 -> 8 over all processes; to keep it, set data.batch_size to 32",
    ]
    torch.save(content | {"world_size": 4}, path)
    words = ["--trainer.max_steps", "4", "--data.batch_size", "32"]  # of the run of 3 batches, by what it carries
    assert [line.split()[0] for line in said(capsys, "run", *words)] == ["changed", "changed", "processes"]


@pytest.mark.parametrize(
    ("setting", "now"),
    [
        (["--data.batch_size", "16"], 31),
        pytest.param(["--trainer.limit_train_batches", "2"], 2, marks=pytest.mark.slow),
    ],
)
def test_other_batches_in_an_epoch_are_said(capsys, setting, now):
    """Of eight images each, 496 make 62."""
    fit("run")
    capsys.readouterr()
    resume("run", "--trainer.max_steps", "4", *setting)
    resume("run", "--trainer.max_steps", "5")
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("batches/epoch")] == [
        f"batches/epoch  62 -> {now}: from batch 3 on, images come in the order of a run that had {now} from its start"
    ]


def groups(path) -> dict[str, dict]:
    """The first group of each optimizer in a checkpoint, by the network's name."""
    return {
        name: state["param_groups"][0]
        for name, state in zip(OPTIMIZER_ORDER, load(path)["optimizer_states"], strict=True)
    }


STEPS = [word for name in OPTIMIZER_ORDER for word in (f"--model.{name}_scheduler", "torch.optim.lr_scheduler.StepLR")]
STEPS += [word for name in OPTIMIZER_ORDER for word in (f"--model.{name}_scheduler.step_size", "2")]


def test_settings_that_a_resumed_run_says_it_has_changed_are_changed(capsys):
    """Those of an optimizer under a schedule of torch's, and those of the schedule."""
    fit("run", *STEPS)
    words = ["--model.generator_optimizer.lr", "1e-6", "--model.discriminator_optimizer.betas", "[0.5, 0.9]"]
    words += ["--model.discriminator_scheduler.step_size", "5", "--model.discriminator_scheduler.gamma", "0.5"]
    capsys.readouterr()
    path = resume("run", "--trainer.max_steps", "4", *words)
    said = capsys.readouterr().out
    for line in (
        "changed        model.generator_optimizer.lr: 0.004 -> 1e-06",
        "changed        model.discriminator_optimizer.betas: [0.0, 0.9] -> [0.5, 0.9]",
        "changed        model.discriminator_scheduler.step_size: 2 -> 5",
        "changed        model.discriminator_scheduler.gamma: 0.1 -> 0.5",
    ):
        assert line in said.splitlines()
    after = groups(path)
    assert after["generator"]["lr"] == pytest.approx(1e-8)  # twice a tenth, by batch 4
    assert after["discriminator"]["lr"] == 0.004
    assert tuple(after["discriminator"]["betas"]) == (0.5, 0.9)
    assert tuple(after["generator"]["betas"]) == (0.0, 0.9)
    assert [state["step_size"] for state in load(path)["lr_schedulers"]] == [5, 2]


@pytest.mark.parametrize("cls", ["SGD", "AdamW"])
def test_another_class_of_optimizer_starts_anew_and_says_so(cls, capsys):
    fit("run")
    with pytest.warns(UserWarning, match=rf"model.generator_optimizer: .*{cls} in place of torch.optim.adam.Adam; its"):
        resume("run", "--trainer.max_steps", "4", "--model.generator_optimizer", f"torch.optim.{cls}")
    states = load("run/checkpoints/last.ckpt")["optimizer_states"]
    assert {int(state["step"]) for state in states[0]["state"].values()} == {4}
    assert {int(state.get("step", 1)) for state in states[1]["state"].values()} <= {1}


@pytest.mark.parametrize("order", ["before", "after"])
def test_run_dir_and_resume_in_a_config_are_as_flags(order, capsys):
    """They bring in the run's own config, which the config's other settings win over."""
    fit("run", "--model.n_critic", "3", "--model.penalties", "[]")
    Path("go_on.yaml").write_text("run_dir: run\nresume: auto\ntrainer:\n  max_steps: 5\n", "utf-8")
    capsys.readouterr()
    words = ["--config", "go_on.yaml"], ["--model.n_critic", "2"]
    first, second = words if order == "before" else words[::-1]
    command("fit", *first, *second)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("changed")] == [
        "changed        trainer.max_steps: 3 -> 5",
        "changed        model.n_critic: 3 -> 2",
    ]
    content = load("run/checkpoints/last.ckpt")
    assert (content["global_step"], content["hyper_parameters"]["penalties"]) == (5, [])


def test_a_checkpoint_in_a_config_is_as_one_in_a_flag(capsys):
    path = fit("run", "--model.n_critic", "3")
    Path("new.yaml").write_text(f"resume: {path}\nrun_dir: new\ntrust: [conftest]\n", "utf-8")
    command("fit", "--config", "new.yaml", "--trainer.max_steps", "4")
    assert load("new/checkpoints/last.ckpt")["hyper_parameters"]["n_critic"] == 3
    Path("score.yaml").write_text("ckpt_path: new/checkpoints/last.ckpt\ntrust: [conftest]\n", "utf-8")
    command("validate", "--config", "score.yaml")
    assert "SmallMNIST" in capsys.readouterr().out


# ---------------------------------------------------------------------- a checkpoint away from its run

# What a command would have of its own: MNIST, the non-saturating loss, R1, one step of the critic, Adam at 0.004.
OTHERWISE = ["--model.loss", "Hinge", "--model.penalties", "[]", "--model.n_critic", "2", "--seed_everything", "7"]
OTHERWISE += ["--model.generator_optimizer.lr", "0.003", "--data", "test_resume.Inverted"]


class Inverted(SmallMNIST):
    """Of MNIST's shape, and not MNIST."""

    def load(self, train):
        images, labels = super().load(train)
        return 255 - images[:300], labels[:300]


TRUSTED_HERE = [*TRUSTED, "--trust", "test_resume"]
BY_LIGHTNING = ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"]
BY_LIGHTNING += ["--trainer.callbacks.every_n_train_steps", "2", "--trainer.callbacks.dirpath", "deep/er/down"]


@pytest.fixture
def away(request) -> Path:
    """A checkpoint that lies where nothing tells of its run, or something of another one."""
    path = fit("run", *OTHERWISE, *(BY_LIGHTNING if request.param == "Lightning's" else []))
    if request.param == "Lightning's":
        return next(Path("deep/er/down").glob("*.ckpt"))
    place = Path({"elsewhere": "x.ckpt", "beside a foreign config": "other/checkpoints/last.ckpt"}[request.param])
    place.parent.mkdir(parents=True, exist_ok=True)
    path.rename(place)
    Path("other").mkdir(exist_ok=True)
    Path("other/config.yaml").write_text("model: {n_critic: 5, loss: {class_path: gan.losses.Wasserstein}}\n", "utf-8")
    shutil.rmtree("run")
    return place


@pytest.mark.parametrize("away", ["elsewhere", "beside a foreign config", "Lightning's"], indirect=True)
def test_a_checkpoint_is_scored_on_the_data_of_its_run(away, capsys):
    """Wherever it lies; which data that was is said, and whether it has seen them."""
    capsys.readouterr()
    command("validate", "--ckpt_path", away, *TRUSTED_HERE)
    said = capsys.readouterr().out
    data = re.search(r"^data .*: (test_resume\.Inverted .*)$", said, re.M)[1]
    assert f"data           16 held-out images, which it did not train on: {data}" in said.splitlines()
    assert "changed" not in said
    command("test", "--ckpt_path", away, *TRUSTED_HERE)
    assert f"data           300 test images: {data}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("away", ["elsewhere", "beside a foreign config", "Lightning's"], indirect=True)
def test_a_run_goes_on_from_a_checkpoint_wherever_it_lies(away, capsys):
    """With the data, loss, penalties, rates and seed that it had; what the command changes, and only that, is said."""
    before = load(away)
    capsys.readouterr()
    command("fit", "--run_dir", "new", "--resume", away, "--trainer.max_steps", "5", *TRUSTED_HERE)
    changed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("changed")]
    assert changed == ["changed        trainer.max_steps: 3 -> 5"]
    after = load("new/checkpoints/last.ckpt")
    assert after["global_step"] == 5
    assert before["hyper_parameters"] == after["hyper_parameters"]
    assert after["hyper_parameters"]["loss"]["class_path"] == "gan.losses.Hinge"
    before["config"]["trainer"]["max_steps"] = 5
    assert before["config"] == after["config"] == yaml.safe_load(Path("new/config.yaml").read_text("utf-8"))


def test_what_a_score_changes_of_the_run_is_said(capsys):
    path = fit("run")
    capsys.readouterr()
    command(
        "test",
        "--ckpt_path",
        path,
        *TRUSTED,
        "--data",
        "commands.Digits",
        "--data.validation_size",
        "9",
        "--model.loss",
        "Hinge",
    )
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("changed", "data"))]
    assert said == [
        "changed        model.loss: gan.losses.NonSaturating -> gan.losses.Hinge",
        "changed        data: conftest.SmallMNIST -> commands.Digits",
        "changed        data.batch_size: 8 -> 32",
        "changed        data.validation_size: 16 -> 9",
        "data           512 test images: commands.Digits batch_size 32, validation_size 9",
    ]


def test_weights_that_lightning_saves_alone_carry_it_too():
    words = [*BY_LIGHTNING, "--trainer.callbacks.save_weights_only", "true"]
    fit("run", *OTHERWISE, *words)
    (path,) = Path("deep/er/down").glob("*.ckpt")
    assert "optimizer_states" not in load(path)
    assert load(path)["config"] == yaml.safe_load(Path("run/config.yaml").read_text("utf-8"))


@pytest.mark.parametrize("place", ["run", "run/checkpoints"])
def test_a_folder_stands_for_its_last_checkpoint(place):
    fit("run", *every(2))
    with Path("run/checkpoints/last.ckpt").open("r+b") as file:  # of which the newest whole one is taken
        file.truncate(100_000)
    Path("run/checkpoints/step_000003.ckpt").unlink()
    command("fit", "--run_dir", "new", "--resume", place, "--trainer.max_steps", "4", *TRUSTED)
    assert [row["step"] for row in table("new")] == ["3", "4"]


@pytest.mark.parametrize(("name", "most"), [("max_steps", "3"), ("max_epochs", "1")])
def test_a_run_beyond_the_end_that_it_is_given_is_a_line(capsys, name, most):
    words = [*RUN, *every(1), "--trainer.max_steps", "20"]
    killed(lambda: fit("run", *words, callbacks=[KillAt(START, 10)]))
    before = load("run/checkpoints/last.ckpt")
    done = {"max_steps": "batch 10", "max_epochs": "epoch 2"}[name]
    for where in (["--run_dir", "run", "--resume", "auto"], ["--run_dir", "new", "--resume", "run", *TRUSTED]):
        with pytest.raises(SystemExit, match="2"):
            command("fit", *where, f"--trainer.{name}", most)
        error = capsys.readouterr().err
        assert f"last.ckpt is of {done}, beyond trainer.{name} {most}: set --trainer.{name} above" in error
    assert equal(load("run/checkpoints/last.ckpt"), before)
    assert not Path("new").exists()


def test_a_trial_is_of_a_new_run(capsys):
    killed(lambda: fit("run", *every(1), callbacks=[KillAt(START, 2)]))
    with pytest.raises(SystemExit, match="2"):
        resume("run", "--trainer.fast_dev_run", "true")
    assert "trainer.fast_dev_run tries a batch of a new run: leave out --resume" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("otherwise", [False, True])
def test_another_run_that_has_gone_on_meanwhile(otherwise, monkeypatch, capsys):
    """Between the look at the checkpoint and the lock of the folder: its batch counts; other settings do not mix."""
    killed(lambda: fit("run", *every(1), "--trainer.max_steps", "6", callbacks=[KillAt(START, 2)]))
    take = RunFolder._take

    def late(self, *args):
        monkeypatch.setattr(RunFolder, "_take", take)
        resume("run", *(["--model.n_critic", "2"] if otherwise else []))
        take(self, *args)

    monkeypatch.setattr(RunFolder, "_take", late)
    capsys.readouterr()
    if otherwise:
        with pytest.raises(SystemExit, match="2"):
            resume("run")
        assert "another run has just gone on here, and otherwise" in capsys.readouterr().err
    else:
        resume("run")
        assert capsys.readouterr().out.splitlines()[-1].startswith("run/checkpoints/last.ckpt is the end of its run")
    assert load("run/checkpoints/last.ckpt")["global_step"] == 6


# ---------------------------------------------------------------------- a checkpoint from Python


@pytest.fixture
def from_python(make_gan, make_trainer) -> Path:
    data = SmallMNIST(batch_size=16, validation_size=16)
    settings = {"loss": Hinge(), "n_critic": 2, "seed": 7, "penalties": [R1(weight=2.0, every=4)]}
    make_trainer(callbacks=[RunCheckpoint()], max_steps=3, default_root_dir="mine").fit(make_gan(**settings), data)
    return Path("mine/checkpoints/last.ckpt")


DOORS = {
    "validate": ["validate", "--ckpt_path"],
    "test": ["test", "--ckpt_path"],
    "fit": ["fit", "--run_dir", "new", "--trainer.max_steps", "5", "--resume"],
}


@pytest.mark.parametrize("door", DOORS)
def test_what_a_checkpoint_from_python_does_not_say_is_asked_for(door, from_python, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(*DOORS[door], from_python)
    (error,) = capsys.readouterr().err.splitlines()
    assert error == (
        f"error: {from_python} was saved from Python, and so without the config of its run: give what is missing, "
        "--data CLASS, or all of it by --config FILE"
    )
    Path("data.yaml").write_text("data: {class_path: conftest.SmallMNIST, init_args: {validation_size: 16}}", "utf-8")
    for given in (SMALL, ["--config", "data.yaml"]):
        shutil.rmtree("new", ignore_errors=True)
        command(*DOORS[door], from_python, *given)
        output = capsys.readouterr().out.splitlines()
        (line,) = [line for line in output if line.startswith("config")]
        assert f"{from_python} was saved from Python: its networks, losses and optimizers are taken from there" in line
        assert not [line for line in output if line.startswith("changed")]
    if door == "fit":
        before, after = load(from_python), load("new/checkpoints/last.ckpt")
        before, now = before["hyper_parameters"], after["hyper_parameters"]
        assert now["loss"]["class_path"] == before["loss"]["class_path"] == "gan.losses.Hinge"
        for name in ("n_critic", "penalties", "seed", "generator_optimizer"):
            assert now[name] == before[name], name
        assert after["config"]["seed_everything"] == 7


@pytest.mark.parametrize("name", ["loss", "generator"])
def test_what_has_no_plain_form_is_asked_for_too(name, from_python, capsys):
    content = load(from_python)
    given = content["hyper_parameters"].pop(name)
    torch.save(content, from_python)
    with pytest.raises(SystemExit, match="2"):
        command("validate", "--ckpt_path", from_python, *SMALL)
    assert f"give what is missing, --model.{name} CLASS, or all of it" in capsys.readouterr().err
    words = ["--model.generator.latent_dim", "8"] if name == "generator" else []
    command("validate", "--ckpt_path", from_python, *SMALL, f"--model.{name}", given["class_path"], *words)
    assert "validation/discriminator" in capsys.readouterr().out


def test_on_a_gpu_only_a_deterministic_run_goes_on_bit_for_bit():
    assert rounded_anew(torch.device("cpu")) == []
    (line,) = rounded_anew(torch.device("cuda", 0))
    assert "--trainer.deterministic true" in line
    torch.use_deterministic_algorithms(True)
    try:
        assert rounded_anew(torch.device("cuda", 0)) == []
    finally:
        torch.use_deterministic_algorithms(False)
