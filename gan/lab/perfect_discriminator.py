"""A perfect discriminator: what it leaves of the generator's gradient, and what R1 keeps of it.

What you see. A generator of digits is stopped at three ages, and a fresh discriminator is trained against it, which
takes some ten steps to tell everything apart (left). Middle and right: the size of the gradient that the generator
would get at each step, under the saturating and the non-saturating loss; the band is how much it differs between
batches of 64. Above nothing holds the discriminator, below it is trained with R1.

Why. Fakes and digits lie on thin surfaces that hardly meet, so a perfect discriminator exists, and one that is trained
on approaches it: its logits grow without bound. The saturating loss multiplies the gradient by the probability that a
fake is real, which goes to 0 (above, middle: a factor of 1000 in 600 steps). The non-saturating loss does not, and what
is left is the discriminator's own slope, which grows, and its noise in proportion (above, right). R1 charges for the
slope at the digits: logits stay finite and slopes small, so both gradients keep their size. Only where fakes are near
digits, though: R1 says nothing about the slope far from the data, and against a generator that was never trained (0
steps) it may or may not help, depending on the seed.

Try. `run(penalty=R1(0))` takes the cure away, `R1(1)` weakens it. `R2(10)` charges for the slope at the fakes instead:
the trained generators fare as well, and before the untrained one the saturating gradient vanishes all the same.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from gan.data import MNISTDataModule
from gan.gradients.clip import Gradients
from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, GREEN, VERMILION, key, panels, styled
from gan.losses import Loss, NonSaturating, Saturating
from gan.networks import DeepMLPDiscriminator, DeepMLPGenerator
from gan.penalties import R1, Penalty

REFERENCE = (
    "Arjovsky & Bottou 2017, arXiv:1701.04862, figures 1 to 3, for a DCGAN after 1, 10 and 25 epochs; "
    "R1: Mescheder et al. 2018, arXiv:1801.04406"
)

MATHEMATICS = """
The discriminator D = σ(l) of logits l(x) is trained on  log(1 + e⁻ˡ) at digits and log(1 + eˡ) at fakes.
If the supports of p (digits) and q (fakes) can be separated, the infimum is 0 and no finite l attains it:
  l → +∞ on supp p,  l → −∞ on supp q,  JS(p, q) = log 2, whatever the distance of the two.
The generator x = G(z) gets, by the chain rule,   dL/dl · ∇ₓl(x) · ∂x/∂θ.
  saturating        dL/dl = −σ(l) ≈ −eˡ :   |∇θ| ≲ eˡ |∇ₓl · ∂x/∂θ| → 0  (Theorem 2.4: < M ε/(1 − ε))
  non-saturating    dL/dl = −σ(−l) → −1 :   |∇θ| → |∇ₓl · ∂x/∂θ|, which grows as l does
