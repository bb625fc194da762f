"""Short runs of the shipped configs, forked from a process that has imported everything, and all that they write."""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import yaml
from commands import command
from conftest import ROOT
from test_resume import child

# Networks as small as they get, five batches an epoch, and something at each of them: saves at every third batch,
# pictures at every fourth, scores and measurements at every fifth.
CONFIGS = ("article", "dcgan", "default", "hinge_sn", "r3gan", "resnet", "wgan_gp", "debug/overfit")
STEPS = 14
SMALL = ["--data", "commands.Digits", "--data.batch_size", "80", "--data.validation_size", "112"]
SMALL += ["--model.num_fixed_latents", "16", "--trainer.max_steps", str(STEPS), "--trainer.log_every_n_steps", "1"]
SMALL += ["--trainer.check_val_every_n_epoch", "1", "--trainer.accelerator", "cpu"]
for callback, settings in {
    "RunCheckpoint": ["every=3"],
    "ImageLogger": ["every=4"],
    "GradientMonitor": ["every=5", "images=16"],
    "FIDTracker": ["every=5", "num_samples=100", "final_samples=200"],
}.items():
    SMALL += [f"--trainer.callbacks+=gan.callbacks.{callback}"]
    SMALL += [f"--trainer.callbacks.{setting}" for setting in settings]


def words_of(config: str) -> list[str]:
    """The command of a short run."""
    path = ROOT / "configs" / f"{config}.yaml"
    model = yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {})
    words = ["--config", str(path), *SMALL]
    for network in ("generator", "discriminator"):
        if model.get(f"{network}_scheduler", 0) is not None:
            words += [f"--model.{network}_scheduler.warmup", "2"]
        if config != "article":
            words += [f"--model.{network}.base_channels", "4"]
    return words


def start(
    run_dir: Path, words: list[str], prepare: Callable[[], object] = lambda: None, callbacks=(), log: int | None = None
) -> int:
    """`fit --resume auto` in a process of its own. Returns its id; what it says is in `RUN.log`, or an open file."""

    def go() -> None:
        words_to = log or os.open(f"{run_dir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sys.stdout.flush()
        sys.stderr.flush()
        for number in (1, 2):
            os.dup2(words_to, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)  # not pytest's
        prepare()
        try:
            command("fit", *words, "--run_dir", run_dir, "--resume", "auto", callbacks=callbacks)
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            raise

    return child(go)


def status(pid: int) -> int:
    """The status of a process when it has ended, below zero for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def said(run_dir: Path) -> str:
    with suppress(FileNotFoundError):
        return Path(f"{run_dir}.log").read_text(encoding="utf-8")
    return ""


def go_to_the_end(run_dir: Path, words: list[str]) -> None:
    assert status(start(run_dir, words)) == 0, said(run_dir)[-3000:]


WRITES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def at_each_write(below: Path, action: Callable[[str, str], object]) -> None:
    """Calls `action` just before this process opens, moves or removes a file below a folder, with what and its name.

    Python itself says so. It cannot be told to stop: for forks.
    """
    busy = False

    def hook(event: str, args: tuple) -> None:
        nonlocal busy
        if busy or (event != "open" and event not in WRITES):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if not isinstance(args[0], str | os.PathLike | bytes):
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if path.startswith(f"{below}/"):
            busy = True
            try:
                action(event, os.path.relpath(path, below))
            finally:
                busy = False

    sys.addaudithook(hook)


def writes_of(run_dir: Path, words: list[str], **environment: str) -> list[tuple[str, str]]:
    """All that a whole run writes below the folder that its own is in, in order: what is done, and to which file."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "writes").open("ab", buffering=0)  # noqa: SIM115

        def prepare() -> None:
            os.environ.update(environment)
            at_each_write(run_dir.parent, lambda *what: log.write("\t".join(what).encode() + b"\n"))

        assert status(start(run_dir, words, prepare)) == 0, said(run_dir)[-3000:]
        lines = Path(folder, "writes").read_text(encoding="utf-8").splitlines()
    return [(event, name) for event, _, name in (line.partition("\t") for line in lines)]
