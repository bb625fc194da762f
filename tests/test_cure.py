"""The command that tries what a doctor prescribes: what it trains, what it makes of it, and what it refuses.

Trials are forks of this process: starting Python anew would take seconds each. One test starts them as users do.
"""

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import command, fit, load, process
from conftest import ROOT
from lightning import Callback

from gan import trials
from gan.cli import main
from gan.config import remember_own
from gan.folder import RunFolder
from gan.optim import OPTIMIZER_ORDER

SICK = "fever"
RATE = "--model.discriminator_optimizer.lr"
HEALS = [RATE, "0.001"]
HELPS = [RATE, "0.003"]
OTHER = ["--model.n_critic", "2"]


class Says(Callback):
    """A doctor that tells of a fever above a rate of 0.002, and a tracker whose FID is 10,000 times the rate."""

    def __init__(self, scores: bool = True, sleep: float = 0.0):
        self.scores, self.sleep = scores, sleep

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        time.sleep(self.sleep)

    def on_train_end(self, trainer, pl_module):
        rate = trainer.optimizers[OPTIMIZER_ORDER.index("discriminator")].defaults["lr"]
        if self.scores:
            for logger in trainer.loggers:
                logger.log_metrics({"fid/own": 10_000 * rate}, step=trainer.global_step)
        told = [finding(until=None)] if rate > 0.002 else []
        Path(trainer.default_root_dir, "findings.json").write_text(json.dumps(told), "utf-8")


