"""The article's GAN: as printed, corrected fault by fault, and corrected.

What you see. Left: what seven generators make, and real digits. Two of them have been trained for 2000 batches; the
others cannot learn, however long. Middle: how far they are from the test digits in the features of a classifier (FID,
lower is better); dotted is the generator of all five before its training. Right: the size of the generator's gradient
in its own step.

Why. The printed program has five faults, and one hides the others: its generator's step does not reach the generator,
whose gradient is exactly 0. As long as that stands, no other correction trains it: two change how the noise of the
untrained generator looks, two not even that. This one alone does train the generator, on what the rest leaves: the same
64 digits in each step, and a ReLU that has no gradient for a pixel at 0. All that it makes is one digit, over and over.
All together make a GAN, if a young one: rough, but of many shapes. Beware of the FID alone: a nearly black noise is
nearer to digits, which are nearly black too, than a grey one is, and nearer than that one digit. Variety, how much
pixels differ between fakes, tells the two that learn apart.

Try. `run(steps=10000)` for better digits. Correct two faults at a time in `VARIANTS`: reaching the generator and one.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

from gan.data import MNISTDataModule
from gan.gradients.clip import Gradients
from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, FAINT, GREEN, ORANGE, PURPLE, SKY, VERMILION, label_lines, panels, styled
from gan.lab.unscaled import unscaled
from gan.losses import NonSaturating
from gan.metrics import FID, load_features
from gan.networks import MLPDiscriminator, MLPGenerator

REFERENCE = (
    "The article's listing, its faults as `gan/networks/mlp.py` names them; the game: Goodfellow et al. 2014, "
    "arXiv:1406.2661; FID: Heusel et al. 2017, arXiv:1706.08500"
)

MATHEMATICS = """
Training step of both players:   θ_D ← θ_D − η ∇ L_D(θ_D, θ_G),     θ_G ← θ_G − η ∇ L_G(θ_D, θ_G).
  ∇_θG L_G = dL/dl · ∂l/∂x · ∂x/∂θ_G.  A detached fake has no last factor: the gradient is exactly 0.
Output  x = relu(a):  ∂x/∂a = 0 for a ≤ 0;  x = tanh(a):  ∂x/∂a = 1 − x², which is 0 nowhere.
Pixels in [0, 1] against fakes in [−1, 1]: a pixel below 0 is a fake, whatever it shows.
Probabilities  p = σ(l),  L = −log p.  By the chain rule  dL/dl = −1/p · p(1 − p) = −(1 − p),  if p is exact.
In float32  σ(l) = 1 for l > 17:  log(1 − p) = −∞, cut to −100, and its slope p(1 − p)/(1 − p) becomes 0.
From the logit  L = log(1 + e⁻ˡ)  is exact for every l.
One batch for ever: the game is then between G and the uniform measure on 64 images, not the data.
FID  |m − m'|² + tr(C + C' − 2 (C C')^½)  of the features' means and covariances, fakes against test digits.
"""

BATCH, STEPS = 64, 2000
STUCK = 100  # steps of a program whose generator gets no gradient: more would change nothing that is shown
NUM_FAKES, NUM_REALS = 2000, 10000


@dataclass(frozen=True)
class Program:
    """What is right in a program; nothing of it as printed.

    Args:
        tanh: The output is tanh, not ReLU.
        scaled: Pixels of digits are in [-1, 1], not [0, 1].
        logits: The loss is taken of logits, not of probabilities.
        batches: Each step sees the next batch, not the first.
        reaches: The generator's step reaches the generator.
    """

    tanh: bool = False
    scaled: bool = False
    logits: bool = False
    batches: bool = False
    reaches: bool = False


VARIANTS = {
    "as printed": Program(),
    "tanh output": Program(tanh=True),
    "pixels in [-1, 1]": Program(scaled=True),
    "loss of logits": Program(logits=True),
    "next batch": Program(batches=True),
    "step trains G": Program(reaches=True),
    "all five": Program(tanh=True, scaled=True, logits=True, batches=True, reaches=True),
}


class ReLUGenerator(MLPGenerator):
    """The article's output: no pixel below 0, and none bounded above."""

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.hidden2(F.relu(self.hidden1(z))))  # (N, 256)
        return F.relu(self.output(x)).unflatten(1, self.image_shape)  # (N, C, H, W)


