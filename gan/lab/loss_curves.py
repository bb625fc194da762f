"""Loss curves: what each loss leaves of the gradient that the generator gets.

What you see. On the left, six losses of the generator against the discriminator's logit for one fake; on the right, the
size of their slope, which is the factor that the loss puts on everything the generator learns from this fake. A logit
of -8 (dotted) says "fake, with 99.97 % certainty": what a good discriminator has to say of a bad fake.

Why. The original, saturating loss log(1 - D) is flat exactly there: at -8 it passes on 1/3000 of the gradient. The
non-saturating loss -log D has the same fixed point and passes on all of it; its flat end is where the fake already
passes for real. Maximum likelihood vanishes on the left as the saturating loss does, and explodes on the right. Least
squares grows with the distance; the hinge and Wasserstein losses weigh all fakes alike.

Try. `run(losses=...)` takes other losses: put `NonSaturating()` in the place of "saturating", and the check that it
vanishes fails. The curve is not the whole story: what the loss passes on is multiplied by the discriminator's own
slope, which the other experiments look at.
"""

import numpy as np
import torch

from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import COLOURS, FAINT, label_lines, panels, styled
from gan.losses import Hinge, LeastSquares, Loss, MaximumLikelihood, NonSaturating, Saturating, Wasserstein

REFERENCE = "Goodfellow 2016, NIPS tutorial, arXiv:1701.00160, figure 16; Arjovsky & Bottou 2017, arXiv:1701.04862"

MATHEMATICS = """
The two play for  V(D, G) = E_real log D(x) + E_fake log(1 − D(G(z))),  with D = σ(l) = 1 / (1 + e⁻ˡ).
For a fixed G the best discriminator is  D*(x) = p(x) / (p(x) + q(x)),  so  l* = log p(x)/q(x).
With it,  V = 2 JS(p, q) − 2 log 2:  G minimises the Jensen-Shannon divergence of data p and fakes q,
which is the constant log 2, without a slope, as soon as the two do not overlap.
By the chain rule, the generator's gradient is  dL/dl · ∂l/∂x · ∂x/∂θ.  The first factor is the loss's:
  saturating           L = −log(1 + eˡ)        dL/dl = −σ(l)        → 0 as l → −∞
  non-saturating       L = log(1 + e⁻ˡ)        dL/dl = −σ(−l)       → −1
  maximum likelihood   L = −eˡ                 dL/dl = −eˡ          → 0, and −∞ on the other side
  least squares        L = (l − 1)²/2          dL/dl = l − 1        → −∞
  hinge, Wasserstein   L = −l                  dL/dl = −1           everywhere
"""

LOSSES = {
    "saturating": Saturating(),
    "non-saturating": NonSaturating(),
    "maximum likelihood": MaximumLikelihood(),
    "least squares": LeastSquares(),
    "hinge": Hinge(),
    "Wasserstein": Wasserstein(),
}

# Loss and slope by hand, in another form than autograd takes through the losses.
CLOSED_FORMS = {
    "saturating": (lambda x: np.log(1 - sigmoid(x)), lambda x: -sigmoid(x)),
    "non-saturating": (lambda x: -np.log(sigmoid(x)), lambda x: -sigmoid(-x)),
    "maximum likelihood": (lambda x: -sigmoid(x) / (1 - sigmoid(x)), lambda x: -np.exp(x)),
    "least squares": (lambda x: (x - 1) ** 2 / 2, lambda x: x - 1),
    "hinge": (lambda x: -x, lambda x: -np.ones_like(x)),
    "Wasserstein": (lambda x: -x, lambda x: -np.ones_like(x)),
}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def run(seed: int = 0, progress: Progress = silent, losses: dict[str, Loss] = LOSSES) -> Result:
    """Takes losses and slopes over logits from -10 to 10.

    Args:
        seed: Draws the logits at which the losses are compared with their closed forms.
        progress: Is told how far it is.
        losses: What stands behind each of the six names.
    """
    curves = Table("loss", "logit", "probability", "value", "slope")
    logits = torch.linspace(-10, 10, 201, dtype=torch.float64)
    for name, loss in losses.items():
        values, slopes = values_and_slopes(loss, logits)
        curves.add(loss=name, logit=logits, probability=logits.sigmoid(), value=values, slope=slopes)
    progress(0.5)

    def slope(name: str, logit: float) -> float:
        return abs(values_and_slopes(losses[name], torch.tensor([logit], dtype=torch.float64))[1].item())

    anywhere = 20 * torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 10
    checks = [
        Check("saturating: slope at logit -8", slope("saturating", -8), below=4e-4),
        Check("non-saturating: slope at logit -8", slope("non-saturating", -8), above=0.999),
        *[Check(f"{name}: slope at logit 0, distance from 1/2", abs(slope(name, 0) - 0.5), below=1e-9)
          for name in ("saturating", "non-saturating")],
        Check("maximum likelihood: slope at logit -8", slope("maximum likelihood", -8), below=4e-4),
        Check("maximum likelihood: slope at logit 8", slope("maximum likelihood", 8), above=1000),
        Check("least squares: slope at logit -8", slope("least squares", -8), above=8),
        *[Check(f"{name}: slope at logit -8, distance from 1", abs(slope(name, -8) - 1), below=1e-9)
          for name in ("hinge", "Wasserstein")],
        *[Check(f"{name}: largest error against the closed form", error(loss, CLOSED_FORMS[name], anywhere), below=1e-7)
          for name, loss in losses.items()],
    ]  # fmt: skip
    progress(1)
    return Result({"curves": curves}, checks)


def values_and_slopes(loss: Loss, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The generator's loss at each logit, and its derivative by autograd: (N,) and (N,)."""
    logits = logits.clone().requires_grad_()
    values = loss.generator(logits)
    (slopes,) = torch.autograd.grad(values.sum(), logits)
    return values.detach(), slopes


def error(loss: Loss, closed_form: tuple, logits: torch.Tensor) -> float:
    """The largest relative difference of loss or slope, where they are not 0."""
    ours = values_and_slopes(loss, logits)
    theirs = [form(logits.numpy()) for form in closed_form]
    return max(np.max(np.abs(a.numpy() - b) / np.maximum(np.abs(b), 1e-6)) for a, b in zip(ours, theirs, strict=True))


@styled
def figure(result: Result):
    sheet, (left, right) = panels(1, 2)
    colours = dict(zip(LOSSES, COLOURS, strict=False))
    for name, curve in result.tables["curves"].groups("loss"):
        look = {"color": colours[name], "label": name}
        # Where two lines are one, the upper must not hide the lower.
        look |= {"Wasserstein": {"linestyle": "--"}, "maximum likelihood": {"linewidth": 4, "zorder": 1}}.get(name, {})
        left.plot(curve["logit"], curve["value"], **look)
        right.plot(curve["logit"], np.abs(curve["slope"]), **look)
    left.set(title="Generator's loss L", ylim=(-10, 10))
    right.set(title="Size of its slope |dL/dl|", yscale="log", ylim=(1e-5, 1e5))
    for axes in (left, right):
        axes.set(xlabel="logit of a fake   (left: seen through, right: taken for real)", xlim=(-10, 10))
        axes.set_xticks([-8, -4, 0, 4, 8])
        axes.axvline(-8, color=FAINT, linewidth=0.8, linestyle=":")
    label_lines(right)
    return sheet
