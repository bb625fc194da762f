"""How a run is set up: its config, its folder, its loggers, and where it starts from."""

import argparse
import hashlib
import logging
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gan.checkpoints import AtomicCheckpointIO, check_checkpoint, newest_whole, replacing, sync
from gan.loggers import MetricsTable, RunTensorBoard
from gan.module import GAN
from gan.parallel import check_settings, replace_lightnings
from gan.trust import check_hyper_parameters, check_names, named_in

PACKAGE = Path(__file__).parent
CONFIGS = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())  # wheel, checkout


def run(args: list[str], callbacks: Sequence[Callback] = ()) -> None:
    """Runs `fit`, `validate` or `test`, with callbacks beside those of the config."""
    quiet()
    replace_lightnings()
    if not torch.cuda.is_available():
        # Lightning sets this to 1. Without a GPU, every step of an optimizer then looks for NVIDIA's library anew:
        # a tenth of a millisecond, which small networks feel.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    args, trust = with_config_of_run(args)
    command, *words = args
    cli = GANCLI(
        command=command,
        trust=trust,
        args=words,
        run=False,  # its own way to run builds the parsers of all commands, and nests each parse in another
        model_class=GAN,
        datamodule_class=LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=42,
        auto_configure_optimizers=False,  # it would give both networks to one optimizer
        trainer_defaults={"callbacks": [*callbacks]},
        save_config_callback=None,  # it would save before the run is known to begin; see `save_config`
        parser_kwargs={
            "prog": f"gan {command}",
            "description": getattr(Trainer, command).__doc__.splitlines()[0],
            "default_config_files": [str(CONFIGS / "default.yaml")],
            "exit_on_error": False,
            "allow_abbrev": False,  # what is not a setting's whole name is a mistake
        },
    )
    cli.fit() if command == "fit" else cli.score()


def quiet() -> None:
    """Silences what a user can do nothing about."""
    for name in ("lightning.pytorch", "lightning.fabric"):  # banners and tips: our own start says what runs
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "LightningCLI's args parameter is intended",  # `main` takes arguments, so that tests call it in process
        r"Detected call of `lr_scheduler\.step\(\)` before",  # n_critic: a schedule counts all batches, steps or not
        "You requested to overfit but enabled",  # not so: the loader does not shuffle then
        "The number of training batches .* is smaller than the logging interval",  # steps are counted over epochs
        "FSDP2-wrapped module .* returned a view tensor",  # which nothing here writes into
        r"You called `self\.log\(.*, logger=True\)` but have no logger",  # `validate` prints its scores
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6.6 against torch 2.14
    ):
        warnings.filterwarnings("ignore", message)


