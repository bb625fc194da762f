"""How a run is set up: its settings, its loggers, and where it starts from."""

import logging
import os
import re
import signal
import sys
import traceback
import warnings
from argparse import SUPPRESS, ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
import yaml
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gan.callbacks import FIDTracker, GradientDoctor, NgramTracker
from gan.callbacks.fid_tracker import active_trackers
from gan.checkpoints import AtomicCheckpointIO, sync
from gan.config import OF_COMMAND, as_text, remember_own
from gan.errors import GANError
from gan.folder import RunFolder
from gan.loggers import RunTensorBoard, hyperparameters, with_own
from gan.module import GAN
from gan.order import allowed, callbacks_of
from gan.outbox import outbox
from gan.parallel import check_settings, replace_lightnings
from gan.paths import local_path
from gan.resume import (
    Source,
    check_fits,
    check_source,
    in_its_folder,
    other_counts,
    rounded_anew,
    scored_on,
    source_of,
    way_on,
)
from gan.settings import CONFIGS, classes, own_defaults, taken, texts_in_utf8, with_recipes
from gan.spec import FROM_DATA
from gan.suggestions import Suggesting
from gan.transfer import start_from, trained
from gan.trust import imports_of, named_in
from gan.words import check_given, given_by, overridden, plain_paths


def run(args: list[str], callbacks: Sequence[Callback] = ()) -> None:
    """Runs `fit`, `validate` or `test`, with callbacks beside those of the config."""
    quiet()
    replace_lightnings()
    if not torch.cuda.is_available():
        # Lightning sets this to 1. Without a GPU, every step of an optimizer then looks for NVIDIA's library anew:
        # a tenth of a millisecond, which small networks feel.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    command, *words = args
    words = with_recipes(plain_paths(words))
    for line in overridden(words):
        rank_zero_warn(line)
    given = given_by(words)
    check_given(given.names, command)
    source = source_of(command, given)
    trust = check_source(source, command, given)
    # What a checkpoint says of its run is read by the same parser as the command: see that it imports nothing more.
    with imports_of(trust) if source.path is not None else nullcontext():
        run_command(command, words, source, callbacks)


def run_command(command: str, words: list[str], source: Source, callbacks: Sequence[Callback]) -> None:
    """Parses the words of a command, after those of the run that it takes up, makes what they name, and runs it."""
    cli = GANCLI(
        command=command,
        source=source,
        args=["--config", as_text(source.config), *words] if source.config else words,
        run=False,  # its own way to run builds the parsers of all commands, and nests each parse in another
        model_class=GAN,
        datamodule_class=LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=42,
        auto_configure_optimizers=False,  # it would give both networks to one optimizer
        trainer_defaults={"callbacks": [*callbacks]},
        parser_class=RunParser,
        save_config_callback=None,  # it would save before the run is known to begin; see `save_config`
        parser_kwargs={
            "prog": f"gan {command}",
            "description": getattr(Trainer, command).__doc__.splitlines()[0],
            "default_config_files": [str(CONFIGS / "default.yaml")],
            "exit_on_error": False,
            "allow_abbrev": False,  # what is not a setting's whole name is a mistake
        },
    )
    if command == "fit":
        with closing(cli.folder):
            cli.fit()
    else:
        cli.score()


