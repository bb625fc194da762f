"""Steps made for games: as published, with the eigenvalues of theory on the smallest GAN, and in runs that stop."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import same_weights
from torch import nn
from torch.optim import Adam

from gan.games import OptimisticAdam, PastExtraAdam, direction
from gan.lab.dirac import UPDATES, field, simultaneous
from gan.losses import Wasserstein

STEP = 0.2
SHARP = 1e9  # an eps beside which no gradient counts: Adam is gradient descent then, at its rate over eps


def descent(cls, **settings):
    """An Adam without momentum whose updates are proportional to the gradient, by `STEP`."""
    return partial(cls, lr=STEP * SHARP, betas=(0.0, 0.9), eps=SHARP, **settings)


def path(make, start, steps=12):
    """The places (steps + 1, 2) of two players of the Dirac-GAN, Wasserstein's, that step at once."""
    players = [nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in start]
    optimizers, v = [make([player]) for player in players], field(Wasserstein())
    places = [torch.stack(players).detach()]
    for _ in range(steps):
        for player, gradient in zip(players, -v(places[-1]), strict=True):
            player.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
        places.append(torch.stack(players).detach())
    return torch.stack(places).numpy()


def eigenvalues(places_of, memory):
    """Of the linear map from the last `memory` places to the next, by paths from two starts."""
    before, after = [], []
    for start in ((1.0, 0.0), (0.0, 1.0)):
        places = places_of(start)
        windows = [places[at : at + memory].ravel() for at in range(len(places) - memory + 1)]
        before += windows[:-1]
        after += windows[1:]
    found, _, rank, _ = np.linalg.lstsq(np.array(before), np.array(after), rcond=None)
    assert rank == 2 * memory
    return np.sort_complex(np.linalg.eigvals(found))


def lab(name, start, steps=12):
    """The same path by the lab's formula, from the first step on, which has no gradient before it."""
    v, update = field(Wasserstein()), UPDATES[name]
    first = torch.tensor(start, dtype=torch.float64)
    places = [first, first + 2 * STEP * v(first)]
    for _ in range(steps - 1):
        places.append(update(v, places[-1], STEP, places[-2]))
    return torch.stack(places).numpy()


@pytest.mark.parametrize("cls", [OptimisticAdam, PastExtraAdam])
def test_eigenvalues_are_those_of_the_lab(cls):
    """And of theory: on the bilinear game, of x^2 - (1 + 2ih) x + ih and its conjugate; all are within the circle."""
    found = eigenvalues(partial(path, descent(cls)), memory=2)
    np.testing.assert_allclose(found, eigenvalues(partial(lab, "optimistic"), memory=2), atol=1e-6)
    theory = [root for h in (STEP, -STEP) for root in np.roots([1, -(1 + 2j * h), 1j * h])]
    np.testing.assert_allclose(found, np.sort_complex(theory), atol=1e-6)
    assert np.abs(found).max() < 1


def test_adam_spirals_out():
    """That the test above would see it: the eigenvalues of simultaneous steps are beyond the circle."""
    found = eigenvalues(partial(path, descent(Adam)), memory=1)
    np.testing.assert_allclose(found, np.sort_complex([1 + 1j * STEP, 1 - 1j * STEP]), atol=1e-6)
    place = torch.tensor([1.0, 0.0], dtype=torch.float64)
    second = simultaneous(field(Wasserstein()), place, STEP, place)
    np.testing.assert_allclose(path(descent(Adam), (1.0, 0.0))[1], second, atol=1e-6)


def gradients(num=6):
    return torch.randn(num, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def taken(optimizer_of, start, lr=0.1, betas=(0.5, 0.9)):
    parameter = nn.Parameter(start.clone())
    optimizer = optimizer_of([parameter], lr=lr, betas=betas)
    for gradient in gradients():
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def test_directions_are_adams():
    start = torch.ones(3, 4, dtype=torch.float64)
    place, state = start.clone(), {}
    for gradient in gradients():
        place -= 0.1 * direction(state, gradient, (0.5, 0.9), 1e-8)
    torch.testing.assert_close(place, taken(Adam, start))


def test_optimistic_adam_as_published():
    """Algorithm 1 of Daskalakis et al., line by line."""
    start = torch.ones(3, 4, dtype=torch.float64)
    theta, m, v, before = start.clone(), 0, 0, 0
    for t, g in enumerate(gradients(), start=1):
        m = 0.5 * m + 0.5 * g
        v = 0.9 * v + 0.1 * g**2
        now = m / (1 - 0.5**t) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
        theta = theta - 2 * 0.1 * now + 0.1 * before
        before = now
    torch.testing.assert_close(taken(OptimisticAdam, start), theta)


def test_extrapolation_from_the_past_as_published():
    """Algorithm 4 of Gidel et al. with its second option, line by line: weights, and where the gradient is taken."""
    start = torch.ones(3, 4, dtype=torch.float64)
    omega, ahead, m, v, steps = start.clone(), start.clone(), 0, 0, 0
    for g in gradients():
        for role in ("update", "extrapolation"):
            steps += 1
            m = 0.5 * m + 0.5 * g
            v = 0.9 * v + 0.1 * g**2
            step = 0.1 * m / (1 - 0.5**steps) / ((v / (1 - 0.9**steps)).sqrt() + 1e-8)
            if role == "update":
                omega = omega - step
            else:
                ahead = omega - step
    torch.testing.assert_close(taken(PastExtraAdam, start), ahead)


@pytest.mark.parametrize("cls", [OptimisticAdam, PastExtraAdam])
def test_a_parameter_without_a_gradient_stays(cls):
    still, moving = (nn.Parameter(torch.ones(2)) for _ in range(2))
    moving.grad = torch.ones(2)
    optimizer = cls([still, moving])
    assert optimizer.step(lambda: 3.0) == 3.0
    assert torch.equal(still, torch.ones(2))
    assert not torch.equal(moving, torch.ones(2))
    assert still not in optimizer.state


@pytest.mark.parametrize("cls", [OptimisticAdam, PastExtraAdam])
def test_goes_on_bit_for_bit(cls, make_gan, make_trainer, data, tmp_path):
    def train(steps, **fit):
        gan = make_gan(**{f"{name}_optimizer": partial(cls, lr=1e-3) for name in ("generator", "discriminator")})
        trainer = make_trainer(max_steps=steps)
        trainer.fit(gan, data, **fit)
        return gan, trainer

    whole, _ = train(7)
    _, trainer = train(4)
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    resumed, _ = train(7, ckpt_path=tmp_path / "four.ckpt", weights_only=True)
    assert same_weights(whole, resumed)


@pytest.mark.parametrize("cls", [OptimisticAdam, PastExtraAdam])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"betas": (0.5, 1.0)}, r"betas must be at least 0 and below 1, got \(0.5, 1.0\)"),
        ({"eps": 0.0}, "eps must be above 0, got 0.0"),
    ],
)
def test_bad_settings(cls, settings, message):
    with pytest.raises(ValueError, match=f"{cls.__name__}: {message}"):
        cls([nn.Parameter(torch.ones(1))], **settings)
