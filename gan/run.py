"""How a run is set up: its config, its folder, its loggers, and where it starts from."""

import argparse
import logging
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gan.callbacks import AtomicCheckpointIO
from gan.loggers import MetricsTable
from gan.module import GAN
from gan.parallel import refuse

HELP = {
    "prog": "gan",
    "description": "Trains GANs, and shows what their gradients do. "
    "Start with `fit`: without a word more, it trains on MNIST.",
    "epilog": "Two more use what was trained: `sample` writes images, `export` the generator (--help on each).",
}
PACKAGE = Path(__file__).parent
CONFIGS = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())  # wheel, checkout


def run(args: list[str], callbacks: Sequence[Callback] = ()) -> None:
    """Runs `fit`, `validate` or `test`, with callbacks beside those of the config."""
    quiet()
    if not torch.cuda.is_available():
        # Lightning sets this to 1. Without a GPU, every step of an optimizer then looks for NVIDIA's library anew:
        # a tenth of a millisecond, which small networks feel.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    options = {"default_config_files": [str(CONFIGS / "default.yaml")], "exit_on_error": False}
    GANCLI(
        model_class=GAN,
        datamodule_class=LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=42,
        auto_configure_optimizers=False,  # it would give both networks to one optimizer
        trainer_defaults={"callbacks": [*callbacks]},
        save_config_callback=None,  # it would save before the run is known to begin; see `save_config`
        parser_kwargs={
            "exit_on_error": False,
            "allow_abbrev": False,  # what is not a setting's whole name is a mistake
            **HELP,
            **{command: dict(options) for command in GANCLI.subcommands()},
        },
        args=with_config_of_run(args) or ["--help"],
    )


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
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6.6 against torch 2.14
    ):
        warnings.filterwarnings("ignore", message)


