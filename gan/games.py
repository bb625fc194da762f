"""Steps made for games, where two networks that descend in turn circle each other: each looks ahead.

One evaluation of a batch is enough for `OptimisticAdam` and `PastExtraAdam`, which are torch optimizers. Of both
networks' optimizers at once, whatever they are, are the extragradient method and Lookahead: see `gan.GAN`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from gan.errors import GANError
from gan.spec import Described

ONCE = "model.extragradient: a training step of your own must update each network once, by self.update(optimizer)"
SLOW = "slow"  # in the state of an optimizer: the weights that Lookahead goes back to


class ByParameter(Optimizer, ABC):
    """An optimizer that moves each parameter by its own gradient and state alone."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Moves all parameters that have a gradient.

        Args:
            closure: Computes the gradients, if they are not there.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, parameter.grad, self.state[parameter], group)
        return loss

    @abstractmethod
    def move(self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Moves one parameter in place.

        Args:
            parameter: Of any shape.
            gradient: Of the same shape.
            state: What is kept of it from step to step; empty before the first.
            group: The settings of its group.
        """


class OptimisticAdam(ByParameter):
    """Adam that expects the next gradient to be this one again (Daskalakis et al. 2018, arXiv:1711.00141).

    Of Adam's updates u, which are zero before the first: w <- w - 2 u(now) + u(before).

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate: about the size of u in each weight.
        betas: Decay of the averages of the gradient and of its square, per step; 0 for no momentum.
        eps: Added to the root of the average square.

    Raises:
        GANError: If a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        check_adam(type(self).__name__, lr, betas, eps)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def move(self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        update = group["lr"] * direction(state, gradient, group["betas"], group["eps"])
        ahead = self.ahead(update, state, gradient, group)
        if "ahead" in state:
            parameter.add_(state["ahead"])
        state["ahead"] = ahead
        parameter.sub_(update).sub_(ahead)

    def ahead(self, update: Tensor, state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """How far beyond the update the next gradient is taken."""
        return update


class PastExtraAdam(OptimisticAdam):
    """Adam by extrapolation from the past (Gidel et al. 2019, arXiv:1802.10551, algorithm 4, its second option).

    The gradient is taken ahead of the weights, where a step by the gradient before would lead; then the weights step by
    it. Either step is one of Adam's, whose averages take each gradient twice. What trains, is averaged and is saved are
    the weights ahead.
    """

    def ahead(self, update: Tensor, state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Another step of Adam, by the same gradient."""
        return group["lr"] * direction(state, gradient, group["betas"], group["eps"])


# ---------------------------------------------------------------------- of both networks at once


class Extragradient:
    """A batch by the extragradient method (Korpelevich 1976; Gidel et al. 2019, arXiv:1802.10551).

    Both networks look at the batch and step ahead, by any optimizer; there they look at it again, and from where they
    were they step by what they have seen there. So each optimizer steps twice. With Adam, whose averages take both
    gradients in, this is ExtraAdam. The same images and noise in both looks are what lets it converge (Mishchenko et
    al. 2020, arXiv:1905.11373).

    The networks still step in turn, as hooks are used to: who has stepped waits where it was until the other has too.

    Args:
        optimizers: Those of both networks, where the batch begins.

    Attributes:
        ahead: Whether this is the second look.
    """

    def __init__(self, optimizers: Sequence[Optimizer]):
        self.starts = {optimizer: copies(optimizer) for optimizer in optimizers}
        self.here: dict[Optimizer, list[Tensor]] = {}
        self.ends: dict[Optimizer, list[Tensor]] = {}
        self.ahead = False
        self.given_up = False

    def begin(self, optimizer: Optimizer) -> None:
        """Puts a network where the batch began, right before its step."""
        if self.given_up:
            for parameter in parameters(optimizer):
                parameter.grad = None  # which every optimizer passes over
            return
        self.here[optimizer] = copies(optimizer)
        put(self.starts[optimizer], optimizer)

    def wait(self, optimizer: Optimizer) -> None:
        """Takes note of where a step has led, and puts the network back to where it has looked from.

        Raises:
            GANError: If the step has not begun where the batch did, or is the second one.
        """
        if self.given_up:
            return
        if optimizer in self.ends:  # which the second would have begun where the first did
            raise GANError(ONCE)
        if optimizer not in self.here:
            raise GANError(
                "model.extragradient: an on_before_optimizer_step of your own in the module must call super()'s"
            )
        self.ends[optimizer] = copies(optimizer)
        put(self.here.pop(optimizer), optimizer)

    def move(self) -> None:
        """Puts both networks where their steps have led.

        Raises:
            GANError: If one has not stepped.
        """
        for optimizer in self.starts:
            if not self.given_up:
                if optimizer not in self.ends:
                    raise GANError(ONCE)
                put(self.ends.pop(optimizer), optimizer)

    def give_up(self) -> None:
        """Leaves the weights where they are now: nothing of this batch moves them."""
        self.given_up = True


class Lookahead(Described):
    """Both networks go back part of their way at the same moment (Chavdarova et al. 2021, arXiv:2006.14567).

    Every so many batches, their weights become w + alpha (w now - w), with w those of the time before.

    Args:
        every: Training batches from one time to the next; the paper's k.
        alpha: The share of the way that is kept, above 0 and at most 1.

    Raises:
        GANError: If a setting is out of range.
    """

    def __init__(self, every: int = 5, alpha: float = 0.5):
        if not every >= 1:
            raise GANError(f"Lookahead's every must be at least 1 batch, got {every}")
        if not 0 < alpha <= 1:
            raise GANError(f"Lookahead's alpha must be above 0 and at most 1, got {alpha}")
        self.every = every
        self.alpha = alpha

    def watch(self, optimizer: Optimizer) -> None:
        """Lets an optimizer keep, beside its state of each parameter, the weights that come before its first step."""
        starts: dict[Tensor, Tensor] = {}

        def before(*_: Any) -> None:
            starts.clear()
            for parameter in parameters(optimizer):
                if parameter.grad is not None and SLOW not in optimizer.state.get(parameter, {}):
                    starts[parameter] = parameter.detach().clone()

        def after(*_: Any) -> None:  # not earlier: optimizers set up a state that is empty, and no other
            for parameter, start in starts.items():
                if parameter.grad is not None:  # it has not been skipped
                    optimizer.state[parameter][SLOW] = start

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    @torch.no_grad()
    def go_back(self, optimizers: Sequence[Optimizer]) -> None:
        """Goes back with the weights of all optimizers."""
        for optimizer in optimizers:
            for parameter in parameters(optimizer):
                slow = optimizer.state.get(parameter, {}).get(SLOW)
                if slow is not None:
                    slow.add_(parameter - slow, alpha=self.alpha)
                    parameter.copy_(slow)


def without_lookahead(optimizer: Optimizer) -> None:
    """Lets an optimizer drop what Lookahead has left in the state that it loads: a later one would go back to it."""

    def after(_: Optimizer) -> None:
        if [state.pop(SLOW) for state in optimizer.state.values() if SLOW in state]:
            rank_zero_warn("the weights that Lookahead would go back to are dropped: this run has no model.lookahead")

    optimizer.register_load_state_dict_post_hook(after)


def parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    """All parameters of an optimizer."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def copies(optimizer: Optimizer) -> list[Tensor]:
    """Copies of an optimizer's parameters."""
    return [parameter.detach().clone() for parameter in parameters(optimizer)]


@torch.no_grad()
def put(values: Iterable[Tensor], optimizer: Optimizer) -> None:
    """Gives values to an optimizer's parameters."""
    for parameter, value in zip(parameters(optimizer), values, strict=True):
        parameter.copy_(value)


# ---------------------------------------------------------------------- Adam


def direction(state: dict[str, Any], gradient: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """Adam's update for a learning rate of 1; its averages, in `state`, take the gradient in (arXiv:1412.6980)."""
    if not state:
        state |= {"step": 0, "exp_avg": torch.zeros_like(gradient), "exp_avg_sq": torch.zeros_like(gradient)}
    state["step"] += 1
    first, second = betas
    state["exp_avg"].lerp_(gradient, 1 - first)
    state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    root = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt_()
    return (state["exp_avg"] / (1 - first ** state["step"])).div_(root.add_(eps))


def check_adam(name: str, lr: float, betas: tuple[float, float], eps: float) -> None:
    """Holds the settings of an Adam to their ranges.

    Raises:
        GANError: If one is out of its own.
    """
    if not lr >= 0:
        raise GANError(f"{name}: lr must be at least 0, got {lr}")
    if not all(0 <= beta < 1 for beta in betas):
        raise GANError(f"{name}: betas must be at least 0 and below 1, got {betas}")
    if not eps > 0:
        raise GANError(f"{name}: eps must be above 0, got {eps}")
