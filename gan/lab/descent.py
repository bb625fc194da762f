"""Gradient descent itself: a ravine, a saddle, and the step that is too long.

What you see. Top: paths down a ravine that is 50 times as steep across as along; the loss on the way; and how many
steps it takes as the ravine gets narrower. Bottom: paths past a saddle, each started a millionth beside the ridge; the
size of the gradient on the way; and by what each step in a ravine multiplies the distance from its bottom, against
the step size.

Why. The negative gradient points across the ravine, not along it. A step longer than 2 / (largest curvature) lands
higher on the other wall than it left, and each step more so: descent diverges. The step that the steep direction
allows is tiny for the flat one, so the steps needed grow with the ratio of curvatures. Momentum averages the
crossings away and sums what they share: the square root of that ratio. Adam divides each coordinate by the size of
its own gradient, so a ravine along an axis costs it nothing; one that lies askew does. Near a saddle the gradient
vanishes too, though nothing is learnt there, and only time, momentum or Adam's division gets away.

Try. `run(rotation=0)` lays the askew ravine along the axes, and Adam's weakness is gone. Take plain descent for
"momentum" in `run(optimizers=...)`, and see which checks were about it.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, FAINT, GREEN, SKY, VERMILION, key, panels, styled

REFERENCE = "Polyak 1964; Dauphin et al. 2014, arXiv:1406.2572; Kingma & Ba 2015, arXiv:1412.6980"

MATHEMATICS = """
Descent:   θ ← θ − η ∇f(θ).   f(θ − η∇f) ≈ f − η |∇f|² + η²/2 ∇fᵀH∇f : down if η is small.
In a ravine  f = (μ x² + L y²)/2  each coordinate is multiplied by a constant in each step:
  x ← (1 − ημ) x,   y ← (1 − ηL) y.   It converges if and only if  |1 − ηL| < 1,  that is  η < 2/L.