def run(
    seed: int = 0, progress: Progress = silent, variants: dict[str, Program] = VARIANTS, steps: int = STEPS
) -> Result:
    """Trains a GAN by each program.

    Args:
        seed: Of weights, latents and the order of digits.
        progress: Is told how far it is.
        variants: What is right in each.
        steps: Batches that each is trained for whose generator gets a gradient; the others stop after `STUCK`.
    """
    data = MNISTDataModule(batch_size=BATCH, seed=seed)
    digits, loader = [], data.train_dataloader()
    while len(digits) < steps:
        digits += [images for images, _ in loader]
    extractor, fid = load_features("mnist_cnn"), FID(64, reset_real_features=False)
    data.setup("test")
    tests = torch.cat([images for images, _ in data.test_dataloader()])[:NUM_REALS]
    for chunk in tests.split(500):
        fid.update(extractor(chunk), real=True)
    curves = Table("program", "step", "gradient", "moved")
    scores, pictures = Table("program", "fid", "variety"), Table("program", "image", "row", "column", "pixel")

    def score(name: str, generator: MLPGenerator, scaled: bool) -> None:
        rng, variety = torch.Generator().manual_seed(seed), math.nan
        fid.reset()
        with torch.no_grad():
            for number in range(0, NUM_FAKES, 500):
                images = shown(generator(torch.randn(500, generator.latent_dim, generator=rng)), scaled)
                fid.update(extractor(images), real=False)
                if number == 0:
                    keep(pictures, name, images)
                    variety = (images.std(0).mean() / tests[:500].std(0).mean()).item()
        scores.add(program=name, fid=fid.compute().item(), variety=variety)

    for part, (name, program) in enumerate(variants.items()):
        torch.manual_seed(seed)
        generator = (MLPGenerator if program.tanh else ReLUGenerator)((1, 28, 28))
        begun = [parameter.detach().clone() for parameter in generator.parameters()]
        if name == "all five":
            score("untrained", generator, program.scaled)
        last = steps if program.reaches else min(STUCK, steps)
        for step, gradient in enumerate(train(generator, program, digits[:last])):
            if step % 20 == 0 or step == last - 1:
                moved = [(a - b).square().sum() for a, b in zip(generator.parameters(), begun, strict=True)]
                curves.add(program=name, step=step, gradient=gradient, moved=math.sqrt(sum(moved)))
        score(name, generator, program.scaled)
        progress((part + 1) / len(variants) * 0.99)
    keep(pictures, "real", tests)
    checks = judged(curves, scores)
    progress(1)
    return Result({"curves": curves, "scores": scores, "pictures": pictures}, checks)


def train(generator: MLPGenerator, program: Program, digits: list[Tensor]):
    """Trains by a program, batch after batch: yields the norm of the generator's gradient in each."""
    judge = MLPDiscriminator((1, 28, 28))
    optimizer, judge_optimizer = (
        Adam(network.parameters(), 2e-4, (0.5, 0.999), fused=True) for network in (generator, judge)
    )
    gradients = Gradients(generator)
    for number in range(len(digits)):
        real = digits[number if program.batches else 0]
        real = real if program.scaled else unscaled(real)
        fake = generator(torch.randn(BATCH, generator.latent_dim))
        losses = judge_losses(judge(real), judge(fake.detach()), program.logits)
        judge_optimizer.zero_grad()
        losses.mean().backward()
        judge_optimizer.step()
        logits = judge(fake if program.reaches else fake.detach())
        optimizer.zero_grad()
        generator_losses(logits, program.logits).mean().backward()
        yield gradients.norm()
        optimizer.step()


def judge_losses(real: Tensor, fake: Tensor, logits: bool) -> Tensor:
    if logits:
        return NonSaturating().discriminator(real, fake)
    real, fake = real.sigmoid(), fake.sigmoid()
    ones = torch.ones_like(real)
    return F.binary_cross_entropy(real, ones, reduction="none") + F.binary_cross_entropy(
        fake, 0 * ones, reduction="none"
    )


