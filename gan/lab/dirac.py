"""Dirac-GAN: strong gradients are not enough, the two players can circle for ever.

What you see. The smallest GAN there is: real data are the point 0, the generator makes the point θ, the discriminator
is the line ψx. Above, where 500 joint steps lead from the dot, over the field of the gradients. Below, on the left, the
distance from the equilibrium; in the middle, the eigenvalues of the field there, against the weight γ of R1; on the
right, four ways to take the two players' steps.

Why. At the equilibrium each player's gradient depends on the other's place alone: the field turns around, and its
eigenvalues are imaginary. Steps along a circle lead outwards. The Wasserstein loss spirals away, the non-saturating one
settles on a circle, a smaller one for smaller steps, the hinge and clipped weights stop the spiral but not the
circling, and WGAN-GP, whose penalty wants a slope of 1 where 0 is right, keeps circling too. R1 pulls ψ to 0: it gives
the eigenvalues a negative real part, best at γ = 1, and beyond that one of the two gets slow again. The order of the
steps helps as well: alternating stays near the circle, optimistic and extragradient steps look ahead and come in.

Try. `run(penalties=...)` with a weight of 0 in R1's place circles. `run(step=...)` shows that a smaller step only takes
longer to spiral out.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from gan.lab.experiment import Check, Progress, Result, Table, silent
from gan.lab.figures import (
    BLACK,
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    key,
    label_lines,
    sheet,
    styled,
)
from gan.losses import (
    Hinge,
    LeastSquares,
    Loss,
    MaximumLikelihood,
    NonSaturating,
    RelativisticPaired,
    Saturating,
    Wasserstein,
)
from gan.penalties import R1, R2, GradientPenalty, Penalty, clip_weights

REFERENCE = (
    "Mescheder et al. 2018, arXiv:1801.04406; Daskalakis et al. 2018, arXiv:1711.00141; "
    "Gidel et al. 2019, arXiv:1802.10551"
)

MATHEMATICS = """
Real x = 0, fake x = θ, D(x) = ψ x.  With f(t) = −log(1 + eᵗ)  the game is  V(θ, ψ) = f(ψθ) + f(0).
Both players step along the field  v = (−∂V/∂θ, ∂V/∂ψ) = (−ψ f′(ψθ), θ f′(ψθ)):  at a right angle to (θ, ψ),
so the flow circles, and a step of length h leaves the circle:  |w + hv|² = |w|² + h²|v|².
At the equilibrium 0 the Jacobian of v is  [[0, −f′(0)], [f′(0), 0]],  f′(0) = −1/2,  eigenvalues ±i/2.
R1 takes γψ²/2 from D's objective, hence γψ from its step: the Jacobian's last entry becomes −γ, and
  λ = −γ/2 ± √(γ²/4 − f′(0)²) :   Re λ < 0 for all γ > 0;  the slower one is fastest at γ = 2|f′(0)| = 1.
WGAN: f(t) = −t.  One simultaneous step multiplies the distance from 0 by √(1 + h²): it spirals out.
  alternating       θ first, then ψ at the new θ:   determinant 1, it stays on an ellipse
  extragradient     w ← w + h v(w + h v(w)):        √((1 − h²)² + h²) < 1  for h < 1
  optimistic        w ← w + 2h v(w) − h v(w before)
