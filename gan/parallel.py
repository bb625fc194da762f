"""What one process does not need: networks in shards over several processes, and their checkpoints.

FSDP2: Zhao et al. 2023, arXiv 2304.11277, in torch's per-parameter form (`torch.distributed.fsdp.fully_shard`).
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")  # all that Lightning knows for sharded weights
WHOLE_WEIGHTS = ("Adafactor", "Muon", "Rprop", "SparseAdam")  # optimizers that fail on shards, by torch 2.14

T = TypeVar("T")


class FSDP2(ModelParallelStrategy):
    """Shards weights, gradients and optimizer states over all processes, one network at a time.

    Each process keeps its share of every parameter. A network is whole only while it computes, which costs one
    all-gather in each of its forward and backward passes, and one reduce-scatter in a backward that reaches its
    weights. It pays where the networks or their optimizers are too large for one device.

    Checkpoints are those of a run on one process, by default: any strategy goes on from them. Reading one runs no
    code: neither torch's distributed checkpoints nor Lightning's reader of them can promise that.

    Args:
        distributed_checkpoint: Let each process write its own shards, and a checkpoint be a folder of these parts,
            on a disk that all processes share. `read` makes an ordinary checkpoint of it.
        timeout: Seconds that a process waits for the others before it gives up.
    """

    def __init__(self, distributed_checkpoint: bool = False, timeout: float = 1800):
        super().__init__(tensor_parallel_size=1, timeout=timedelta(seconds=timeout))
        self.distributed_checkpoint = distributed_checkpoint

    # ------------------------------------------------------------------ start

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's default is the number of nodes
        if self._data_parallel_size == 1:
            raise ValueError(
                "trainer.strategy=fsdp2 shards networks over several processes, and this run has one: "
                "set trainer.devices above 1, or trainer.strategy to auto"
            )
        refuse(self, self.precision_plugin.precision)
        if self._layer_sync is not None:
            raise ValueError(
                "trainer.sync_batchnorm does nothing under trainer.strategy=fsdp2: set it to false, "
                "trainer.strategy to ddp, or the networks' norm to group or layer"
            )
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        # What a network gathers in inference mode, it could not gather anew outside of it.
        for loop in (
            trainer.fit_loop.epoch_loop.val_loop,
            trainer.validate_loop,
            trainer.test_loop,
            trainer.predict_loop,
        ):
            loop.inference_mode = False
        super().setup(trainer)

    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            if type(optimizer).__name__ in WHOLE_WEIGHTS:
                raise ValueError(
                    f"{type(optimizer).__name__} needs whole weights, and trainer.strategy=fsdp2 has shards: "
                    "set the optimizer to Adam, say, or trainer.strategy to ddp"
                )

    def on_validation_start(self) -> None:
        # Batch norm's running statistics are each process's own. Those of the first are scored, and saved.
        for buffer in self.lightning_module.buffers():
            distributed.broadcast(buffer, 0)

    on_test_start = on_validation_start

    # ------------------------------------------------------------------ checkpoints

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True  # through `load_optimizer_state_dict`

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights as they are saved: whole and on the first process, or the shards of each process."""
        state = self.lightning_module.state_dict()
        for key, value in state.items():
            state[key] = self._saved(value)
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return tree_map_only(DTensor, self._saved, optimizer.state_dict())

    def _saved(self, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        if self.distributed_checkpoint:
            return {"shard": value.to_local().detach().cpu(), "shape": list(value.shape)}
        whole = value.detach().full_tensor()  # all processes take part
        return whole.cpu() if self.is_global_zero else whole.new_empty(0)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Writes a file, or a folder of parts; where one process fails to, all raise."""
        path = Path(self.broadcast(filepath))
        if self.distributed_checkpoint:
            partial = beside(path, "partial")
            self._together(lambda: clear(partial), rank=0)
            try:
                self._together(lambda: write_part(checkpoint, partial, self.global_rank, self.world_size))
                self._together(lambda: put(partial, path), rank=0)
            except BaseException:
                if self.is_global_zero:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
        else:
            self._together(lambda: self._write(checkpoint, path), rank=0)

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        if not path.is_dir():
            self.checkpoint_io.save_checkpoint(checkpoint, path)
            return
        self.checkpoint_io.save_checkpoint(checkpoint, beside(path, "partial"))
        put(beside(path, "partial"), path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = True) -> dict[str, Any]:
        """Reads a checkpoint of any strategy. Always without unpickling code: Trainer drops its `weights_only` here."""
        path = whole_path(self.broadcast(checkpoint_path))
        return self._together(lambda: self._load(path))

    def _load(self, path: Path) -> dict[str, Any]:
        if not path.is_dir():
            return self.checkpoint_io.load_checkpoint(path, weights_only=True)
        files = parts(path)
        if len(files) != self.world_size:
            return read(path)
        part = torch.load(files[self.global_rank], map_location="cpu", weights_only=True)
        return rebuild([part], self._sharded)

    def _sharded(self, shards: list[Tensor], shape: list[int]) -> DTensor:
        whole = torch.empty(shape, device="meta")
        mesh, local = self.device_mesh["data_parallel"], shards[0].to(self.root_device)
        return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        own = self.lightning_module.state_dict()
        state = {key: shard_like(value, own.get(key)) for key, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            owner = dict(zip(numbers, parameters, strict=False))  # torch complains of another number
            state = {
                number: {name: shard_like(value, owner.get(number)) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict(saved | {"state": state})

    def _together(self, action: Callable[[], T], rank: int | None = None) -> T | None:
        """Does `action` on every process, or on `rank` alone; where it fails, all raise, and none waits for another."""
        result, error = None, None
        try:
            if rank in (None, self.global_rank):
                result = action()
        except Exception as raised:
            error = raised
        reasons = [None] * self.world_size
        distributed.all_gather_object(reasons, None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for failed, reason in enumerate(reasons):
            if reason is not None:
                raise OSError(f"process {failed} failed: {reason}")
        return result


StrategyRegistry.register("fsdp2", FSDP2, description="shards each network over all processes")


def refuse(strategy: Any, precision: Any) -> None:
    """Refuses the values of `trainer.strategy` and `trainer.precision` that fail, or are wrong without a word.

    Raises:
        ValueError: with the way out.
    """
    name = strategy.rpartition(".")[2].lower() if isinstance(strategy, str) else ""
    if isinstance(strategy, FSDPStrategy) or (name.startswith("fsdp") and name != "fsdp2"):
        given = strategy if name else type(strategy).__name__
        raise ValueError(f"trainer.strategy={given} is FSDP1, which cannot save a GAN: set it to fsdp2")
    if type(strategy) is ModelParallelStrategy or name == "modelparallelstrategy":
        raise ValueError(
            "trainer.strategy=ModelParallelStrategy, tensor parallelism, is not supported: set it to fsdp2"
        )
    if name == "fsdp2" or isinstance(strategy, FSDP2):
        known = (*PRECISIONS, "32", "bf16", "None")
        if str(precision) not in known:
            raise ValueError(
                f"trainer.strategy=fsdp2 does not know trainer.precision={precision}: "
                f"set it to one of {', '.join(PRECISIONS)}, or trainer.strategy to ddp"
            )


def shard(networks: Iterable[nn.Module], mesh: DeviceMesh, device: torch.device) -> None:
    """Shards each network over all processes, from the weights of the first; those that are sharded stay as they are.

    Raises:
        ValueError: if a network has a parameter that cannot be sharded.
    """
    for network in networks:
        if isinstance(network, FSDPModule):
            continue
        for name, parameter in network.named_parameters():
            if parameter.ndim == 0:
                raise ValueError(
                    f"trainer.strategy=fsdp2 cannot shard {name} of {type(network).__name__}, a scalar: "
                    "give it the shape (1,), or set trainer.strategy to ddp"
                )
        network.to(device)
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()  # fully_shard takes no channels_last
        for tensor in (*network.parameters(), *network.buffers()):
            distributed.broadcast(tensor.detach(), 0)
        # Frozen and unfrozen between two passes: only weights that are gathered anew see it, hence the resharding.
        fully_shard(network, mesh=mesh["data_parallel"], reshard_after_forward=True)


def is_sharded(network: nn.Module) -> bool:
    return isinstance(network, FSDPModule)


def class_name(network: nn.Module) -> str:
    """The name of a network's class, which sharding prefixes."""
    return type(network).__mro__[2 if is_sharded(network) else 0].__name__


def shard_like(value: Any, own: Any) -> Any:
    """This process's shard of the tensor `value`, cut as `own` is, where that is sharded and of the same shape."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != own.shape:
        return value
    value = value.to(own.device).contiguous()
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


# ---------------------------------------------------------------------- a checkpoint that is a folder of parts


def write_part(checkpoint: dict[str, Any], folder: Path, rank: int, world_size: int) -> None:
    """Writes what one process has to save to `folder/RANK-of-N.ckpt`, and sees it onto the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{rank}-of-{world_size}.ckpt").open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch has words of its own for a full disk
            raise OSError(str(error)) from error
        file.flush()
        os.fsync(file.fileno())


def put(partial: Path, path: Path) -> None:
    """Moves a whole checkpoint to `path`. What was there is kept, as `path.old`, until the new one is in place."""
    old = beside(path, "old")
    if path.exists():
        clear(old)
        path.rename(old)
    partial.rename(path)
    clear(old)


def whole_path(path: str | Path) -> Path:
    """`path`, or the older checkpoint beside it if a run was killed while it put a new one there."""
    path = Path(path)
    return beside(path, "old") if not path.exists() and beside(path, "old").exists() else path


def parts(path: Path) -> list[Path]:
    """The files of a distributed checkpoint, by rank.

    Raises:
        ValueError: if one is missing.
    """
    found = {file.name for file in path.glob("*-of-*.ckpt")}
    sizes = {name.removesuffix(".ckpt").split("-of-")[1] for name in found}
    if len(sizes) != 1 or not min(sizes).isdecimal():
        raise ValueError(f"{path} is no checkpoint: a folder must hold the parts 0-of-N.ckpt, 1-of-N.ckpt and so on")
    (size,) = sizes
    names = [f"{rank}-of-{size}.ckpt" for rank in range(int(size))]
    for name in names:
        if name not in found:
            raise ValueError(f"{path} is not whole: its part {name} is missing")
    return [path / name for name in names]


def read(path: str | Path, **options: Any) -> dict[str, Any]:
    """The ordinary checkpoint that a folder of parts stands for.

    Args:
        path: The folder.
        options: Passed on to `torch.load`, which reads each part without unpickling code.

    Raises:
        ValueError: if a part is missing, or the parts are not of one checkpoint.
    """
    options = {"map_location": "cpu"} | options | {"weights_only": True}
    return merge([torch.load(part, **options) for part in parts(whole_path(path))])


def merge(checkpoints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One checkpoint of the parts of all processes, by rank: shards put together, and all else from the first."""
    if len({part["global_step"] for part in checkpoints}) != 1:
        raise ValueError("the parts of the checkpoint were saved at different batches")
    return rebuild(checkpoints, join)


def join(shards: list[Tensor], shape: list[int]) -> Tensor:
    whole = torch.cat(shards)
    if list(whole.shape) != shape:
        raise ValueError(f"the parts of the checkpoint make a tensor {list(whole.shape)} of what was {shape}")
    return whole


def rebuild(parts: Sequence[Any], make: Callable[[list[Tensor], list[int]], Tensor]) -> dict[str, Any]:
    """The first of `parts`, with `make(shards, shape)` wherever it holds a shard of a weight or an optimizer state."""

    def walk(values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, dict) and first.keys() == {"shard", "shape"}:
            return make([value["shard"] for value in values], first["shape"])
        if isinstance(first, dict):
            return {key: walk([value[key] for value in values]) for key in first}
        if isinstance(first, list):
            return [walk(list(items)) for items in zip(*values, strict=True)]
        return first

    sharded = [key for key in ("state_dict", "optimizer_states") if key in parts[0]]
    return parts[0] | {key: walk([part[key] for part in parts]) for key in sharded}


def beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