The best η = 2/(L + μ) gives both the factor (κ − 1)/(κ + 1) with κ = L/μ:  ~ κ/2 steps for each factor e.
Momentum:  v ← β v + ∇f,  θ ← θ − η v.  η < 2(1 + β)/L; at best the factor (√κ − 1)/(√κ + 1):  ~ √κ/2.
Adam:  θᵢ ← θᵢ − η mᵢ/√vᵢ  with averages m of gᵢ and v of gᵢ²: scaling gᵢ, hence κ, changes nothing.
At a saddle  f = x²/2 − y²/2 + y⁴/4  descent multiplies y by 1 + η: from y₀ it takes log(1/2y₀)/log(1 + η)
steps to y = 1/2. The gradient vanishes there as it does in a minimum; the curvature tells them apart.
"""

BETA = 0.9  # of momentum, where nothing else is said
RAVINE = 50.0  # its ratio of curvatures, in the pictures
RATIOS = (10.0, 30.0, 100.0, 300.0)
TOLERANCE = 1e-6  # of the loss at the start: arrived
SADDLE_STEP = 0.1
STEP_SIZES = np.arange(2, 451) / 100  # in units of 1/L

Make = Callable[[list[Tensor], float, float], Optimizer]  # parameters, step size, momentum
OPTIMIZERS: dict[str, Make] = {
    "descent": lambda parameters, lr, beta: SGD(parameters, lr=lr),
    "momentum": lambda parameters, lr, beta: SGD(parameters, lr=lr, momentum=beta),
    "Adam": lambda parameters, lr, beta: Adam(parameters, lr=lr),
}


def run(
    seed: int = 0,
    progress: Progress = silent,
    optimizers: dict[str, Make] = OPTIMIZERS,
    rotation: float = math.pi / 4,
) -> Result:
    """Descends.

    Args:
        seed: Draws where the paths start.
        progress: Is told how far it is.
        optimizers: What stands behind the names "descent", "momentum" and "Adam".
        rotation: Angle of the ravine that lies askew, in radians.
    """
    rng = torch.Generator().manual_seed(seed)
    side = 1.0 if torch.rand((), generator=rng) < 0.5 else -1.0
    offset = side * (0.3 + 0.2 * torch.rand((), generator=rng).item())

    paths = Table("place", "optimizer", "step", "x", "y", "loss", "gradient")
    for name, make in optimizers.items():
        record(paths, "ravine", name, ravine(RAVINE), (-1.0, offset / 2), make, *best(name, RAVINE), 120)
    progress(0.1)
    beside = 2e-6 * offset
    for name, make in optimizers.items():
        record(paths, "saddle", name, saddle, (-1.0, beside), make, SADDLE_STEP, BETA, 250)
    progress(0.2)

    factors = Table("optimizer", "step_size", "factor")
    for name in ("descent", "momentum"):
        factors.add(optimizer=name, step_size=STEP_SIZES, factor=factor(optimizers[name]))
    progress(0.3)

    narrow, narrowed = Table("optimizer", "ratio", "steps"), 0.4
    for name, make in optimizers.items():
        narrow.add(optimizer=name, ratio=RATIOS, steps=[arrival(name, make, ratio, offset) for ratio in RATIOS])
        progress(narrowed := 0.4 + 0.1 * len(narrow) / len(RATIOS))
    askew = [arrival("Adam", optimizers["Adam"], ratio, offset, rotation) for ratio in RATIOS]
    narrow.add(optimizer="Adam, askew", ratio=RATIOS, steps=askew)
    progress(narrowed + 0.2)

    def away(name: str) -> int:
        """Steps until the saddle is left."""
        path = paths.where(place="saddle", optimizer=name)
        return int(np.argmax(np.abs(path["y"]) > 0.5)) or 10**6

    expected = math.log(0.5 / abs(beside)) / math.log(1 + SADDLE_STEP)
    checks = [
        Check("descent diverges from this step size up, in 1/L", limit(factors, "descent"), above=1.98, below=2.02),
        Check("momentum diverges from this step size up, in 1/L", limit(factors, "momentum"), above=3.76, below=3.84),
        Check("ravine: power of κ that descent's steps grow by", power(narrow, "descent"), above=0.9, below=1.1),
        Check("ravine: power of κ, momentum", power(narrow, "momentum"), above=0.4, below=0.65),
        Check("ravine: power of κ, Adam", power(narrow, "Adam"), above=-0.15, below=0.15),
        Check("ravine askew: power of κ, Adam", power(narrow, "Adam, askew"), above=0.4),
        Check("saddle: steps of descent over those in theory", away("descent") / expected, above=0.98, below=1.1),
        Check("saddle: steps of momentum over those of descent", away("momentum") / away("descent"), below=0.5),
        Check("saddle: steps of Adam over those of descent", away("Adam") / away("descent"), below=0.25),
        Check("saddle: least gradient before descent leaves", dip(paths), below=0.01),
    ]
    progress(1)
    return Result({"paths": paths, "step_size": factors, "narrower": narrow}, checks)


def ravine(ratio: float, rotation: float = 0.0) -> Callable[[Tensor], Tensor]:
    """(x² + ratio · y²) / 2 of places (..., 2), turned by an angle: curvatures 1 and `ratio`."""
    cos, sin = math.cos(rotation), math.sin(rotation)
    turned = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    curvatures = torch.tensor([1.0, ratio], dtype=torch.float64)
    return lambda places: (curvatures * (places @ turned).square()).sum(-1) / 2


def saddle(places: Tensor) -> Tensor:
    """x²/2 - y²/2 + y⁴/4 of places (..., 2): a saddle at 0, minima at y = 1 and -1."""
    x, y = places.unbind(-1)
    return x**2 / 2 - y**2 / 2 + y**4 / 4


def descend(loss: Callable, start: Tensor, make: Make, lr: float, beta: float):
    """Yields places, losses and gradients, before each step. Many places descend side by side."""
    place = start.double().clone().requires_grad_()
    optimizer = make([place], lr, beta)
    while True:
        values = loss(place)
        (place.grad,) = torch.autograd.grad(values.sum(), place)
        yield place.detach().clone(), values.detach(), place.grad
        optimizer.step()


def record(
    paths: Table, where: str, name: str, loss: Callable, start, make: Make, lr: float, beta: float, steps: int
) -> None:
    for step, (place, value, gradient) in zip(
        range(steps + 1), descend(loss, torch.tensor(start), make, lr, beta), strict=False
    ):
        x, y = place.tolist()
        size = gradient.norm().item()
        paths.add(place=where, optimizer=name, step=step, x=x, y=y, loss=value.item(), gradient=size)


def best(name: str, ratio: float) -> tuple[float, float]:
    """The best step size and momentum for curvatures 1 and `ratio`; Adam's is taken the same for all."""
    root = math.sqrt(ratio)
    both = {"descent": (2 / (1 + ratio), 0.0), "momentum": (4 / (1 + root) ** 2, ((root - 1) / (root + 1)) ** 2)}
    return both.get(name, (0.05, 0.0))


