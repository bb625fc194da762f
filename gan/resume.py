"""The checkpoint that a command goes on from or scores, the config of its run, and what is otherwise now."""

import inspect
import sys
from argparse import Namespace
from collections.abc import Sequence, Sized
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only

from gan.checkpoints import check_checkpoint, checkpoint_in, last_in, newest_whole
from gan.config import KEY as CONFIG
from gan.config import changes, config_in, is_own
from gan.errors import GANError
from gan.folder import RunFolder
from gan.module import GAN
from gan.order import callbacks_of
from gan.paths import local_path
from gan.spec import FROM_DATA
from gan.text import noun
from gan.transfer import trained
from gan.trust import check_hyper_parameters, check_names, named_in


@dataclass
class Source:
    """The checkpoint that a command goes on from or scores.

    Args:
        path: Where it is; None for a run that begins.
        checkpoint: What it holds, tensors without their values.
        config: What it says of its run, as plain data.
        whole: Whether that is all; of a checkpoint from Python, it is what the networks were made of.
        damaged: Newer ones, which cannot be used.
        seen: What lay in their folder.
        init: What the command gives a run to begin with.
    """

    path: Path | None = None
    checkpoint: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    whole: bool = True
    damaged: list[Path] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    init: str | None = None

    def changes(self, new: dict[str, Any]) -> list[str]:
        """What a command of this config does otherwise than the run did, a line for each setting."""
        if self.whole:
            return changes(self.config, new)
        about = f"{self.path} was saved from Python: its networks, losses and optimizers are taken from there"
        return [f"config         {about}, the rest from this command", *changes(self.config, new, whole=False)]


# ---------------------------------------------------------------------- the checkpoint, and what it says of its run


def source_of(command: str, given: Namespace) -> Source:
    """The checkpoint that the words of a `fit`, `validate` or `test` stand for.

    Raises:
        GANError: If it cannot be used.
    """
    if command != "fit":
        if given.init is not None:
            raise GANError(f"--init is for `fit`: {command} takes the weights of --ckpt_path")
        if given.ckpt_path is None:
            return Source()
        path = checkpoint_in(given.ckpt_path)
        return made_of(path, check_checkpoint(path))
    if given.init is not None and given.resume not in ("auto", "never"):
        raise GANError(
            f"--resume {given.resume} goes on with all of a run, and --init {given.init} begins a new one with weights "
            "alone: give one of them"
        )
    if given.resume == "auto":
        source = newest(local_path(given.run_dir, "--run_dir")) if given.run_dir else Source()
    else:
        source = Source() if given.resume == "never" else made_of(*last_in(given.resume))
    if given.init is not None and source.path is None:
        trained(given.init)  # before anything is made for it
    source.init = given.init
    return source


def newest(run_dir: Path) -> Source:
    """The checkpoint that a run goes on from in its own folder.

    Raises:
        GANError: If there are some, and none can be used.
    """
    folder = run_dir / "checkpoints"
    seen = listing(folder)
    try:
        found = newest_whole(folder)
    except GANError:
        RunFolder(str(run_dir)).close()  # that another run is just writing them is to be said first
        raise
    source = made_of(*found) if found else Source()
    source.seen = seen
    return source


