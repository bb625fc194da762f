"""The optimizers of two networks, their schedules, and the passes of a batch that make one step."""

import inspect
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import LBFGS, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from gan.errors import GANError, counted
from gan.schedule import Number, Schedule, ends
from gan.spec import class_name

OPTIMIZER_ORDER = ("discriminator", "generator")  # of a trainer's optimizers: the first one's steps are the batches


def network_of(optimizer: Optimizer, optimizers: Sequence[Optimizer]) -> str:
    """The name of the network that one of a trainer's optimizers moves."""
    return OPTIMIZER_ORDER[optimizers.index(optimizer)]


def make_optimizers(
    networks: Mapping[str, nn.Module],
    make_optimizer: Sequence[Callable[..., Optimizer]],
    make_scheduler: Sequence[Callable[[Optimizer], LRScheduler] | None],
    length: "Length",
    resumed: "Resumed",
    frozen: Iterable[nn.Parameter] = (),
) -> tuple[list[Optimizer], list[LRScheduler]]:
    """An optimizer for each of the networks, without the `frozen` parameters, and the schedulers that are wanted.

    Raises:
        ValueError: If one of them cannot train a GAN, with the name of the setting.
    """
    optimizers, left_out = [], {id(parameter) for parameter in frozen}
    for (name, network), make in zip(networks.items(), make_optimizer, strict=True):
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise GANError(
                f"model.{name}: {class_name(network)} has no weight that requires a gradient, so that "
                "nothing could be learnt; leave its requires_grad_(False) out"
            )
        try:
            optimizers.append(make([each for each in network.parameters() if id(each) not in left_out]))
        except ValueError as error:
            way = ": take gan.muon.Muon, which takes kernels too" if "only supports 2D parameters" in str(error) else ""
            raise GANError(f"model.{name}_optimizer: {error}{way}") from error
        if isinstance(optimizers[-1], LBFGS):
            raise GANError(f"model.{name}_optimizer: LBFGS evaluates a batch several times, which a GAN cannot")
        if all(callable(getattr(optimizers[-1], mode, None)) for mode in ("train", "eval")):
            raise GANError(
                f"model.{name}_optimizer: {type(optimizers[-1]).__name__} keeps the weights to train and those to use "
                "in one place and turns one into the other, which a GAN that is looked at as it trains cannot have: "
                "choose another, with GeneratorEMA for an average"
            )
    of_networks = []
    for name, make, optimizer in zip(networks, make_scheduler, optimizers, strict=True):
        of_networks.append(None if make is None else make(optimizer))
        if of_networks[-1] is None:
            for group in optimizer.param_groups:
                group.setdefault("name", name)  # by which LearningRateMonitor tells two optimizers of a class apart
        if isinstance(of_networks[-1], WarmupCosine):
            of_networks[-1].end(length)
    for arguments in zip(networks, make_optimizer, optimizers, of_networks, strict=True):
        resumed.watch(*arguments)
    return optimizers, [scheduler for scheduler in of_networks if scheduler is not None]


def with_names(
    optimizers: list[Optimizer], schedulers: list[LRScheduler]
) -> tuple[list[Optimizer], list[dict[str, Any]]]:
    """What Lightning wants of optimizers and schedulers: each of these by the name that its rates are logged under."""
    names = [f"lr/{network_of(scheduler.optimizer, optimizers)}" for scheduler in schedulers]
    configs = [
        {"scheduler": scheduler, "interval": "step", "name": name}
        for name, scheduler in zip(names, schedulers, strict=True)
    ]
    return optimizers, configs


def monitored(scheduler: LRScheduler) -> str | None:
    """The name of the score that a schedule waits for, if it waits for one: Lightning's ReduceLROnPlateau has it."""
    return getattr(scheduler, "monitor", None)


def step_schedules(configs: Sequence[Any]) -> None:
    """Moves each schedule of Lightning's `configs` by a batch, but for those that wait for a score.

    Raises:
        GANError: If one is past its end.
    """
    for config in configs:
        if isinstance(config.scheduler, ReduceLROnPlateau):
            continue
        try:
            config.scheduler.step()
        except ValueError as error:
            if not isinstance(config.scheduler, OneCycleLR):
                raise
            network = config.name.removeprefix("lr/")
            raise GANError(
                f"model.{network}_scheduler: OneCycleLR is past its end, its total_steps: {error}"
            ) from error


