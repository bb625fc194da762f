"""The private names of other libraries that the package relies on: each is there, and known here with what hangs on it.

Libraries may drop them without a word. Then the test of the name says what will break.
"""

import argparse
import ast
import importlib
import inspect
from operator import attrgetter

import pytest
import torch
from conftest import ROOT, SmallMNIST
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from gan import GAN
from gan.networks import MLPDiscriminator, MLPGenerator

FILES = sorted((ROOT / "gan").rglob("*.py"))
OF_PYTHON = {"_replace", "_asdict", "_exit", "_Unpickler", "_spec"}  # documented, or of `pickle` in Python; ours


@pytest.fixture(scope="module")
def trainer():
    """One that has trained: much of what is private is there only then."""
    data, shape = SmallMNIST(batch_size=16, validation_size=0), (1, 28, 28)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=1, accelerator="cpu", devices=1, enable_model_summary=False, **settings)
    trainer.fit(GAN(MLPGenerator(shape, latent_dim=8), MLPDiscriminator(shape)), data)
    return trainer


CONNECTOR = "lightning.pytorch.trainer.connectors.checkpoint_connector"

# Attributes: where to look for them, and what hangs on them.
ATTRIBUTES = {
    "_actions": (lambda _: argparse.ArgumentParser(), "what an option that is missing is for is told"),
    "_foreach_lerp_": (lambda _: torch, "GeneratorEMA's average in one call"),
    "_foreach_copy_": (lambda _: torch, "GeneratorEMA's buffers, and DDP's flat gradients, in one call"),
    "_foreach_mul_": (lambda _: torch, "clipping in one call"),
    "_foreach_norm": (lambda _: torch, "the look at gradients on a GPU, in one kernel"),
    "_per_optimizer_states": (lambda _: torch.amp.GradScaler("cpu"), "float16: whether gradients have their scale"),
    "_parameters": (lambda _: nn.Linear(1, 1), "parameters that a network puts in the place of others"),
    "_buffers": (lambda _: nn.Linear(1, 1), "buffers that a network puts in the place of others"),
    "_compiled_call_impl": (lambda _: nn.Linear(1, 1), "penalties of a compiled discriminator are a line"),
    "_step_count": (lambda _: torch.optim.lr_scheduler.StepLR(sgd(), 1), "a schedule's place in a checkpoint"),
    "_set_pg_timeout": (lambda _: torch.distributed.distributed_c10d, "patience for a process that is slow"),
    "_signal_connector": (lambda trainer: trainer, "SIGTERM ends a run after its batch"),
    "_logger_connector": (lambda trainer: trainer, "what a batch logs is there if the run ends with it"),
    "_sigterm_notifier_fn": (lambda trainer: trainer._signal_connector, "SIGTERM ends a run after its batch"),
    "_broadcast_sigterm_tensor": (lambda trainer: trainer.fit_loop.epoch_loop, "no exchange about it in each batch"),
    "_data_fetcher": (lambda trainer: trainer.fit_loop, "whether a validation is due, before a checkpoint"),
    "_should_check_val_fx": (lambda trainer: trainer.fit_loop.epoch_loop, "whether a validation is due"),
    "_batches_that_stepped": (lambda trainer: trainer.fit_loop.epoch_loop, "one number for what is logged of a batch"),
    "_data_source": (lambda trainer: trainer.fit_loop, "any loader's batches by seed and epoch, and exact resuming"),
    "_combined_loader": (lambda trainer: trainer.fit_loop, "a batch that was fetched too early is fetched anew"),
    "_mode": (lambda trainer: trainer.fit_loop._combined_loader, "several loaders of a user's own"),
    "_train_time_interval": (lambda _: ModelCheckpoint(), "a setting of ModelCheckpoint that never saves is refused"),
    "_on_before_batch_transfer": (lambda _: LightningModule, "the pairs to watch come as batches do"),
    "_every_n_train_steps": (lambda _: ModelCheckpoint(), "whether it has been told when to save"),
    "_every_n_epochs": (lambda _: ModelCheckpoint(), "whether it has been told when to save"),
    "_save_on_train_epoch_end": (lambda _: ModelCheckpoint(), "whether it has been told when to save"),
    "_call_children_scripts": (
        lambda _: importlib.import_module("lightning.pytorch.strategies.launchers")._SubprocessScriptLauncher,
        "the start of the other processes",
    ),
    "_kwargs": (lambda _: board(), "TensorBoard's writer gets the settings of its logger"),
    "_layer_sync": (lambda _: fsdp2(), "SyncBatchNorm under FSDP2 is refused"),
}


def sgd():
    return torch.optim.SGD([torch.zeros(1)], lr=1.0)


def board():
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger("unused")


