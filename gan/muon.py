"""Muon: matrices step by the nearest orthogonal matrix of their momentum.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scaled as in Liu et al. 2025, arXiv:2502.16982.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gan.errors import GANError
from gan.games import ByParameter, check_adam, direction

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of a quintic that brings singular values between 0.7 and 1.2 in 5 rounds
ROUNDS = 5
SIZE = 0.2  # of an update in each weight, for a learning rate of 1: about Adam's


class Muon(ByParameter):
    """Muon for matrices and the kernels of convolutions, Adam for biases, gains and all else of one dimension.

    A kernel is the matrix that its first dimension and all others make. The learning rates of Adam fit: updates are
    scaled to the same size. torch's own takes matrices alone.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate of both.
        momentum: Decay of the average of gradients that Muon goes by, per step; GANs bear less than the published 0.95.
        betas: Adam's: decay of the averages of the gradient and of its square, per step; 0 for no momentum.
        eps: Adam's: added to the root of the average square.

    Raises:
        GANError: If a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        check_adam("Muon", lr, betas, eps)
        if not 0 <= momentum < 1:
            raise GANError(f"Muon: momentum must be at least 0 and below 1, got {momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})

    def move(self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if parameter.ndim < 2:
            update = direction(state, gradient, group["betas"], group["eps"])
        else:
            update = orthogonal(momentum(state, gradient, group["momentum"]))
        parameter.sub_(group["lr"] * update)


def momentum(state: dict[str, Any], gradient: Tensor, decay: float) -> Tensor:
    """Nesterov's: the average of gradients, in `state`, that takes this one in twice."""
    if not state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    return gradient.lerp(state["momentum_buffer"].lerp_(gradient, 1 - decay), decay)


def orthogonal(update: Tensor) -> Tensor:
    """The update (N, ...) as a matrix whose singular values are all about the same, of size 0.2 in each weight."""
    rows, columns = len(update), update[0].numel()
    matrix = update.reshape(rows, columns)
    wide = matrix if rows <= columns else matrix.T
    wide = wide / wide.norm().clamp(min=torch.finfo(wide.dtype).tiny)
    one, three, five = NEWTON_SCHULZ
    for _ in range(ROUNDS):
        square = wide @ wide.T  # (n, n), of the shorter side
        wide = one * wide + (three * square + five * square @ square) @ wide
    matrix = wide if rows <= columns else wide.T
    return SIZE * max(rows, columns) ** 0.5 * matrix.reshape(update.shape)