class Forked:
    """A process of a trial: a fork that runs the command of its words."""

    def __init__(self, words, *, env, stdout, start_new_session, **_):
        self.returncode, self.words = None, words[words.index("gan.cli") + 1 :]
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            if start_new_session:
                os.setsid()
            os.environ.update(env)
            for number in (1, 2):
                os.dup2(stdout.fileno(), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = self.run()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def run(self) -> int:
        try:
            main(self.words)
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int | None:
        deadline = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.poll()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def forks(monkeypatch) -> list[list[str]]:
    """Lets trials be forks. Returns the words of those that were started."""
    started = []

    def fork(words, **settings):
        started.append(words[words.index("gan.cli") + 1 :])
        return Forked(words, **settings)

    monkeypatch.setattr("gan.trials.subprocess.Popen", fork)
    monkeypatch.setattr("gan.trials.LOOK", 0.02)
    return started


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> dict:
    """Of a run of three batches with the doctor above."""
    folder = tmp_path_factory.mktemp("cure") / "run"
    fit(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    callbacks = config["trainer"]["callbacks"]
    left_out = ("GradientDoctor", "FIDTracker", "ImageLogger")
    callbacks[:] = [each for each in callbacks if each["class_path"].rpartition(".")[2] not in left_out]
    callbacks.append({"class_path": "test_cure.Says", "init_args": {"scores": True, "sleep": 0.0}})
    return config


def finding(*prescriptions, until=None, since=2, texts=(), name=SICK) -> dict:
    cures = [{"settings": list(words), "text": "a setting"} for words in prescriptions]
    cures += [{"settings": [], "text": text} for text in texts]
    told = {"name": name, "since": since, "until": until, "why": "it is hot", "symptoms": []}
    return told | {"prescriptions": cures}


def sick(config, *findings, own=True, name="run", fid: float | None = 40, **says) -> Path:
    """The folder of a run that its doctor has told of."""
    config = yaml.safe_load(yaml.safe_dump(config))
    config["trainer"]["callbacks"][-1]["init_args"] |= says
    folder = Path(name)
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    (folder / "findings.json").write_text(json.dumps(findings), "utf-8")
    if fid is not None:
        (folder / "metrics.csv").write_text(f"step,fid/own\n1,100\n3,{fid}\n", "utf-8")
    if own:
        remember_own(config)
    return folder


def cured(*words) -> int:
    """The status of a `cure`."""
    try:
        command("cure", "--run_dir", "run", *words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def rows() -> list[list[str]]:
    """Of the table: prescription, doctor, FID, batches, healed."""
    lines = Path("run/cure/table.md").read_text("utf-8").splitlines()
    cells = [[cell.strip().strip("`") for cell in line.split(" | ")] for line in lines if line.startswith("| ")]
    return [[cell[1], cell[2], cell[3], cell[4], cell[6].rstrip(" |")] for cell in cells[2:]]


# ---------------------------------------------------------------------- what it does


def test_each_prescription_is_tried_and_the_best_two_together(config, forks, capsys):
    sick(config, finding(HELPS, HEALS, OTHER))
    assert cured() == 0
    said = capsys.readouterr().out
    first, *_ = said.splitlines()
    assert first == "cure           run: fever; tries 3 prescriptions, 3 batches each from its start, seed 42"
    assert rows() == [
        ["as it was", SICK, "40", "3", ""],
        [shlex.join(HELPS), SICK, "30", "3", "no"],
        [shlex.join(HEALS), "nothing wrong", "10", "3", "yes"],
        [shlex.join(OTHER), SICK, "40", "3", "no"],
        [shlex.join([*HEALS, *OTHER]), "nothing wrong", "10", "3", "yes"],
    ]
    assert len(forks) == 4
    assert "at most half" in Path("run/cure/table.md").read_text("utf-8")
    assert "at most half" in said
    seeds = {
        yaml.safe_load(path.read_text("utf-8"))["seed_everything"] for path in Path("run/cure").glob("*/config.yaml")
    }
    assert seeds == {42}


def test_what_has_healed_is_a_config_and_a_command(config, forks, capsys):
    """The same config as that of a run with the prescription, with the callbacks as they were."""
    sick(config, finding(HEALS), own=True)
    assert cured("--budget", "2") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train on ")]
    assert line.endswith("python -m gan.cli fit --config run/cure/cured.yaml --run_dir run-cured")
    command(*shlex.split(line)[5:])
    command("fit", "--config", "run/config.yaml", *HEALS, "--run_dir", "asked")
    one, two, three = (
        Path(path).read_text("utf-8") for path in ("run-cured/config.yaml", "asked/config.yaml", "run/cure/cured.yaml")
    )
    assert one == two
    assert yaml.safe_load(three) == yaml.safe_load(two)
    assert yaml.safe_load(one)["trainer"]["max_steps"] == 3
    assert yaml.safe_load(Path("run/cure/1/config.yaml").read_text("utf-8"))["trainer"]["max_steps"] == 2


def test_a_folder_that_looks_like_an_option(config, forks, capsys):
    sick(config, finding(HEALS), name="-run")
    command("cure", "--run_dir=-run", "--budget", "3")
    assert [words for words in forks if f"{Path.cwd() / '-run' / 'cure' / '1'}" in words]
    assert f"--run_dir {Path.cwd() / '-run-cured'}" in capsys.readouterr().out


def test_the_run_as_it_was_is_trained_where_it_has_no_score_of_the_budget(config, forks):
    sick(config, finding(HEALS), fid=40)
    assert cured("--budget", "2") == 0
    assert rows() == [["as it was", SICK, "40", "2", ""], [shlex.join(HEALS), "nothing wrong", "10", "2", "yes"]]
    assert len(forks) == 2


def test_what_fits_a_checkpoint_goes_on_from_where_the_run_was_well(config, forks, capsys):
    """Another prescription changes networks: it begins anew, and is held against a run that does too."""
    config = yaml.safe_load(yaml.safe_dump(config))
    (saves,) = [each for each in config["trainer"]["callbacks"] if each["class_path"].endswith("RunCheckpoint")]
    saves["init_args"] |= {"every": 2, "keep": 9}
    (monitor,) = [each for each in config["trainer"]["callbacks"] if each["class_path"].endswith("GradientMonitor")]
    monitor["init_args"]["every"] = 1
    config["trainer"]["max_steps"] = 6
    Path("config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    command("fit", "--config", "config.yaml", "--run_dir", "run")
    network = ["--model.generator.latent_dim", "9"]
    Path("run/findings.json").write_text(json.dumps([finding(HEALS, network, since=4)]), "utf-8")
    assert cured("--budget", "4") == 0
    said = capsys.readouterr().out
    assert "2 prescriptions, and the run as it was, 4 batches each from its start or batch 2" in said
    assert rows()[:4] == [
        ["as it was", SICK, "40", "4", ""],
        ["as it was from batch 2", SICK, "40", "4", ""],
        [shlex.join(HEALS), "nothing wrong", "10", "4", "yes"],
        [shlex.join(network), SICK, "40", "4", "no"],
    ]
    (line,) = [line for line in said.splitlines() if line.startswith("train on ")]
    assert line.endswith("--resume run/checkpoints/step_000002.ckpt")
    command(*shlex.split(line)[5:])
    states = load("run-cured/checkpoints/last.ckpt")["optimizer_states"]
    assert states[OPTIMIZER_ORDER.index("discriminator")]["param_groups"][0]["lr"] == 0.001


def test_nothing_heals(config, forks, capsys):
    """Status 1, and what no setting does; the config of an earlier cure goes."""
    sick(config, finding(HELPS, texts=["write Tanh() behind it"]))
    Path("run/cure").mkdir()
    Path("run/cure/cured.yaml").touch()
    assert cured() == 1
    said = capsys.readouterr().out
    assert f"nothing heals  {SICK}; the nearest: discriminator_optimizer.lr 0.003: {SICK}, FID 30" in said
    assert "to change      write Tanh() behind it" in said
    assert not Path("run/cure/cured.yaml").exists()


def test_gone_and_the_images_no_better_is_not_healed(config, forks):
    """A rule by the doctor alone would take this for healed."""
    sick(config, finding(HEALS), fid=15)
    assert cured() == 1
    assert rows()[-1][1:] == ["nothing wrong", "10", "3", "no"]


def test_without_a_tracker_the_doctor_judges_alone(config, forks):
    sick(config, finding(HELPS, HEALS), fid=None, scores=False)
    assert cured() == 0
    assert [row[1:] for row in rows()] == [
        [SICK, "", "3", ""],
        [SICK, "", "3", "no"],
        ["nothing wrong", "", "3", "yes"],
    ]
    assert "judged by the doctor alone" in Path("run/cure/table.md").read_text("utf-8")


def test_prescriptions_that_no_setting_follows(config, forks, capsys):
    sick(config, finding(texts=["write Tanh() behind it"]))
    assert cured() == 1
    assert "to change      write Tanh() behind it" in capsys.readouterr().out
    assert forks == []


def test_a_trial_that_fails_is_a_row_with_its_reason(config, forks):
    sick(config, finding(["--model.discriminator_optimizer.lrr", "1"], HEALS))
    assert cured() == 0
    assert "Option 'lrr' is not accepted" in rows()[1][1]
    assert rows()[2][4] == "yes"


def test_trials_that_all_fail(config, forks, capsys):
    """Where to look is said, and no larger budget is advised."""
    config = yaml.safe_load(yaml.safe_dump(config))
    config["model"]["accumulate"] = 0
    sick(config, finding(HEALS, HELPS))
    assert cured() == 1
    assert [row[1] for row in rows()[1:]] == ["failed: model.accumulate must be at least 1, got 0"] * 2
    assert "no prescription came to its end (run/cure/1/output.txt)" in capsys.readouterr().out


# ---------------------------------------------------------------------- again


def test_what_has_ended_is_taken_up(config, forks, capsys):
    sick(config, finding(HEALS, OTHER))
    assert cured() == 0
    before = rows()
    forks.clear()
    capsys.readouterr()
    assert cured() == 0
    assert forks == []
    assert "taken up       2 of 2 trials ended before" in capsys.readouterr().out
    assert rows() == before


@pytest.mark.parametrize("change", ["budget", "findings", "config"])
def test_results_of_another_cure_are_not_mixed_in(config, forks, change):
    sick(config, finding(HEALS))
    assert cured() == 0
    forks.clear()
    if change == "findings":
        Path("run/findings.json").write_text(json.dumps([finding(HELPS)]), "utf-8")
    if change == "config":
        other = yaml.safe_load(Path("run/config.yaml").read_text("utf-8"))
        other["seed_everything"] = 43
        Path("run/config.yaml").write_text(yaml.safe_dump(other), "utf-8")
        remember_own(other)
    assert cured(*(["--budget", "2"] if change == "budget" else [])) == (1 if change == "findings" else 0)
    assert len(forks) == (2 if change == "budget" else 1)
    assert {row[3] for row in rows()} == {"2" if change == "budget" else "3"}


def test_what_was_stopped_goes_on_from_its_checkpoint(config, forks, monkeypatch):
    """Ctrl-C in the middle of a trial: its run saves and ends, and is resumed by the next command."""
    sick(config, finding(HEALS), sleep=0.3)
    come_to = trials.batch_in

    def interrupted(folder):
        if come_to(folder) >= 1:
            raise KeyboardInterrupt
        return 0

    with monkeypatch.context() as patch:
        patch.setattr("gan.trials.batch_in", interrupted)
        assert cured() == 130
    one = Path("run/cure/1")
    assert trials.is_free(one)
    assert "ended          after batch 3" not in trials.output_of(one)
    assert (one / "checkpoints" / "last.ckpt").exists()
    assert trials.kept_in(one)["seconds"] > 0
    assert cured() == 0
    assert forks[1][:5] == ["fit", "--run_dir", "run/cure/1", "--resume", "auto"]
    assert rows()[-1] == [shlex.join(HEALS), "nothing wrong", "10", "3", "yes"]


def test_what_an_earlier_command_is_still_at_work_on_is_waited_for(config, forks, capsys, monkeypatch):
    """Its parent was killed, and it was not: two processes must not train in one folder."""
    sick(config, finding(HEALS))
    free, asked = trials.is_free, []

    def taken(folder):
        asked.append(folder)
        return len(asked) > 3 and free(folder)

    monkeypatch.setattr("gan.trials.is_free", taken)
    assert cured() == 0
    assert capsys.readouterr().out.count("waiting        run/cure/1: a process of an earlier command") == 1


def test_side_by_side(config, forks, monkeypatch):
    """So many at a time as are asked for, each with its share of the cores."""
    sick(config, finding(HEALS, HELPS, OTHER), sleep=0.1)
    alive, most, shares = [], [], []
    fork = trials.subprocess.Popen

    def counted(words, *, env, **settings):
        shares.append(env["OMP_NUM_THREADS"])
        alive.append(fork(words, env=env, **settings))
        most.append(sum(each.poll() is None for each in alive))
        return alive[-1]

    monkeypatch.setattr("gan.trials.subprocess.Popen", counted)
    monkeypatch.setattr("gan.trials.torch.get_num_threads", lambda: 8)
    assert cured("--jobs", "2") == 0
    assert max(most) == 2
    assert set(shares) == {"4"}
    assert [row[0] for row in rows()[1:4]] == [shlex.join(words) for words in (HEALS, HELPS, OTHER)]


# ---------------------------------------------------------------------- what it refuses


def test_a_run_that_is_well(config, capsys):
    sick(config)
    assert cured() == 0
    assert capsys.readouterr().out == "run is well: nothing wrong with the gradients\n"
    assert not Path("run/cure").exists()


def reported(folder: Path, *lines: str) -> None:
    """A report with what its doctor says at the head."""
    (folder / "report.md").write_text("\n\n".join(["# What the gradients say", *lines, "## The latest"]), "utf-8")


def test_a_run_that_is_bad_without_a_word(config, capsys):
    reported(sick(config), "9 measurements up to batch 9: nothing wrong with the gradients.", "But FID 9 is bad.")
    assert cured() == 0
    said = (
        "run shows nothing that could be cured, but FID 9 is bad: its doctor found nothing wrong with the gradients\n"
    )
    assert capsys.readouterr().out == said


def test_a_run_whose_conditions_are_over(config, forks, capsys):
    """Well if its FID is; else what was told last is treated."""
    folder = sick(config, finding(HELPS, until=2, since=1), finding(HEALS, until=3, since=2), fid=40)
    reported(folder, "9 measurements up to batch 9: nothing wrong with the gradients.")
    assert cured() == 0
    assert "run is well: nothing wrong with the gradients; 2 conditions came and went" in capsys.readouterr().out
    reported(folder, "9 measurements up to batch 9: nothing wrong with the gradients.", "But FID 40 is bad.")
    assert cured() == 0
    said = capsys.readouterr().out
    assert "all conditions are, but FID 40 is bad" in said
    assert [row[0] for row in rows()[1:]] == [shlex.join(HEALS)]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_network_that_is_replaced_is_said(config, forks, capsys, keeps):
    """And what heals with the user's own."""
    other = ["--model.discriminator", "{class_path: gan.networks.DCGANDiscriminator}", RATE, "0.0005"]
    sick(config, finding(other, *([HEALS] if keeps else [])))
    assert cured() == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("replaced ")]
    own = config["model"]["discriminator"]["class_path"].rpartition(".")[2]
    told = "what keeps it: discriminator_optimizer.lr 0.001: nothing wrong, FID 10"
    assert line == f"replaced       {own}; {told if keeps else 'nothing that keeps it heals'}"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--budget", "0"], "--budget must be at least 1 training batch, got 0"),
        (["--budget", "-3"], "--budget must be at least 1 training batch, got -3"),
        (["--budget", "many"], "budget"),
        (["--budget", "nan"], "budget"),
        (["--jobs", "0"], "--jobs must be at least 1 trial at a time, got 0"),
        (["--trust", "a b"], "--trust must be the name of a package"),
        (["--budget", "1.5"], '"budget" must be'),
        (["--run_dir", "run/config.yaml"], "--run_dir run/config.yaml is a file: give the folder of a run"),
        (["--run_dir", "nowhere"], "--run_dir nowhere is not there: give the folder of a run"),
        (["--run_dir", "empty"], "--run_dir empty is no run's folder: it has no config.yaml"),
        (["--run_dir", "s3://bucket/run"], "--run_dir s3://bucket/run is a URL"),
        (["--rundir", "x"], "did you mean --run_dir?"),
    ],
)
def test_bad_words(config, forks, capsys, words, complaint):
    sick(config, finding(HEALS))
    Path("empty").mkdir()
    assert cured(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert forks == []
    assert not Path("run/cure").exists()


def told(**changed) -> str:
    return json.dumps([finding(HEALS) | changed])


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("findings.json", None, "run has no findings.json: the run had no GradientDoctor"),
        ("findings.json", "[{", "run/findings.json is damaged"),
        ("findings.json", "{}", "run/findings.json is damaged"),
        ("findings.json", "[1]", "run/findings.json is damaged"),
        ("findings.json", told(since="long ago"), "run/findings.json is damaged"),
        ("findings.json", told(prescriptions=[{"settings": "--x 1", "text": ""}]), "run/findings.json is damaged"),
        ("findings.json", told(prescriptions=[{"settings": [1], "text": ""}]), "run/findings.json is damaged"),
        ("config.yaml", None, "is no run's folder: it has no config.yaml"),
        ("config.yaml", "a: [", "run/config.yaml cannot be read: it is no YAML in UTF-8"),
        ("config.yaml", "a: 1", "run/config.yaml is not as a run writes it: it must give data, model and trainer"),
        ("config.yaml", "{data: {}, model: {}, trainer: {}}", "as a run writes it: it must give seed_everything"),
        ("config.yaml", "{data: {}, model: {}, trainer: {}, trust: os}", "its config gives trust"),
    ],
)
def test_damaged_runs(config, capsys, file, content, complaint):
    path = sick(config, finding(HEALS)) / file
    path.unlink()
    if content is not None:
        path.write_text(content, "utf-8")
    assert cured() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not Path("run/cure").exists()