def listing(folder: Path) -> list[Any]:
    """What is in a folder, and since when."""
    try:
        return sorted((path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir())
    except OSError:
        return []


def made_of(path: Path, checkpoint: dict[str, Any], damaged: Sequence[Path] = ()) -> Source:
    """A checkpoint with what it carries of its run."""
    config = config_in(checkpoint, str(path))
    return Source(path, checkpoint, config or {}, config is not None, [*damaged])


def of_python(hyper_parameters: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint from Python says of its run, as far as that was made of plain data."""
    model = deepcopy(hyper_parameters)
    del model["_instantiator"]
    for network in ("generator", "discriminator"):
        if isinstance(model.get(network), dict):
            arguments = model[network].get("init_args", {})
            model[network]["init_args"] = {key: value for key, value in arguments.items() if key not in FROM_DATA}
    if "penalties" in model:
        model["penalties"] = model["penalties"] or []
    return {"seed_everything": model.pop("seed", 42), "model": model}


def check_source(source: Source, command: str, given: Namespace) -> set[str]:
    """Holds what a checkpoint says of its run against the list of classes, and against what the command needs of it.

    Returns:
        The packages whose classes it may name: those that the command trusts or names and, where a run of one's own
        goes on in its folder, those of its config.

    Raises:
        GANError: If it names classes of other packages; or was saved from Python, and the command does not give what
            it does not say.
    """
    trust = given.trust
    if source.path is None:
        return trust
    if source.whole and given.resume == "auto" and is_own(source.config):
        trust |= named_in(source.config)
    if command == "fit" and not {"optimizer_states", "loops", "callbacks"} <= source.checkpoint.keys():
        raise GANError(
            f"{source.path} holds weights alone, without the optimizers and counters that a run goes on from"
        )
    check_hyper_parameters(source.checkpoint, trust, str(source.path))
    check_names(source.config, trust, str(source.path))
    if not source.whole:
        source.config = of_python(source.checkpoint["hyper_parameters"])
        wanted = ["generator", "discriminator", "loss"] if command != "fit" else inspect.signature(GAN).parameters
        wanted = ["data", *(f"model.{name}" for name in wanted if name not in source.checkpoint["hyper_parameters"])]
        wanted = [name for name in wanted if not {name, f"{name}.0"} & given.names]  # the latter of a list of classes
        if wanted:
            raise GANError(
                f"{source.path} was saved from Python, and so without the config of its run: give what is missing, "
                f"{' '.join(f'--{name} CLASS' for name in wanted)}, or all of it by --config FILE"
            )
    return trust


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


def in_its_folder(source: Source, run_dir: Path, resume: str) -> Source:
    """The same one, as this process holds the folder of the run now: another one may have saved there meanwhile.

    Says where a run goes on that cannot from its last checkpoint, and that it begins where there is none.

    Raises:
        GANError: If the folder holds a run that is not to be resumed, or that has gone on with other settings.
    """
    is_first_process = not getattr(rank_zero_only, "rank", 0)
    if resume != "auto":
        if is_first_process and has_checkpoint(run_dir):  # what never saved is nothing to keep
            raise GANError(
                f"{run_dir} already holds a run: go on with it by --resume auto, or choose another --run_dir"
            )
        return source
    if listing(run_dir / "checkpoints") != source.seen:
        now = newest(run_dir)
        if any(now.checkpoint.get(key) != source.checkpoint.get(key) for key in (CONFIG, "hyper_parameters")):
            raise GANError(f"{run_dir}: another run has just gone on here, and otherwise: give the command again")
        source = replace(now, config=source.config, init=source.init)
    if is_first_process and source.path is None:
        print(f"{run_dir} holds no checkpoint yet: a new run begins")
    if is_first_process and source.damaged:
        reasons = "; ".join(reason(path) for path in source.damaged)
        step = source.checkpoint["global_step"]
        print(f"warning: {reasons}. The run goes on from batch {step:,}, by {source.path}", file=sys.stderr)
    return source


def reason(path: Path) -> str:
    """Why a checkpoint cannot be used."""
    try:
        check_checkpoint(path)
    except GANError as error:
        return str(error)
    return f"{path} could not be used"  # it can now


def way_on(checkpoint: dict[str, Any], path: str | Path | None, resume: str, trainer: Trainer) -> str | None:
    """What it takes to train on after a checkpoint at which a run has ended; None if there is something to do.

    Raises:
        GANError: If a run that has not ended is beyond the end that the command gives it.
    """
    if path is None:
        return None
    step, epochs = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    most = {"batch": ("max_steps", step, trainer.max_steps), "epoch": ("max_epochs", epochs, trainer.max_epochs)}
    if not checkpoint.get("ended"):
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
            raise GANError("trainer.fast_dev_run tries a batch of a new run: leave out --resume")
        for what, (name, done, end) in most.items():
            if end is not None and 0 <= end < done:
                raise GANError(
                    f"{path} is of {what} {done:,}, beyond trainer.{name} {end:,}: set --trainer.{name} above {done}"
                )
        return None
    for name, done, end in most.values():
        if end is not None and 0 <= end <= done:
            return f"set --trainer.{name} above {done}"
    by_callback = checkpoint.get("should_stop") and not callbacks_of(trainer, Timer)  # which may have got more time
    if by_callback and resume == "auto":
        return f"give --resume {path} and another --run_dir, since a callback has ended it here"
    return None


def check_fits(path: str | Path, checkpoint: dict[str, Any], model: LightningModule) -> None:
    """Refuses a checkpoint of other networks, whose weights Lightning would list one by one.

    Raises:
        ValueError: If they differ, with the first difference.
    """
    beside = "generator_ema.", "augment.", "normalizer."
    shapes = [
        {key: tuple(value.shape) for key, value in state.items() if not key.startswith(beside)}
        for state in (checkpoint["state_dict"], model.state_dict())
    ]
    for key in sorted(shapes[0].keys() | shapes[1].keys()):
        there, here = (shape.get(key, "missing") for shape in shapes)
        if there != here:
            raise GANError(
                f"{path} does not fit the networks and the data of this command: {key} is {there} in the checkpoint "
                f"and {here} here. Leave out the settings that change them, or start another run"
            )


def other_counts(checkpoint: dict[str, Any], trainer: Trainer, old: Any, new: Any) -> list[str]:
    """What it means to go on with other processes, or with other batches in an epoch, if they are others."""
    lines, step, kind = [], trainer.global_step, f"{noun(trainer.lightning_module.generator)}s"
    before, now = checkpoint.get("world_size", trainer.world_size), trainer.world_size
    if before != now:
        lines.append(
            f"processes      {before} -> {now}: goes on correctly from batch {step:,}, but not bit for bit as before"
        )
        sizes = [config.get("data", {}).get("init_args", {}).get("batch_size") for config in (old, new)]
        if None not in sizes and sizes[0] * before != sizes[1] * now:
            lines.append(
                f"{f'{kind}/batch':<15}{sizes[0] * before} -> {sizes[1] * now} over all processes; to keep it, "
                f"set data.batch_size to {sizes[0] * before / now:g}"
            )
    epochs = checkpoint.get("epoch_batches", trainer.num_training_batches), trainer.num_training_batches
    if epochs[0] != epochs[1]:
        lines.append(
            f"batches/epoch  {epochs[0]:,} -> {epochs[1]:,}: from batch {step:,} on, {kind} come in the order of a run "
            f"that had {epochs[1]:,} from its start"
        )
    return lines


def rounded_anew(device: torch.device) -> list[str]:
    """That a run goes on as it would have, but for rounding, where the device adds up in another order each time."""
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return []
    return [
        "device         a GPU rounds otherwise each time: goes on correctly, but bit for bit only if the whole run has "
        "--trainer.deterministic true"
    ]


def scored_on(trainer: Trainer) -> str:
    """What a `validate` or `test` that begins is about to see."""
    loaders = trainer.val_dataloaders if trainer.validating else trainer.test_dataloaders
    loaders = loaders if isinstance(loaders, list) else [loaders]
    images = [getattr(loader, "images", getattr(loader, "dataset", None)) for loader in loaders]
    sizes = [len(part) for part in images if isinstance(part, Sized)]
    number = f"{sum(sizes):,} " if len(sizes) == len(images) else ""  # that of a stream is not known
    what = f"{noun(getattr(trainer, 'datamodule', None))}s"
    return number + (f"held-out {what}, which it did not train on" if trainer.validating else f"test {what}")