def step_plateaus(configs: Sequence[Any], scores: Mapping[str, float]) -> None:
    """Lets schedules that wait for one of the scores have it."""
    for scheduler in [config.scheduler for config in configs]:
        if isinstance(scheduler, ReduceLROnPlateau) and monitored(scheduler) in scores:
            scheduler.step(scores[str(monitored(scheduler))])


def check_schedules(configs: Sequence[Any], scores: Collection[str], batches: int | None) -> None:
    """Refuses schedules that wait for what never comes, or end before the run.

    Args:
        configs: Lightning's, with the schedules and their names.
        scores: The names of those that are measured in the run.
        batches: How many the run has, if that is known.

    Raises:
        GANError: If there is one.
    """
    for config in configs:
        scheduler, setting = config.scheduler, f"model.{config.name.removeprefix('lr/')}_scheduler"
        if isinstance(scheduler, ReduceLROnPlateau) and monitored(scheduler) not in scores:
            there = ", ".join(sorted(scores)) or "none, for want of a FIDTracker with features"
            raise GANError(
                f"{setting}: ReduceLROnPlateau must wait for a score, since the losses of a GAN do not fall. Take "
                f"lightning.pytorch.cli.ReduceLROnPlateau, and for its monitor one of this run's: {there}"
            )
        if isinstance(scheduler, OneCycleLR) and batches is not None and batches > scheduler.total_steps:
            raise GANError(
                f"{setting}: OneCycleLR ends after total_steps={scheduler.total_steps} batches, and the run has "
                f"{batches:,}: set its total_steps to that"
            )


def rates(configs: Sequence[Any]) -> dict[str, float]:
    """The learning rates of all schedules of Lightning's `configs`, under the names that its monitor has for them."""
    scalars = {}
    for config in configs:
        groups = config.scheduler.optimizer.param_groups
        for number, group in enumerate(groups, start=1):
            of_group = f"/{group.get('name', f'pg{number}')}" if len(groups) > 1 else ""
            scalars[config.name + of_group] = float(group["lr"])
    return scalars


class ScheduledAdam(Adam):
    """torch's Adam, whose betas may each follow a `gan.schedule.Schedule`.

    Args:
        params: Those to move.
        lr: Learning rate.
        betas: Decay of the averages of the gradient and of its square, per step, at least 0 and below 1, or schedules.
        eps: Added to the root of the second average.
        weight_decay: Factor of the weights, added to their gradient.
        fused: Whether torch moves all weights by one kernel; as it sees fit if not given.

    Raises:
        GANError: If there are not two betas, or one is out of range, at either end of a schedule.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        if len(betas) != 2 or not all(0 <= end < 1 for beta in betas for end in ends(beta)):
            shown = ", ".join(str(beta) for beta in betas)
            raise GANError(f"ScheduledAdam: betas must be two, each at least 0 and below 1, got {shown}")
        self.betas = tuple(betas)
        now = float(betas[0]), float(betas[1])
        super().__init__(params, lr, now, eps, weight_decay, fused=fused)
        self.register_step_pre_hook(ScheduledAdam.move_betas)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles have: torch's know nothing of attributes, and lose every hook."""
        return super().__getstate__() | {"betas": self.betas}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "betas" in state:  # not from `load_state_dict`, which comes here too
            self.register_step_pre_hook(ScheduledAdam.move_betas)

    def move_betas(self, *_: Any) -> None:
        """Lets the groups have the present batch's betas, of those that follow a schedule."""
        for group in self.param_groups:
            both = zip(self.betas, group["betas"], strict=True)
            group["betas"] = tuple(float(beta) if isinstance(beta, Schedule) else there for beta, there in both)


# ---------------------------------------------------------------------- in a run that goes on


OF_PLATEAU = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")  # what it has come to


