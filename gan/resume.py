"""The run that a command goes on with or scores: its config, its checkpoint, and what is otherwise now."""

import argparse
import hashlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only

from gan.checkpoints import check_checkpoint, checkpoint_in, newest_whole
from gan.data import InMemoryLoader
from gan.errors import GANError
from gan.order import callbacks_of
from gan.trust import check_names, named_in

# ---------------------------------------------------------------------- the config of a run


def with_config_of_run(args: list[str]) -> tuple[list[str], set[str]]:
    """Puts the config of the run to resume or to score before the other arguments, which so win over it.

    Returns:
        All arguments; and the packages whose classes the run's checkpoint may name: those that `--trust` gives, and
        those that the command itself names, or a config that a run of one's own has written into its folder.

    Raises:
        ValueError: If the config names classes of other packages.
    """
    if args[:1] not in (["fit"], ["validate"], ["test"]):
        return args, set()
    given, rest = of_this_run(args[1:])
    trust = {*given.trust, *named_by([*rest, *given.configs])}
    config = config_of_run(given.run_dir, given.resume if args[0] == "fit" else given.ckpt_path)
    if config is None:
        return args, trust
    try:
        text = config.read_text()
        settings = yaml.safe_load(text) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise GANError(f"{config} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise GANError(f"{config} is no config of a run")
    if given.resume == "auto" and is_own(text):
        trust |= named_in(settings)
    check_names(settings, trust, str(config), config.parent)
    return [args[0], "--config", str(config), *args[1:]], trust


def of_this_run(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What arguments, and the configs that they give, say of the run that they belong to; and the other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action=OfConfig, dest="configs", default=[])
    parser.add_argument("--run_dir")
    parser.add_argument("--resume", default="never")
    parser.add_argument("--ckpt_path", default="never")
    parser.add_argument("--trust", action="append", default=[])
    return parser.parse_known_args(args)


class OfConfig(argparse.Action):
    """Takes what a config says of the run, in its turn among the arguments, and leaves the rest to the command."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *_: Any) -> None:
        namespace.configs = [*namespace.configs, value]
        try:
            settings = yaml.safe_load(Path(value).read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return  # the command's own parser says what is wrong with it
        if not isinstance(settings, dict):
            return
        for name in ("run_dir", "resume", "ckpt_path"):
            if isinstance(settings.get(name), str):
                setattr(namespace, name, settings[name])
        trust = settings.get("trust") or []
        namespace.trust = [*namespace.trust, *([trust] if isinstance(trust, str) else trust)]


def is_resumed(words: list[str]) -> bool:
    """Whether the words of a `fit` say that it goes on with a run."""
    return of_this_run(words)[0].resume != "never"


def named_by(words: list[str]) -> set[str]:
    """The packages that a command itself names, in its words and in the configs that it gives."""
    return named_in([word.partition("=")[2] if word.startswith("--") else word for word in words])


def remember_own(config: str) -> None:
    """Keeps a mark, in the user's cache, of a config that a run has written: to go on from there needs no --trust."""
    path = mark(config)
    if path is not None:
        with suppress(OSError):  # then it does ask
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def is_own(config: str) -> bool:
    """Whether a run of this user has written the config, to the letter."""
    path = mark(config)
    return path is not None and path.is_file()


def mark(config: str) -> Path | None:
    """Where that mark lies, if the user has a cache."""
    from gan.metrics.feature_cache import cache_folder

    folder = cache_folder()
    digest = hashlib.blake2b(config.encode(), digest_size=16).hexdigest()
    return None if folder is None else folder / "own_runs" / digest


def config_of_run(run_dir: str | None, checkpoint: str) -> Path | None:
    """The config of the run that `checkpoint` (auto, never, or a path) belongs to, if there is one."""
    folder = run_dir if checkpoint == "auto" else checkpoint_in(checkpoint).absolute().parent.parent
    if checkpoint == "never" or not folder:
        return None
    config = Path(folder, "config.yaml")
    return config if config.is_file() else None


def has_checkpoint(run_dir: str | Path) -> bool:
    """Whether a run has saved anything.

    Raises:
        ValueError: If the folder cannot be looked into.
    """
    try:
        return any(path.suffix == ".ckpt" for path in Path(run_dir, "checkpoints").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise GANError(f"cannot read --run_dir {run_dir}: {error.strerror}; choose another") from error


# ---------------------------------------------------------------------- its checkpoint


def checkpoint_to_resume(run_dir: Path, resume: str) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint that `resume` (auto, never, or a path) stands for, and what it holds.

    Raises:
        ValueError: If there is none at the path, or the folder holds a run that is not to be resumed.
    """
    is_first_process = not getattr(rank_zero_only, "rank", 0)
    if resume == "auto":
        found = newest_whole(run_dir / "checkpoints")
        if found is None:
            if is_first_process:
                print(f"{run_dir} holds no checkpoint yet: a new run begins")
            return None, {}
        path, checkpoint, damaged = found
        if damaged and is_first_process:
            names = ", ".join(str(path) for path in damaged)
            step = checkpoint["global_step"]
            print(f"warning: {names}: damaged. The run goes on from batch {step:,}, by {path}", file=sys.stderr)
        return path, checkpoint
    if is_first_process and has_checkpoint(run_dir):  # what never saved is nothing to go on with, and nothing to keep
        raise GANError(f"{run_dir} already holds a run: go on with it by --resume auto, or choose another --run_dir")
    if resume == "never":
        return None, {}
    checkpoint = check_checkpoint(resume)
    if not {"optimizer_states", "loops", "callbacks"} <= checkpoint.keys():
        raise GANError(f"{resume} holds weights alone, without the optimizers and counters that a run goes on from")
    return Path(resume), checkpoint


def way_on(checkpoint: dict[str, Any], path: str | Path | None, resume: str, trainer: Trainer) -> str | None:
    """What it takes to train on after a checkpoint at which a run has ended; None if there is something to do."""
    if not checkpoint.get("ended"):
        return None
    step, epochs = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if 0 <= trainer.max_steps <= step:
        return f"set --trainer.max_steps above {step}"
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs:
        return f"set --trainer.max_epochs above {epochs}"
    by_callback = checkpoint.get("should_stop") and not callbacks_of(trainer, Timer)  # which may have got more time
    if by_callback and resume == "auto":
        return f"give --resume {path} and another --run_dir, since a callback has ended it here"
    return None


def check_fits(path: str | Path, checkpoint: dict[str, Any], model: LightningModule) -> None:
    """Refuses a checkpoint of other networks, whose weights Lightning would list one by one.

    Raises:
        ValueError: If they differ, with the first difference.
    """
    shapes = [
        {key: tuple(value.shape) for key, value in state.items() if not key.startswith("generator_ema.")}
        for state in (checkpoint["state_dict"], model.state_dict())
    ]
    for key in sorted(shapes[0].keys() | shapes[1].keys()):
        there, here = (shape.get(key, "missing") for shape in shapes)
        if there != here:
            raise GANError(
                f"{path} does not fit the networks and the data of this command: {key} is {there} in the checkpoint "
                f"and {here} here. Leave out the settings that change them, or start another run"
            )


def changes(old: Any, new: Any) -> list[str]:
    """What differs between two configs, a line for each setting."""
    before, now = settings(old), settings(new)
    names = [name for name in now | before if before.get(name) != now.get(name)]
    return [f"changed        {name}: {before.get(name)} -> {now.get(name)}" for name in names]


def settings(config: Any, name: str = "") -> dict[str, Any]:
    """The settings of a config by the names that the command line has for them."""
    match config:
        case {"class_path": path, **rest}:
            return {name: path} | settings(rest.get("init_args", {}), name)
        case dict():
            items = config.items()
        case [dict(), *_]:
            items = enumerate(config)
        case _:
            return {name: config}
    parts = [settings(value, f"{name}.{key}" if name else str(key)) for key, value in items]
    return {key: value for part in parts for key, value in part.items()}


def other_counts(checkpoint: dict[str, Any], trainer: Trainer, old: Any, new: Any) -> list[str]:
    """What it means to go on with other processes, or with other batches in an epoch, if they are others."""
    lines, step = [], trainer.global_step
    before, now = checkpoint.get("world_size", trainer.world_size), trainer.world_size
    if before != now:
        lines.append(
            f"processes      {before} -> {now}: goes on correctly from batch {step:,}, but not bit for bit as before"
        )
        sizes = [config["data"].get("init_args", {}).get("batch_size") for config in (old, new)]
        if None not in sizes and sizes[0] * before != sizes[1] * now:
            lines.append(
                f"images/batch   {sizes[0] * before} -> {sizes[1] * now} over all processes; to keep it, "
                f"set data.batch_size to {sizes[0] * before / now:g}"
            )
    epochs = checkpoint.get("epoch_batches", trainer.num_training_batches), trainer.num_training_batches
    if epochs[0] != epochs[1] and isinstance(trainer.train_dataloader, InMemoryLoader):
        lines.append(
            f"batches/epoch  {epochs[0]:,} -> {epochs[1]:,}: from batch {step:,} on, images come in the order of a run "
            f"that had {epochs[1]:,} from its start"
        )
    return lines