The ratio of the two is e⁻ˡ: both come from the same discriminator, one damped, one not.
Near D* the error of D is noise, and ∇D/D a ratio of two noises, which has no variance (Theorem 2.6: Cauchy).
R1 adds  γ/2 E_p |∇ₓl|².  A logit that rises by Δ over a distance d has a slope of Δ/d somewhere. Near the
data that costs γ/2 (Δ/d)², and what is left to earn is 2 log(1 + e^(−Δ/2)): Δ stops where they balance.
"""

BATCH = 64
STEPS = 600  # of the discriminator
AGES = (0, 300, 1000)  # steps of the generator before it is stopped
LOSSES = {"saturating": Saturating(), "non-saturating": NonSaturating()}
LEARNING_RATE = 2e-4
MEASURED = {*range(0, 10, 2), *range(10, 50, 5), *range(50, STEPS + 1, 20), *range(STEPS - 50, STEPS + 1, 10)}


def run(
    seed: int = 0,
    progress: Progress = silent,
    losses: dict[str, Loss] = LOSSES,
    penalty: Penalty | None = None,
    lr: float = LEARNING_RATE,
) -> Result:
    """Trains a GAN, and at each age two fresh discriminators against the generator, one of them with a penalty.

    Args:
        seed: Of everything random.
        progress: Is told how far it is.
        losses: What stands behind the names "saturating" and "non-saturating" where gradients are measured.
        penalty: Of the second discriminator; R1(10) if there is none.
        lr: Learning rate of the fresh discriminators.
    """
    torch.manual_seed(seed)
    data = MNISTDataModule(batch_size=BATCH, seed=seed)
    digits, held_out = endless(data), next(iter(data.val_dataloader()))[0][:256]
    generator = new_generator()
    trained = gan_steps(generator, digits)
    latents = torch.randn(256, generator.latent_dim)
    curves = Table("discriminator", "age", "step", "error", *losses, *(f"{name} noise" for name in losses))
    total = max(AGES) + 2 * len(AGES) * STEPS
    for part, (born, stop) in enumerate(pairwise([0, *AGES])):
        for _ in range(born, stop):
            next(trained)
        start = torch.get_rng_state()
        for held, term in {"free": R1(0), "with R1": penalty or R1(10)}.items():
            torch.set_rng_state(start)  # both begin with the same weights
            judge = new_discriminator()
            for step in judge_steps(judge, generator, digits, term, lr):
                if step in MEASURED:
                    found = measure(generator, judge, losses, latents, held_out)
                    curves.add(discriminator=held, age=f"{stop} steps", step=step, **found)
                    progress((stop + STEPS * (2 * part + (held != "free")) + step + 1) / (total + 1))
    checks = judged(curves, [f"{age} steps" for age in AGES])
    progress(1)
    return Result({"curves": curves}, checks)


def judged(curves: Table, ages: list[str]) -> list[Check]:
    def ratio(column: str, held: str, age: str, of=lambda values: values[0]) -> float:
        """The mean of the last tenth over the first, or over what `of` says."""
        rows = curves.where(discriminator=held, age=age)
        return end(rows, column) / of(rows[column])

    def slope(age: str) -> float:
        rows = curves.where(discriminator="free", age=age)
        late = rows["step"] >= 50
        return 100 * np.polyfit(rows["step"][late], np.log10(rows["saturating"][late]), 1)[0]

    def cured(column: str, age: str) -> float:
        free, held = (end(curves.where(discriminator=name, age=age), column) for name in ("free", "with R1"))
        return held / free

    free = [curves.where(discriminator="free", age=age) for age in ages]
    errors = curves["error"][curves["step"] >= 50]
    factor = min(end(rows, "non-saturating") / end(rows, "saturating") for rows in free)
    noise = min(ratio("non-saturating noise", "free", age) for age in ages)
    near = ages[1:]  # where fakes are near the data
    kept = min(ratio("saturating", "with R1", age, max) for age in near)
    return [
        Check("largest error of a discriminator from step 50 on", max(errors), below=0.02),
        Check("saturating: end over peak, largest", max(ratio("saturating", "free", a, max) for a in ages), below=0.02),
        Check("saturating: slowest decay of the three, log10 in 100 steps", max(map(slope, ages)), below=-0.2),
        Check("non-saturating: end over start, least", min(ratio("non-saturating", "free", a) for a in ages), above=20),
        Check("non-saturating: its noise, end over start, least", noise, above=20),
        Check("non-saturating over saturating at the end, least", factor, above=1000),
        Check("R1, trained generator: saturating, end over peak, least", kept, above=0.1),
        *[
            Check(f"R1, trained generator: {column} at the end, over that without, largest", value, below=0.3)
            for column in ("non-saturating", "non-saturating noise")
            for value in [max(cured(column, age) for age in near)]
        ],
    ]


def end(rows: Table, column: str) -> float:
    """The mean over the last tenth of the steps."""
    return float(rows[column][rows["step"] >= 0.9 * STEPS].mean())


# ---------------------------------------------------------------------- training


def new_generator() -> DeepMLPGenerator:
    return DeepMLPGenerator((1, 28, 28), latent_dim=64, width=256, depth=2)


def new_discriminator() -> DeepMLPDiscriminator:
    return DeepMLPDiscriminator((1, 28, 28), width=256, depth=2, activation="leaky_relu")


def adam(network: nn.Module, lr: float = LEARNING_RATE) -> Optimizer:
    return Adam(network.parameters(), lr, betas=(0.5, 0.999), fused=True)


def endless(data: MNISTDataModule) -> Iterator[Tensor]:
    """Batches of digits, epoch after epoch."""
    loader = data.train_dataloader()
    while True:
        for images, _ in loader:
            yield images


def gan_steps(generator: DeepMLPGenerator, digits: Iterator[Tensor]) -> Iterator[None]:
    """Trains a generator and a discriminator of its own with the non-saturating loss, one step of both at a time."""
    judge, loss = new_discriminator(), NonSaturating()
    judge_optimizer, optimizer = adam(judge), adam(generator)
    while True:
        fake = generator(torch.randn(BATCH, generator.latent_dim))
        judge_step(judge, judge_optimizer, next(digits), fake.detach())
        optimizer.zero_grad()
        loss.generator(judge(fake)).mean().backward()
        optimizer.step()
        yield


def judge_steps(
    judge: nn.Module, generator: DeepMLPGenerator, digits: Iterator[Tensor], penalty: Penalty, lr: float
) -> Iterator[int]:
    """Trains a discriminator against a generator that stays: yields the number of steps done, from 0 to STEPS."""
    optimizer = adam(judge, lr)
    yield 0
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, generator.latent_dim))
        judge_step(judge, optimizer, next(digits), fake, penalty)
        yield step


def judge_step(
    judge: nn.Module, optimizer: Optimizer, real: Tensor, fake: Tensor, penalty: Penalty | None = None
) -> None:
    value = NonSaturating().discriminator(judge(real), judge(fake)).mean()
    if penalty is not None and penalty.is_due(0):
        value = value + penalty.contribution(penalty(judge, real, fake))
    optimizer.zero_grad()
    value.backward()
    optimizer.step()


def measure(
    generator: nn.Module, judge: nn.Module, losses: dict[str, Loss], latents: Tensor, digits: Tensor
) -> dict[str, float]:
    """The share of images that the discriminator gets wrong, and the generator's gradient under each loss.

    That is the norm of its mean over batches of 64 latents, and as "noise" the distance of a batch from that.
    """
    gradients = Gradients(generator)
    batches: dict[str, list[Tensor]] = {name: [] for name in losses}
    wrong = [judge(digits) <= 0]
    for batch in latents.split(BATCH):
        logits = judge(generator(batch))
        wrong.append(logits >= 0)
        for name, loss in losses.items():
            generator.zero_grad()
            loss.generator(logits).mean().backward(retain_graph=True)
            batches[name].append(torch.cat([gradient.flatten() for gradient in gradients.local()]))
    found = {"error": torch.cat(wrong).float().mean().item()}
    for name, each in batches.items():
        mean = torch.stack(each).mean(0)
        found[name] = mean.norm().item()
        found[f"{name} noise"] = (torch.stack(each) - mean).square().sum(1).mean().sqrt().item()
    return found


@styled
def figure(result: Result):
    curves = result.tables["curves"]
    ages = [age for age, _ in curves.groups("age")]
    colours = dict(zip(ages, (GREEN, BLUE, VERMILION), strict=True))
    sheet, axes = panels(2, 3, height=6.2, sharey="col", sharex="col")
    for row, (held, half) in zip(axes, curves.groups("discriminator"), strict=True):
        for age, rows in half.groups("age"):
            row[0].plot(rows["step"], 100 * rows["error"], color=colours[age])
            for place, loss in zip(row[1:], LOSSES, strict=True):
                size, noise = rows[loss], rows[f"{loss} noise"]
                place.plot(rows["step"], size, color=colours[age])
                low = np.maximum(size - noise, 1e-9)
                place.fill_between(rows["step"], low, size + noise, color=colours[age], alpha=0.2, linewidth=0)
        row[0].set(title=f"D {held}: its errors, %", ylim=(-3, 103), xlim=(0, 30))
        for place, loss in zip(row[1:], LOSSES, strict=True):
            place.set(title=f"G's gradient, {loss}", yscale="log", ylim=(1e-4, 100), xlim=(0, STEPS))
            place.set_xticks(range(0, STEPS + 1, 200))
    for place in axes[1]:
        place.set_xlabel("step of the discriminator")
    key(sheet, {f"generator after {age}": colour for age, colour in colours.items()})
    return sheet