class GANCLI(LightningCLI):
    """LightningCLI with a run folder, and with what is known in one place passed on to where it is needed."""

    def __init__(self, command: str, trust: Iterable[str], **settings: Any):
        self.command = command
        self.trust = trust  # packages whose classes a checkpoint may name
        super().__init__(**settings)

    def add_arguments_to_parser(self, parser: Any) -> None:
        for network in ("generator", "discriminator"):
            parser.link_arguments("data.image_shape", f"model.{network}.init_args.image_shape", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=seed)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=seed)
        if self.command == "fit":
            parser.add_argument(
                "--run_dir", type=str | None, help="Where the run writes; runs/<config>/<time> if not given."
            )
            parser.add_argument(
                "--resume",
                type=str,
                default="never",
                help="auto: go on from the last checkpoint in run_dir, if there is one; never; or a checkpoint's path.",
            )
        else:
            known = {"model", "dataloaders", "datamodule"}
            self.score_arguments = parser.add_method_arguments(Trainer, self.command, skip=known)
        parser.add_argument(
            "--trust",
            action="append",
            help="A package whose classes a checkpoint, or the config beside it, may import, besides this one's "
            "and torch's. What the command itself names is trusted.",
        )

    def _parse_ckpt_path(self) -> None:  # private, but the only place before the classes are instantiated
        if self.command != "fit":
            path = self.config.ckpt_path
            if path is None:
                raise ValueError(f"{self.command} needs a trained run: --ckpt_path RUN/checkpoints/last.ckpt")
            self.checkpoint = check_checkpoint(path)
            check_hyper_parameters(self.checkpoint, self.trust, str(path))
            self.ckpt_path = path
            networks = dict(self.checkpoint["hyper_parameters"])
            del networks["_instantiator"]
            self.config = self.parser.parse_object({"model": networks}, self.config)

    def _dump_config(self) -> None:  # private: Lightning's checks anew what has just been parsed, which takes long
        if not hasattr(self, "config_dump"):
            text = self.parser.dump(self.config, skip_link_targets=False, skip_none=False, skip_validation=True)
            self.config_dump = yaml.safe_load(text)

    def before_instantiate_classes(self) -> None:
        self.run_dir = None
        if self.command == "fit":
            config = self.config
            if config.resume == "auto" and not config.run_dir:
                raise ValueError("--resume auto needs the run to go on with: --run_dir RUN")
            check_settings(config.trainer)
            config.trainer.callbacks = without_repeated(as_list(config.trainer.callbacks))
            self.run_dir = Path(config.run_dir) if config.run_dir else default_run_dir(config)
            self.ckpt_path, self.checkpoint = checkpoint_to_resume(self.run_dir, config.resume)
            if self.ckpt_path is not None:
                check_hyper_parameters(self.checkpoint, self.trust, str(self.ckpt_path))

    def after_instantiate_classes(self) -> None:
        if self.ckpt_path is not None:
            check_fits(self.ckpt_path, self.checkpoint, self.model)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init["trainer"]
        kwargs["plugins"] = [*as_list(settings.plugins), AtomicCheckpointIO()]
        if self.run_dir is None:
            kwargs["logger"] = False if settings.logger is True else settings.logger  # scores are printed
        else:
            kwargs["default_root_dir"] = str(self.run_dir)
            # Not before training starts: a run that is refused must not leave its config to the run that it resumes.
            kwargs["callbacks"] = [*as_list(settings.callbacks), LambdaCallback(on_train_start=self.save_config)]
            if settings.logger is True:
                # A run that was killed has logged batches after its checkpoint, which will come again.
                again = self.checkpoint.get("global_step", -1) + 1
                kwargs["logger"] = [
                    RunTensorBoard(self.run_dir, name="", version="tensorboard", purge_step=again),
                    MetricsTable(self.run_dir),
                ]
        return super().instantiate_trainer(**kwargs)

    def save_config(self, trainer: Trainer, model: LightningModule) -> None:
        """Writes `config.yaml` without the folder and the checkpoint of this run: every command takes it as it is.

        Before, it says what a resumed run does otherwise than it did.
        """
        if not trainer.is_global_zero:
            return
        config = self.config.clone()
        for name in ("run_dir", "resume", "config", "trust"):
            del config[name]
        text = self.parser.dump(config, skip_none=False, skip_validation=True)
        before = config_of_run(self.config.run_dir, self.config.resume)
        if self.ckpt_path is not None and before is not None:
            old, new = yaml.safe_load(before.read_text()), yaml.safe_load(text)
            for line in [*changes(old, new), *other_processes(self.checkpoint, trainer, old, new)]:
                print(line)
        with replacing(self.run_dir / "config.yaml") as partial:
            partial.write_text(text)
            sync(partial)
        if named_in(yaml.safe_load(text)):
            remember_own(text)

    def fit(self) -> None:
        self.trainer.ckpt_path = self.ckpt_path  # known from the start, so that RunCheckpoint can compare
        with run_folder(self.run_dir, self.trainer):
            try:
                self.trainer.fit(self.model, datamodule=self.datamodule, weights_only=True)
            except SIGTERMException:
                sys.exit(128 + signal.SIGTERM)
            except SystemExit:
                sys.exit(128 + signal.SIGINT if self.trainer.interrupted else 1)  # what shells expect after Ctrl-C

    def score(self) -> None:
        """Runs `validate` or `test`."""
        arguments = {name: self.config_init[name] for name in self.score_arguments}
        getattr(self.trainer, self.command)(self.model, datamodule=self.datamodule, **arguments)


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
    trust = {*given.trust, *named_by(rest)}
    config = config_of_run(given.run_dir, given.resume if args[0] == "fit" else given.ckpt_path)
    if config is None:
        return args, trust
    text = config.read_text()
    settings = yaml.safe_load(text) or {}
    if given.resume == "auto" and is_own(text):
        trust |= named_in(settings)
    check_names(settings, trust, str(config), config.parent)
    return [args[0], "--config", str(config), *args[1:]], trust


