"""Clipped weights against a gradient penalty: what comes back through the twelve layers of a critic.

What you see. Critics of twelve hidden layers are trained to tell a Swiss roll (left) from the same with noise, three
with their weights clipped to [-c, c] and one with a gradient penalty. Middle: the size of the gradient at each layer,
from the output (left end), where it begins, to the input (right end), where the generator would get it. Right: where
the weights have come to, those that are clipped above, as a part of c.

Why. Each layer multiplies the gradient by about c times the square root of half its width, more where weights agree in
sign. That is below 1 or above 1, and there are twelve layers: with a small c it vanishes and with a large one it
explodes, by many powers of ten, and only a narrow range of c between is of use. The penalty asks for the size of the
whole product, 1, and leaves it to training how the layers share it. And clipping wastes the critic: it wants to be
steeper than it may, so that the weights run into the limit and most of a small c are -c or c, two values only.

Try. `run(limits=(0.1, 0.03, 0.01))` for what lies between. With signs at random a layer keeps the gradient's size at c
= 0.18, where c · √(64/2) = 1, and at 0.03 if all agree. The paper has 512 units where this has 64, and its c is smaller
for that: 0.1, 0.01 and 0.001.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, FAINT, GREEN, PURPLE, VERMILION, label_lines, sheet, styled
from gan.losses import Wasserstein
from gan.networks import DeepMLPDiscriminator
from gan.penalties import GradientPenalty, Penalty, clip_weights

REFERENCE = "Gulrajani et al. 2017, Improved Training of Wasserstein GANs, arXiv:1704.00028, figure 1b"

MATHEMATICS = """
A critic  f(x) = wᵀ hᵈ,  hᵏ = relu(Wᵏ hᵏ⁻¹).  By the chain rule, the gradient at layer k is a product:
  ∂f/∂hᵏ = (Wᵏ⁺¹)ᵀ Dᵏ⁺¹ ··· (Wᵈ)ᵀ Dᵈ w,     Dᵏ = diag(1 where unit k is active, else 0).
Width n, half of the units active, all |w| = c:  each factor multiplies the norm by
  c √(n/2)   if signs are random,  up to   c n/2   if all agree.
  n = 64:   c = 0.003 → 0.017 to 0.096       c = 0.01 → 0.057 to 0.32       c = 0.3 → 1.7 to 9.6
Over d layers this is to the power d: log |∂f/∂hᵏ| is a line in k, with the slope −log(factor).
Clipping bounds the Lipschitz constant, by (c n)ᵈ, all units active, nowhere near 1: 3·10⁻⁹, 0.005, 3·10¹⁵.
The penalty  λ E (|∇ₓf| − 1)²  is zero at the product that WGAN is about, and does not care for one factor.
"""

WIDTH, DEPTH, BATCH, STEPS = 64, 12, 128, 300
LIMITS = (0.3, 0.01, 0.003)
NOISE = 0.25  # standard deviation of what the fakes have on top of data


def run(
    seed: int = 0,
    progress: Progress = silent,
    limits: tuple[float, float, float] = LIMITS,
    penalty: Penalty | None = None,
) -> Result:
    """Trains the four critics and takes their gradients apart.

    Args:
        seed: Of weights and samples.
        progress: Is told how far it is.
        limits: What weights are clipped to: one that explodes, one that vanishes and one that vanishes faster.
        penalty: Of the fourth critic; GradientPenalty(10) if there is none.
    """
    torch.manual_seed(seed)
    layers = Table("critic", "layer", "gradient")
    weights = Table("critic", "weight", "share")
    slopes, ends = [], []
    for part, limit in enumerate([*limits, None]):
        critic = trained(limit, penalty or GradientPenalty(10))
        name, sizes = "penalty" if limit is None else f"c = {limit:g}", gradients(critic)
        layers.add(critic=name, layer=np.arange(1, DEPTH + 1), gradient=sizes)
        w = torch.cat([weight.detach().flatten() for weight in critic.parameters() if weight.ndim == 2]).numpy()
        largest = limit or np.abs(w).max()
        shares, edges = np.histogram(w, bins=101, range=(-largest, largest), weights=np.full(len(w), 1 / len(w)))
        weights.add(critic=name, weight=(edges[1:] + edges[:-1]) / 2, share=shares)
        ends.append((np.abs(w) > 0.99 * largest).mean())
        # From the output to the input; what has left the range of numbers counts as the least there is.
        slopes.append(-np.polyfit(np.arange(DEPTH), np.log10(np.maximum(sizes, 1e-300)), 1)[0])
        progress((part + 1) / (len(limits) + 1) * 0.99)
    points = Table("set", "x", "y")
    real = swiss_roll(400)
    for kind, sample in (("data", real), ("fakes", noisy(real))):
        x, y = sample.flatten(1).unbind(1)
        points.add(set=kind, x=x, y=y)
    large, middle, small, held = slopes
    checks = [
        Check("powers of ten a layer, large c", large, above=0.3),
        Check("powers of ten a layer, middle c", middle, below=-0.5),
        Check("powers of ten a layer, small c", small, below=-1),
        Check("powers of ten a layer, penalty: size", abs(held), below=0.1),
        Check("share of the weights within 1 % of the limit, middle c", ends[1], above=0.3),
        Check("share of the weights within 1 % of the limit, small c", ends[2], above=0.5),
    ]
    progress(1)
    return Result({"layers": layers, "weights": weights, "points": points}, checks)


def trained(limit: float | None, penalty: Penalty) -> DeepMLPDiscriminator:
    """A critic with weights in [-limit, limit], or with the penalty if there is no limit."""
    critic = new_critic()
    for _ in critic_steps(critic, limit, penalty):
        pass
    return critic


def new_critic() -> DeepMLPDiscriminator:
    return DeepMLPDiscriminator((2, 1, 1), WIDTH, DEPTH, "relu", init="he")


def critic_steps(critic: nn.Module, limit: float | None, penalty: Penalty | None = None) -> Iterator[int]:
    """Trains a critic, and yields the steps done before the first and after each."""
    loss = Wasserstein()
    if limit is not None:
        clip_weights(critic, limit)
    # Steps in proportion to the limit, whatever the size of the gradient: the smallest are 1e-18.
    lr = 1e-3 if limit is None else limit / 50
    optimizer = Adam(critic.parameters(), lr, betas=(0.0, 0.9), eps=1e-30, fused=True)
    yield 0
    for step in range(STEPS):
        real, fake = swiss_roll(BATCH), noisy(swiss_roll(BATCH))
        value = loss.discriminator(critic(real), critic(fake)).mean()
        if limit is None and penalty is not None and penalty.is_due(step):
            value = value + penalty.contribution(penalty(critic, real, fake, torch.rand(BATCH, 1, 1, 1)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if limit is not None:
            clip_weights(critic, limit)
        yield step + 1


def gradients(critic: DeepMLPDiscriminator) -> list[float]:
    """The mean norm of the gradient of a fake's value with respect to the output of each hidden layer."""
    h, outputs = noisy(swiss_roll(256)).flatten(1).requires_grad_(), []
    for layer in critic.hidden:
        h = layer(h)
        outputs.append(h)
    found = torch.autograd.grad(critic.output(h).sum(), outputs)
    return [each.double().norm(dim=1).mean().item() for each in found]