def quiet() -> None:
    """Silences what a user can do nothing about, or what our own start and end say; and nothing that was asked for."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(is_asked_for)  # no second time: it is the same function
    for message in (
        "LightningCLI's args parameter is intended",  # `main` takes arguments, so that tests call it in process
        r"Detected call of `lr_scheduler\.step\(\)` before",  # n_critic: a schedule counts all batches, steps or not
        "The number of training batches .* is smaller than the logging interval",  # steps are counted over epochs
        "FSDP2-wrapped module .* returned a view tensor",  # which nothing here writes into
        r"You called `self\.log\(.*, logger=True\)` but have no logger",  # `validate` prints its scores
        "Using ModelCheckpoint with manual optimization",  # it saves the weights after the batch, as it should
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6.6 against torch 2.14
    ):
        warnings.filterwarnings("ignore", message)


SAID_OTHERWISE = re.compile(
    r"(\[rank: \d+\] )?(?:"  # what the other processes say begins so
    + "|".join(
        (
            "(GPU|TPU|HPU) available: ",
            "💡 Tip: ",
            "Seed set to ",
            "Restoring states from ",
            "Restored all states from ",
            "Loaded model weights from ",
            "Loading `train_dataloader` to estimate ",
            "`weights_only` was not set",
            "`Trainer.fit` stopped: ",
            "Time limit reached",
            "Detected KeyboardInterrupt",
            r"`Trainer\(limit_",
            "Trainer already configured with model summary",
            "Running in `fast_dev_run` mode",
            "You are using the plain ModelCheckpoint",
            "Using (bfloat16|16bit) Automatic Mixed Precision",
            "Initializing distributed: ",
            "LOCAL_RANK: ",
            "-{100}\ndistributed_backend=",
        )
    )
    + ")"
)


def is_asked_for(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's is none that our own lines say, or that nobody needs."""
    return record.levelno > logging.INFO or SAID_OTHERWISE.match(record.getMessage().lstrip()) is None


class RunParser(Suggesting, LightningArgumentParser):
    """The parser of a command of Lightning's."""


