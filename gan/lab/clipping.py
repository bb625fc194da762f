"""Clipping: what it can cure, which is explosion, and what it cannot.

What you see. Left: a generator's gradient before a discriminator that becomes perfect, under two losses, as it is
(thin) and clipped to the norm 1 (thick). Middle: the gradient that fakes get from the critics of twelve layers with
weights in [-c, c]. Right: what each way to clip leaves of the two gradients on the left, after 600 steps.

Why. Clipping shortens what is longer than a bound, and leaves alone what is shorter. So it holds the gradients that
explode, the non-saturating one and that of c = 0.3, and with them the optimizer's step. A gradient that vanishes is
below any bound: it comes out as it went in, whichever way one clips. The ways differ in what they hold: adaptive
clipping, as its authors have it, leaves the last layer alone, where most of this gradient is.

Try. Adam after ByNorm: since Adam divides by the size of the gradient anyway, it hides both the vanishing and the
clipping, as long as the size does not jump from step to step.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from gan.data import MNISTDataModule
from gan.gradients.clip import Adaptive, Auto, ByNorm, ByValue, Gradients
from gan.lab import perfect_discriminator as judging
from gan.lab import weight_clipping as deep
from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, FAINT, GREEN, PURPLE, VERMILION, panels, styled
from gan.losses import Wasserstein
from gan.penalties import R1, Penalty

REFERENCE = (
    "Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063; adaptive: Brock et al. 2021, arXiv:2102.06171; "
    "auto: Seetharaman et al. 2020, arXiv:2007.14469"
)

MATHEMATICS = """
By norm       g ← g · min(1, m/|g|)              the same direction, no longer than m
By value      gᵢ ← min(max(gᵢ, −v), v)           another direction, as soon as one value is cut
Adaptive      gᵤ ← gᵤ · min(1, r |wᵤ|/|gᵤ|)      each unit u by itself, relative to its weights w
Auto          m = a percentile of the norms so far
Each is the identity on short gradients and never makes one longer:  |clip(g)| ≤ |g|.
So if |g| → 0, clip(g) → 0 as fast: no threshold helps, for the factor min(1, ·) stops at 1.
If |g| → ∞, |clip(g)| ≤ m, and a step of descent moves the weights by at most η m.
The gradient at layer k of a deep network is a product of d − k factors. Clipping by norm scales all layers by
the same number: the ratio of the first layer's gradient to the last one's stays what it was.
"""

AGE = 300  # steps of the generator
CLIPS = {
    "by norm": lambda: ByNorm(1.0),
    "by value": lambda: ByValue(0.01),
    "adaptive": lambda: Adaptive(0.01),
    "auto": lambda: Auto(10),
}
LIMITS = (0.3, 0.01)  # of a critic's weights: one that explodes, one that vanishes


class Fakes(nn.Module):
    """Fakes that are parameters themselves, for a generator that can put each where it likes."""

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.places = nn.Parameter(places)


def run(
    seed: int = 0,
    progress: Progress = silent,
    clips: dict = CLIPS,
    penalty: Penalty | None = None,
    limits: tuple[float, float] = LIMITS,
) -> Result:
    """Measures gradients before and after clipping, as discriminators and critics are trained.

    Args:
        seed: Of everything random.
        progress: Is told how far it is.
        clips: Name to what makes a `gan.gradients.clip.Clip`; "by norm" is drawn.
        penalty: Of the discriminator of digits; none by default.
        limits: What the critics' weights are clipped to.
    """
    torch.manual_seed(seed)
    digits_table = Table("loss", "clip", "step", "before", "after")
    judge_digits(digits_table, seed, clips, penalty or R1(0), progress)
    roll = Table("critic", "step", "before", "after")
    for part, (kind, limit) in enumerate(zip(("exploding", "vanishing"), limits, strict=True)):
        for step, fakes in critic_steps(limit):
            before, after, _ = clips["by norm"]()(Gradients(fakes))
            roll.add(critic=f"{kind}, c = {limit:g}", step=step, before=before, after=after)
        progress(0.8 + 0.09 * (part + 1))
    checks = judged(digits_table, roll)
    progress(1)
    return Result({"digits": digits_table, "swiss_roll": roll}, checks)


def judged(digits: Table, roll: Table) -> list[Check]:
    def late(loss: str) -> Table:
        return digits.where(loss=loss, clip="by norm")

    def longer(table: Table) -> float:
        return float((table["after"] / np.maximum(table["before"], 1e-300)).max())

    non, sat = late("non-saturating"), late("saturating")
    held, kept = non["after"][non["step"] >= 50], sat["step"] >= 50
    change = np.abs(sat["after"] / sat["before"] - 1)[kept].max()
    (_, exploding), (_, vanishing) = roll.groups("critic")
    return [
        Check("non-saturating: gradient at the end, before", non["before"][-1], above=5),
        Check("non-saturating: largest after clipping to 1, from step 50 on", held.max(), below=1.001),
        Check("non-saturating: least after clipping to 1, from step 50 on", held.min(), above=0.99),
        Check("saturating: what clipping to 1 changes, from step 50 on", change, below=1e-6),
        Check("saturating: end over peak, clipped", sat["after"][-1] / sat["after"].max(), below=0.02),
        Check("twelve layers, exploding: median gradient, before", np.median(exploding["before"]), above=1e3),
        Check("twelve layers, exploding: largest after clipping to 1", exploding["after"].max(), below=1.001),
        Check("twelve layers, vanishing: median gradient, after", np.median(vanishing["after"]), below=1e-8),
        Check("any clipping: largest gradient after over before", max(map(longer, (digits, roll))), below=1.001),
    ]


def judge_digits(table: Table, seed: int, clips: dict, penalty: Penalty, progress: Progress) -> None:
    """The setting of `perfect_discriminator`, at one age of the generator."""
    digits = judging.endless(MNISTDataModule(batch_size=judging.BATCH, seed=seed))
    generator = judging.new_generator()
    trained = judging.gan_steps(generator, digits)
    for _ in range(AGE):
        next(trained)
    progress(0.2)
    latents, judge = torch.randn(128, generator.latent_dim), judging.new_discriminator()
    ways = {(loss, name): make() for loss in judging.LOSSES for name, make in clips.items()}
    for step in judging.judge_steps(judge, generator, digits, penalty, judging.LEARNING_RATE):
        if step not in judging.MEASURED:
            continue
        for name, loss in judging.LOSSES.items():
            generator.zero_grad()
            loss.generator(judge(generator(latents))).mean().backward()
            whole = [parameter.grad.clone() for parameter in generator.parameters() if parameter.grad is not None]
            for clip in clips:
                for parameter, gradient in zip(generator.parameters(), whole, strict=True):
                    parameter.grad = gradient.clone()
                before, after, _ = ways[name, clip](Gradients(generator))
                table.add(loss=name, clip=clip, step=step, before=before, after=after)
        progress(0.2 + 0.6 * step / judging.STEPS)


def critic_steps(limit: float) -> Iterator[tuple[int, Fakes]]:
    """The setting of `weight_clipping`: yields steps, and fakes with the gradient that the critic gives them."""
    critic = deep.new_critic()
    loss, fakes = Wasserstein(), Fakes(deep.noisy(deep.swiss_roll(256)))
    for step in deep.critic_steps(critic, limit):
        if step % 10 == 0:
            fakes.zero_grad()
            loss.generator(critic(fakes.places)).sum().backward()
            yield step, fakes


@styled
def figure(result: Result):
    digits, roll = result.tables["digits"], result.tables["swiss_roll"]
    sheet, (left, middle, right) = panels(1, 3, height=4.2)
    colours = {"saturating": VERMILION, "non-saturating": BLUE}
    for loss, rows in digits.where(clip="by norm").groups("loss"):
        left.plot(rows["step"], rows["before"], color=colours[loss], linewidth=1)
        left.plot(rows["step"], rows["after"], color=colours[loss], linewidth=3)
        left.text(590, rows["before"][-1] * 2, loss, color=colours[loss], size=9, ha="right")
    left.set(title="G's gradient on digits", yscale="log", ylim=(1e-4, 100), xlim=(0, 600))
    for (name, rows), colour in zip(roll.groups("critic"), (GREEN, PURPLE), strict=True):
        middle.plot(rows["step"], rows["before"], color=colour, linewidth=1)
        middle.plot(rows["step"], rows["after"], color=colour, linewidth=3)
        middle.text(290, 1e3 if rows["before"][-1] > 1 else 1e-8, name, color=colour, size=9, ha="right")
    middle.set(title="Fakes' gradient from deep critics", yscale="log", ylim=(1e-16, 1e14), xlim=(0, 300))
    for place in (left, middle):
        place.set_xlabel("step of the judge")
        place.axhline(1, color=FAINT, linewidth=0.8, linestyle=":")
    last = digits.where(step=int(digits["step"].max()))
    names = [name for name, _ in last.groups("clip")]
    for loss, rows in last.groups("loss"):
        right.plot(range(len(names) + 1), [rows["before"][0], *rows["after"]], "o", markersize=8, color=colours[loss])
    right.set_xticks(range(len(names) + 1), ["as it is", *(name.replace("by ", "by\n") for name in names)])
    right.set(title="After 600 steps", yscale="log", ylim=(1e-4, 100), xlim=(-0.5, len(names) + 0.5))
    return sheet
