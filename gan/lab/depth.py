"""Depth: how much of the gradient is left at the first layer of 5 to 40.

What you see. Top: the gradient that reaches the first hidden layer's output, over that at the last one's, in networks
as they start, on real digits. Left, layers one after the other: most starts lose nearly all of it. Right, the remedies:
some hold it, some overshoot. Bottom: within two networks of 20 layers, the gradient by activation, the gradient by
weight, and the activation itself, layer by layer.

Why. Each layer multiplies the gradient by the transpose of its weights and by the slope of its activation. A sigmoid's
slope is at most 1/4, and PyTorch's default weights shrink a ReLU layer's signal to 2/5; He's weights make up for what
ReLU cuts off, Xavier's for what tanh leaves. Batch norm rescales forwards and, with ReLU, lets gradients grow by a
fifth in each layer; a residual sum adds a second path for the gradient, which with He's weights grows by three fifths
in each layer, unless the branch is scaled down.

Try. Look at the weights' gradient, bottom left: it is level, because a small gradient from above meets a large
activation from below. Whoever plots gradients by parameter alone misses that vanishing gradient. Bottom right,
PyTorch's default biases keep the activations up, and the weights' gradient vanishes like the other. `run(recipes=...)`
takes other networks: give "relu, He" a sigmoid.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import BLACK, BLUE, COLOURS, FAINT, GREEN, VERMILION, key, label_lines, panels, styled
from gan.networks.deep import HiddenLayer, hidden_layers

REFERENCE = (
    "Glorot & Bengio 2010, PMLR 9; He et al. 2015, arXiv:1502.01852 and arXiv:1512.03385; "
    "Ioffe & Szegedy 2015, arXiv:1502.03167; Yang et al. 2019, arXiv:1902.08129"
)

MATHEMATICS = """
A network of L layers  aₗ = Wₗ hₗ₋₁,  hₗ = φ(aₗ).  The chain rule runs backwards through all of them:
  ∂ℓ/∂hₗ₋₁ = Wₗᵀ (φ′(aₗ) ⊙ ∂ℓ/∂hₗ),   so   ∂ℓ/∂h₁ = W₂ᵀ φ′₂ W₃ᵀ φ′₃ … Wᵀ φ′ ∂ℓ/∂h_L.
With independent weights of variance s²/n and width n, a layer multiplies E|∂ℓ/∂h|² by  s² E φ′(a)²:
  sigmoid: φ′ ≤ 1/4, default s² = 1/3       ≤ 1/48      the norm falls by √48 = 6.9 or more
  ReLU:    φ′² is 1 half of the time        s²/2        Xavier s² = 1:  2^(−1/2) in each layer
  ReLU, default s² = 1/3                    1/6         6^(−1/2) = 0.41 in each layer
  ReLU, He s² = 2                           1           neither vanishes nor explodes (on average)
  ReLU after batch norm                     π/(π − 1)   1.21 in the norm, whatever the weights: explodes
