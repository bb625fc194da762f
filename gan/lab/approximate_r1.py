"""Approximate R1: what a step of length sigma makes of a slope, between curvature and round-off.

What you see. Left, how far the mean of ApproximateR1 over all directions is off R1, by sigma, for a curved logit of ten
inputs: in float64, in float32, and with its logits in bfloat16; and for a small network of leaky ReLUs in float64.
Dotted, what the formula says for curvature. Right, by how much single directions differ, as a part of R1.

Why. ApproximateR1 takes the squared difference of the logits at x and at x + sigma u, over sigma^2, and so needs no
second derivative. With signs u, its mean is R1 plus what the curvature adds, which grows with sigma^2. Two logits are
rounded, each by a part of its size, not of the difference: over sigma^2 that grows as sigma falls. In float32 there is
a wide valley between the two, and the published .01 lies in it; logits of 100 in bfloat16 come in steps of 1/2, and
have no valley. One direction is a guess: its deviation is up to sqrt(2) times R1, whatever sigma, and a batch of N
images divides it by the root of N.

Try. `run(offset=0.0)`: small logits are rounded less, and smaller steps do. `run(curvature=0.0)`: a linear logit allows
any step, and then only round-off is left.
"""

import itertools
import math
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, FAINT, GREEN, ORANGE, VERMILION, label_lines, panels, styled
from gan.penalties import R1, ApproximateR1

REFERENCE = "Lin et al. 2025, APT, arXiv:2501.08316; Mescheder et al. 2018, arXiv:1801.04406"

MATHEMATICS = """
R1(x) = |g|²/2  with  g = ∇D(x).   Approximate:  A(x, u) = (D(x + σu) − D(x))² / 2σ²,  each uᵢ being −1 or 1.
To second order  D(x + σu) − D(x) = σ gᵀu + σ²/2 uᵀHu,  exactly so where D is quadratic, with H its Hessian.
Linear D:     E A = E (gᵀu)²/2 = |g|²/2 = R1  for any σ,  since  E uᵢuⱼ = 0  for  i ≠ j.
              Var (gᵀu)² = 2 (|g|⁴ − Σ gᵢ⁴):  one u is off by  √2 · R1  at most.
Quadratic D:  E A = R1 + σ²/8 E (uᵀHu)²,  the product of both terms being odd in u,
              with  E (uᵀHu)² = (tr H)² + 2 Σ Hᵢⱼ²  over  i ≠ j.
Round-off:    a logit of size |D| has an error of about ε|D|, so that  A  gets  (ε|D|)²/σ²  more,
              ε being 6e-8 in float32, 4e-3 in bfloat16.
Their sum is least at  σ² ~ ε|D| / |H|:  1e-3 to 1e-2 where |D| ~ 100 and |H| ~ 1, in float32.
"""

INPUTS, POINTS = 10, 16
SIGMAS = tuple(10.0**power for power in np.arange(-5, 0.1, 0.5))
LOOKS = {"float32": BLUE, "float64": GREEN, "bfloat16 logits": VERMILION, "network, float64": ORANGE}

Critic = Callable[[Tensor], Tensor]


class Quadratic(nn.Module):
    """Inputs (N, INPUTS) to logits (N,): w x + x H x / 2 + offset.

    Args:
        curvature: Of the size of H's eigenvalues.
        offset: Added to all logits.
    """

    def __init__(self, curvature: float, offset: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.randn(INPUTS, dtype=torch.float64) / math.sqrt(INPUTS))
        half = torch.randn(INPUTS, INPUTS, dtype=torch.float64) / math.sqrt(INPUTS)
        self.hessian = nn.Parameter(curvature * (half + half.T) / 2)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.slope + ((x @ self.hessian) * x).sum(1) / 2 + self.offset


