"""Discriminator against critic: two Gaussians, and what fakes can feel of the data.

What you see. Real data on the left, fakes on the right, both numbers, each trained judge at every place between them.
Left: the discriminator says "real, certainly" or "fake, certainly" almost everywhere (dashed: the best possible one),
and the critic is a ramp. Right: how steep the loss of a fake is at each place, which is what it can learn from.

Why. A perfect discriminator knows how likely a place is to be real, and where the two do not overlap that is 0 or 1,
flat: under the saturating loss fakes feel nothing, ten million times less than from the critic. The non-saturating loss
undoes the flatness, but the slope it leaves is the discriminator's own, which has no bound: the narrower the Gaussians,
the steeper. The critic of WGAN may be no steeper than 1, and the best it can do is to be exactly that steep all the way
from fake to real: a gradient of the same size at any distance.

Try. `run(penalty=GradientPenalty(0))` lets the critic off the leash. The penalty is on both sides of slope 1, and of a
weight w over a distance d it leaves the slope 1 + d/2w, here 2.5 with w = 2. `GradientPenalty(10)` brings it down to
1.3, but -1 costs nothing either: with w > d/2, a ramp that starts the wrong way round stays so (seed 5).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, FAINT, GREEN, VERMILION, label_lines, panels, styled
from gan.losses import Loss, NonSaturating, Saturating, Wasserstein
from gan.networks import DeepMLPDiscriminator
from gan.penalties import GradientPenalty, Penalty

REFERENCE = (
    "Arjovsky, Chintala & Bottou 2017, WGAN, arXiv:1701.07875, figure 2; the penalty in the place of clipped weights: "
    "Gulrajani et al. 2017, arXiv:1704.00028"
)

MATHEMATICS = """
Two densities p = N(−3, 1) and q = N(3, 1).  The best discriminator:  l*(x) = log p(x)/q(x) = −6 x.
A fake at x = 3 has  D = σ(−18) = 1.5·10⁻⁸.  What the loss makes of it:  dL/dx = dL/dl · l'(x),
  saturating        −σ(l) l'     = 9·10⁻⁸         non-saturating    −σ(−l) l'    = 6
The Wasserstein distance is the least average way to carry q to p; by Kantorovich and Rubinstein
  W(p, q) = max over f with |f'| ≤ 1 of  E_p f − E_q f,     here the shift itself, 6.
