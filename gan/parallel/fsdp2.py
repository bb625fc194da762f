"""Networks in shards over several processes, and their checkpoints.

FSDP2: Zhao et al. 2023, arXiv:2304.11277, in torch's per-parameter form (`torch.distributed.fsdp.fully_shard`).
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from gan.checkpoints import part_name, parts, put, read, rebuild, remove, unfinished, write
from gan.errors import GANError
from gan.parallel.base import TwoNetworkStrategy, checked

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")  # all that Lightning knows for sharded weights
WHOLE_WEIGHTS = ("Adafactor", "Muon", "Rprop", "SparseAdam")  # optimizers that fail on shards, by torch 2.14

T = TypeVar("T")


class FSDP2(TwoNetworkStrategy, ModelParallelStrategy):
    """Shards weights, gradients and optimizer states over all processes, one network at a time.

    Each process keeps its share of every parameter. A network is whole only while it computes, which costs one
    all-gather in each of its forward and backward passes, and one reduce-scatter in a backward that reaches its
    weights. It pays where the networks or their optimizers are too large for one device.

    Checkpoints are those of a run on one process, by default: any strategy goes on from them. Reading one runs no
    code: neither torch's distributed checkpoints nor Lightning's reader of them can promise that.

    Args:
        distributed_checkpoint: Let each process write its own shards, and a checkpoint be a folder of these parts,
            on a disk that all processes share.
        patience: Seconds that a process waits for the others in a batch before it gives up. Writing a checkpoint,
            starting and ending are not limited by it. The process that has started the others waits for their ends
            as long, from its own.
    """

    def __init__(self, distributed_checkpoint: bool = False, patience: float = 45):
        super().__init__(tensor_parallel_size=1)
        self.distributed_checkpoint = distributed_checkpoint
        self.patience = checked(patience)

    # ------------------------------------------------------------------ start

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's default is the number of nodes
        if self._data_parallel_size == 1:
            raise GANError(
                "trainer.strategy=fsdp2 shards networks over several processes, and this run has one: "
                "set trainer.devices above 1, or trainer.strategy to auto"
            )
        if self._layer_sync is not None:
            raise GANError(
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
                raise GANError(
                    f"{type(optimizer).__name__} needs whole weights, and trainer.strategy=fsdp2 has shards: "
                    "set the optimizer to Adam, say, or trainer.strategy to ddp"
                )

    def groups(self) -> list[distributed.ProcessGroup]:
        return [*super().groups(), self.device_mesh["data_parallel"].get_group()]

    def on_validation_start(self) -> None:
        # Batch norm's running statistics are each process's own. Those of the first are scored, and saved.
        for buffer in self._module.buffers():
            distributed.broadcast(buffer, 0)

    on_test_start = on_validation_start

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    # ------------------------------------------------------------------ checkpoints

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True  # through `load_optimizer_state_dict`

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights as they are saved: whole and on the first process, or the shards of each process."""
        state = self._module.state_dict()
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
        with torch.no_grad():
            whole = value.full_tensor()  # all processes take part
        return whole.cpu() if self.is_global_zero else whole.new_empty(0)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Writes a file, or a folder of parts; where one process fails to, all raise."""
        path = Path(self.broadcast(filepath))
        if not self.distributed_checkpoint:
            self._together(lambda: self.checkpoint_io.save_checkpoint(checkpoint, path), rank=0)
            return
        partial = unfinished(path)
        self._together(lambda: remove(partial), rank=0)
        try:
            part = partial / part_name(self.global_rank, self.world_size)
            self._together(lambda: write(checkpoint, part))
            self._together(lambda: put(partial, path), rank=0)
        except BaseException:
            if self.is_global_zero:
                remove(partial)
            raise

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = True) -> dict[str, Any]:
        """Reads a checkpoint of any strategy. Always without unpickling code: Trainer drops its `weights_only` here."""
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = self._together(lambda: self._load(path))
        assert checkpoint is not None  # every process reads
        return checkpoint

    def _load(self, path: Path) -> dict[str, Any]:
        files = parts(path)
        if not path.is_dir() or len(files) != self.world_size:
            return read(path)
        return rebuild([read(files[self.global_rank])], self._sharded)

    def _sharded(self, shards: list[Tensor], shape: list[int]) -> DTensor:
        whole = torch.empty(shape, device="meta")
        mesh, local = self.device_mesh["data_parallel"], shards[0].to(self.root_device)
        return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Loads whole weights, of which each process keeps its shards, or the shards of this process."""
        own = self._module.state_dict()
        state = {key: shard_like(value, own.get(key)) for key, value in checkpoint["state_dict"].items()}
        self._module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Loads whole states of the optimizers, of which each process keeps its shards, or those of this process."""
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
        reasons: list[str | None] = [None] * self.world_size
        reason = None if error is None else f"{type(error).__name__}: {error}"
        distributed.all_gather_object(reasons, reason, group=self.unlimited)
        if error is not None:
            raise error
        for failed, reason in enumerate(reasons):
            if reason is not None:
                raise OSError(f"process {failed} failed: {reason}")
        return result


def shard(networks: Iterable[nn.Module], mesh: DeviceMesh, device: torch.device) -> None:
    """Shards each network over all processes, from the weights of the first; those that are sharded stay as they are.

    Raises:
        ValueError: If a network has a parameter that cannot be sharded.
    """
    for network in networks:
        if isinstance(network, FSDPModule):
            continue
        for name, parameter in network.named_parameters():
            if parameter.ndim == 0:
                raise GANError(
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
        for method in ("classify", "features"):  # other ways through a discriminator, see `gan.terms`
            if hasattr(network, method):
                add_way(network, method)


def add_way(network: nn.Module, method: str) -> None:
    """Gathers the weights of a network for one of its methods as for `forward`, which may call it itself.

    Within `forward` they are gathered already, and must still be when the method has ended.
    """
    plain = getattr(network, method)
    register_fsdp_forward_method(network, method)
    gathering, within = getattr(network, method), []
    network.register_forward_pre_hook(lambda *_: within.append(True))
    network.register_forward_hook(lambda *_: within.clear(), always_call=True)
    setattr(network, method, lambda *args, **kwargs: (plain if within else gathering)(*args, **kwargs))


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` has been here."""
    return isinstance(network, FSDPModule)


def shard_like(value: Any, own: Any) -> Any:
    """This process's shard of the tensor `value`, cut as `own` is, where that is sharded and of the same shape."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != own.shape:
        return value
    value = value.to(own.device).contiguous()
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