class Resumed:
    """What a run that goes on takes of the optimizers and schedules in its checkpoint.

    The settings are those of the run as it is now. Where they are what they were, everything goes on bit for bit. A
    schedule with other settings is brought to the batch that it was at; an optimizer whose state is of another kind
    starts anew.
    """

    def __init__(self) -> None:
        self.classes: dict[str, list[str | None]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.same: set[str] = set()
        self.known: set[str] = set()
        self.batches = 0

    def read(self, checkpoint: dict[str, Any], settings: Mapping[str, Any]) -> None:
        """Looks into a checkpoint.

        Args:
            checkpoint: Its schedules are taken out: Lightning would give them to the networks in turn, though one may
                have had none.
            settings: Of the module as it is now, as plain data; what is missing has no such form.
        """
        before = checkpoint["hyper_parameters"]
        keys = {name: (f"{name}_optimizer", f"{name}_scheduler") for name in OPTIMIZER_ORDER}
        self.known = {name for name in OPTIMIZER_ORDER if all(key in settings for key in keys[name])}
        self.same = {
            name for name in OPTIMIZER_ORDER if all(before.get(key) == settings.get(key) for key in keys[name])
        }
        self.classes = checkpoint.get("optimizer_classes", {})
        states = iter(checkpoint.get("lr_schedulers", []))
        self.schedules = {name: next(states, {}) for name, (_, schedule) in self.classes.items() if schedule}
        checkpoint["lr_schedulers"] = []
        self.batches = checkpoint.get("global_step", 0)

    def watch(
        self, name: str, make: Callable[..., Optimizer], optimizer: Optimizer, scheduler: LRScheduler | None
    ) -> None:
        """Lets a network's optimizer, when it loads its state, take what it should, and its schedule after it."""

        def before(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            reason = self.misfit(name, make, optimizer, state)
            if reason is not None:
                rank_zero_warn(f"model.{name}_optimizer: {reason}; its state starts anew")
                return optimizer.state_dict()
            return state if self.goes_on(name, scheduler) else with_own_settings(optimizer, state)

        def after(_: Optimizer) -> None:
            if scheduler is not None:
                self.set_schedule(name, scheduler)

        optimizer.register_load_state_dict_pre_hook(before)
        optimizer.register_load_state_dict_post_hook(after)

    def goes_on(self, name: str, scheduler: LRScheduler | None) -> bool:
        """Whether a network's optimizer and schedule are those of the checkpoint, settings and all."""
        if self.classes.get(name, [None, None])[1] != class_of(scheduler):
            return False
        # What has no plain form cannot be compared: a schedule then counts as the same, as torch's own loading has it.
        return name in self.same and (name in self.known or scheduler is not None)

    def misfit(
        self, name: str, make: Callable[..., Optimizer], optimizer: Optimizer, state: dict[str, Any]
    ) -> str | None:
        """Why the state in the checkpoint is not one of this optimizer, if it is not."""
        before, now = self.classes.get(name, [None])[0], class_of(optimizer)
        if before not in (None, now):
            return f"{now} in place of {before}"
        if len(state["param_groups"]) != len(optimizer.param_groups):
            groups = counted(len(optimizer.param_groups), "group")
            return f"{groups} of parameters in place of {len(state['param_groups'])}"
        sizes = [
            sum(len(group["params"]) for group in groups) for groups in (optimizer.param_groups, state["param_groups"])
        ]
        if sizes[0] != sizes[1]:
            return f"{counted(sizes[0], 'parameter')} to move in place of {sizes[1]}"
        saved = {key for values in state["state"].values() for key in values}
        lacking = sorted(state_keys(make) - saved)
        return f"the checkpoint has no {', '.join(lacking)}" if saved and lacking else None

    def set_schedule(self, name: str, scheduler: LRScheduler) -> None:
        """Brings the schedule of a network to the batch that the run goes on from.

        Raises:
            ValueError: If it cannot go as far.
        """
        saved = self.schedules.get(name, {})
        if saved and self.goes_on(name, scheduler):
            scheduler.load_state_dict(saved)
            return
        if self.classes and (name not in self.schedules or self.classes[name][1] != class_of(scheduler)):
            rank_zero_warn(
                f"model.{name}_scheduler: {class_of(scheduler)} in place of {self.classes[name][1]}; its state starts "
                f"anew, and is brought to batch {self.batches:,}"
            )
        if isinstance(scheduler, ReduceLROnPlateau):  # it moves by scores, which do not come again
            if "best" in saved:
                scheduler.load_state_dict({key: saved[key] for key in OF_PLATEAU})
                for group, rate in zip(scheduler.optimizer.param_groups, saved["_last_lr"], strict=True):
                    group["lr"] = rate
                rank_zero_warn(
                    f"model.{name}_scheduler: goes on from the rate that it has come to, {saved['_last_lr']}"
                )
            return
        steps = saved.get("last_epoch", self.batches)  # torch's name for the steps done
        if isinstance(scheduler, WarmupCosine):
            scheduler.load_state_dict({"last_epoch": steps, "_step_count": steps + 1})
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before")
            for _ in range(steps):  # each rate comes from the one before
                scheduler.step()


def class_of(value: object) -> str | None:
    """The dotted name of an object's class."""
    return None if value is None else f"{type(value).__module__}.{type(value).__qualname__}"


def with_own_settings(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state to load, with the optimizer's own settings in its groups."""
    # Some keep counters in a group too: what is a default and no argument of the constructor.
    counters = optimizer.defaults.keys() - inspect.signature(type(optimizer).__init__).parameters.keys()
    groups = [
        own | {key: value for key, value in saved.items() if key in counters or key == "params"}
        for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    return state | {"param_groups": groups}


def state_keys(make: Callable[..., Optimizer]) -> set[str]:
    """What an optimizer keeps of each parameter, by a step of its like; nothing if it cannot be tried so."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros_like(parameter)
    try:
        like = make([parameter])
        like.step()
    except Exception:  # of a stranger's class, which may want more than one parameter
        return set()
    return set(like.state[parameter])


# ---------------------------------------------------------------------- passes


def in_passes(passes: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """The tensors (N, ...) of a batch in parts of equal size, one for each pass; None stays None.

    Raises:
        ValueError: If the batch does not come out even.
    """
    if passes == 1:
        return iter([tensors])
    num = next(len(tensor) for tensor in tensors if tensor is not None)
    if num % passes:
        raise GANError(
            f"model.accumulate={passes} cannot divide a batch of {counted(num, 'sample')} into equal parts: "
            "let the data loader give a multiple of it"
        )
    nothing = [None] * passes
    return zip(*(nothing if tensor is None else tensor.chunk(passes) for tensor in tensors), strict=True)


def mean(passes: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each scalar () over the passes of a batch, without their graphs."""
    if len(passes) == 1:
        return {name: value.detach() for name, value in passes[0].items()}
    return {name: torch.stack([scalars[name].detach() for scalars in passes]).mean() for name in passes[0]}


class Length(NamedTuple):
    """How long a run is: in batches, or by the clock where only its time ends it; neither where nothing tells."""

    batches: int | None = None
    elapsed: Callable[[], float] | None = None
    """The share of the time that is over, 0 to 1."""


class WarmupCosine(LRScheduler):
    """Linear warm-up, then half a cosine down to zero (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Warm-up matters under Adam: its first steps have the size of the learning rate, however small the gradient.

    Args:
        optimizer: The optimizer whose learning rates are scaled.
        warmup: Steps (in a GAN, training batches) over which the rate rises from zero; in a run that `total` is taken
            from, at most a tenth of it.
        total: Steps after which the rate is zero; a GAN takes the length of the run if it is not given: its batches,
            or, where only `trainer.max_time` ends it, its time.

    Raises:
        ValueError: If `warmup` is negative, or `total` not above it.
    """

    def __init__(self, optimizer: Optimizer, warmup: int = 100, total: int | None = None):
        if not warmup >= 0:
            raise GANError(f"WarmupCosine: warmup must be at least 0 steps, got {warmup}")
        if total is not None and not total > warmup:
            raise GANError(f"WarmupCosine: total must be above warmup={warmup}, got {total}")
        self.warmup = warmup
        self.total = total
        self.elapsed: Callable[[], float] | None = None
        super().__init__(optimizer)

    def end(self, length: Length) -> None:
        """Sets where the rate is zero, if `total` does not say it."""
        if self.total is not None:
            return
        if length.batches is not None:
            self.total = length.batches
            if self.warmup > self.total // 10:
                tenth = self.total // 10
                rank_zero_warn(f"WarmupCosine: warmup is shortened from {self.warmup} to {tenth}, a tenth of this run")
                self.warmup = tenth
        elif length.elapsed is not None:
            self.elapsed = length.elapsed
            rank_zero_warn(
                "WarmupCosine: only trainer.max_time ends this run, so the learning rate follows the clock, and a run "
                "that goes on from a checkpoint is not the same bit for bit; trainer.max_steps would make it so"
            )
        else:
            rank_zero_warn(
                "WarmupCosine: nothing tells how long this run is, so the learning rate does not fall after the "
                "warm-up: set trainer.max_steps, or total"
            )
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate  # that of the first step, which construction has set by another warm-up

    def get_lr(self) -> list[float | Tensor]:
        step = self.last_epoch  # torch's name for the steps done
        warm = 1.0 if step >= self.warmup else (step + 1) / (self.warmup + 1)
        progress = 0.0
        if self.total is not None and step > self.warmup:
            progress = min(1.0, (step - self.warmup) / (self.total - self.warmup))
        elif self.elapsed is not None:
            progress = min(1.0, self.elapsed())
            warm = max(warm, min(1.0, 10 * progress))
        scale = warm * 0.5 * (1 + math.cos(math.pi * progress))
        return [scale * rate for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        # The position alone: a run that is resumed with other settings follows those.
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
