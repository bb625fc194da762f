"""The command `lab` from outside: what it lists, runs, writes, refuses and returns."""

import csv
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import SmallDisk
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan.cli import main
from gan.lab import EXPERIMENTS, command
from gan.lab.experiment import load, title_of
from gan.lab.loss_curves import LOSSES
from gan.losses import NonSaturating


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def failing(monkeypatch):
    """Lets a check of the loss curves fail."""

    def wrong(name):
        experiment = load(name)
        return experiment._replace(run=partial(experiment.run, losses=LOSSES | {"saturating": NonSaturating()}))

    monkeypatch.setattr(command, "load", wrong)


def lab(*words) -> None:
    main(["lab", *map(str, words)])


def test_list(capsys):
    lab()
    lines = capsys.readouterr().out.splitlines()
    for line, (name, seconds) in zip(lines, EXPERIMENTS.items(), strict=False):
        assert re.fullmatch(rf"{name} +{seconds} s +{re.escape(title_of(name))} *", line)


def test_list_is_quick():
    """Nobody waits seconds for torch or matplotlib to read a list."""
    code = "import sys; from gan.cli import main; main(['lab']); assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_experiment_is_listed():
    """A file that looks like an experiment and is not listed would never run."""
    files = Path(command.__file__).parent.glob("*.py")
    assert {file.stem for file in files if "MATHEMATICS =" in file.read_text(encoding="utf-8")} == set(EXPERIMENTS)


def test_one(here, capsys):
    lab("loss_curves", "--seed", 3)
    folder = here / "runs/lab/loss_curves"
    (events,) = folder.glob("events.out.tfevents.*")
    names = ["curves.csv", events.name, "figure.png", "figure.svg", "index.html", "verdict.json"]
    assert sorted(path.name for path in folder.iterdir()) == names

    result = load("loss_curves").run(seed=3)
    with (folder / "curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.tables["curves"]) == 6 * 201
    assert [float(row["slope"]) for row in rows] == result.tables["curves"]["slope"].tolist()

    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert (verdict["passed"], verdict["seed"]) == (True, 3)
    assert [check["value"] for check in verdict["checks"]] == [check.value for check in result.checks]
    assert all(check["passed"] for check in verdict["checks"])

    assert Image.open(folder / "figure.png").width == 2000
    assert ElementTree.parse(folder / "figure.svg").getroot().tag.endswith("svg")

    output = capsys.readouterr().out
    assert output.startswith(title_of("loss_curves"))
    experiment = load("loss_curves")
    for text in (*experiment.explanation, *experiment.mathematics.splitlines()):  # what one sees, why, what to try
        assert " ".join(text.split()) in " ".join(output.split())
    assert len(re.findall(r" pass *$", output, re.M)) == len(result.checks)
    assert not re.search(r" fail *$", output, re.M)
    assert output.rstrip().endswith("page   runs/lab/loss_curves/index.html\nfiles  runs/lab/loss_curves")
    page = (folder / "index.html").read_text("utf-8")
    assert page.count("<section") == 1
    assert f"1 experiment with {len(result.checks)} checks, run in" in page


@pytest.mark.slow
def test_two(here, capsys):
    """Each once, and one page of both."""
    lab("descent", "loss_curves", "descent", "--out", "out")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["descent", "loss_curves"]
    assert lines[-2:] == ["page   out/index.html", "files  out"]
    page = (here / "out/index.html").read_text("utf-8")
    assert [name for name in EXPERIMENTS if f'<section id="{name}">' in page] == ["descent", "loss_curves"]
    assert page.count("<section") == 2


def test_help_lists_the_experiments(capsys):
    with pytest.raises(SystemExit, match="0"):
        lab("--help")
    text = "".join(capsys.readouterr().out.split())
    assert ",".join(EXPERIMENTS) in text


@pytest.mark.slow
def test_tensorboard(here):
    lab("loss_curves", "--out", "out")
    lab("loss_curves", "--out", "out")  # a second run takes the place of the first
    (events,) = (here / "out/loss_curves").glob("events.out.tfevents.*")
    board = EventAccumulator(str(events), size_guidance={"tensors": 0, "images": 0}).Reload()
    assert board.Tags()["images"] == ["figure"]
    checks = load("loss_curves").run(seed=0).checks
    assert len(board.Tags()["scalars"]) == len(checks)
    assert board.Scalars(board.Tags()["scalars"][0])[0].value == pytest.approx(checks[0].value)
    (text,) = board.Tensors("explanation/text_summary")
    assert title_of("loss_curves") in str(text.tensor_proto.string_val[0], "utf-8")


def test_failed_check(failing, here, capsys):
    with pytest.raises(SystemExit) as stop:
        lab("loss_curves")
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "loss_curves: saturating: slope at logit -8 is 0.9997, asked < 0.0004" in printed.err
    assert " fail" in printed.out
    verdict = json.loads((here / "runs/lab/loss_curves/verdict.json").read_text(encoding="utf-8"))
    assert not verdict["passed"]
    assert [check["what"] for check in verdict["checks"] if not check["passed"]] == [
        "saturating: slope at logit -8",
        "saturating: largest error against the closed form",
    ]


def test_failed_check_of_all(failing, monkeypatch, here, capsys):
    monkeypatch.setattr(command, "EXPERIMENTS", {"loss_curves": 1})
    with pytest.raises(SystemExit) as stop:
        lab("all", "--out", "out")
    assert stop.value.code == 1
    assert "saturating: slope at logit -8" in capsys.readouterr().err
    assert 'class="fail"' in (here / "out/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["losscurve"], ", and all; did you mean loss_curves?"),
        (["losses"], "no experiment 'losses'; it has " + ", ".join(EXPERIMENTS) + ", and all"),
        (["loss_curves", "--seed", "-1"], "--seed must be from 0"),
        (["loss_curves", "--seed", "x"], "seed"),
        (["loss_curves", "--colour", "red"], "--colour"),
        (["loss_curves", "--out", "file/out"], "cannot write --out file/out"),
        (["all", "--out", "/proc/out"], "cannot write --out /proc/out"),
    ],
)
def test_refusals(words, complaint, here, capsys):
    Path("file").touch()
    with pytest.raises(SystemExit) as stop:
        lab(*words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["loss_curves", "all"])
def test_full_disk(name, monkeypatch, here, capsys, recwarn):
    """What was computed is tried to the last, and the end is a line."""
    monkeypatch.setattr(command, "EXPERIMENTS", {"loss_curves": 1})
    with pytest.raises(SystemExit) as stop, SmallDisk(5000):
        lab(name, "--out", "out")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot write --out out: ")
    assert "File too large" in line


def test_ctrl_c(monkeypatch, tmp_path, capsys):
    def interrupted(**arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load", lambda name: load(name)._replace(run=interrupted))
    with pytest.raises(SystemExit) as stop:
        lab("loss_curves", "--out", str(tmp_path))
    assert stop.value.code == 130
    assert capsys.readouterr().err == f"stopped; experiments that were finished are in {tmp_path}\n"


# ---------------------------------------------------------------------- tables and checks
