"""Training through depth: classifiers of digits with 5, 20 and 40 layers, plain and with remedies.

What you see. Top: accuracy on digits that were not trained on, over steps of plain descent with momentum. Bottom: the
size of the loss's gradient at the first hidden layer over that at the last, in the same steps: 1 means that all of it
arrives. From left to right, ReLU layers as torch initialises them, with He's initialisation, and with He's, layer norm
and scaled residual connections together.

Why. As torch initialises it, a ReLU layer passes on about 1/6 of the signal's power, forwards and backwards. Five
layers can live with that and learn late; of 20, the first gets 4e-8 of the gradient, and the network stays at guessing,
one digit in ten. He's factor, sqrt(2 / inputs), keeps the power, but at the start only: what training does to the
weights adds up over the layers, and with these steps 20 and 40 layers hardly learn either. A residual connection gives
the gradient a path that no weight is on, and normalisation renews the signal in each layer: then depth costs little.

Try. `run(optimizer=partial(SGD, lr=0.003, momentum=0.9))`: smaller steps are kinder to He's networks and too small for
the plain one of five layers. Take one remedy of the three away in `KINDS`, and see which the others can do without.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from gan.data import MNISTDataModule
from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLUE, GREEN, VERMILION, key, panels, styled
from gan.networks import hidden_layers

REFERENCE = (
    "He et al. 2015, arXiv:1502.01852, figure 3 (30 layers) and arXiv:1512.03385 (residual connections); "
    "Ba et al. 2016, arXiv:1607.06450 (layer norm)"
)

MATHEMATICS = """
Layers  aᵏ = Wᵏ hᵏ⁻¹,  hᵏ = relu(aᵏ),  of n units.  Forwards and backwards, with weights of variance v:
  E|hᵏ|² = n v/2 · E|hᵏ⁻¹|²            E|∂L/∂hᵏ⁻¹|² = n v/2 · E|∂L/∂hᵏ|²
  torch:  v = 1/(3n),  a factor of 1/6     Xavier:  v = 1/n,  1/2     He:  v = 2/n,  1
From layer d to 1 the gradient's size has the factor 6^(−(d−1)/2):  0.03 for d = 5,  4·10⁻⁸ for 20.
A step of descent, Δθ = −η ∂L/∂θ, is as small as its gradient; of the signal nothing is left but the biases.
Residual:  hᵏ = hᵏ⁻¹ + b f(hᵏ⁻¹)   gives   ∂hᵏ/∂hᵏ⁻¹ = 1 + b f',   a sum over all 2ᵈ paths, one of which is 1.
With b = 1 the power at least doubles in each layer, (1 + 1)ᵈ;  with b = 1/√d it stays below (1 + 1/d)ᵈ < e.
Normalised layers, f(h) = relu(norm(W h)), give the same whatever the size of W.
"""

DEPTHS = (5, 20, 40)
WIDTH, BATCH, STEPS = 64, 128, 250
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "He": {"init": "he"},
    "remedied": {"init": "he", "norm": "layer", "residual": "scaled"},
}
OPTIMIZER = partial(SGD, lr=0.03, momentum=0.9)


class Classifier(nn.Module):
    """Digits (N, 1, 28, 28) to ten logits (N, 10)."""

    def __init__(self, depth: int, **options: Any) -> None:
        super().__init__()
        self.hidden = hidden_layers(28 * 28, WIDTH, depth, **options)
        self.output = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits, and the outputs of the first and the last hidden layer (N, WIDTH)."""
        first = self.hidden[0](images.flatten(1))
        last = self.hidden[1:](first)
        return self.output(last), first, last


