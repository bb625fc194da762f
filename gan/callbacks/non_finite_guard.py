"""What a run does about numbers that are not finite: says where they began, and ends, skips the step or goes back."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from gan.errors import GANError, counted
from gan.gradients.clip import Gradients
from gan.gradients.measure import state_restored
from gan.gradients.norms import local, unscale
from gan.gradients.places import Places
from gan.module import GAN
from gan.optim import OPTIMIZER_ORDER, network_of
from gan.parallel.base import TwoNetworkStrategy
from gan.rollback import State
from gan.text import noun

Policy = Literal["raise", "skip", "rollback"]

# Where numbers can go bad, in the order in which one follows from the other.
KINDS = ("image", "weight", "forward", "loss", "backward")


class NonFiniteGradient(GANError):
    """A gradient that is infinite or NaN has ended the run."""


class NonFiniteGuard(Callback):
    """Stops infinity and NaN before they reach the weights, and says where they began.

    It looks at the loss and at the gradient of every step. On the first value that is not finite all processes do the
    same, and one line names the first tensor that went bad: a real image, a weight, the output of a layer (forward
    pass), the loss, or the gradient of a layer (backward pass). What happens then is the policy:

    - raise: the run ends, before the weights change and before another checkpoint is written.
    - skip: the step changes neither weights nor the optimizer; the run goes on with the next one.
    - rollback: weights, averages, both optimizers and their schedules go back to the last good state, at most `every`
      batches old; the run goes on with the next batch.

    Weights that are bad already, which no skipped step can heal, end the run under skip, and are never saved under any
    policy. After `tries` bad batches in a row skip and rollback give up too.

    In float16 (16-mixed), gradients that overflow in the backward pass are how the loss scale is found: its scaler
    skips the step and halves the scale, and that is no failure as long as the scale is at least 1.

    Logs `non_finite/<network>` at `trainer.log_every_n_steps`: how often it happened to the network's steps so far.

    Args:
        policy: What to do: raise, skip or rollback.
        tries: Bad batches in a row after which skip and rollback give up. A row ends with a good batch; under
            rollback, with `every` of them.
        every: Training batches between two states that rollback keeps, in memory, on the device. The start and each
            checkpoint are such states too.
    """

    def __init__(self, policy: Policy = "raise", tries: int = 3, every: int = 100):
        if policy not in get_args(Policy):
            raise GANError(f"NonFiniteGuard's policy must be one of {', '.join(get_args(Policy))}, got {policy!r}")
        if not tries >= 1:
            raise GANError(f"NonFiniteGuard's tries must be at least 1 batch, got {tries}")
        if not every >= 1:
            raise GANError(f"NonFiniteGuard's every must be at least 1 training batch, got {every}")
        self.policy = policy
        self.tries = tries
        self.every = every
        self.counts: dict[str, int] = dict.fromkeys(OPTIMIZER_ORDER, 0)
        self.bad = 0  # batches of this row
        self.good = 0  # batches since the last bad one
        self.state: State | None = None

    # ------------------------------------------------------------------ watching

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        name = self.bad_tensor(trainer, pl_module)
        if name is not None:
            raise GANError(f"{name} is not finite at the start: go on from an older checkpoint")
        self.alone = trainer.world_size == 1
        self.gradients = {name: Gradients(getattr(pl_module, name)) for name in OPTIMIZER_ORDER}
        self.buffers = Places([getattr(pl_module, name) for name in OPTIMIZER_ORDER], parameters=False)
        self.calls: list[Call] = []
        self.hooks = [record(getattr(pl_module, name), name, self.calls) for name in OPTIMIZER_ORDER]
        if self.policy == "rollback":
            self.state = State(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: GAN, batch: Any, batch_idx: int) -> None:
        self.real, self.sources = batch[0], () if pl_module.condition_shape is None else batch[1]
        self.batch = trainer.global_step + 1
        self.failed = False
        self.network = OPTIMIZER_ORDER[0]
        self.losses: list[Tensor] = []
        self.calls.clear()
        if self.policy == "skip":
            self.kept = self.buffers.keep()

    def on_before_backward(self, trainer: Trainer, pl_module: GAN, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    def on_after_backward(self, trainer: Trainer, pl_module: GAN) -> None:
        # A loss can be infinite and its gradient not. Put into the gradient, it reaches all processes with that.
        if self.alone:
            return
        with torch.no_grad():
            gradient = next((gradient for gradient in self.gradients[self.network].local() if gradient.numel()), None)
            if gradient is not None:
                gradient[(0,) * gradient.ndim].sub_(self.losses[-1] - self.losses[-1])  # x - 0 is x to the bit

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: GAN, optimizer: Optimizer) -> None:
        network = network_of(optimizer, trainer.optimizers)
        if not self.gradients[network].finite(self.losses if self.alone else ()):
            self.act(trainer, pl_module, optimizer, network)
        self.network = OPTIMIZER_ORDER[1 - OPTIMIZER_ORDER.index(network)]  # whose turn is next
        self.losses.clear()
        self.calls.clear()

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.failed:
            self.bad, self.good = self.bad + 1, 0
        else:
            self.good += 1
            if self.good >= (self.every if self.policy == "rollback" else 1):
                self.bad = 0
        step = trainer.global_step
        if self.policy == "rollback" and step % self.every == 0 and not self.failed:
            self.keep(trainer, pl_module)
        # pyright does not see what Lightning's connectors give a trainer.
        if pl_module.logs_now:
            pl_module.log_scalars({f"non_finite/{network}": float(count) for network, count in self.counts.items()})

    def stop_watching(self) -> None:
        """Takes the hooks off both networks, and lets go of the state kept for rollback."""
        for hook in getattr(self, "hooks", []):
            hook.remove()
        self.state = None

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.stop_watching()

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:
        self.stop_watching()

    # ------------------------------------------------------------------ acting

    def act(self, trainer: Trainer, pl_module: GAN, optimizer: Optimizer, network: str) -> None:
        """Does what the policy says about a step whose gradient is not finite."""
        cause = self.diagnose(trainer, pl_module, network)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            if cause.kind == "backward" and scaler.get_scale() >= 1:
                return
            unscale(optimizer, scaler)  # which tells it that this step does not count
        self.failed = True
        self.counts[network] += 1
        what = f"batch {self.batch:,}: the gradient of the {network} is not finite; first to go bad: {cause.text}"
        if self.policy == "raise":
            raise NonFiniteGradient(f"{what}. {cause.way_out}. Checkpoints saved so far are good")
        if self.policy == "skip" and cause.kind == "weight":
            raise NonFiniteGradient(
                f"{what}. No skipped step heals weights: go on from a checkpoint, and set NonFiniteGuard's policy to "
                "rollback"
            )
        if self.bad >= self.tries:
            bad = f"That makes {counted(self.bad + 1, 'bad batch', 'bad batches')}, tries={self.tries}"
            raise NonFiniteGradient(f"{what}. {bad}. {cause.way_out}")
        if self.policy == "skip":
            self.kept.restore(only_bad=True)
            done = "the step is skipped"
        else:
            assert self.state is not None  # rollback keeps one from the start
            self.state.restore()
            pl_module.rolled_back()
            done = f"back to the state after batch {self.state.step:,} (try {self.bad + 1} of {self.tries})"
        for parameter in self.gradients[network].parameters:
            parameter.grad = None  # which every optimizer passes over
        rank_zero_warn(f"{what}; {done}")

    def keep(self, trainer: Trainer, pl_module: GAN) -> None:
        """Keeps the present state, if it is good."""
        if self.bad_tensor(trainer, pl_module) is None:
            self.state = None  # before the next one, so that there is memory for one only
            self.state = State(trainer, pl_module)

    def bad_tensor(self, trainer: Trainer, pl_module: GAN) -> str | None:
        """The name of a parameter or buffer that is not finite on some process. All of them must ask."""
        name = first_bad((*pl_module.named_parameters(), *pl_module.named_buffers()))
        if trainer.strategy.reduce_boolean_decision(name is not None, all=False):
            return name or "a weight of another process"
        return None

    # ------------------------------------------------------------------ diagnosing

    @torch.no_grad()
    def diagnose(self, trainer: Trainer, pl_module: GAN, network: str) -> "Cause":
        """Where the numbers went bad first, as all processes see it together."""
        causes = list(self.causes(trainer, pl_module, network))  # all, since in shards every process must compute
        if trainer.world_size > 1:
            assert isinstance(trainer.strategy, TwoNetworkStrategy)  # no other starts several
            found: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(found, causes, group=trainer.strategy.unlimited)
            everywhere = set.intersection(*map(set, found))
            causes = [
                cause if cause in everywhere else cause._replace(text=f"{cause.text} (process {rank})")
                for rank, of_rank in enumerate(found)
                for cause in of_rank
            ]
        return min(causes)

    def causes(self, trainer: Trainer, pl_module: GAN, network: str) -> Iterator["Cause"]:
        """What is not finite on this process, of each kind the first."""
        for kind, images in ((f"real {noun(pl_module.generator)}", self.real), ("source image", self.sources)):
            bad = [index for index, image in enumerate(images) if not image.isfinite().all()]
            if bad:
                yield Cause.of("image", bad[0], f"{kind} {bad[0]} of the batch")
        weights = {
            f"{name}.{key}": parameter
            for name in OPTIMIZER_ORDER[::-1]
            for key, parameter in getattr(pl_module, name).named_parameters()
        }
        if name := first_bad(weights.items()):
            yield Cause.of("weight", [*weights].index(name), name)
        order: list[str] = []  # of the layers in the forward pass
        if place := self.replay(trainer, pl_module, order):
            yield Cause.of("forward", place[0], f"{place[1]}, in the forward pass")
        if not all(loss.isfinite().all() for loss in self.losses):
            yield Cause.of("loss", 0, f"the loss of the {network}")
        # The backward pass goes through the layers from the last to the first: the one that it came to first.
        of_layer = {name: -position for position, name in enumerate(order)}
        found = [
            (of_layer.get(f"{network}.{named.name.rpartition('.')[0]}", 1), named.name)
            for named in self.gradients[network].named
            if named.parameter.grad is not None and not local(named.parameter.grad).isfinite().all()
        ]
        if found:
            position, name = min(found, key=lambda place: place[0])
            yield Cause.of("backward", position + len(order), f"the gradient of {network}.{name}, in the backward pass")

    @torch.no_grad()
    def replay(self, trainer: Trainer, pl_module: GAN, order: list[str]) -> tuple[int, str] | None:
        """Repeats the forward passes of this step: the first bad place and its number; fills in the layers' order."""
        places: list[tuple[int, str]] = []

        def look(what: str, tensors: Any) -> None:
            leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
            if not all(leaf.isfinite().all() for leaf in leaves):
                places.append((len(order), what))

        def hook(name: str) -> Callable[..., None]:
            def after(module: nn.Module, inputs: Any, output: Any) -> None:
                look(f"the input of {name}", inputs)
                look(f"the output of {name}", output)
                order.append(name)

            return after

        networks = {name: getattr(pl_module, name) for name in OPTIMIZER_ORDER}
        handles = [
            module.register_forward_hook(hook(f"{name}.{key}" if key else f"the {name}"))
            for name, network in networks.items()
            for key, module in network.named_modules()
        ]
        calls, device = [*self.calls], pl_module.device
        try:
            with state_restored(networks.values(), device, seed=0):
                pl_module.seed_layers(self.batch - 1)
                for call in calls:
                    with torch.autocast(device.type, call.dtype, enabled=call.autocast):
                        networks[call.network](*call.inputs)
        finally:
            for handle in handles:
                handle.remove()
        return places[0] if places else None

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, trainer: Trainer, pl_module: GAN, checkpoint: dict[str, Any]) -> None:
        """Refuses to save what is not finite. A run that goes on from here keeps this state, so this one does too."""
        name = self.bad_tensor(trainer, pl_module)
        if name is not None:
            # With a cause it is a warning of RunCheckpoint's, one for all processes. The next step says what to do.
            cause = FloatingPointError(name) if trainer.is_global_zero else None
            raise GANError(f"no checkpoint of batch {trainer.global_step:,}: {name} is not finite") from cause
        if self.state is not None:
            self.keep(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "bad": self.bad, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts, self.bad, self.good = dict(state["counts"]), state["bad"], state["good"]


class Cause(NamedTuple):
    """Where numbers went bad. The least of several is the first."""

    order: int  # of its kind
    position: int  # among those of its kind
    text: str

    @classmethod
    def of(cls, kind: str, position: int, text: str) -> "Cause":
        """A cause of one of the `KINDS`."""
        return cls(KINDS.index(kind), position, text)

    @property
    def kind(self) -> str:
        """One of the `KINDS`."""
        return KINDS[self.order]

    @property
    def way_out(self) -> str:
        """What the user can do."""
        if self.kind == "image":
            return "Look at the data, or set NonFiniteGuard's policy to skip"
        return "Lower the learning rates, add the callback GradientClipping, or set NonFiniteGuard's policy to rollback"


class Call(NamedTuple):
    """A forward pass of training."""

    network: str
    inputs: tuple[Tensor, ...]
    autocast: bool
    dtype: torch.dtype


def record(network: nn.Module, name: str, calls: list[Call]) -> Any:
    """Lets `calls` grow by each forward pass of `network` in training mode. Returns the hook, to be removed."""

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module is network and module.training:  # a copy of it has the hook too
            device = inputs[0].device.type
            autocast = torch.is_autocast_enabled(device)
            detached = tuple(tensor.detach() for tensor in inputs)
            calls.append(Call(name, detached, autocast, torch.get_autocast_dtype(device)))

    return network.register_forward_pre_hook(before)


@torch.no_grad()
def first_bad(tensors: Iterable[tuple[str, Any]]) -> str | None:
    """The name of the first tensor of which this process has a value that is not finite."""
    floats = [
        (name, local(tensor)) for name, tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point()
    ]
    if not floats or torch.stack([tensor.isfinite().all() for _, tensor in floats]).all():
        return None
    return next(name for name, tensor in floats if not tensor.isfinite().all())