def of_this_run(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What arguments say of the run that they belong to, and the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run_dir")
    parser.add_argument("--resume", default="never")
    parser.add_argument("--ckpt_path", default="never")
    parser.add_argument("--trust", action="append", default=[])
    return parser.parse_known_args(args)


def named_by(words: list[str]) -> set[str]:
    """The packages that a command itself names, in its words and in the configs that it gives."""
    return named_in([word.partition("=")[2] if word.startswith("--") else word for word in words])


def remember_own(config: str) -> None:
    """Keeps a mark, in the user's cache, of a config that a run has written: to go on from there needs no --trust."""
    with suppress(OSError):  # then it does ask
        mark(config).parent.mkdir(parents=True, exist_ok=True)
        mark(config).touch()


def is_own(config: str) -> bool:
    """Whether a run of this user has written the config, to the letter."""
    return mark(config).is_file()


def mark(config: str) -> Path:
    from gan.metrics.feature_cache import cache_folder

    return cache_folder() / "own_runs" / hashlib.blake2b(config.encode(), digest_size=16).hexdigest()


def config_of_run(run_dir: str | None, checkpoint: str) -> Path | None:
    """The config of the run that `checkpoint` (auto, never, or a path) belongs to, if there is one."""
    if checkpoint == "never" or (checkpoint == "auto" and not run_dir):
        return None
    config = Path(run_dir if checkpoint == "auto" else Path(checkpoint).absolute().parent.parent, "config.yaml")
    return config if config.is_file() else None


def default_run_dir(config: Any) -> Path:
    """`runs/<config name>/<start time>`, with a number behind where two runs start in one second.

    Raises:
        ValueError: if processes that know nothing of each other would choose each their own.
    """
    if "GAN_RUN_DIR" in os.environ and rank_zero_only.rank > 0:
        return Path(os.environ["GAN_RUN_DIR"])  # chosen by the process that started this one
    if TorchElasticEnvironment.detect() or SLURMEnvironment.detect():
        raise ValueError("processes that torchrun or SLURM has started need one folder for all: set --run_dir RUN")
    files = [Path(str(path)) for path in as_list(config.config)]
    name = files[-1].stem if files else "default"
    start = Path("runs", name, time.strftime("%Y-%m-%d_%H-%M-%S"))
    candidates = (start.with_name(f"{start.name}-{number}") for number in range(2, 1000))
    chosen = start if not start.exists() else next(path for path in candidates if not path.exists())
    os.environ["GAN_RUN_DIR"] = str(chosen)
    return chosen


def without_repeated(callbacks: list[Any]) -> list[Any]:
    """The callbacks of a config, each once: of what there can be but one of, the last one, in the place of the first.

    `callbacks+` appends to those of the default config and, where the command that started a run is given again to
    resume it, to what it has appended before.
    """
    return list({identity(callback): callback for callback in callbacks}.values())


def identity(callback: Any) -> Any:
    """What two callbacks of a run must not share."""
    name, settings = callback.class_path.rpartition(".")[2], callback.get("init_args")
    if name == "FIDTracker":
        return name, str(settings.get("extractor"))
    return name if name in ONE_OF_A_KIND else (callback.class_path, str(settings))


ONE_OF_A_KIND = (
    "GeneratorEMA",
    "GradientClipping",
    "GradientDoctor",
    "GradientMonitor",
    "NonFiniteGuard",
    "RunCheckpoint",
)


def checkpoint_to_resume(run_dir: Path, resume: str) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint that `resume` (auto, never, or a path) stands for, and what it holds.

    Raises:
        ValueError: if there is none at the path, or the folder holds a run that is not to be resumed.
    """
    if resume == "auto":
        found = newest_whole(run_dir / "checkpoints")
        if found is None:
            return None, {}
        path, checkpoint, damaged = found
        if damaged and rank_zero_only.rank == 0:
            names = ", ".join(str(one) for one in damaged)
            step = checkpoint["global_step"]
            print(f"warning: {names}: damaged. The run goes on from batch {step:,}, by {path}", file=sys.stderr)
        return path, checkpoint
    if rank_zero_only.rank == 0 and (run_dir / "config.yaml").exists():
        raise ValueError(f"{run_dir} already holds a run: go on with it by --resume auto, or choose another --run_dir")
    if resume == "never":
        return None, {}
    checkpoint = check_checkpoint(resume)
    if not {"optimizer_states", "loops", "callbacks"} <= checkpoint.keys():
        raise ValueError(f"{resume} holds weights alone, without the optimizers and counters that a run goes on from")
    return Path(resume), checkpoint


def check_fits(path: str | Path, checkpoint: dict[str, Any], model: LightningModule) -> None:
    """Refuses a checkpoint of other networks, whose weights Lightning would list one by one.

    Raises:
        ValueError: with the first difference.
    """
    shapes = [
        {key: tuple(value.shape) for key, value in state.items() if not key.startswith("generator_ema.")}
        for state in (checkpoint["state_dict"], model.state_dict())
    ]
    for key in sorted(shapes[0].keys() | shapes[1].keys()):
        there, here = (shape.get(key, "missing") for shape in shapes)
        if there != here:
            raise ValueError(
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


def other_processes(checkpoint: dict[str, Any], trainer: Trainer, old: Any, new: Any) -> list[str]:
    """What it means to go on with another number of processes, if it is another."""
    before, now = checkpoint.get("world_size", trainer.world_size), trainer.world_size
    if before == now:
        return []
    step = trainer.global_step
    lines = [f"processes      {before} -> {now}: goes on correctly from batch {step:,}, but not bit for bit as before"]
    sizes = [config["data"].get("init_args", {}).get("batch_size") for config in (old, new)]
    if None not in sizes and sizes[0] * before != sizes[1] * now:
        lines.append(
            f"images/batch   {sizes[0] * before} -> {sizes[1] * now} over all processes; to keep it, "
            f"set data.batch_size to {sizes[0] * before / now:g}"
        )
    return lines


@contextmanager
def run_folder(run_dir: Path, trainer: Trainer) -> Iterator[None]:
    """Makes the folder of a run, tries that it can be written, and takes it away again if the run never begins.

    Raises:
        ValueError: if it cannot be written.
    """
    if not trainer.is_global_zero:
        yield
        return
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    probe = run_dir / ".writable"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to --run_dir {run_dir}: {error.strerror}; choose another") from error
    try:
        yield
    finally:
        if run_dir in made and trainer.global_step == 0:
            shutil.rmtree(run_dir, ignore_errors=True)
            with suppress(OSError):  # another run may have come in
                for parent in made[1:]:
                    parent.rmdir()


def seed(seed_everything: bool | int) -> int:
    """The seed as a number: a run without one could not be repeated or resumed."""
    if isinstance(seed_everything, bool):
        raise ValueError("seed_everything must be a number, so that the run can be repeated and resumed")
    return seed_everything


def as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