def run(
    seed: int = 0,
    progress: Progress = silent,
    kinds: dict[str, dict[str, Any]] = KINDS,
    optimizer: Callable[..., Optimizer] = OPTIMIZER,
) -> Result:
    """Trains a classifier of each kind and depth on the same batches.

    Args:
        seed: Of weights and of the order of digits.
        progress: Is told how far it is.
        kinds: Arguments of `gan.networks.hidden_layers` behind "plain", "He" and "remedied".
        optimizer: Of all of them.
    """
    torch.manual_seed(seed)
    data = MNISTDataModule(batch_size=BATCH, seed=seed)
    batches = [batch for _, batch in zip(range(STEPS + 1), data.train_dataloader(), strict=False)]
    images, labels = next(iter(data.val_dataloader()))
    curves = Table("kind", "depth", "step", "accuracy", "loss", "gradient")
    done = 0
    for kind, options in kinds.items():
        for depth in DEPTHS:
            network = Classifier(depth, **options)
            descent = optimizer(network.parameters())
            for step, (digits, truth) in enumerate(batches):
                logits, first, last = network(digits)
                loss = cross_entropy(logits, truth)
                if step % 10 == 0:
                    ratio = reaching(loss, first, last)
                    with torch.no_grad():
                        accuracy = (network(images)[0].argmax(1) == labels).float().mean().item()
                    curves.add(kind=kind, depth=f"{depth} layers", step=step, accuracy=accuracy,
                               loss=loss.item(), gradient=ratio)  # fmt: skip
                descent.zero_grad()
                loss.backward()
                descent.step()
            done += depth
            progress(0.99 * done / (len(kinds) * sum(DEPTHS)))
    checks = judged(curves)
    progress(1)
    return Result({"curves": curves}, checks)


def reaching(loss: Tensor, first: Tensor, last: Tensor) -> float:
    """The norm of the gradient at the first layer, over that at the last."""
    near, far = torch.autograd.grad(loss, (first, last), retain_graph=True)
    return (near.double().norm() / far.double().norm()).item()


def judged(curves: Table) -> list[Check]:
    def of(kind: str, depth: int) -> Table:
        return curves.where(kind=kind, depth=f"{depth} layers")

    def accuracy(kind: str, depth: int) -> float:
        return float(of(kind, depth)["accuracy"][-3:].mean())

    ratios = [of("remedied", depth)["gradient"] for depth in DEPTHS]
    return [
        Check("plain, 5 layers: accuracy", accuracy("plain", 5), above=0.4),
        *[Check(f"plain, {depth} layers: accuracy", accuracy("plain", depth), below=0.2) for depth in DEPTHS[1:]],
        *[Check(f"He, {depth} layers: accuracy", accuracy("He", depth), below=0.5) for depth in DEPTHS[1:]],
        *[Check(f"plain, {depth} layers: share of the gradient at the start", of("plain", depth)["gradient"][0],
                below=below) for depth, below in ((20, 1e-5), (40, 1e-10))],
        Check("He, 20 layers: share of the gradient at the start", of("He", 20)["gradient"][0], 0.1, 10),
        *[Check(f"remedied, {depth} layers: accuracy", accuracy("remedied", depth), above=0.7) for depth in DEPTHS],
        Check("remedied: least share of the gradient, at any step", np.min(ratios), above=0.1),
        Check("remedied: largest share of the gradient, at any step", np.max(ratios), below=30),
    ]  # fmt: skip


@styled
def figure(result: Result):
    curves = result.tables["curves"]
    colours = dict(zip([depth for depth, _ in curves.groups("depth")], (GREEN, BLUE, VERMILION), strict=True))
    sheet, axes = panels(2, 3, height=6, sharex=True, sharey="row")
    for column, (kind, rows) in zip(axes.T, curves.groups("kind"), strict=True):
        for depth, curve in rows.groups("depth"):
            column[0].plot(curve["step"], 100 * curve["accuracy"], color=colours[depth])
            share = np.where(curve["gradient"] > 0, curve["gradient"], np.nan)
            column[1].plot(curve["step"], share, color=colours[depth])
        title = {"plain": "Plain ReLU", "He": "He's initialisation", "remedied": "He, layer norm, residual"}
        column[0].set(title=f"{title.get(kind, kind)}: accuracy, %", ylim=(0, 100), xlim=(0, STEPS))
        column[1].set(title="Share of gradient at first layer", yscale="log", xlabel="step")
    key(sheet, colours)
    return sheet