def run(
    seed: int = 0,
    progress: Progress = silent,
    curvature: float = 1.0,
    offset: float = 100.0,
    penalty: type[ApproximateR1] = ApproximateR1,
    narrow: torch.dtype = torch.float32,
    rounded: torch.dtype = torch.bfloat16,
) -> Result:
    """Takes the penalty in all 1024 directions, at a few points, for each sigma.

    Args:
        seed: Draws logits and points.
        progress: Is told how far it is.
        curvature: Of the curved logit.
        offset: The size of its logits.
        penalty: What stands for ApproximateR1.
        narrow: What stands for float32.
        rounded: What stands for bfloat16.
    """
    torch.manual_seed(seed)
    points = torch.rand(POINTS, INPUTS, dtype=torch.float64) * 2 - 1
    curved, straight = Quadratic(curvature, offset), Quadratic(0.0, 0.0)
    in_float32 = deepcopy(curved).to(narrow)
    network = nn.Sequential(nn.Linear(INPUTS, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1), nn.Flatten(0)).double()
    exact = {"curved": R1(1.0)(curved, points, points), "network": R1(1.0)(network, points, points)}  # (POINTS,)

    errors = Table("logit", "sigma", "error", "deviation")
    for number, sigma in enumerate(SIGMAS):
        for name, values, right in (
            ("float64", directions(penalty, curved, points, sigma), exact["curved"]),
            ("bfloat16 logits", directions(penalty, lambda x: curved(x).to(rounded).double(), points, sigma),
             exact["curved"]),
            ("network, float64", directions(penalty, network, points, sigma), exact["network"]),
            ("float32", directions(penalty, in_float32, points.to(narrow), sigma).double(), exact["curved"]),
        ):  # fmt: skip
            errors.add(logit=name, sigma=sigma, **summary(values, right))
        errors.add(logit="formula", sigma=sigma, error=by_curvature(curved, exact["curved"], sigma), deviation=math.nan)
        progress((number + 1) / len(SIGMAS))

    def error(name: str, sigma: float) -> float:
        rows = errors.where(logit=name)
        return rows["error"][np.argmin(np.abs(np.log(rows["sigma"] / sigma)))]

    linear = directions(penalty, straight, points, 0.1)  # (POINTS, 1024)
    slopes = straight.slope.detach()
    squared = slopes.square().sum()
    deviation = (2 * (1 - (slopes**4).sum() / squared**2)).sqrt().item()  # as a part of R1
    # Point by point: steps of 1/2 make it nothing at one and far too much at the next, which may even out.
    of_points = directions(penalty, lambda x: curved(x).to(rounded).double(), points, 0.01).mean(1)  # (POINTS,)
    of_points = (of_points / exact["curved"].detach() - 1).abs()
    every = [abs(error("float64", sigma) / max(error("formula", sigma), 1e-300) - 1) for sigma in (0.01, 0.1, 1.0)]
    checks = [
        Check("linear logit, sigma 0.1: mean over R1, minus 1", abs(linear.mean().item() / (squared.item() / 2) - 1),
              below=1e-9),
        Check("linear logit: deviation of one direction over the formula's, minus 1",
              abs(linear.std(1, correction=0).mean().item() / (squared.item() / 2) / deviation - 1), below=1e-9),
        Check("curved, float64, sigma 0.01 to 1: error over the formula's, minus 1", max(every), below=1e-6),
        Check("curved, float32: error at sigma 1e-5 over that at 1e-4", error("float32", 1e-5) / error("float32", 1e-4),
              above=10, below=1000),
        Check("curved, float32, sigma 1e-5: error, of R1", error("float32", 1e-5), above=0.01),
        Check("curved, float32, sigma 0.01: error, of R1", error("float32", 0.01), below=0.01),
        Check("curved, float32, sigma 1: error, of R1", error("float32", 1.0), above=0.2),
        Check("bfloat16 logits, sigma 0.01: a point's error, of R1", of_points.mean().item(), above=0.5),
        Check("network, float64, sigma 0.01: error, of R1", error("network, float64", 0.01), below=0.05),
    ]  # fmt: skip
    return Result({"errors": errors}, checks)


def directions(penalty: type[ApproximateR1], critic: Critic, points: Tensor, sigma: float) -> Tensor:
    """The penalty at each of the points (P, INPUTS) in each of the directions: (P, 1024)."""
    approximate = penalty(1.0)
    approximate.sigma = sigma  # smaller ones than it allows, too
    signs = torch.tensor(list(itertools.product((0.25, 0.75), repeat=INPUTS)), dtype=points.dtype)  # of U[0, 1)
    images = points.repeat_interleave(len(signs), 0)
    with torch.no_grad():
        return approximate(critic, images, images, signs.repeat(len(points), 1)).view(len(points), -1)


def summary(values: Tensor, exact: Tensor) -> dict[str, float]:
    """How far means over directions are off R1, and the deviation of single ones, as parts of R1, over all points."""
    exact = exact.detach()
    error = abs(values.mean().item() / exact.mean().item() - 1)
    return {"error": error, "deviation": (values.std(1).mean() / exact.mean()).item()}


def by_curvature(critic: Quadratic, exact: Tensor, sigma: float) -> float:
    """What curvature adds by the formula, as a part of R1."""
    hessian = critic.hessian.detach()
    beside = hessian - hessian.diag().diag()
    square = hessian.trace() ** 2 + 2 * beside.square().sum()
    return (sigma**2 / 8 * square / exact.detach().mean()).item()


@styled
def figure(result: Result):
    page, (left, right) = panels(1, 2)
    errors = result.tables["errors"]
    for name, colour in LOOKS.items():
        rows = errors.where(logit=name)
        left.loglog(rows["sigma"], np.maximum(rows["error"], 1e-12), color=colour, label=name)
        right.loglog(rows["sigma"], np.maximum(rows["deviation"], 1e-12), color=colour, label=name)
    formula = errors.where(logit="formula")
    left.loglog(formula["sigma"], formula["error"], color=FAINT, linestyle=":", label="_formula")
    right.axhline(math.sqrt(2), color=FAINT, linestyle=":", linewidth=1)
    left.set(title="Error of the mean, as a part of R1", ylim=(1e-8, 1e3))
    right.set(title="Deviation of one direction, as a part of R1", ylim=(1e-1, 1e4))
    for axes in (left, right):
        axes.axvline(0.01, color=FAINT, linewidth=0.8, linestyle=":")
        axes.set(xlabel="sigma", xlim=(SIGMAS[0], SIGMAS[-1]))
    label_lines(left)
    label_lines(right)
    return page