Residual  hₗ = hₗ₋₁ + c φ(aₗ):  1 + c² s²/2 were the two parts independent. A ReLU's outputs are positive,
so they are not: with He and c = 1 it is 1.6 a layer, not √2; with c² = 1/L, 5 over 40 layers, not e^(1/2).
The weights get  ∂ℓ/∂Wₗ = (φ′ ⊙ ∂ℓ/∂hₗ) hₗ₋₁ᵀ :  a large hₗ₋₁ makes up for a small ∂ℓ/∂hₗ.
"""

DEPTHS = (5, 10, 20, 40)
WIDTH = 128
DRAWS = 3  # of the weights, of which the median is taken

RECIPES = {
    "relu, He": {"init": "he"},
    "tanh, Xavier": {"activation": "tanh", "init": "xavier"},
    "relu, Xavier": {"init": "xavier"},
    "tanh, He": {"activation": "tanh", "init": "he"},
    "tanh, default": {"activation": "tanh"},
    "relu, default": {},
    "relu, N(0, 0.02)": {"init": "normal"},
    "sigmoid, He": {"activation": "sigmoid", "init": "he"},
    "sigmoid, Xavier": {"activation": "sigmoid", "init": "xavier"},
    "sigmoid, default": {"activation": "sigmoid"},
    "sigmoid, batch norm": {"activation": "sigmoid", "norm": "batch"},
    "relu, batch norm": {"norm": "batch"},
    "relu, residual": {"residual": "plain"},
    "relu, He, residual": {"init": "he", "residual": "plain"},
    "relu, He, scaled residual": {"init": "he", "residual": "scaled"},
}
PLAIN = list(RECIPES)[:10]
PROFILES = ("relu, Xavier", "relu, default")  # of which every layer is shown


def run(seed: int = 0, progress: Progress = silent, recipes: dict[str, dict] = RECIPES) -> Result:
    """Takes the gradients of untrained networks on 256 digits.

    Args:
        seed: Draws the weights.
        progress: Is told how far it is.
        recipes: Arguments of `gan.networks.deep.hidden_layers` behind each of the names.
    """
    images, labels = digits()
    ratios = Table("network", "depth", "activation_ratio", "weight_ratio")
    profiles = Table("network", "layer", "activation_gradient", "weight_gradient", "activation")
    torch.manual_seed(seed)
    for name, recipe in recipes.items():
        for depth in DEPTHS:
            draws = [layer_norms(hidden_layers(784, WIDTH, depth, **recipe), images, labels) for _ in range(DRAWS)]
            # Weights of layer 1 have the image's 784 inputs: the second is the first of the alike.
            activation = np.median([draw[0, 0] / draw[0, -1] for draw in draws])
            weight = np.median([draw[1, 1] / draw[1, -1] for draw in draws])
            ratios.add(network=name, depth=depth, activation_ratio=activation, weight_ratio=weight)
            if name in PROFILES and depth == 20:
                by_activation, by_weight, size = draws[0]
                profiles.add(network=name, layer=np.arange(1, depth + 1), activation_gradient=by_activation,
                             weight_gradient=by_weight, activation=size)  # fmt: skip
        progress(len(ratios) / (len(recipes) * len(DEPTHS)))

    def ratio(name: str, depth: int = 20, column: str = "activation_ratio") -> float:
        return ratios.where(network=name, depth=depth)[column].item()

    def slope(name: str) -> float:
        """log2 of the factor of one layer."""
        return math.log2(ratio(name, 40) / ratio(name, 5)) / 35

    checks = [
        Check("sigmoid, default: ratio at depth 20", ratio("sigmoid, default"), below=1e-10),
        Check("sigmoid, Xavier: ratio at depth 20", ratio("sigmoid, Xavier"), below=1e-6),
        Check("sigmoid, He: ratio at depth 20", ratio("sigmoid, He"), below=1e-4),
        Check("tanh, default: ratio at depth 20", ratio("tanh, default"), below=1e-3),
        Check("tanh, Xavier: ratio at depth 20", ratio("tanh, Xavier"), above=0.05, below=1),
        Check("relu, N(0, 0.02): ratio at depth 20", ratio("relu, N(0, 0.02)"), below=1e-12),
        Check("relu, default: ratio at depth 20", ratio("relu, default"), below=1e-5),
        Check("relu, Xavier: log2 of a layer's factor", slope("relu, Xavier"), above=-0.6, below=-0.4),
        Check("relu, Xavier: ratio at depth 20", ratio("relu, Xavier"), below=1e-2),
        Check("relu, Xavier: ratio of the weights' gradients", ratio("relu, Xavier", 20, "weight_ratio"),
              above=0.3, below=3),
        Check("relu, He: ratio at depth 20", ratio("relu, He"), above=0.3, below=3),
        Check("sigmoid, batch norm: ratio at depth 20", ratio("sigmoid, batch norm"), above=0.3, below=10),
        Check("relu, batch norm: a layer's factor (√(π/(π-1)) = 1.21)", 2 ** slope("relu, batch norm"),
              above=1.15, below=1.28),
        Check("relu, residual: ratio at depth 40", ratio("relu, residual", 40), above=100),
        Check("relu, He, residual: ratio at depth 40", ratio("relu, He, residual", 40), above=1e6),
        Check("relu, He, scaled residual: ratio at depth 40", ratio("relu, He, scaled residual", 40),
              above=0.3, below=10),
    ]  # fmt: skip
    return Result({"ratios": ratios, "layers": profiles}, checks)


def digits() -> tuple[Tensor, Tensor]:
    """256 test images of MNIST, (256, 784) in [-1, 1], and their labels (256,)."""
    from gan.data import MNISTDataModule  # brings Lightning along, which takes seconds

    images, labels = MNISTDataModule().load(train=False)
    return images[:256].flatten(1).double() / 127.5 - 1, labels[:256]


def layer_norms(layers: nn.Sequential, images: Tensor, labels: Tensor) -> np.ndarray:
    """(3, depth): norms of the loss's gradient by each layer's output and weights, and of the output itself."""
    layers.double()  # in float32 what vanishes would be 0
    outputs, x = [], images
    for layer in layers:
        outputs.append(x := layer(x))  # (256, WIDTH)
    loss = cross_entropy(nn.Linear(WIDTH, 10).double()(x), labels)
    weights = [layer.linear.weight for layer in layers if isinstance(layer, HiddenLayer)]
    gradients = torch.autograd.grad(loss, [*outputs, *weights])
    norms = [tensor.norm().item() for tensor in (*gradients, *outputs)]
    return np.reshape(norms, (3, len(outputs)))


@styled
def figure(result: Result):
    ratios, layers = result.tables["ratios"], result.tables["layers"]
    sheet, axes = panels(2, 2, height=8.4, height_ratios=[3, 2])
    looks = {name: {"relu": BLUE, "tanh": GREEN, "sigmoid": VERMILION}[name.partition(",")[0]] for name in PLAIN}
    looks |= dict(zip(list(RECIPES)[len(PLAIN) :], COLOURS, strict=False))
    for name, rows in ratios.groups("network"):
        panel = axes[0, 0] if name in PLAIN else axes[0, 1]
        panel.plot(rows["depth"], rows["activation_ratio"], "o-", markersize=4, color=looks[name], label=name)
    for panel, title in zip(axes[0], ("Layer after layer", "With batch norm or residuals"), strict=True):
        panel.set(title=title, yscale="log", xlabel="hidden layers", xticks=DEPTHS)
        panel.axhline(1, color=FAINT, linewidth=0.8, linestyle=":")
    axes[0, 0].set(ylim=(1e-36, 1e3), ylabel="gradient at the first layer, over that at the last")
    axes[0, 1].set_ylim(1e-2, 1e10)
    kinds = {"gradient by output": VERMILION, "gradient by weights": BLUE, "output": BLACK}
    for panel, (name, rows) in zip(axes[1], layers.groups("network"), strict=True):
        for column, colour in zip(
            ("activation_gradient", "weight_gradient", "activation"), kinds.values(), strict=True
        ):
            panel.semilogy(rows["layer"], rows[column] / rows[column][-1], color=colour)
        panel.set(title=f"Within 20 layers: {name}", xlabel="hidden layer", xticks=[1, 5, 10, 15, 20], ylim=(1e-8, 1e4))
        key(panel, kinds, "lower right")
    axes[1, 0].set_ylabel("norm, over that of the last layer")
    for panel in axes[0]:
        label_lines(panel)
    return sheet