def test_a_doctor_that_never_told(config, capsys):
    """Another way out than for a run without one."""
    folder = sick(config, finding(HEALS))
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    config["trainer"]["callbacks"].append({"class_path": "gan.callbacks.GradientDoctor"})
    (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    remember_own(config)
    (folder / "findings.json").unlink()
    assert cured() == 2
    assert "the run ended before its doctor could tell" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "words"), [("run", "in use by a run that is going on"), ("run/cure", "another `cure`")]
)
def test_while_another_process_is_at_work(config, forks, capsys, folder, words):
    sick(config, finding(HEALS))
    other = RunFolder(folder)
    assert cured() == 2
    other.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert forks == []


def test_a_class_that_is_no_more(config, capsys):
    config = yaml.safe_load(yaml.safe_dump(config))
    config["model"]["generator"] = {"class_path": "test_cure.Gone"}
    sick(config, finding(HEALS))
    assert cured() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: run/config.yaml holds test_cure.Gone, and there is no such class here"


# ---------------------------------------------------------------------- whom it trusts


SPY = "from pathlib import Path\nPath('imported').touch()\nclass Net: pass\n"


@pytest.mark.parametrize("where", ["config", "prescription", "prescribed file", "prescribed text"])
def test_nothing_of_a_strangers_run_is_imported_unasked(config, here, forks, capsys, monkeypatch, where):
    (here / "spy.py").write_text(SPY, "utf-8")
    (here / "net.yaml").write_text("class_path: spy.Net", "utf-8")
    monkeypatch.syspath_prepend(here)
    config = yaml.safe_load(yaml.safe_dump(config))
    words = {
        "config": HEALS,
        "prescription": ["--model.generator", "spy.Net"],
        "prescribed file": ["--model.generator=net.yaml"],
        "prescribed text": ["--model.generator", "{class_path: spy.Net}"],
    }
    if where == "config":
        config["model"]["generator"] = {"class_path": "spy.Net"}
    sick(config, finding(words[where]), own=where != "config")
    assert cured("--trust", "test_cure", "--trust", "conftest") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds spy.Net; give --trust spy to import it" in line
    assert not Path("imported").exists()
    assert forks == []


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "x.yaml"],
        ["--trust", "spy"],
        ["--run_dir", "x"],
        ["-c", "x"],
        ["spy"],
        ["--resume=x"],
        ["--seed_everything", "1"],
    ],
)
def test_words_that_are_no_settings_are_not_prescribed(config, forks, capsys, words):
    sick(config, finding(words))
    assert cured() == 2
    assert "which are not settings of data, model and trainer" in capsys.readouterr().err