class GANCLI(LightningCLI):
    """LightningCLI with a run folder, and with what is known in one place passed on to where it is needed."""

    def __init__(self, command: str, source: Source, **settings: Any):
        self.command = command
        self.source = source  # what it goes on from, or scores
        try:
            super().__init__(**settings)
        except BaseException:
            if hasattr(self, "folder"):
                self.folder.close()
            raise

    def parse_arguments(self, parser: Any, args: Any) -> None:
        with own_defaults(args), texts_in_utf8():
            super().parse_arguments(parser, args)
        if self.config.trainer is None:
            raise GANError("trainer holds the settings of Lightning's Trainer, and is null here: leave it out")
        self.config.model.penalties = as_list(self.config.model.penalties)  # one is given as it is
        seed(self.config.seed_everything)

    def add_arguments_to_parser(self, parser: Any) -> None:
        for network in ("generator", "discriminator"):
            arguments = f"model.{network}.init_args"
            stated = image_shape, num_classes, condition_shape, sample_shape, characters
            for name, of_data in zip(FROM_DATA, stated, strict=True):
                parser.link_arguments("data", f"{arguments}.{name}", compute_fn=of_data, apply_on="instantiate")
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
                help="auto: go on from the last checkpoint in run_dir, if there is one; never; or the path of a "
                "checkpoint, or of a run's folder for its last.",
            )
            parser.add_argument(
                "--init",
                type=str | None,
                help="Trained weights that a new run begins with, as far as they fit: the path of a checkpoint, or of "
                "a run's folder for its best.",
            )
        else:
            known = {"model", "dataloaders", "datamodule", "weights_only"}  # checkpoints are never read otherwise
            self.score_arguments = parser.add_method_arguments(Trainer, self.command, skip=known)
            parser.add_argument("--init", type=str | None, help=SUPPRESS)  # which the config of a run has
        parser.add_argument(
            "--trust",
            action="append",
            help="A package whose classes a checkpoint, or the config in it, may import, besides this one's "
            "and torch's. What the command itself names is trusted.",
        )

    def _parse_ckpt_path(self) -> None:  # private: Lightning's would take the checkpoint's networks over the command's
        if self.command != "fit":
            if self.source.path is None:
                raise GANError(f"{self.command} needs a trained run: --ckpt_path RUN/checkpoints/last.ckpt")
            self.config.ckpt_path = str(self.source.path)

    def _dump_config(self) -> None:  # private: Lightning's checks anew what has just been parsed, which takes long
        if not hasattr(self, "config_dump"):
            text = self.parser.dump(self.config, skip_link_targets=False, skip_none=False, skip_validation=True)
            self.config_dump = yaml.safe_load(text)

    def before_instantiate_classes(self) -> None:
        config = self.config
        config.trainer.callbacks = without_repeated(as_list(config.trainer.callbacks))
        if isinstance(config.trainer.logger, list):  # by `logger+`, as callbacks: the command may be given again
            config.trainer.logger = list({str(each): each for each in config.trainer.logger}.values())
        if self.command == "fit":
            if config.resume == "auto" and not config.run_dir:
                raise GANError("--resume auto needs the run to go on with: --run_dir RUN")
            check_settings(config.trainer)
            run_dir = config.run_dir and str(local_path(config.run_dir, "--run_dir"))
            self.folder = RunFolder(run_dir, name_of(as_list(config.config)))
            self.run_dir = self.folder.path
            self.source = in_its_folder(self.source, self.run_dir, config.resume)

    def after_instantiate_classes(self) -> None:
        if characters(self.datamodule) is not None and "characters" in (self.config.data.get("init_args") or {}):
            self.config.data.init_args.characters = characters(self.datamodule)  # which whoever goes on must share
        if self.source.path is not None:
            check_fits(self.source.path, self.source.checkpoint, self.model)
        if self.command == "fit":
            self.begin()

    def begin(self) -> None:
        """Lets a new run begin with the trained weights of `--init`, and says so; one that goes on has its own."""
        say, before = rank_zero_only(print), self.source.config.get("init")
        if self.source.path is not None:
            asked = self.source.init or (self.config.init if self.config.init != before else None)
            if asked is not None:
                say(f"init           nothing of {asked}: the run goes on with the weights of {self.source.path}")
            self.config.init = before
        elif self.config.init is not None:
            for line in start_from(self.model, self.config.init):
                say(f"init           {line}")
            self.config.init = str(trained(self.config.init).absolute())
        elif self.model.freeze_discriminator:
            rank_zero_warn(
                "model.freeze_discriminator keeps layers as they start, which is at random: give trained ones by --init"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init["trainer"]
        callbacks, allowing = allowed(as_list(settings.callbacks), settings)
        kwargs["plugins"] = [*as_list(settings.plugins), AtomicCheckpointIO()]
        if self.command != "fit":
            kwargs["logger"] = False if settings.logger is True else settings.logger  # scores are printed
            report = LambdaCallback(on_validation_start=self.report, on_test_start=self.report)
            kwargs["callbacks"] = [*callbacks, report]
        else:
            kwargs["default_root_dir"] = str(self.run_dir)
            # Not before training starts: a run that is refused must not leave its config to the run that it resumes.
            kwargs["callbacks"] = [*callbacks, LambdaCallback(on_train_start=self.save_config)]
            kwargs["logger"] = with_own(settings.logger, self.run_dir, self.source.checkpoint.get("global_step", -1))
        kwargs |= allowing
        try:
            return super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:
            if "lightning" not in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts:
                raise  # from a class of the user's
            raise GANError(f"a setting of trainer is refused: {error}") from error

    def save_config(self, trainer: Trainer, model: LightningModule) -> None:
        """Writes `config.yaml`, and has the checkpoints carry the same: every command takes it as it is.

        Before, it says what a resumed run does otherwise than it did.
        """
        for name in self.data_changed(self.config.data):
            rank_zero_only(print)(
                f"changed        data.{name}: trained with {getattr(self.datamodule, name)}, by a callback"
            )
        text = self.config_text()
        new = yaml.safe_load(text)
        self.model.run_config = new
        if not trainer.is_global_zero:
            return
        if self.source.path is None:
            lines = taken(new, yaml.safe_load((CONFIGS / "default.yaml").read_text("utf-8")))
        else:
            lines = [*self.source.changes(new), *other_counts(self.source.checkpoint, trainer, self.source.config, new)]
            lines += rounded_anew(trainer.strategy.root_device)
        for line in lines:
            print(line)
        for doctor in callbacks_of(trainer, GradientDoctor):
            doctor.accepts = self.accepts
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue] # what Lightning's connectors give it
            return
        path = self.run_dir / "config.yaml"
        outbox(trainer).write(path, text.encode())
        with suppress(OSError):
            sync(path)  # as checkpoints are, which are of no use without it
        if named_in(new):
            remember_own(new)
        metrics = [name for tracker in active_trackers(trainer) for name in tracker.scalars]
        for logger in trainer.loggers:
            if isinstance(logger, RunTensorBoard):
                logger.log_settings(hyperparameters(new), metrics)

    def accepts(self, words: Sequence[str]) -> bool:
        """Whether the command takes words after the config of this run."""
        try:
            with warnings.catch_warnings(), own_defaults(words), texts_in_utf8():
                warnings.simplefilter("ignore")
                self.parser.parse_args(["--config", self.config_text(), *words])
        except (ArgumentError, GANError):
            return False
        return True

    def config_text(self) -> str:
        """The config as YAML, without the folder and the checkpoint of this command."""
        config = self.config.clone()
        for name in OF_COMMAND:
            config.pop(name, None)
        return self.parser.dump(config, skip_none=False, skip_validation=True)

    def data_changed(self, config: Any) -> list[str]:
        """The settings of the data that a callback has changed since, as BatchSizeFinder does; the config gets them."""
        before = config.get("init_args") or {}
        now = {name: getattr(self.datamodule, name, value) for name, value in before.items()}
        names = [name for name, value in now.items() if type(value) is type(before[name]) and value != before[name]]
        for name in names:
            config.init_args[name] = now[name]
        return names

    def fit(self) -> None:
        """Trains; after a signal, the process ends with the status that shells expect."""
        path = self.source.path
        way = way_on(self.source.checkpoint, path, self.config.resume, self.trainer)
        if way is not None:
            rank_zero_only(print)(f"{path} is the end of its run: there is nothing more to do. To train on, {way}")
            return
        if not self.config.trainer.fast_dev_run:
            for line in lacking(self.trainer, self.config.trainer):
                warnings.warn(line, stacklevel=1)
        self.trainer.ckpt_path = path  # known from the start, so that RunCheckpoint can compare
        try:
            self.trainer.fit(self.model, datamodule=self.datamodule, weights_only=True)
        except SIGTERMException:
            sys.exit(128 + signal.SIGTERM)
        except SystemExit:
            sys.exit(128 + signal.SIGINT if self.trainer.interrupted else 1)  # what shells expect after Ctrl-C
        finally:
            self.folder.began = self.trainer.global_step > 0 and not self.config.trainer.fast_dev_run

    def report(self, trainer: Trainer, model: LightningModule) -> None:
        """Says what a checkpoint is scored against, and what is otherwise than in its run."""
        config = yaml.safe_load(self.config_text())
        ((name, arguments),) = classes(config["data"])
        for line in [*self.source.changes(config), f"data           {scored_on(trainer)}: {name} {arguments}"]:
            rank_zero_only(print)(line.rstrip())

    def score(self) -> None:
        """Runs `validate` or `test`."""
        arguments = {name: self.config_init[name] for name in self.score_arguments}
        results = getattr(self.trainer, self.command)(
            self.model, datamodule=self.datamodule, weights_only=True, **arguments
        )
        data = type(self.datamodule).__name__
        if not results:
            limit = "limit_val_batches" if self.command == "validate" else "limit_test_batches"
            raise GANError(
                f"there is nothing to {self.command} on: {data} gives no batches for it, or trainer.{limit} is 0; "
                f"change that, or use `{'test' if self.command == 'validate' else 'validate'}`"
            )
        trackers = [*callbacks_of(self.trainer, FIDTracker), *callbacks_of(self.trainer, NgramTracker)]
        if not trackers and arguments["verbose"] and self.trainer.is_global_zero:
            tracker = "FIDTracker" if characters(self.datamodule) is None else "NgramTracker"
            print(f"No scores: there is no {tracker} among trainer.callbacks, which takes them")