def fsdp2():
    from lightning.pytorch.strategies import ModelParallelStrategy

    return ModelParallelStrategy()


IMPORTS = {
    "torch.utils._pytree.tree_leaves": "tensors within what a network returns",
    "torch.utils._pytree.tree_map_only": "tensors within an optimizer's state",
    "torch.utils._python_dispatch.TorchDispatchMode": "the monitor's look at activations",
    "torch._inductor.exc.CppCompileError": "a compiler that fails is a line",
    "torch._inductor.exc.InvalidCxxCompiler": "a compiler that is missing is a line",
    "torch._inductor.exc.TritonMissing": "a GPU without Triton is a line",
    "torch.nn.modules.conv._ConvTransposeNd": "the units of transposed convolutions, for adaptive clipping",
    "torch.nn.modules.batchnorm._BatchNorm": "whether a discriminator mixes the images of a batch",
    "lightning.pytorch.strategies.launchers._SubprocessScriptLauncher": "several processes by --trainer.devices",
    f"{CONNECTOR}._CheckpointConnector": "`last` and `best` as a checkpoint's path from Python",
    "lightning.fabric.utilities.distributed._set_num_threads_if_needed": "the threads of each process",
    "lightning.pytorch.core.mixins.hparams_mixin._given_hyperparameters": "checkpoints that a config can rebuild",
    "torchmetrics.functional.image.lpips._NoTrainLpips": "LPIPS by the user's weights: the public class downloads some",
    "jsonargparse._typehints": "a class that is swapped begins with its own defaults",
    "jsonargparse._paths": "configs are read as UTF-8 in any locale",
    "jsonargparse._common.parsing_settings": "what a checkpoint names is not imported without --trust",
}
OVERRIDDEN = {
    "torch.utils.tensorboard.writer.SummaryWriter._get_file_writer": "charts on a disk that is full for a while",
    "lightning.pytorch.core.module.LightningModule._apply_batch_transfer_handler": "the look at the first batch",
    "lightning.pytorch.utilities.combined_loader.CombinedLoader._state_dicts": "the place in the data, in checkpoints",
    "lightning.pytorch.utilities.combined_loader.CombinedLoader._load_state_dicts": "likewise",
    "torchmetrics.metric.Metric._apply": "metrics stay float64",
    "torch.nn.modules.module.Module._apply": "metrics stay float64",
    "torchvision.models.inception.InceptionA._forward": "Inception as FID knows it",
    "torchvision.models.inception.InceptionC._forward": "Inception as FID knows it",
    "torchvision.models.inception.InceptionE._forward": "Inception as FID knows it",
    "lightning.pytorch.strategies.strategy.Strategy._configure_launcher": "several processes by --trainer.devices",
    "lightning.pytorch.cli.LightningCLI._parse_ckpt_path": "validate and test by a checkpoint's networks",
    "lightning.pytorch.cli.LightningCLI._dump_config": "a start without a second parse",
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attribute_is_there(name, trainer):
    owner, what = ATTRIBUTES[name]
    assert hasattr(owner(trainer), name), f"without {name}: {what}"


@pytest.mark.parametrize("name", [*IMPORTS, *OVERRIDDEN])
def test_name_is_there(name):
    what = (IMPORTS | OVERRIDDEN)[name]
    assert resolve(name) is not None, f"without {name}: {what}"


def resolve(name: str):
    """What a dotted name stands for, None if there is none."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        try:
            return attrgetter(".".join(parts[end:]))(module) if parts[end:] else module
        except AttributeError:
            return None
    return None


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


TREES = {path: ast.parse(path.read_text("utf-8")) for path in FILES}


def own_names() -> set[str]:
    """What the package itself defines."""
    names = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                    names.add(name)
                case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
                    names.add(name)
    return names


def test_no_attribute_is_missing_here():
    used = {node.attr for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if is_private(name)} - own_names() - OF_PYTHON == set(ATTRIBUTES)


def test_no_import_is_missing_here():
    found = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("gan"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            else:
                continue
            found |= {name for name in names if any(map(is_private, name.split(".")))}
    assert found == set(IMPORTS)


def test_no_override_is_missing_here():
    found = set()
    for path in FILES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for cls in vars(importlib.import_module(name)).values():
            if not inspect.isclass(cls) or cls.__module__ != name:
                continue
            foreign = [base for base in cls.__mro__[1:] if base.__module__.partition(".")[0] not in ("gan", "typing")]
            for key in filter(is_private, vars(cls)):
                found |= {f"{base.__module__}.{base.__qualname__}.{key}" for base in foreign if key in vars(base)}
    assert {name for name in found if not name.endswith("._abc_impl")} == set(OVERRIDDEN)