"""

STEP, STEPS = 0.2, 500
GAMMAS = np.linspace(0, 2.5, 101)

GAMES: dict[str, tuple[Loss, str]] = {  # loss, and penalty by its name below
    "saturating": (Saturating(), "none"),
    "maximum likelihood": (MaximumLikelihood(), "none"),
    "non-saturating": (NonSaturating(), "none"),
    "relativistic": (RelativisticPaired(), "none"),  # the same game: the real logit is 0
    "least squares": (LeastSquares(), "none"),  # ψx cannot be 1 on reals: at rest at any θ where ψ = 0
    "hinge": (Hinge(), "none"),
    "Wasserstein": (Wasserstein(), "none"),
    "Wasserstein, clipped": (Wasserstein(), "clipping"),
    "Wasserstein + GP": (Wasserstein(), "GP"),
    "non-saturating + R1 0.3": (NonSaturating(), "R1 0.3"),
    "saturating + R1 0.3": (Saturating(), "R1 0.3"),
    "saturating + R2 0.3": (Saturating(), "R2 0.3"),  # the same as R1: the slope is ψ everywhere
    "saturating + R1 1": (Saturating(), "R1 1"),
}
PENALTIES: dict[str, Penalty] = {
    "R1 0.3": R1(weight=0.3),
    "R2 0.3": R2(weight=0.3),
    "R1 1": R1(weight=1.0),
    "GP": GradientPenalty(weight=0.3),
}
CLIP = 1.0  # of ψ, in "clipping"
SHOWN = {  # in the figure; the others are in the data
    "saturating": VERMILION,
    "non-saturating": BLUE,
    "hinge": PURPLE,
    "Wasserstein": SKY,
    "Wasserstein, clipped": FAINT,
    "Wasserstein + GP": ORANGE,
    "saturating + R1 0.3": GREEN,
    "saturating + R1 1": BLACK,
}


class Line(nn.Module):
    """D(x) = ψ x: points (N, 1) to logits (N,)."""

    def __init__(self, psi: Tensor) -> None:
        super().__init__()
        self.psi = psi

    def forward(self, points: Tensor) -> Tensor:
        return (self.psi * points).squeeze(1)


Field = Callable[[Tensor], Tensor]  # places (θ, ψ) to what both players' descents would add, per unit of step


def field(loss: Loss, penalty: Penalty | None = None, graph: bool = False) -> Field:
    """The directions of both players' descents, on the project's own losses and penalties.

    Args:
        loss: The objective.
        penalty: A term of D's loss.
        graph: Whether the result can be differentiated.
    """

    def directions(place: Tensor) -> Tensor:
        theta, psi = (place if graph else place.detach().requires_grad_()).unbind()
        fake, real = theta.view(1, 1), torch.zeros(1, 1, dtype=place.dtype)
        line = Line(psi)
        d_loss = loss.discriminator(line(real), line(fake)).mean()
        if penalty is not None:
            noise = torch.full((1, 1), 0.5, dtype=place.dtype)  # D's slope is the same everywhere
            d_loss = d_loss + penalty.contribution(penalty(line, real, fake, noise))
        g_loss = loss.generator(line(fake), line(real) if loss.relativistic else None).mean()
        (by_theta,) = torch.autograd.grad(g_loss, theta, create_graph=graph, retain_graph=True)
        (by_psi,) = torch.autograd.grad(d_loss, psi, create_graph=graph)
        return -torch.stack([by_theta, by_psi])

    return directions


def simultaneous(v: Field, w: Tensor, h: float, before: Tensor) -> Tensor:
    return w + h * v(w)


def alternating(v: Field, w: Tensor, h: float, before: Tensor) -> Tensor:
    first = torch.stack([w[0] + h * v(w)[0], w[1]])  # G moves, and D sees where to
    return torch.stack([first[0], w[1] + h * v(first)[1]])


def extragradient(v: Field, w: Tensor, h: float, before: Tensor) -> Tensor:
    return w + h * v(w + h * v(w))


def optimistic(v: Field, w: Tensor, h: float, before: Tensor) -> Tensor:
    return w + 2 * h * v(w) - h * v(before)


Update = Callable[[Field, Tensor, float, Tensor], Tensor]  # field, place, step, place before: the next place
UPDATES: dict[str, Update] = {
    "simultaneous": simultaneous,
    "alternating": alternating,
    "extragradient": extragradient,
    "optimistic": optimistic,
}


def run(
    seed: int = 0,
    progress: Progress = silent,
    games: dict[str, tuple[Loss, str]] = GAMES,
    penalties: dict[str, Penalty] = PENALTIES,
    updates: dict[str, Update] = UPDATES,
    step: float = STEP,
    start: tuple[float, float] | None = None,
) -> Result:
    """Plays.

    Args:
        seed: Draws where the players start, at a distance of √2 from the equilibrium.
        progress: Is told how far it is.
        games: Loss, and the name of a penalty, "clipping" or "none", behind each name.
        penalties: By name.
        updates: What stands behind the names of the four ways.
        step: Length of a step, for both players.
        start: (θ, ψ) instead.
    """
    if start is None:
        angle = 2 * math.pi * torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
        start = (math.sqrt(2) * math.cos(angle), math.sqrt(2) * math.sin(angle))
    paths = Table("game", "step", "theta", "psi", "radius")
    ways = Table("update", "step", "theta", "psi", "radius")
    for number, (name, (loss, penalty)) in enumerate(games.items()):
        clip = CLIP if penalty == "clipping" else math.inf
        path = play(field(loss, penalties.get(penalty)), simultaneous, start, step, clip)
        paths.add(game=name, step=np.arange(len(path)), theta=path[:, 0], psi=path[:, 1], radius=np.hypot(*path.T))
        progress(0.7 * (number + 1) / len(games))
    for name, update in updates.items():
        path = play(field(Wasserstein()), update, start, step)
        ways.add(update=name, step=np.arange(len(path)), theta=path[:, 0], psi=path[:, 1], radius=np.hypot(*path.T))
    progress(0.9)
    eigenvalues = Table("gamma", "real_fast", "real_slow", "imaginary")
    for gamma in GAMMAS:
        fast, slow = at_equilibrium(games["saturating"][0], type(penalties["R1 1"])(weight=float(gamma)))
        eigenvalues.add(gamma=gamma, real_fast=fast.real, real_slow=slow.real, imaginary=abs(slow.imag))

    spectra = Table("game", "real", "imaginary")
    for name, (loss, penalty) in games.items():
        if penalty not in ("clipping", "GP"):  # clipping is no part of the field, and GP has a kink at 0
            for value in at_equilibrium(loss, penalties.get(penalty)):
                spectra.add(game=name, real=value.real, imaginary=value.imag)
    held = np.array([games[name][1] != "none" for name in spectra["game"]])

    def apart_by(one: str, other: str) -> float:
        return np.abs(paths.where(game=one)["radius"] - paths.where(game=other)["radius"]).max()

    def radius(name: str, after: int = STEPS) -> float:
        return paths.where(game=name, step=after)["radius"].item()

    def rate(name: str) -> float:
        """What one step multiplies the distance by, on average."""
        way = ways.where(update=name)["radius"]
        return (way[-1] / way[0]) ** (1 / STEPS)

    best = eigenvalues["gamma"][np.argmin(eigenvalues["real_slow"])]
    theory = -eigenvalues["gamma"] / 2 + np.sqrt((eigenvalues["gamma"] ** 2 / 4 - 0.25).astype(complex))
    apart = np.abs(eigenvalues["real_slow"] - theory.real) + np.abs(eigenvalues["imaginary"] - np.abs(theory.imag))
    swing = ways.where(update="alternating")["radius"]
    clipped, hinge = (paths.where(game=name)["radius"][-100:] for name in ("Wasserstein, clipped", "hinge"))
    checks = [
        Check("saturating: distance after 500 steps, over that after 1", radius("saturating") / radius("saturating", 1),
              above=1.5),
        Check("non-saturating: distance after 500 steps, on its circle", radius("non-saturating"),
              above=0.1, below=1.2),
        Check("Wasserstein: distance after 500 steps", radius("Wasserstein"), above=1e4),
        Check("Wasserstein, clipped: least distance of the last 100 steps", clipped.min(), above=0.1),
        Check("hinge: least distance of the last 100 steps", hinge.min(), above=0.1),
        Check("relativistic against non-saturating: largest difference of distances",
              apart_by("relativistic", "non-saturating"), below=1e-9),
        Check("Wasserstein + GP: distance after 500 steps", radius("Wasserstein + GP"), above=0.1),
        Check("non-saturating + R1 0.3: distance after 500 steps", radius("non-saturating + R1 0.3"), below=1e-4),
        Check("saturating + R1 0.3: distance after 500 steps", radius("saturating + R1 0.3"), below=1e-4),
        Check("saturating, R2 against R1: largest difference of distances",
              apart_by("saturating + R2 0.3", "saturating + R1 0.3"), below=1e-9),
        Check("saturating + R1 1: distance after 500 steps", radius("saturating + R1 1"), below=1e-15),
        Check("R1 1 over R1 0.3: distance after 100 steps",
              radius("saturating + R1 1", 100) / radius("saturating + R1 0.3", 100), below=0.1),
        Check("eigenvalues of each loss without penalty: largest real part",
              np.abs(spectra["real"][~held]).max(initial=0), below=1e-9),
        Check("eigenvalues of each loss with R1 or R2: largest real part", spectra["real"][held].max(initial=-1),
              below=-0.1),
        Check("eigenvalues: largest distance from theory", apart.max(), below=1e-6),
        Check("eigenvalues: γ of the fastest convergence", best, above=0.98, below=1.02),
        Check("simultaneous: factor of a step, minus that of theory",
              abs(rate("simultaneous") - math.sqrt(1 + step**2)), below=1e-9),
        Check("alternating: largest distance over least", swing.max() / swing.min(), below=1.5),
        Check("extragradient: factor of a step, minus that of theory",
              abs(rate("extragradient") - math.sqrt((1 - step**2) ** 2 + step**2)), below=1e-9),
        Check("optimistic: factor of a step", rate("optimistic"), below=0.99),
    ]  # fmt: skip
    progress(1)
    return Result({"games": paths, "updates": ways, "eigenvalues": eigenvalues, "spectra": spectra}, checks)


def play(v: Field, update: Update, start: tuple[float, float], step: float, clip: float = math.inf) -> np.ndarray:
    """The places (STEPS + 1, 2) that the players go through."""
    place = before = torch.tensor(start, dtype=torch.float64)
    path = [place]
    for _ in range(STEPS):
        place, before = update(v, place, step, before), place
        if clip < math.inf:
            line = Line(nn.Parameter(place[1].clone()))
            clip_weights(line, clip)
            place = torch.stack([place[0], line.psi.detach()])
        path.append(place)
    return torch.stack(path).numpy()


def at_equilibrium(loss: Loss, penalty: Penalty | None) -> tuple[complex, complex]:
    """The eigenvalues of the field's Jacobian at 0, the lower real part first."""
    place = torch.zeros(2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(field(loss, penalty, graph=True), place)
    return tuple(sorted(np.linalg.eigvals(jacobian.numpy()), key=lambda value: (value.real, value.imag)))


@styled
def figure(result: Result):
    page = sheet(height=9.6)
    (top,), (bottom,) = page.subfigures(2, 1, squeeze=False, height_ratios=[5.6, 4])
    paths = result.tables["games"]
    fields = top.subplots(2, 4, sharex=True, sharey=True)
    for panel, (name, colour) in zip(fields.flat, SHOWN.items(), strict=True):
        loss, penalty = GAMES[name]
        draw_field(panel, field(loss, PENALTIES.get(penalty)))
        path = paths.where(game=name)
        panel.plot(path["theta"], path["psi"], color=colour, linewidth=1)
        panel.plot(path["theta"][0], path["psi"][0], "o", color=colour, markersize=5)
        panel.plot(0, 0, "+", color=INK, markersize=9)
        panel.set(title=name, xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect="equal", xticks=(-2, 0, 2), yticks=(-2, 0, 2))
    for panel in fields[1]:
        panel.set_xlabel("θ")
    for panel in fields[:, 0]:
        panel.set_ylabel("ψ")

    distance, spectrum, ways = bottom.subplots(1, 3, width_ratios=[5, 4, 4])
    for name, colour in SHOWN.items():
        path = paths.where(game=name)
        distance.semilogy(path["step"], path["radius"], color=colour, linewidth=1.3, label=name)
    distance.set(title="Distance from the equilibrium", xlabel="step", ylim=(1e-8, 1e5), xlim=(0, STEPS))
    values = result.tables["eigenvalues"]
    for column in ("real_fast", "real_slow"):
        spectrum.plot(values["gamma"], values[column], color=BLUE)
    for sign in (1, -1):
        spectrum.plot(values["gamma"], sign * values["imaginary"], color=VERMILION)
    spectrum.set(title="Eigenvalues", xlabel="γ of R1")
    key(spectrum, {"real part": BLUE, "imaginary part": VERMILION}, "lower left")
    colours = (VERMILION, BLACK, BLUE, GREEN)
    for (name, way), colour in zip(result.tables["updates"].groups("update"), colours, strict=True):
        ways.semilogy(way["step"], way["radius"], color=colour, label=name)
    ways.set(title="Wasserstein: how to step", xlabel="step", ylim=(1e-8, 1e5), xlim=(0, STEPS))
    label_lines(distance)
    label_lines(ways)
    return page


def draw_field(panel, v: Field) -> None:
    ticks = np.linspace(-2.2, 2.2, 12)
    arrows = np.array([[v(torch.tensor([x, y])).numpy() for x in ticks] for y in ticks])  # (12, 12, 2)
    panel.quiver(ticks, ticks, arrows[..., 0], arrows[..., 1], color="#B8B8B8", angles="xy", width=0.005)
    panel.grid(False)