def lacking(trainer: Trainer, settings: Any) -> Iterator[str]:
    """What a run will leave nothing of."""
    if not trainer.checkpoint_callbacks:
        forbidden = "enable_checkpointing is false" if settings.enable_checkpointing is False else "barebones is true"
        replaced = (
            "it has no RunCheckpoint; in a config, `callbacks+:` adds to those of the default, and `callbacks:` "
            "replaces them"
        )
        is_forbidden = settings.barebones or settings.enable_checkpointing is False
        yield f"nothing of this run will be saved, for {f'trainer.{forbidden}' if is_forbidden else replaced}"
    if not trainer.loggers:
        why = "barebones is true" if settings.barebones else "logger is false"
        yield f"trainer.{why}: of this run there will be no metrics.csv, and nothing to see in TensorBoard"


def name_of(configs: list[Any]) -> str:
    """What a run is called: as the last of its configs; one without a path is that of a run which goes on."""
    return Path(str(configs[-1] or "resumed")).stem if configs else "default"


def without_repeated(callbacks: list[Any]) -> list[Any]:
    """The callbacks of a config, each once: of what there can be but one of, the last one, in the place of the first.

    `callbacks+` appends to those of the default config and, where the command that started a run is given again to
    resume it, to what it has appended before.
    """
    kept: dict[Any, Any] = {}
    for callback in callbacks:
        kind = identity(callback)
        if kind is ProgressBar and kind in kept and kept[kind].class_path != callback.class_path:
            warnings.warn(
                f"{callback.class_path} stands in place of {kept[kind].class_path}: a trainer takes one progress bar, "
                "and what the other one says of a run is not shown",
                stacklevel=1,
            )
        kept[kind] = callback
    return list(kept.values())