def arrival(name: str, make: Make, ratio: float, offset: float, rotation: float = 0.0) -> int:
    """Steps in a ravine until the loss is `TOLERANCE` of that at the start."""
    cos, sin = math.cos(rotation), math.sin(rotation)
    start = torch.tensor([cos - sin * offset, sin + cos * offset])  # (1, offset), turned with the ravine
    descent = descend(ravine(ratio, rotation), start, make, *best(name, ratio))
    _, first, _ = next(descent)
    steps = zip(range(1, 5000), descent, strict=False)
    return next((step for step, (_, value, _) in steps if value < TOLERANCE * first), 5000)


def factor(make: Make) -> np.ndarray:
    """What each step multiplies the distance from the minimum by in the long run, for each of `STEP_SIZES`."""
    # A step size times L is all that matters: so a step of 1 on many curvatures, side by side.
    curvatures = torch.from_numpy(STEP_SIZES)
    descent = descend(lambda x: curvatures * x.square() / 2, torch.ones_like(curvatures), make, 1.0, BETA)
    distances = np.abs([place.numpy() for _, (place, _, _) in zip(range(150), descent, strict=False)])
    # Momentum swings: its largest distance in 50 steps against that in the 50 before.
    before, after = distances[50:100].max(0), distances[100:].max(0)
    return (after / np.maximum(before, 1e-300)) ** (1 / 50)


def limit(factors: Table, name: str) -> float:
    """The smallest of the step sizes that takes away from the minimum."""
    rows = factors.where(optimizer=name)
    growing = rows["factor"] > 1
    return rows["step_size"][np.argmax(growing)] if growing.any() else math.inf


def power(narrow: Table, name: str) -> float:
    """The slope of log(steps) against log(ratio)."""
    rows = narrow.where(optimizer=name)
    return float(np.polyfit(np.log(rows["ratio"]), np.log(rows["steps"]), 1)[0])


def dip(paths: Table) -> float:
    """The least gradient of descent before it is away from the saddle, over that at the start."""
    path = paths.where(place="saddle", optimizer="descent")
    near = np.abs(path["y"]) < 0.5
    return float(path["gradient"][near][: np.argmin(near) or None].min() / path["gradient"][0])


@styled
def figure(result: Result):
    paths, factors, narrow = (result.tables[name] for name in ("paths", "step_size", "narrower"))
    looks = {"descent": VERMILION, "momentum": BLUE, "Adam": GREEN, "Adam, askew": SKY}
    sheet, axes = panels(2, 3, height=6.6)
    for row, place, size, loss in ((0, "ravine", (1.15, 0.75), ravine(RAVINE)), (1, "saddle", (1.25, 1.6), saddle)):
        x, y = np.meshgrid(np.linspace(-size[0], size[0], 121), np.linspace(-size[1], size[1], 121))
        heights = loss(torch.tensor(np.stack([x, y], axis=-1))).numpy()
        levels = np.geomspace(0.01, 10, 10) if place == "ravine" else np.linspace(-0.25, 1.5, 15)
        axes[row, 0].contour(x, y, heights, levels=levels, colors="#B0B0B0", linewidths=0.7, linestyles="-")
        axes[row, 0].grid(False)
        for name, path in paths.where(place=place).groups("optimizer"):
            axes[row, 0].plot(path["x"], path["y"], ".-", color=looks[name], markersize=4, linewidth=1.1)
            values = path["loss"] if place == "ravine" else path["gradient"]
            axes[row, 1].plot(path["step"], values, color=looks[name])
        axes[row, 0].set(
            xlim=(-size[0], size[0]), ylim=(-size[1], size[1]), title=f"Paths: {place}", xlabel="x", ylabel="y"
        )
    axes[0, 1].set(title="Ravine: loss", yscale="log", ylim=(1e-9, 10), xlabel="step")
    axes[1, 1].set(title="Saddle: size of the gradient", yscale="log", ylim=(1e-7, 10), xlabel="step")
    for name, rows in narrow.groups("optimizer"):
        axes[0, 2].loglog(rows["ratio"], rows["steps"], "o-", markersize=4, color=looks[name])
    axes[0, 2].set(title="Ravine: steps needed", xlabel="ratio κ of the curvatures")
    for name, rows in factors.groups("optimizer"):
        axes[1, 2].plot(rows["step_size"], rows["factor"], color=looks[name])
    axes[1, 2].set(title="What a step does to the distance", ylim=(0, 1.5), xlabel="step size, in units of 1/L")
    axes[1, 2].axhspan(1, 1.5, color="#F4E9E4", zorder=0)
    axes[1, 2].text(0.1, 1.42, "diverges", color=FAINT, size=9, va="center")
    for end, text in ((2, "2/L"), (2 * (1 + BETA), "3.8/L")):
        axes[1, 2].annotate(text, (end, 0.9), (5, 0), textcoords="offset points", color=FAINT, size=9, va="top")
    key(sheet, looks)
    return sheet