The best f falls with slope −1 wherever something must be carried: between the two, everywhere.
The penalty lets it be steeper for a price: slope s over the distance d = 6 costs  −s d + w (|s| − 1)²,
which is least at  s = 1 + d/2w = 2.5  for w = 2.  The direction is right and the size does not depend on x.
JS(p, q) has no more to give than log 2, whether the two are 6 apart or 600; W grows as the distance does.
"""

MEAN = 3.0  # of the fakes, and less it of the reals; both have the standard deviation 1
BATCH = 128
STEPS = 800
SCALE = 2 * MEAN  # how far apart they are, and the slope of the best logit, with its sign turned
WEIGHT = 2.0  # of the critic's penalty
JUDGES = {"discriminator": Saturating(), "critic": Wasserstein()}
FELT = {"saturating": Saturating(), "non-saturating": NonSaturating(), "Wasserstein": Wasserstein()}


def run(
    seed: int = 0,
    progress: Progress = silent,
    judges: dict[str, Loss] = JUDGES,
    felt: dict[str, Loss] = FELT,
    penalty: Penalty | None = None,
) -> Result:
    """Trains a discriminator and a critic, and takes their values and slopes along the line.

    Args:
        seed: Of weights and samples.
        progress: Is told how far it is.
        judges: The losses that the two are trained by, under the names "discriminator" and "critic".
        felt: The generator's losses, of which the critic takes "Wasserstein", and the discriminator the others.
        penalty: Of the critic; GradientPenalty(2) if there is none.
    """
    torch.manual_seed(seed)
    values = Table("x", "judge", "output", "slope")
    slopes = Table("x", "loss", "slope")
    x = torch.linspace(-8, 8, 321)
    for name, loss in judges.items():
        judge = DeepMLPDiscriminator((1, 1, 1), width=64, depth=2, activation="leaky_relu")
        train(judge, loss, (penalty or GradientPenalty(WEIGHT)) if name == "critic" else GradientPenalty(0))
        values.add(x=x, judge=name, **dict(zip(("output", "slope"), along(judge, x), strict=True)))
        for kind in ["Wasserstein"] if name == "critic" else ["saturating", "non-saturating"]:
            slopes.add(x=x, loss=kind, slope=along(judge, x, felt[kind])[1].abs())
        progress(0.9 if name == "critic" else 0.3)

    def between(table: Table, **which: str) -> np.ndarray:
        """The slopes from one mean to the other."""
        rows = table.where(**which)
        return rows["slope"][np.abs(rows["x"]) <= MEAN]

    def at_fake(loss: str) -> float:
        return between(slopes, loss=loss)[-1]

    logit = values.where(judge="discriminator")
    inside = np.abs(logit["x"]) <= MEAN
    best = sigmoid(-SCALE * logit["x"])
    ramp = -between(values, judge="critic")  # which falls from real to fake
    ratio = at_fake("saturating") / at_fake("Wasserstein")
    distance = np.abs(sigmoid(logit["output"]) - best)[inside].max()
    steepness = 1 + SCALE / (2 * WEIGHT)  # in theory
    checks = [
        Check("discriminator: largest distance from the best one, between the means", distance, below=0.25),
        Check("saturating slope at a fake, over Wasserstein's", ratio, below=1e-3),
        Check("non-saturating slope at a fake, over that in theory", at_fake("non-saturating") / SCALE, 0.5, 2),
        Check("critic: steepest over flattest slope, between the means", ramp.max() / ramp.min(), 1, 2),
        Check("critic: mean slope between the means, over that in theory", ramp.mean() / steepness, 0.9, 1.1),
    ]  # fmt: skip
    progress(1)
    return Result({"judges": values, "felt": slopes}, checks)


def train(judge: nn.Module, loss: Loss, penalty: Penalty, lr: float = 2e-3) -> None:
    """Trains a judge to the end, with a learning rate that falls to 0."""
    optimizer = Adam(judge.parameters(), lr, betas=(0.5, 0.9), fused=True)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / STEPS)
        real, fake = (centre + torch.randn(BATCH, 1, 1, 1) for centre in (-MEAN, MEAN))
        value = loss.discriminator(judge(real), judge(fake)).mean()
        if penalty.is_due(step):
            value = value + penalty.contribution(penalty(judge, real, fake, torch.rand(BATCH, 1, 1, 1)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def along(judge: nn.Module, x: Tensor, loss: Loss | None = None) -> tuple[Tensor, Tensor]:
    """The judge's output at numbers (N,), or the loss of a fake there, and the slope: (N,) and (N,)."""
    x = x.clone().requires_grad_()
    values = judge(x.view(-1, 1, 1, 1))
    if loss is not None:
        values = loss.generator(values)
    (slopes,) = torch.autograd.grad(values.sum(), x)
    return values.detach(), slopes


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


@styled
def figure(result: Result):
    values, slopes = result.tables["judges"], result.tables["felt"]
    sheet, (left, right) = panels(1, 2)
    logit, critic = values.where(judge="discriminator"), values.where(judge="critic")
    x = logit["x"]
    for centre, text in ((-MEAN, "real"), (MEAN, "fake")):
        left.fill_between(x, 0.6 * np.exp(-((x - centre) ** 2) / 2), color="#D9D9D9", linewidth=0, zorder=1)
        left.text(centre, 0.63, text, ha="center", color=FAINT, size=9)
    left.plot(x, sigmoid(logit["output"]), color=VERMILION)
    left.plot(x, sigmoid(-SCALE * x), color="black", linestyle="--", linewidth=1)
    ramp = critic["output"] - critic["output"][np.abs(x).argmin()]
    left.plot(x, 0.5 + ramp / (np.ptp(ramp[np.abs(x) <= MEAN])), color=BLUE)
    left.text(-1.1, 1.04, "discriminator: D(x)", color=VERMILION, size=9)
    left.text(-5.3, 1.45, "critic: f(x), scaled", color=BLUE, size=9)
    left.set(title="What the judges say", xlim=(-8, 8), ylim=(-0.75, 1.75), xlabel="x")
    colours = {"saturating": VERMILION, "non-saturating": GREEN, "Wasserstein": BLUE}
    for loss, rows in slopes.groups("loss"):
        right.plot(rows["x"], np.maximum(rows["slope"], 1e-30), color=colours[loss], label=loss)
    right.set(title="What a fake feels: |dL/dx|", yscale="log", xlim=(-8, 8), ylim=(1e-12, 1e2), xlabel="x")
    right.axvspan(-MEAN, MEAN, color="#F2F2F2", zorder=0, linewidth=0)
    right.text(0, 3e-12, "between the means", ha="center", color=FAINT, size=9)
    label_lines(right)
    return sheet
