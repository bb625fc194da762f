"""Many paths to equilibrium: to a parallel line, where the divergence has no slope.

What you see. Data lie on a line, and the generator begins on a parallel one at distance 1, before a discriminator that
tells them apart for certain. Left: their distance over plain gradient descent of the generator. Middle: the size of its
gradient. Right: the lines that it has made after 50 steps.

Why. The Jensen-Shannon divergence of two parallel lines is log 2 at any distance but 0, so a generator that descends it
has nowhere to go: that is the saturating loss before a perfect discriminator, which stays where it began. The
non-saturating loss has the same fixed point but is no divergence to descend: it goes up the discriminator's slope, and
that points at the data, however certain the discriminator is. So it arrives, on a path that is no path of steepest
descent of any divergence. Nothing bounds that slope, so the line overshoots and comes back. With R1 the slope is short
and smooth, the line moves as a whole, and now the saturating loss arrives as well.

Try. `run(optimizer=Adam)`: Adam divides the gradient by its own size, so that one thousands of times smaller moves the
generator as far. But it is not led by it: with seed 0 and the saturating loss, the line ends at the edge of what the
generator can reach.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from gan.gradients.clip import Gradients
from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, GREEN, SKY, VERMILION, key, panels, styled
from gan.losses import Loss, NonSaturating, Saturating
from gan.networks import DeepMLPDiscriminator, DeepMLPGenerator
from gan.penalties import R1, Penalty

REFERENCE = (
    "Fedus, Rosca, Lakshminarayanan, Dai, Mohamed & Goodfellow 2018, Many Paths to Equilibrium, arXiv:1710.08446; "
    "the parallel lines are of Arjovsky, Chintala & Bottou 2017, arXiv:1701.07875, example 1"
)

MATHEMATICS = """
Data (t, 0), fakes (t, θ), with t uniform.  Whatever θ ≠ 0 is, the two have no point in common:
  JS(p, q_θ) = log 2 if θ ≠ 0, else 0.     ∂JS/∂θ = 0  wherever it exists.       W(p, q_θ) = |θ|.
The minimax game descends JS only if D is the best one at each step. That D has l = −∞ at fakes, and
  saturating        dL/dθ = −σ(l) ∂l/∂y → 0.
The non-saturating one would descend  KL(q‖p) − 2 JS  before the best D, infinite here. But it moves by
  non-saturating    dL/dθ = −σ(−l) ∂l/∂y → −∂l/∂y,  the slope of a D that is smooth, never the best.
A smooth D that is high on one line and low on the other must rise between: ∂l/∂y points from fake to real.
Where nothing holds it, ∂l/∂y grows with log(1/error) and depends on t. With R1, γ/2 |∂l/∂y|² at the data,
  max over s of  −2 log(1 + e^(−sθ/2)) − γ/2 s²:     s = θ/γ · σ(−sθ/2),   and s → 0 as θ → 0:
the slope fades as the lines meet, so the generator slows down there and does not overshoot.
"""

SCALE = 2  # the generator's image has two pixels in [-1, 1], and this times as far out is a place
BATCH = 64
AHEAD = 800  # steps of the discriminator before the generator's first
STEPS = 400
LEARNING_RATE = 0.01  # of the generator's descent; of Adam a tenth
LOSSES = {"saturating": Saturating(), "non-saturating": NonSaturating()}


def run(
    seed: int = 0,
    progress: Progress = silent,
    losses: dict[str, Loss] = LOSSES,
    penalty: Penalty | None = None,
    optimizer: Callable[..., Optimizer] = SGD,
) -> Result:
    """Trains four GANs from one start: each loss, without and with the penalty.

    Args:
        seed: Of weights and samples.
        progress: Is told how far it is.
        losses: What stands behind the names "saturating" and "non-saturating".
        penalty: Of the discriminator, where there is one; R1(1) if none is given.
        optimizer: Of the generator: `SGD` or `Adam`.
    """
    torch.manual_seed(seed)
    start = DeepMLPGenerator((2, 1, 1), latent_dim=1, width=64, depth=2, activation="leaky_relu")
    lay(start)
    curves = Table("path", "step", "distance", "spread", "gradient")
    lines = Table("path", "step", "x", "y")
    done, places = 0, torch.linspace(-1, 1, 201)[:, None]
    for held, term in {"": R1(0), " with R1": penalty or R1(1)}.items():
        judge = DeepMLPDiscriminator((2, 1, 1), width=64, depth=2, activation="leaky_relu")
        for _ in judge_steps(judge, start, term, AHEAD):
            pass
        for name, loss in losses.items():
            generator, opponent = deepcopy(start), deepcopy(judge)
            lr = LEARNING_RATE / (10 if optimizer is Adam else 1)
            mover, gradients = optimizer(generator.parameters(), lr), Gradients(generator)
            for step, _ in enumerate(judge_steps(opponent, generator, term, STEPS + 1)):
                mover.zero_grad()
                loss.generator(opponent(SCALE * generator(latents()))).mean().backward()
                if step % 10 == 0:
                    with torch.no_grad():
                        x, y = (SCALE * generator(places).flatten(1)).unbind(1)
                    where = {"distance": y.abs().mean().item(), "spread": x.std().item()}
                    curves.add(path=name + held, step=step, gradient=gradients.norm(), **where)
                    if step in (0, 50):
                        lines.add(path=name + held, step=step, x=x, y=y)
                mover.step()
            done += 1
            progress(done / 4 * 0.99)
    checks = judged(curves)
    progress(1)
    return Result({"curves": curves, "lines": lines}, checks)


def judged(curves: Table) -> list[Check]:
    def of(path: str, column: str) -> Tensor:
        return torch.from_numpy(curves.where(path=path)[column])

    def shake(path: str) -> float:
        """How much the line's length changes on its way, as a share of it."""
        spread = of(path, "spread")
        return (spread / spread[0] - 1).abs().max().item()

    distances = {path: rows["distance"][-1] for path, rows in curves.groups("path")}
    first = of("saturating", "gradient")[0] / of("non-saturating", "gradient")[0]
    return [
        Check("saturating: distance at the end", distances["saturating"], above=0.5),
        Check("non-saturating: distance at the end", distances["non-saturating"], below=0.25),
        Check("non-saturating with R1: distance at the end", distances["non-saturating with R1"], below=0.15),
        Check("saturating with R1: distance at the end", distances["saturating with R1"], below=0.15),
        Check("saturating over non-saturating gradient at the start", first.item(), below=0.01),
        Check("non-saturating with R1: change of the line's length", shake("non-saturating with R1"), below=0.2),
        Check(
            "the same, over that without R1", shake("non-saturating with R1") / shake("non-saturating"), below=0.6
        ),
    ]  # fmt: skip


def latents() -> Tensor:
    return 2 * torch.rand(BATCH, 1) - 1


def lay(generator: nn.Module) -> None:
    """Teaches a generator the line (z, 1)."""
    optimizer = Adam(generator.parameters(), 3e-3, fused=True)
    for _ in range(300):
        z = latents()
        target = torch.cat([z, torch.ones_like(z)], 1).view(BATCH, 2, 1, 1) / SCALE
        optimizer.zero_grad()
        (generator(z) - target).square().mean().backward()
        optimizer.step()


def judge_steps(judge: nn.Module, generator: nn.Module, penalty: Penalty, steps: int):
    """Trains a discriminator against a generator, whatever it is by then; yields after each step."""
    optimizer = Adam(judge.parameters(), 1e-3, betas=(0.5, 0.999), fused=True)
    loss = NonSaturating()
    for step in range(steps):
        t = latents()
        real = torch.cat([t, torch.zeros_like(t)], 1).view(BATCH, 2, 1, 1)
        with torch.no_grad():
            fake = SCALE * generator(latents())
        value = loss.discriminator(judge(real), judge(fake)).mean()
        if penalty.is_due(step):
            value = value + penalty.contribution(penalty(judge, real, fake))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        yield


@styled
def figure(result: Result):
    curves, lines = result.tables["curves"], result.tables["lines"]
    colours = dict(zip([path for path, _ in curves.groups("path")], (VERMILION, BLUE, GREEN, SKY), strict=True))
    sheet, (left, middle, right) = panels(1, 3, height=4)
    for path, rows in curves.groups("path"):
        look = {"color": colours[path], "linestyle": "--" if path == "saturating with R1" else "-", "zorder": 3}
        left.plot(rows["step"], rows["distance"], **look)
        middle.plot(rows["step"], rows["gradient"], **look)
        late = lines.where(path=path, step=50)
        right.plot(late["x"], late["y"], **look)
    begun = lines.where(path="saturating", step=0)
    right.plot(begun["x"], begun["y"], color="#999999", linewidth=4, zorder=1)
    right.plot([-1, 1], [0, 0], color="black", linewidth=4, zorder=1)
    right.text(0, 1.08, "start", ha="center", color="#666666", size=9)
    right.text(0, -0.2, "data", ha="center", size=9)
    left.set(title="Distance to the data", xlabel="step", xlim=(0, STEPS), ylim=(-0.03, 1.45))
    middle.set(title="Size of the generator's gradient", xlabel="step", xlim=(0, STEPS), yscale="log")
    right.set(title="Lines after 50 steps", xlim=(-1.6, 1.6), ylim=(-1.3, 1.9), xlabel="x", ylabel="y")
    key(sheet, colours)
    return sheet