def swiss_roll(count: int) -> Tensor:
    """Places on a spiral of some 1.9 in radius: (N, 2, 1, 1)."""
    t = 1.5 * math.pi * (1 + 2 * torch.rand(count))
    return torch.stack([t * t.cos(), t * t.sin()], 1).div(7.5).view(count, 2, 1, 1)


def noisy(places: Tensor) -> Tensor:
    return places + NOISE * torch.randn_like(places)


@styled
def figure(result: Result):
    points, layers, weights = (result.tables[name] for name in ("points", "layers", "weights"))
    whole = sheet(4.2)
    ((left, middle, right),) = whole.subfigures(1, 3, squeeze=False, width_ratios=(1, 1.75, 0.85))
    roll, depth, (clipped, penalised) = left.subplots(), middle.subplots(), right.subplots(2, 1)
    for kind, colour in (("fakes", "#BBBBBB"), ("data", "black")):
        rows = points.where(set=kind)
        roll.plot(rows["x"], rows["y"], ".", color=colour, markersize=4)
        roll.text(-2.3, 2.35 if kind == "data" else 2.0, kind, color=colour if kind == "data" else FAINT, size=9)
    roll.set(title="A Swiss roll", aspect="equal", xlim=(-2.5, 2.7), ylim=(-2.7, 2.7))
    for (name, rows), colour in zip(layers.groups("critic"), (VERMILION, BLUE, PURPLE, GREEN), strict=True):
        order = np.argsort(-rows["layer"])
        # Beyond the range of numbers there is nothing to draw.
        sizes = np.where(rows["gradient"] > 0, rows["gradient"], np.nan)
        depth.plot(rows["layer"][order], sizes[order], "o-", color=colour, markersize=4, label=name)
        of = weights.where(critic=name)
        axes, unit = (penalised, 1) if name == "penalty" else (clipped, of["weight"].max())
        axes.step(of["weight"] / unit, of["share"], where="mid", color=colour, linewidth=1.2)
    depth.set(title="Gradient at each layer of the critic", yscale="log", xlabel="layer, from the output to the input")
    depth.set_xlim(DEPTH + 0.3, 0.7)
    depth.set_xticks(range(DEPTH, 0, -1))
    label_lines(depth)
    clipped.set(title="Weights, clipped", xlabel="w / c")
    penalised.set(title="Weights, penalty", xlim=(-1, 1), xlabel="w")
    for axes in (clipped, penalised):
        axes.set_yticks([])
        axes.set_ylim(bottom=0)
    return whole
