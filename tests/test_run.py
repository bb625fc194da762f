"""What can go wrong outside the code: one line that says what to do, exit status 2, and nothing half-written."""

import gzip
import logging
import os
import pickle
import re
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from commands import SHORT, TRUSTED, At, command, equal, fit, load, process, resume, table
from conftest import ROOT, SmallDisk, SmallMNIST
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan import GAN
from gan.cli import main
from gan.run import is_asked_for


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(capsys):
    """Runs a command that must be refused, and returns its one line."""

    def refused(*words) -> str:
        capsys.readouterr()
        before = files()
        with pytest.raises(SystemExit) as stop:
            command(*words)
        output, errors = capsys.readouterr()
        assert stop.value.code == 2
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert output == ""
        assert files() == before
        return errors

    return refused


def files() -> dict[Path, bytes | None]:
    """All that is below the working directory, empty folders too."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """The checkpoint of a run; no test changes it."""
    return fit(tmp_path_factory.mktemp("good") / "run")


# ---------------------------------------------------------------------- settings

CLIPPING = ["--trainer.callbacks+", "GradientClipping"]
SETTINGS = {
    "unknown key": (["--model.nope", "1"], "unrecognized arguments: --model.nope 1"),
    "part of a key": (["--model.n_crit", "2"], "unrecognized arguments: --model.n_crit 2"),
    "unknown option": (["--nope"], "unrecognized arguments: --nope"),
    "Lightning's resume": (["--ckpt_path", "x.ckpt"], "unrecognized arguments: --ckpt_path"),
    "missing value": (["--resume"], "--resume: expected one argument"),
    "unknown class": (["--model.loss", "Hing"], "Hing"),
    "unknown package": (["--model.generator", "no.such.Thing"], "No module named 'no'"),
    "class of another kind": (["--model.loss", "gan.penalties.R1"], "gan.penalties.R1"),
    "unknown argument of a class": (["--model.generator.nope", "1"], "nope"),
    "no number": (["--model.n_critic", "two"], "n_critic"),
    "no critic step": (["--model.n_critic", "0"], "model.n_critic must be at least 1"),
    "weight clip": (["--model.weight_clip", "-1"], "model.weight_clip must be above 0"),
    "no latents": (["--model.generator.latent_dim", "0"], "latent_dim must be at least 1, got 0"),
    "no images in a batch": (["--data.batch_size", "0"], "batch_size must be at least 1, got 0"),
    "batch larger than the data": (["--data.batch_size", "497"], "there are only 496: lower batch_size"),
    "nothing left to train on": (["--data.validation_size", "512"], "leaves nothing of the 512 training images"),
    "image size": (["--data", "commands.Odd", "--model.generator", "DCGANGenerator"], "multiples of 4"),
    "image size of an own network": (
        ["--model.generator", "commands.OwnGenerator", "--data", "commands.Colour"],
        "makes images (1, 28, 28), and the data has (3, 32, 32)",
    ),
    "latents of an own network": (
        ["--model.generator", "commands.OwnGenerator", "--model.generator.latent_dim", "9"],
        "does not take latents (N, 9)",
    ),
    "penalty": (["--model.penalties", "[{class_path: gan.penalties.R1, init_args: {weight: -1}}]"], "R1: weight must"),
    "callback": (["--trainer.callbacks", "[{class_path: ImageLogger, init_args: {every: 0}}]"], "ImageLogger's every"),
    "warm-up beyond the end": (
        ["--model.generator_scheduler", "WarmupCosine", "--model.generator_scheduler.total", "3"],
        "total must be above warmup=100, got 3",
    ),
    "no seed": (["--seed_everything", "true"], "seed_everything must be a number"),
    "seed below the range": (["--seed_everything", "-1"], "at least 0 and below 2^32"),
    "seed above the range": (["--seed_everything", str(2**32)], "at least 0 and below 2^32"),
    "Lightning's clipping": (["--trainer.gradient_clip_val", "1"], "add the callback GradientClipping"),
    "Lightning's way to clip": (["--trainer.gradient_clip_algorithm", "value"], "add the callback GradientClipping"),
    "clipping of nothing": (CLIPPING, "GradientClipping has nothing to clip"),
    "clipping at zero": (
        [*CLIPPING, "--trainer.callbacks.generator", "ByNorm", "--trainer.callbacks.generator.max_norm", "0"],
        "ByNorm's max_norm must be above 0, got 0",
    ),
    "policy": (
        ["--trainer.callbacks+", "NonFiniteGuard", "--trainer.callbacks.policy", "ignore"],
        "ignore",
    ),
    "penalty in half precision": (["--trainer.precision", "bf16-true"], "set it to bf16-mixed"),
    "no machine": (["--trainer.num_nodes", "0"], "a setting of trainer is refused: `num_nodes` must be"),
    "unknown accelerator": (["--trainer.accelerator", "gpus"], "a setting of trainer is refused: You selected an inv"),
    "no such file": (["--config", "nope.yaml"], "nope.yaml"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_bad_setting(refused, case):
    words, message = SETTINGS[case]
    assert message in refused("fit", *SHORT, *words)  # with the default folder, runs/fast/TIME


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is one")
def test_no_such_device(refused):
    assert "accelerator" in refused("fit", *SHORT, "--trainer.accelerator", "cuda")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {nope: 1}", "nope"),
        ("modl: {n_critic: 1}", "modl"),
        ("model: {generator: {class_path: no.such.Thing}}", "no.such.Thing"),
        ("model: [", "parsing config"),
        ("just words", "Unexpected config: just words"),
        ("trainer: null", "trainer holds the settings of Lightning's Trainer, and is null"),
    ],
)
def test_bad_config_file(refused, text, message):
    Path("mine.yaml").write_text(text, encoding="utf-8")
    assert message in refused("fit", *SHORT, "--config", "mine.yaml")


@pytest.mark.parametrize("setting", ["--config", "--data", "--model.generator="])
@pytest.mark.parametrize("content", ["seed_everything: 1 # caf\u00e9".encode("latin1"), bytes(range(256))])
def test_config_that_is_no_text(refused, setting, content):
    Path("mine.yaml").write_bytes(content)
    words = [f"{setting}mine.yaml"] if setting.endswith("=") else [setting, "mine.yaml"]
    assert "mine.yaml is not a text in UTF-8" in refused("fit", *SHORT, *words)


def test_folder_that_has_no_name_in_this_locale(refused):
    """What the system hands over where it does not know the letters."""
    assert "cannot be read in this locale: set PYTHONUTF8=1" in refused("fit", *SHORT, "--run_dir", "\udce6\udc97")


def test_unknown_command(refused):
    for word in ("nope", "predict", "Sample"):
        commands = "fit, validate, test, cure, sample, translate, export, train_features, lab"
        assert f"the command must be one of {commands}, got {word!r}" in refused(word)


# ---------------------------------------------------------------------- data


@pytest.fixture
def embedded(tmp_path, monkeypatch) -> Path:
    """A copy of the embedded files that may be damaged."""
    folder = tmp_path / "files"
    shutil.copytree(ROOT / "gan" / "data" / "files", folder)
    monkeypatch.setattr("gan.data.mnist.FILES", folder)
    return folder


MNIST = ["--data", "MNISTDataModule"]


@pytest.mark.parametrize("repacked", [False, True])
def test_damaged_data(refused, embedded, repacked):
    """One byte of 9.9 million; gzip's own sum sees it in the file, and not in what was packed."""
    path = embedded / "train-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if repacked else path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(gzip.compress(content, 1) if repacked else content)
    error = refused("fit", *SHORT, *MNIST)
    assert f"{path} cannot be used" in error
    assert "git checkout -- gan/data/files" in error


