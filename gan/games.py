"""Steps made for games, where two networks that descend in turn circle each other: each looks ahead.

One evaluation of a batch is enough for `OptimisticAdam` and `PastExtraAdam`, which are torch optimizers.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gan.errors import GANError


class OptimisticAdam(Optimizer):
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
                    state = self.state[parameter]
                    update = group["lr"] * direction(state, parameter.grad, group["betas"], group["eps"])
                    ahead = self.ahead(update, state, parameter.grad, group)
                    if "ahead" in state:
                        parameter.add_(state["ahead"])
                    state["ahead"] = ahead
                    parameter.sub_(update).sub_(ahead)
        return loss

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