def test_a_strangers_run_needs_trust_and_then_is_treated(config, forks, capsys):
    sick(config, finding(HEALS), own=False)
    assert cured() == 2
    assert "give --trust" in capsys.readouterr().err
    assert cured("--trust", "test_cure", "--trust", "conftest") == 0
    assert rows()[-1][-1] == "yes"


# ---------------------------------------------------------------------- as users start it


DOOR = [sys.executable, "-m", "gan.cli"]


def until(happens, seconds=60) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_ended_by_a_signal(config, number):
    """Both trials save and end with it, but by SIGKILL, which nobody sees; then they are waited for. All is resumed."""
    sick(config, finding(HEALS, HELPS), sleep=12 if number == signal.SIGKILL else 1.5)
    folders = [Path("run/cure/1"), Path("run/cure/2")]
    words = [*DOOR, "cure", "--run_dir", "run", "--jobs", "2"]
    first = process(words, start_new_session=True)  # a shell lets what it starts in the background ignore SIGINT
    until(lambda: all(folder.is_dir() and trials.batch_in(folder) >= 1 for folder in folders))
    first.send_signal(number)
    first.communicate()
    assert first.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert all(map(trials.is_free, folders))
        assert all((folder / "checkpoints" / "last.ckpt").exists() for folder in folders)
    assert not any(map(trials.is_over, folders))
    again = process(words)
    output, errors = again.communicate()
    assert (again.returncode, errors) == (0, "")
    assert output.count("waiting        run/cure/") == (2 if number == signal.SIGKILL else 0)
    assert [row[1:] for row in rows()[1:]] == [["nothing wrong", "10", "3", "yes"], [SICK, "30", "3", "no"]]


@pytest.mark.slow
def test_cure_of_a_failure():
    """The shipped failure with its real doctor, trials side by side; what healed is well."""
    failure = ["--config", str(ROOT / "configs" / "failures" / "dead_discriminator.yaml"), "--run_dir", "run"]
    assert process([*DOOR, "fit", *failure], stdout=None).wait() == 0
    done = process([*DOOR, "cure", "--run_dir", "run", "--jobs", "2"])
    output, errors = done.communicate()
    assert (done.returncode, errors) == (0, ""), output
    (line,) = [line for line in output.splitlines() if line.startswith("train on ")]
    assert process([sys.executable, *shlex.split(line)[3:]], stdout=None).wait() == 0
    done = process([*DOOR, "cure", "--run_dir", "run-cured"])
    assert (done.communicate()[0], done.returncode) == ("run-cured is well: nothing wrong with the gradients\n", 0)
    done = process([*DOOR, "cure", "--run_dir", "run/cure/1", "--budget", "1"])
    assert "run/cure/1 is well" in done.communicate()[0]
