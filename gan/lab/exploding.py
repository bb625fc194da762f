"""Exploding gradients: a recurrent network, and what holds its steps.

What you see. Left, the gradient that arrives so many steps back in a linear recurrent network, whose matrix keeps
lengths but for a gain, g = 1.15. Middle, the loss of a network of one unit against its weight: flat, then a cliff; the
dots are descent with its gradient clipped, and the arrow is the first step without. Right, training sixteen units to
remember their start for 40 steps.

Why. The same matrix is applied again and again, so the gradient is multiplied by its gain again and again: 1.15 is 268
after 40 steps, and 0.85 a thousandth. Beside a cliff the gradient is huge, and says nothing of how far the cliff
reaches: a plain step throws the weights away, and in a few steps the loss is infinite. Clipping the norm keeps the
direction and walks. A step small enough for the cliff leads over its edge to the plateau, where nothing is remembered
(a loss of 1/2) and the gradient has vanished: there it stays. RMS normalisation of the state divides the gain out,
forwards and backwards; some starts leave a unit or two of the sixteen on the way for long, so the median of five is
drawn and asked about. Spectral normalisation bounds it from above alone: it cannot explode, but vanishes, if the
matrix is not orthogonal.

Try. `run(gain=0.85)` vanishes instead, and clipping has nothing to clip: it can cure one of the two diseases.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from gan.gradients.clip import ByNorm, ByValue, Clip, Gradients
from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, FAINT, GREEN, ORANGE, PURPLE, SKY, VERMILION, label_lines, panels, styled
from gan.networks.layers import normalize_weights

REFERENCE = "Bengio et al. 1994; Pascanu et al. 2013, arXiv:1211.5063; Zhang & Sennrich 2019, arXiv:1910.07467"

MATHEMATICS = """
A linear recurrent network  hₜ = W hₜ₋₁  over T steps is one power,  W^T h₀,  and backwards
  ∂ℓ/∂hₜ = (Wᵀ)^(T−t) ∂ℓ/∂h_T.   If W = g Q with Q orthogonal, its length is multiplied by  g^(T−t).