def identity(callback: Any) -> Any:
    """What two callbacks of a run must not share."""
    name, settings = callback.class_path.rpartition(".")[2], callback.get("init_args")
    if name == "FIDTracker":
        return name, str(settings.get("extractor"))
    kind = locate(callback.class_path)
    if isinstance(kind, type) and issubclass(kind, ProgressBar):  # Lightning's or ours: a trainer takes one
        return ProgressBar
    return name if name in ONE_OF_A_KIND else (callback.class_path, str(settings))


ONE_OF_A_KIND = (
    "GeneratorEMA",
    "GradientClipping",
    "GradientDoctor",
    "GradientMonitor",
    "ImageLogger",
    "NgramTracker",
    "NonFiniteGuard",
    "RunCheckpoint",
    "TextLogger",
)


def image_shape(data: LightningDataModule) -> tuple[int, int, int] | None:
    """Channels, height and width of the images of a data module, which the networks are made for.

    None of one that states the shape of other samples.

    Raises:
        ValueError: If it states neither.
    """
    if sample_shape(data) is not None and getattr(data, "image_shape", None) is None:
        return None
    return stated_shape(data, "image_shape", "images")


def sample_shape(data: LightningDataModule) -> tuple[int, ...] | None:
    """The shape of a sample of a data module that has no images; None of one that has."""
    shape = getattr(data, "sample_shape", None)
    return None if shape is None else tuple(shape)


def characters(data: LightningDataModule) -> str | None:
    """What the texts of a data module are made of, in the order of their channels; None of one without texts."""
    return getattr(data, "characters", None)


def num_classes(data: LightningDataModule) -> int | None:
    """How many classes the labels of a data module tell apart, for networks that are told; None if it does not say."""
    return getattr(data, "num_classes", None)


def condition_shape(data: LightningDataModule) -> tuple[int, int, int] | None:
    """Channels, height and width of the source images of a data module, for networks that are told; None without.

    Raises:
        ValueError: If it states something else.
    """
    shape = getattr(data, "condition_shape", None)
    return None if shape is None else stated_shape(data, "condition_shape", "source images")


def stated_shape(data: LightningDataModule, name: str, what: str) -> tuple[int, int, int]:
    """A shape (C, H, W) that a data module states by an attribute.

    Raises:
        ValueError: If it does not.
    """
    shape = getattr(data, name, None)
    if not isinstance(shape, Sequence) or len(shape) != 3 or not all(isinstance(size, int) for size in shape):
        raise GANError(
            f"{type(data).__name__} must state {name}, the channels, height and width of its {what}, got {shape}"
        )
    return shape[0], shape[1], shape[2]


def seed(seed_everything: bool | int) -> int:
    """The seed as a number: a run without one could not be repeated or resumed.

    Raises:
        ValueError: If it is no such number.
    """
    if isinstance(seed_everything, bool) or not 0 <= seed_everything < 2**32:
        raise GANError(
            "seed_everything must be a number of at least 0 and below 2^32, so that the run can be repeated and "
            f"resumed, got {seed_everything}"
        )
    return seed_everything


def as_list(value: Any) -> list[Any]:
    """What a setting lists, where it may be one thing alone, or none."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