class GANCLI(LightningCLI):
    """LightningCLI with a run folder, and with what is known in one place passed on to where it is needed."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        commands = LightningCLI.subcommands()
        del commands["predict"]  # `sample` is what it would do
        commands["fit"] |= {"ckpt_path", "weights_only"}  # `resume` is the one way
        return commands

    def setup_parser(self, *args: Any) -> None:
        super().setup_parser(*args)
        fit = self._subcommand_parsers["fit"]
        fit.add_argument("--run_dir", type=str | None, help="Where the run writes; runs/<config>/<time> if not given.")
        fit.add_argument(
            "--resume",
            type=str,
            default="never",
            help="auto: go on from the last checkpoint in run_dir, if there is one; never; or a checkpoint's path.",
        )

    def add_arguments_to_parser(self, parser: Any) -> None:
        for network in ("generator", "discriminator"):
            parser.link_arguments("data.image_shape", f"model.{network}.init_args.image_shape", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=seed)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=seed)

    def _parse_ckpt_path(self) -> None:  # private, but the only place before the file is opened
        if self.config.subcommand != "fit":
            path = self.config[self.config.subcommand].ckpt_path
            if path is None:
                raise ValueError(f"{self.config.subcommand} needs a trained run: --ckpt_path RUN/checkpoints/last.ckpt")
            check_checkpoint(path)
            self.ckpt_path = path
        super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        self.run_dir = None
        if self.subcommand == "fit":
            config = self.config["fit"]
            if config.resume == "auto" and not config.run_dir:
                raise ValueError("--resume auto needs the run to go on with: --run_dir RUN")
            self.run_dir = Path(config.run_dir) if config.run_dir else default_run_dir(config)
            self.ckpt_path = checkpoint_to_resume(self.run_dir, config.resume)

    def after_instantiate_classes(self) -> None:
        if self.ckpt_path is not None:
            check_fits(self.ckpt_path, self.model)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init[self.subcommand]["trainer"]
        refuse(settings.strategy, settings.precision)
        if self.run_dir is None:
            kwargs["logger"] = False if settings.logger is True else settings.logger  # scores are printed
        else:
            kwargs["default_root_dir"] = str(self.run_dir)
            kwargs["plugins"] = [*as_list(settings.plugins), AtomicCheckpointIO()]
            # Not before training starts: a run that is refused must not leave its config to the run that it resumes.
            kwargs["callbacks"] = [*as_list(settings.callbacks), LambdaCallback(on_train_start=self.save_config)]
            if settings.logger is True:
                kwargs["logger"] = [
                    TensorBoardLogger(self.run_dir, name="", version="tensorboard"),
                    MetricsTable(self.run_dir),
                ]
        return super().instantiate_trainer(**kwargs)

    def save_config(self, trainer: Trainer, model: LightningModule) -> None:
        """Writes `config.yaml` without the folder and the checkpoint of this run: every command takes it as it is."""
        if trainer.is_global_zero:
            config = self.config["fit"].clone()
            for of_this_run in ("run_dir", "resume", "config"):
                del config[of_this_run]
            self._parser("fit").save(config, self.run_dir / "config.yaml", skip_none=False, overwrite=True)

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        with run_folder(self.run_dir, self.trainer):
            try:
                self.trainer.fit(model, ckpt_path=self.ckpt_path, weights_only=True, **kwargs)
            except SIGTERMException:
                sys.exit(128 + signal.SIGTERM)
            except SystemExit:
                sys.exit(128 + signal.SIGINT if self.trainer.interrupted else 1)  # what shells expect after Ctrl-C


def with_config_of_run(args: list[str]) -> list[str]:
    """Puts the config of the run to resume or to score before the other arguments, which so win over it."""
    if args[:1] not in (["fit"], ["validate"], ["test"]):
        return args
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run_dir")
    parser.add_argument("--resume", default="never")
    parser.add_argument("--ckpt_path", default="never")
    given, _ = parser.parse_known_args(args[1:])
    checkpoint = given.resume if args[0] == "fit" else given.ckpt_path
    if checkpoint == "never":
        return args
    folder = given.run_dir if checkpoint == "auto" else Path(checkpoint).absolute().parent.parent
    config = Path(folder or "", "config.yaml")
    return [args[0], "--config", str(config), *args[1:]] if folder and config.is_file() else args


def default_run_dir(config: Any) -> Path:
    """`runs/<config name>/<start time>`, with a number behind where two runs start in one second."""
    files = [Path(str(path)) for path in as_list(config.config)]
    name = files[-1].stem if files else "default"
    start = Path("runs", name, time.strftime("%Y-%m-%d_%H-%M-%S"))
    candidates = (start.with_name(f"{start.name}-{number}") for number in range(2, 1000))
    return start if not start.exists() else next(path for path in candidates if not path.exists())


def checkpoint_to_resume(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint that `resume` (auto, never, or a path) stands for.

    Raises:
        ValueError: if there is none at the path, or the folder holds a run that is not to be resumed.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    if resume == "auto":
        if not last.is_file():
            return None
        check_checkpoint(last)
        return last
    if rank_zero_only.rank == 0 and (run_dir / "config.yaml").exists():
        raise ValueError(f"{run_dir} already holds a run: go on with it by --resume auto, or choose another --run_dir")
    if resume == "never":
        return None
    check_checkpoint(resume)
    return Path(resume)


def check_checkpoint(path: str | Path) -> None:
    """Refuses a checkpoint that is missing, damaged or not ours, before anything is made of it.

    Raises:
        ValueError: with the reason.
    """
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint at {path}; a run writes its own to RUN/checkpoints/last.ckpt")
    try:
        checkpoint = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        ours = any(key.startswith("generator.") for key in checkpoint["state_dict"])
        ours = ours and "_instantiator" in checkpoint.get("hyper_parameters", {})
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path} is damaged, or not a checkpoint: {type(error).__name__}") from error
    if not ours:
        raise ValueError(f"{path} is a checkpoint of something else: it has no generator of this project")


def check_fits(path: str | Path, model: LightningModule) -> None:
    """Refuses a checkpoint of other networks, whose weights Lightning would list one by one.

    Raises:
        ValueError: with the first difference.
    """
    saved = torch.load(path, map_location="meta", weights_only=True, mmap=True)["state_dict"]
    shapes = [
        {key: tuple(value.shape) for key, value in state.items() if not key.startswith("generator_ema.")}
        for state in (saved, model.state_dict())
    ]
    for key in sorted(shapes[0].keys() | shapes[1].keys()):
        there, here = (shape.get(key, "missing") for shape in shapes)
        if there != here:
            raise ValueError(
                f"{path} does not fit the networks and the data of this command: {key} is {there} in the checkpoint "
                f"and {here} here. Leave out the settings that change them, or start another run"
            )


@contextmanager
def run_folder(run_dir: Path, trainer: Trainer) -> Iterator[None]:
    """Makes the folder of a run, tries that it can be written, and takes it away again if the run never begins.

    Raises:
        ValueError: if it cannot be written.
    """
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
        if run_dir in made and trainer.global_step == 0 and trainer.is_global_zero:
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