def test_missing_data(refused, embedded):
    (embedded / "train-labels-idx1-ubyte.gz").unlink()
    assert "train-labels-idx1-ubyte.gz cannot be used" in refused("fit", *SHORT, *MNIST)


def test_damaged_test_data(refused, embedded, good):
    """They are what a run is scored against, too."""
    path = embedded / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in refused("test", "--ckpt_path", good, *MNIST, *TRUSTED)
    assert str(path) in refused("fit", *SHORT, *MNIST)


# ---------------------------------------------------------------------- checkpoints


class Virus:
    def __reduce__(self):
        return os.system, ("touch infected",)


def truncated(good: bytes) -> bytes:
    return good[: len(good) // 2]


def empty(good: bytes) -> bytes:
    return b""


def text(good: bytes) -> bytes:
    return b"hello"


def something_else(good: bytes) -> bytes:
    return saved({"weights": torch.zeros(3)})


def other_network(good: bytes) -> bytes:
    return saved({"state_dict": {"encoder.weight": torch.zeros(3)}, "hyper_parameters": {"_instantiator": "x"}})


def other_gan(good: bytes) -> bytes:
    return saved({"state_dict": {"generator.weight": torch.zeros(3)}})


def pickle_with_code(good: bytes) -> bytes:
    return pickle.dumps(Virus())


def checkpoint_with_code(good: bytes) -> bytes:
    return saved({"state_dict": {"generator.weight": Virus()}})


def saved(content) -> bytes:
    torch.save(content, "temporary")
    content = Path("temporary").read_bytes()
    Path("temporary").unlink()
    return content


def marked_as_a_folder(good: bytes) -> bytes:
    """Of which torch takes the place in memory, and fills it with nothing."""
    path = Path("temporary")
    path.write_bytes(good)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            record = zipfile.ZipInfo(name)
            record.external_attr = 0x10 * name.endswith("/data/0")
            archive.writestr(record, data)
    content = path.read_bytes()
    path.unlink()
    return content


def another_date(good: bytes) -> bytes:
    """A bit that no reader looks at."""
    at = good.rindex(b"PK\1\2") + 12
    return good[:at] + b"\1" + good[at + 1 :]


BAD = {
    truncated: "bad.ckpt is damaged: its end is missing",
    empty: "bad.ckpt is damaged: it is empty",
    text: "bad.ckpt is not a checkpoint",
    marked_as_a_folder: "bad.ckpt is damaged: the list of its parts is not what was written",
    another_date: "bad.ckpt is damaged: the list of its parts is not what was written",
    something_else: "bad.ckpt is a checkpoint of something else",
    other_network: "bad.ckpt is a checkpoint of something else",
    other_gan: "bad.ckpt is a checkpoint of something else",
    pickle_with_code: "bad.ckpt is not a checkpoint",
    checkpoint_with_code: "this one asks to run code",
}
COMMANDS = {
    "validate": ["validate", "--ckpt_path", "bad.ckpt"],
    "test": ["test", "--ckpt_path", "bad.ckpt"],
    "fit": ["fit", *SHORT, "--run_dir", "run", "--resume", "bad.ckpt"],
    "sample": ["sample", "--ckpt", "bad.ckpt", "--out", "out.png"],
    "translate": ["translate", "--ckpt", "bad.ckpt", "--images", "images", "--out", "out"],
    "export": ["export", "--ckpt", "bad.ckpt", "--out", "out.pt2"],
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", COMMANDS)
def test_bad_checkpoint(refused, good, name, kind):
    """`refused` also sees to it that no code in it ran: that would leave the file `infected`."""
    Path("bad.ckpt").write_bytes(kind(good.read_bytes()))
    assert BAD[kind] in refused(*COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_missing_checkpoint(refused, name):
    assert "no checkpoint at bad.ckpt" in refused(*COMMANDS[name])
    Path("bad.ckpt").mkdir()
    assert "no checkpoint at bad.ckpt" in refused(*COMMANDS[name])


@pytest.mark.parametrize("name", ["validate", "test"])
def test_no_checkpoint_given(refused, name):
    assert "--ckpt_path RUN/checkpoints/last.ckpt" in refused(name)


def test_no_checkpoint_of_the_run_is_whole(refused, good):
    """`--resume auto` must not start afresh over a run whose checkpoints are all damaged."""
    shutil.copytree(good.parents[1], "run")
    for path in Path("run/checkpoints").iterdir():
        path.write_bytes(truncated(path.read_bytes()))
    error = refused("fit", "--run_dir", "run", "--resume", "auto")
    assert "no checkpoint in run/checkpoints can be used" in error
    assert "start again in another --run_dir" in error


def test_damaged_checkpoint_of_the_run(capsys):
    """The run goes on from the newest whole one, says so in one line, and ends as if nothing had been."""
    words = ["--trainer.max_steps", "6", "--trainer.callbacks+", "RunCheckpoint", "--trainer.callbacks.every", "2"]
    whole = fit("whole", *words)
    fit("run", *words, "--trainer.max_steps", "5")
    folder = Path("run/checkpoints")
    with (folder / "last.ckpt").open("r+b") as file:  # as the disk does, under both of its names
        file.seek(100_000)
        file.write(bytes(100_000))
    capsys.readouterr()
    path = resume("run", "--trainer.max_steps", "6")
    (warning,) = capsys.readouterr().err.splitlines()
    why = "is damaged: the list of its parts is not what was written"
    damaged = f"run/checkpoints/last.ckpt {why}; run/checkpoints/step_000005.ckpt {why}"
    assert warning == f"warning: {damaged}. The run goes on from batch 4, by {folder}/step_000004.ckpt"
    assert equal(load(path), load(whole))
    assert table("run") == table("whole")


def test_last_checkpoint_is_missing():
    """A run that was killed in the middle of its first save, or a user who wanted to make room."""
    path = fit("run")
    path.unlink()
    assert load(resume("run", "--trainer.max_steps", "5"))["global_step"] == 5
    assert [row["step"] for row in table("run")] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    "words",
    [["--model.generator", "DCGANGenerator"], ["--data", "commands.Colour"], ["--model.num_fixed_latents", "5"]],
)
def test_checkpoint_of_other_networks(refused, good, words):
    shutil.copytree(good.parents[1], "run")
    assert "last.ckpt does not fit" in refused("fit", "--run_dir", "run", "--resume", "auto", *words)
    if "--data" in words:
        assert "last.ckpt does not fit" in refused(
            "validate", "--ckpt_path", "run/checkpoints/last.ckpt", *words, *TRUSTED
        )


@pytest.mark.parametrize(
    "words",
    [
        ["--data.batch_size", "497"],
        ["--trainer.gradient_clip_val", "1"],
        ["--trainer.precision", "bf16-true"],
        ["--model.generator_scheduler", "WarmupCosine", "--model.generator_scheduler.warmup", "-1"],
    ],
)
def test_refused_resume_leaves_the_run_as_it_was(refused, good, words):
    """Its config too: the next `--resume auto` would take the bad setting from there."""
    shutil.copytree(good.parents[1], "run", ignore=shutil.ignore_patterns("tensorboard"))
    refused(
        "fit", "--run_dir", "run", "--resume", "auto", "--trainer.max_steps", "9", *words, "--trainer.logger", "false"
    )


# ---------------------------------------------------------------------- folders and disks


def test_folder_that_cannot_be_written(refused):
    Path("file").write_text("", encoding="utf-8")
    assert "cannot write to --run_dir file/run: Not a directory" in refused("fit", *SHORT, "--run_dir", "file/run")
    assert "cannot write to --run_dir file" in refused("fit", *SHORT, "--run_dir", "file")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_folder_that_nobody_can_write(refused):
    assert "cannot write to --run_dir /proc/x" in refused("fit", *SHORT, "--run_dir", "/proc/x")


def test_folder_of_another_run(refused, good):
    shutil.copytree(good.parents[1], "run")
    for words in ([], ["--resume", "never"], ["--resume", str(good)]):
        error = refused("fit", *SHORT, "--run_dir", "run", *words)
        assert "run already holds a run: go on with it by --resume auto" in error


def test_disk_full_at_the_end(capsys):
    """The file that is being written is far larger than the limit: what is there must be the last good one."""
    path = fit("run")
    before = path.read_bytes()
    assert len(before) > 4_000_000
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop, SmallDisk(1_000_000):
        resume("run", "--trainer.max_steps", "5")
    assert stop.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: cannot write run/checkpoints/step_000005.ckpt: [Errno 27] File too large")
    assert error.endswith("Make room on the disk")
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["last.ckpt", "step_000003.ckpt"]
    assert load(resume("run", "--trainer.max_steps", "5"))["global_step"] == 5  # with room again


def test_disk_full_on_the_way(capsys, recwarn):
    """A warning while there is training left to do; then there is room again, and the run ends well."""
    path = fit("run")
    disk = SmallDisk(1_000_000)
    again = [At(batch=4, action=disk.__enter__), At(batch=7, action=lambda: disk.__exit__())]
    words = ["--trainer.callbacks+", "RunCheckpoint", "--trainer.callbacks.every", "5", "--trainer.max_steps", "9"]
    try:
        resume("run", *words, callbacks=again)
    finally:
        disk.__exit__()
    (warning,) = [text for text in (str(warned.message) for warned in recwarn) if "cannot write" in text]
    assert warning.endswith("Training goes on")
    assert load(path)["global_step"] == 9


class Outage(Callback):
    """A disk that is full from one batch on to another."""

    def __init__(self, full, begin: int, end: int):
        self.full, self.begin, self.end = full, begin, end

    def on_fit_start(self, trainer, pl_module):
        if self.begin < 0:
            self.full.__enter__()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.begin:
            self.full.__enter__()
        if trainer.global_step == self.end:
            self.full.__exit__()


@pytest.mark.slow
@pytest.mark.parametrize(("disk", "begin", "end"), [("quota", -1, 4), ("tmpfs", 3, 7)], indirect=["disk"])
def test_disk_full_for_a_while(disk, capsys, recwarn, begin, end):
    """Whatever is written then: the run goes on, says so, and leaves what it would have left."""
    folder, full = disk
    words = ["--trainer.max_steps", "9", "--trainer.callbacks+", "RunCheckpoint", "--trainer.callbacks.every", "5"]
    words += ["--trainer.callbacks+", "ImageLogger", "--trainer.callbacks.every", "2"]
    words += ["--trainer.callbacks+", "GradientMonitor", "--trainer.callbacks.every", "2"]
    whole = fit("whole", *words)
    recwarn.clear()
    parts = fit(folder / "parts", *words, callbacks=[Outage(full, begin, end)])
    told = [text for text in (str(warning.message) for warning in recwarn) if "write" in text]
    assert 1 <= len(told) <= 4  # of the pictures, the table, the charts and the checkpoint
    assert all(re.match("cannot write .*Training goes on", text) for text in told)
    assert equal(load(whole), load(parts))
    assert table("whole") == table(folder / "parts")
    assert left(Path("whole")) == left(folder / "parts")


def left(run_dir) -> dict:
    """What a run leaves besides its checkpoints and the table."""
    charts = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    points = {tag: [(point.step, point.value) for point in charts.Scalars(tag)] for tag in charts.Tags()["scalars"]}
    del points["images_per_second"]  # of the clock
    images = {tag: [image.step for image in charts.Images(tag)] for tag in charts.Tags()["images"]}
    files = [path for path in run_dir.rglob("*") if path.suffix in (".png", ".gif", ".md", ".yaml", ".partial")]
    assert {"config.yaml", "report.md", "training.gif", "heatmap_generator.png"} <= {path.name for path in files}
    return points | images | {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


def test_disk_full_for_the_last_pictures(capsys, recwarn):
    """Then the end of the run is not done: it is, to the bit, when there is room and the run goes on."""
    fit("whole")
    full = SmallDisk(500)

    class FullAtTheEnd(Callback):
        def on_train_end(self, trainer, pl_module):
            full.__enter__()

        def on_fit_end(self, trainer, pl_module):
            full.__exit__()

    recwarn.clear()
    path = fit("run", callbacks=[FullAtTheEnd()])
    told = [str(warning.message) for warning in recwarn]
    assert [
        text for text in told if text.endswith("Make room on the disk, and --resume auto does the end of the run again")
    ]
    assert "ended" not in load(path)
    resume("run")
    assert load(path)["ended"]
    assert left(Path("whole")) == left(Path("run"))


# ---------------------------------------------------------------------- stopped from outside


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("when", ["in a batch", "between batches"])
def test_sigterm_saves_and_says_how_to_go_on(capsys, monkeypatch, when):
    """As a cluster does before it takes the machine away."""
    words = ["--trainer.max_steps", "9"]
    whole = fit("whole", *words)

    def after_all_callbacks(gan, *args):
        if gan.global_step == 3:
            terminate()

    callbacks, stopped = [At(batch=2, action=terminate)], 3
    with monkeypatch.context() as patch:
        if when == "between batches":
            callbacks, stopped = [], 4  # what is saved is never half a step, so the next one comes to its end
            patch.setattr(GAN, "on_train_batch_end", after_all_callbacks)
        with pytest.raises(SystemExit) as stop:
            fit("parts", *words, callbacks=callbacks)
    assert stop.value.code == 128 + signal.SIGTERM
    output, errors = capsys.readouterr()
    assert errors == ""
    assert output.splitlines()[-2:] == [
        f"stopped after batch {stopped}; saved as of batch {stopped}. Go on with:",
        "  python -m gan.cli fit --run_dir parts --resume auto",
    ]
    parts = resume("parts")
    for part in ("state_dict", "optimizer_states"):
        assert equal(load(whole)[part], load(parts)[part])
    assert [row["step"] for row in table("parts")] == [str(step) for step in range(1, 10)]


# ---------------------------------------------------------------------- what Lightning says


@pytest.mark.parametrize(
    ("message", "asked"),
    [("Seed set to 42", False), ("[rank: 1] Seed set to 42", False), ("[rank: 1] a finding of the user's", True)],
)
def test_what_nobody_asked_for(message, asked):
    """In the first process, and in the others, where it begins otherwise."""
    assert is_asked_for(logging.LogRecord("lightning", logging.INFO, "", 0, message, (), None)) == asked


# ---------------------------------------------------------------------- bugs


@pytest.mark.parametrize(
    ("name", "error"), [("Buggy", KeyError), ("BuggyInTraining", RuntimeError), ("Picky", ValueError)]
)
def test_bug_of_the_user_keeps_its_traceback(capsys, name, error):
    """It is not for us to say what is wrong there. No run is left of it that would be in the way of the next."""
    with pytest.raises(error, match="a bug of the user's") as caught:
        fit("run", "--model.generator", f"commands.{name}")
    frames = [str(entry.path) for entries in chain(caught.value) for entry in entries]
    assert any(frame.endswith("commands.py") for frame in frames)
    assert "error: " not in capsys.readouterr().err
    assert not Path("run").exists()


def test_bug_of_the_user_that_shows_when_the_trainer_is_made(tmp_path):
    with pytest.raises(TypeError, match="a bug of the user's"):
        fit(tmp_path / "run", "--trainer.callbacks+", "commands.BuggyCallback")


def chain(error):
    while error is not None:
        yield pytest.ExceptionInfo.from_exception(error).traceback
        error = error.__cause__ or error.__context__


def test_traceback_on_request(monkeypatch, capsys):
    monkeypatch.setenv("GAN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="latent_dim must be at least 1"):
        main(["fit", *SHORT, "--model.generator.latent_dim", "0"])
    assert capsys.readouterr().err == ""


def test_a_warning_of_ours_is_a_line_and_others_are_as_python_shows_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["fit", *SHORT, "--model.generator_scheduler", "WarmupCosine", "--run_dir", "run"]
    program = f"import warnings; from gan.cli import main; main({words!r}); warnings.warn('of the user')"
    run = process([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT / "tests")})
    _, errors = run.communicate()
    assert errors.splitlines() == [
        "warning: WarmupCosine: warmup is shortened from 100 to 0, a tenth of this run",
        "<string>:1: UserWarning: of the user",
    ]


def test_a_run_that_never_began_is_no_run():
    """In a folder that was there: the next try is not refused."""
    Path("run").mkdir()
    with pytest.raises(SystemExit, match="2"):
        command("fit", *SHORT, "--run_dir", "run", "--data", "test_run.Bright")
    for words in ([], ["--resume", "auto"]):
        shutil.rmtree("run/checkpoints", ignore_errors=True)
        fit("run", *words)
        config = yaml.safe_load(Path("run/config.yaml").read_text("utf-8"))
        assert config["data"]["class_path"] == "conftest.SmallMNIST"


class Bright(SmallMNIST):
    """Batches that are refused when they are seen."""

    def train_dataloader(self):
        return torch.utils.data.DataLoader([(torch.full((1, 28, 28), 255.0), 0)] * 64, batch_size=8)


@pytest.mark.parametrize(
    "words", [["sample", "--out", "x.png", "--ckpt"], ["validate", "--ckpt_path"], ["fit", *SHORT, "--resume"]]
)
def test_path_that_is_too_long(refused, words):
    assert "File name too long" in refused(*words, "x" * 300)


def test_a_run_that_a_callback_has_ended_is_at_its_end(capsys):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 2

    fit("run", "--trainer.max_steps", "9", callbacks=[Stop()])
    assert load("run/checkpoints/last.ckpt")["global_step"] == 2
    before = Path("run/checkpoints/last.ckpt").read_bytes()
    capsys.readouterr()
    resume("run")
    assert "is the end of its run: there is nothing more to do. To train on, give --resume" in capsys.readouterr().out
    assert Path("run/checkpoints/last.ckpt").read_bytes() == before
    words = ["--resume", "run/checkpoints/last.ckpt", "--run_dir", "on", *TRUSTED]
    command("fit", *words)
    assert load("on/checkpoints/last.ckpt")["global_step"] == 9


@pytest.mark.parametrize("profiler", ["simple", pytest.param("advanced", marks=pytest.mark.slow)])
def test_what_was_asked_of_lightning_is_shown(tmp_path, monkeypatch, profiler):
    """And nothing else of what it says: a run's own lines say that."""
    monkeypatch.chdir(tmp_path)
    words = ["fit", *SHORT, "--run_dir", "run", "--trainer.profiler", profiler]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "COLUMNS": "200"}
    run = process([sys.executable, "-m", "gan.cli", *words], env=environment)
    _, errors = run.communicate()
    assert run.returncode == 0
    assert errors.startswith("FIT Profiler Report")
    assert "optimizer_step" in errors