In general  σmin(W)^(T−t) ≤ factor ≤ σmax(W)^(T−t):  σmax > 1 lets it explode, σmax < 1 makes it vanish.
One unit:  ℓ(w) = (w^T − 1)²/2,   ℓ′(w) = T w^(T−1) (w^T − 1):  ~ T² (w − 1) near w = 1, ~ T w^(2T−1) beyond.
At w = 1.15, T = 40 that is 2.5 million; a step of 1/600 of it leads to w = −4,100, whose 40th power is 1e144.
Clipping:  g ← g · min(1, c/|g|).  No step is then longer than η c, wherever the cliff is.
By value each coordinate is cut to ±c: the step is no longer than η c √n, and its direction turns.
RMS norm  h ← h √n/|h|  has the Jacobian  √n/|h| (I − hhᵀ/|h|²):  after a step of gain g that is 1/g.
Spectral norm  W ← W/σmax(W)  makes all other singular values less than 1, and their powers vanish.
"""

TIME, WIDTH, STEP, STEPS = 40, 16, 0.005, 200
STARTS = 5  # of the network with RMS normalisation
UNIT_STEP = STEP / 3  # for a single weight
GAIN = 1.15
LOOKS = {"plain": VERMILION, "small steps": ORANGE, "clipped by norm": BLUE, "clipped by value": SKY, "RMS norm": GREEN}


class Recurrent(nn.Module):
    """The same linear layer `TIME` times over: states (N, WIDTH) to states (N, WIDTH).

    Args:
        gain: The layer starts as an orthogonal matrix times this.
        norm: What happens to each state: "none", or "rms"; "spectral" divides the matrix by its largest singular value.
        orthogonal: Or else a Gaussian matrix, whose singular values lie between 0 and twice the gain.
    """

    def __init__(self, gain: float, norm: str = "none", orthogonal: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64)
        if orthogonal:
            nn.init.orthogonal_(self.linear.weight, gain)
        else:
            nn.init.normal_(self.linear.weight, std=gain / math.sqrt(WIDTH))
        self.norm = nn.RMSNorm(WIDTH, elementwise_affine=False) if norm == "rms" else nn.Identity()
        normalize_weights(self, "spectral" if norm == "spectral" else "none")

    def forward(self, state: Tensor) -> Tensor:
        return self.states(state)[-1]

    def states(self, state: Tensor) -> list[Tensor]:
        states = [state]
        for _ in range(TIME):
            states.append(self.norm(self.linear(states[-1])))
        return states


def run(
    seed: int = 0,
    progress: Progress = silent,
    gain: float = GAIN,
    clips: dict[str, Clip] | None = None,
    orthogonal: bool = True,
    rms: str = "rms",
    spectral: str = "spectral",
) -> Result:
    """Looks back through time, and trains.

    Args:
        seed: Draws matrices and states.
        progress: Is told how far it is.
        gain: What one step multiplies lengths by where it explodes; where it vanishes, it is 2 - gain.
        clips: What stands behind the names "clipped by norm" and "clipped by value".
        orthogonal: Whether the first three matrices keep lengths but for their gain.
        rms: Normalisation behind the name "RMS norm".
        spectral: And behind the name "spectral norm".
    """
    clips = {"clipped by norm": ByNorm(1.0), "clipped by value": ByValue(0.1)} if clips is None else clips
    torch.manual_seed(seed)
    back = Table("network", "back", "gradient")
    for name, network in {
        "gain g": Recurrent(gain, orthogonal=orthogonal),
        "gain 1": Recurrent(1.0, orthogonal=orthogonal),
        "gain 2 - g": Recurrent(2 - gain, orthogonal=orthogonal),
        "RMS norm": Recurrent(gain, rms),
        "Gaussian, spectral norm": Recurrent(gain, spectral, orthogonal=False),
    }.items():
        back.add(network=name, back=np.arange(TIME + 1), gradient=through_time(network))
    progress(0.1)

    cliff = Table("step", "weight", "loss", "gradient")
    walk = one_unit(gain, clips["clipped by norm"])
    for step, (weight, loss, gradient) in enumerate(walk):
        cliff.add(step=step, weight=weight, loss=loss, gradient=gradient)
    progress(0.2)

    training = Table("network", "step", "loss", "gradient")
    kinds = [("plain", None, STEP, "none"), ("small steps", None, 0.1 * STEP / gain**TIME, "none")]
    kinds += [(name, clip, STEP, "none") for name, clip in clips.items()] + [("RMS norm", None, STEP, rms)]
    for number, (name, clip, step_size, norm) in enumerate(kinds):
        starts = STARTS if name == "RMS norm" else 1
        curves = [train(Recurrent(gain, norm), clip, step_size) for _ in range(starts)]
        curve = sorted(curves, key=left_of)[starts // 2]
        training.add(network=name, step=np.arange(len(curve)), loss=curve[:, 0], gradient=curve[:, 1])
        progress(0.2 + 0.8 * (number + 1) / len(kinds))

    def arrived(name: str) -> float:
        gradients = back.where(network=name)["gradient"]
        return gradients[-1] / gradients[0]

    def left(name: str) -> float:
        """The loss at the end over that at the start."""
        return left_of(training.where(network=name)["loss"][:, None])

    first = training.where(network="clipped by norm")["gradient"][0]
    plain = training.where(network="plain")["loss"]
    checks = [
        Check("exploding gain: gradient 40 steps back", arrived("gain g"), above=100),
        Check("exploding gain: that over gain^40, minus 1", abs(arrived("gain g") / gain**TIME - 1),
              below=1e-9),
        Check("gain 1: gradient 40 steps back, minus 1", abs(arrived("gain 1") - 1), below=1e-9),
        Check("vanishing gain: gradient 40 steps back", arrived("gain 2 - g"), below=0.01),
        Check("RMS norm, exploding gain: gradient 40 steps back", arrived("RMS norm"), above=0.1, below=10),
        Check("spectral norm, Gaussian matrix: gradient 40 steps back", arrived("Gaussian, spectral norm"), below=0.01),
        Check("one unit: length of the first plain step", UNIT_STEP * walk[0][2], above=1000),
        Check("one unit, clipped by norm: loss at the end", walk[-1][1], below=0.01),
        Check("training: size of the first gradient", first, above=1e4),
        Check("plain: steps until the loss is infinite", len(plain) - 1 if not math.isfinite(plain[-1]) else math.inf,
              below=5),
        Check("small steps: loss at the end, on the plateau", training.where(network="small steps")["loss"][-1],
              above=0.4, below=0.6),
        *[Check(f"{name}: loss at the end", training.where(network=name)["loss"][-1], below=0.1) for name in clips],
        Check("clipped by norm: loss at the end over that at the start", left("clipped by norm"), below=1e-4),
        Check("RMS norm, median of 5 starts: loss at the end over that at the start", left("RMS norm"), below=0.1),
    ]  # fmt: skip
    return Result({"back": back, "cliff": cliff, "training": training}, checks)


def through_time(network: Recurrent) -> list[float]:
    """Norms of the gradient by the states, from the last one to the first."""
    states = network.states(torch.randn(1, WIDTH, dtype=torch.float64, requires_grad=True))
    direction = torch.randn(WIDTH, dtype=torch.float64)
    # Across the state: along it a normalised state cannot move.
    direction -= (direction @ states[-1][0].detach()) / states[-1][0].detach().square().sum() * states[-1][0].detach()
    return [gradient.norm().item() for gradient in reversed(torch.autograd.grad(states[-1] @ direction, states))]


def left_of(curve: np.ndarray) -> float:
    """The loss at the end of a curve (steps, columns) over that at the start; the loss is its first column."""
    return curve[-1, 0] / curve[0, 0]


def one_unit(start: float, clip: Clip) -> list[tuple[float, float, float]]:
    """Weight, loss and derivative of (w^T - 1)² / 2 over clipped descent."""
    unit = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(unit.weight, start)
    gradients = Gradients(unit)
    walk = []
    for _ in range(STEPS):
        loss = (unit.weight**TIME - 1).square().sum() / 2
        (unit.weight.grad,) = torch.autograd.grad(loss, unit.weight)
        walk.append((unit.weight.item(), loss.item(), abs(unit.weight.grad.item())))
        clip(gradients)
        unit.weight.data -= UNIT_STEP * unit.weight.grad
    return walk


def train(network: Recurrent, clip: Clip | None, step_size: float) -> np.ndarray:
    """Loss and size of the gradient before clipping, for each step; ends where the loss is infinite."""
    starts = torch.randn(32, WIDTH, dtype=torch.float64)
    starts = starts / starts.square().mean(dim=1, keepdim=True).sqrt()
    gradients = Gradients(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=step_size)
    curve = []
    for _ in range(STEPS):
        loss = (network(starts) - starts).square().mean() / 2
        optimizer.zero_grad()
        loss.backward()
        curve.append((loss.item(), gradients.norm()))
        if not math.isfinite(loss.item()):
            break
        if clip is not None:
            clip(gradients)
        optimizer.step()
    return np.array(curve)


@styled
def figure(result: Result):
    page, (left, middle, right) = panels(1, 3, height=4.4, width_ratios=[4, 3, 4])
    networks = list(result.tables["back"].groups("network"))
    for (name, rows), colour in zip(networks, (VERMILION, FAINT, BLUE, GREEN, PURPLE), strict=True):
        left.semilogy(rows["back"], rows["gradient"] / rows["gradient"][0], color=colour, label=name)
    left.set(title="Gradient, so many steps back", xlabel="steps back", xlim=(0, TIME))

    walk = result.tables["cliff"]
    weights = np.linspace(0.6, 1.2, 400)
    middle.semilogy(weights, (weights**TIME - 1) ** 2 / 2 + 1e-12, color=FAINT, linewidth=1.2)
    middle.plot(walk["weight"], walk["loss"], ".", color=BLUE, markersize=4)
    middle.set(title="One unit: the loss", xlabel="weight", ylim=(1e-5, 1e7), xlim=(0.6, 1.25))
    start = (walk["weight"][0], walk["loss"][0])
    arrow = {"arrowstyle": "->", "color": VERMILION, "linewidth": 1.5}
    middle.annotate("", (0.62, start[1]), start, arrowprops=arrow)
    text = f"plain step,\nto w = {start[0] - UNIT_STEP * walk['gradient'][0]:,.0f}"
    middle.text(0.62, start[1] / 40, text, color=VERMILION, size=9)
    middle.text(0.62, 3e-4, "clipped\nsteps", color=BLUE, size=9)

    for name, rows in result.tables["training"].groups("network"):
        style = {"marker": "o", "markersize": 4} if len(rows) < 5 else {}
        finite = np.isfinite(rows["loss"])
        right.semilogy(rows["step"][finite], rows["loss"][finite], color=LOOKS[name], label=name, **style)
    right.set(title="Sixteen units: loss", xlabel="step", ylim=(1e-6, 1e6), xlim=(0, STEPS))
    label_lines(left)
    label_lines(right)
    return page