def generator_losses(fake: Tensor, logits: bool) -> Tensor:
    if logits:
        return NonSaturating().generator(fake)
    return F.binary_cross_entropy(fake.sigmoid(), torch.ones_like(fake), reduction="none")


def shown(images: Tensor, scaled: bool) -> Tensor:
    """Images in [-1, 1], as one would look at them: where digits were in [0, 1], 0 is black and 1 is white."""
    return (images if scaled else 2 * images - 1).clamp(-1, 1)


def keep(pictures: Table, name: str, images: Tensor) -> None:
    """The first six."""
    numbers = torch.arange(6 * 28 * 28)
    pictures.add(
        program=name,
        image=numbers // 784,
        row=numbers // 28 % 28,
        column=numbers % 28,
        pixel=images[:6].flatten(),
    )


def judged(curves: Table, scores: Table) -> list[Check]:
    def of(name: str, column: str) -> float:
        return float(scores.where(program=name)[column][0])

    def last(name: str, column: str) -> float:
        return float(curves.where(program=name)[column][-1])

    stuck = [name for name, _ in curves.groups("program") if name not in ("step trains G", "all five")]
    return [
        Check("FID of all five, over that before training", of("all five", "fid") / of("untrained", "fid"), below=0.7),
        Check("variety of all five, in that of digits", of("all five", "variety"), above=0.45),
        Check("variety of all five, over that as printed", of("all five", "variety") / of("as printed", "variety"),
              above=1.5),
        Check("FID as printed, over that where only the step trains G",
              of("as printed", "fid") / of("step trains G", "fid"), below=1),
        Check("variety where only the step trains G, in that of digits", of("step trains G", "variety"), below=0.35),
        Check("without the fifth correction: how far weights move", max(last(name, "moved") for name in stuck),
              below=1e-12),
        Check("step trains G, alone: how far weights move", last("step trains G", "moved"), above=0.1),
        Check("all five: how far weights move", last("all five", "moved"), above=0.1),
        Check("all five: gradient at the end", last("all five", "gradient"), above=0.01),
    ]  # fmt: skip


@styled
def figure(result: Result):
    scores, pictures, curves = (result.tables[name] for name in ("scores", "pictures", "curves"))
    names = [name for name, _ in pictures.groups("program") if name not in ("untrained", "real")]
    rows = [*names, "real"]
    sheet, (left, middle, right) = panels(1, 3, height=4.4, width_ratios=(1.45, 0.9, 1))
    grid = [
        pictures.where(program=name)["pixel"].reshape(6, 28, 28).transpose(1, 0, 2).reshape(28, 168) for name in rows
    ]
    left.imshow(np.concatenate(grid), cmap="gray", vmin=-1, vmax=1, interpolation="nearest", aspect="equal")
    left.grid(False)
    left.set_yticks([28 * number + 14 for number in range(len(rows))], rows)
    left.set_xticks([])
    left.set(title="What they make")
    for number, name in enumerate(names):
        value = scores.where(program=name)["fid"][0]
        middle.plot([value], [number], "o", markersize=8, color=GREEN if name == "all five" else VERMILION)
        middle.annotate(f"{value:.0f}", (value, number), (8, 0), textcoords="offset points", va="center", size=9)
    middle.axvline(scores.where(program="untrained")["fid"][0], color=FAINT, linewidth=0.8, linestyle=":")
    middle.set(title="FID", xscale="log", ylim=(len(names) + 0.5, -0.5), xlim=(5, 500))
    middle.set_yticks(range(len(names)), [""] * len(names))
    colours = dict(zip(names, (VERMILION, ORANGE, SKY, PURPLE, "#999999", BLUE, GREEN), strict=False))
    for name, lines in curves.groups("program"):
        if lines["gradient"].max() > 0:
            right.plot(lines["step"], lines["gradient"], color=colours[name], label=name)
    right.set(title="Gradient in G's own step", yscale="log", xlabel="batch")
    right.text(0.2, 0.05, "the others: 0 throughout", transform=right.transAxes, color=FAINT, size=9)
    label_lines(right)
    return sheet
