"""Steps made for games: as published, with the eigenvalues of theory on the smallest GAN, and in runs that stop."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from callbacks.test_non_finite_guard import half, run
from conftest import Recorder, SmallMNIST, same_weights
from lightning import Callback
from torch import nn
from torch.nn.functional import softplus
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from gan import GAN
from gan.callbacks import GeneratorEMA, GradientClipping, NonFiniteGuard
from gan.games import Lookahead, OptimisticAdam, PastExtraAdam, direction
from gan.gradients.clip import ByNorm
from gan.lab.dirac import UPDATES, field, simultaneous
from gan.losses import Wasserstein
from gan.muon import Muon
from gan.penalties import R1

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


@pytest.mark.parametrize(
    "make", [partial(OptimisticAdam, lr=1e-3), partial(PastExtraAdam, lr=1e-3), partial(Muon, momentum=0.5)]
)
def test_goes_on_bit_for_bit(make, make_gan, make_trainer, data, tmp_path):
    def train(steps, **fit):
        gan = make_gan(generator_optimizer=make, discriminator_optimizer=make)
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


# ---------------------------------------------------------------------- the module, on the smallest GAN


class Point(nn.Module):
    """A generator that has one number to say."""

    latent_dim = 1

    def __init__(self, theta: float):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([theta]))

    def forward(self, latents):
        return self.theta.expand(len(latents)).reshape(-1, 1, 1, 1)


class Slope(nn.Module):
    """D(x) = psi x."""

    def __init__(self, psi: float):
        super().__init__()
        self.psi = nn.Parameter(torch.tensor([psi]))

    def forward(self, images):
        return (self.psi * images).reshape(-1)


class Places(Callback):
    """Keeps where both players are after each batch."""

    def on_train_start(self, trainer, pl_module):
        self.places = [self.place(pl_module)]

    def on_train_batch_end(self, trainer, pl_module, *batch):
        self.places.append(self.place(pl_module))

    def place(self, gan):
        return [gan.generator.theta.item(), gan.discriminator.psi.item()]


def in_module(make_trainer, start, steps=8, **settings):
    """The places (steps + 1, 2) of a run of the module on the Dirac-GAN: real images are 0."""
    descend, keep = partial(SGD, lr=STEP), Places()
    gan = GAN(
        Point(start[0]),
        Slope(start[1]),
        Wasserstein(),
        generator_optimizer=descend,
        discriminator_optimizer=descend,
        **settings,
    )
    trainer = make_trainer(max_steps=steps, precision="64-true", callbacks=[keep])
    trainer.fit(gan, DataLoader(TensorDataset(torch.zeros(16, 1, 1, 1)), batch_size=2))
    return np.array(keep.places)


def of_update(name):
    """The eigenvalues of a step by the lab's formula."""

    def places(start):
        v, path = field(Wasserstein()), [torch.tensor(start, dtype=torch.float64)]
        for _ in range(6):
            path.append(UPDATES[name](v, path[-1], STEP, path[-1]))
        return torch.stack(path).numpy()

    return eigenvalues(places, memory=1)


def test_extragradient_has_the_eigenvalues_of_the_lab(make_trainer):
    """And of theory: 1 - h^2 +- ih."""
    found = eigenvalues(partial(in_module, make_trainer, extragradient=True), memory=1)
    np.testing.assert_allclose(found, of_update("extragradient"), atol=1e-6)
    np.testing.assert_allclose(found, [1 - STEP**2 - 1j * STEP, 1 - STEP**2 + 1j * STEP], atol=1e-6)


def test_without_it_the_players_alternate(make_trainer):
    found = eigenvalues(partial(in_module, make_trainer), memory=1)
    np.testing.assert_allclose(found, of_update("alternating"), atol=1e-6)


@pytest.mark.parametrize(("extragradient", "update"), [(False, "alternating"), (True, "extragradient")])
def test_lookahead_brings_the_eigenvalues_in(make_trainer, extragradient, update):
    """From x to 1 - alpha + alpha x^k, over k batches: on the circle without it, within it then."""
    lookahead = Lookahead(every=3, alpha=0.4)

    def every_third(start):
        return in_module(make_trainer, start, 12, lookahead=lookahead, extragradient=extragradient)[::3]

    found = eigenvalues(every_third, memory=1)
    np.testing.assert_allclose(found, np.sort_complex(0.6 + 0.4 * of_update(update) ** 3), atol=1e-6)
    assert np.abs(found).max() < 1


# ---------------------------------------------------------------------- the module, on digits


def test_extragradient_equals_a_loop_written_by_hand(make_gan, make_trainer, data):
    """Extra-Adam: Gidel et al., algorithm 4, with R1 in every second batch. None of our own steps."""
    adam = partial(Adam, lr=0.002, betas=(0.5, 0.9))
    settings = {"generator_optimizer": adam, "discriminator_optimizer": adam, "penalties": [R1(0.3, every=2)]}
    gan, other = make_gan(**settings, extragradient=True), make_gan().double()
    make_trainer(max_steps=5, precision="64-true").fit(gan, data)

    networks = other.generator, other.discriminator
    optimizers = [adam(network.parameters()) for network in networks]
    data = SmallMNIST(batch_size=16, validation_size=0)
    data.setup("fit")

    def look(step, real):
        rng = other.rng("batch", step)
        generator, discriminator = networks
        z, z_of_generator = (torch.randn(16, 8, generator=rng, dtype=torch.float64) for _ in range(2))
        x = real.clone().requires_grad_()
        logits = discriminator(x)
        loss = (softplus(-logits) + softplus(discriminator(generator(z).detach()))).mean()
        if step % 2 == 0:
            (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
            loss = loss + 2 * 0.3 * 0.5 * slope.square().sum((1, 2, 3)).mean()
        of_generator = softplus(-discriminator(generator(z_of_generator))).mean()
        for network, each in zip(networks, (of_generator, loss), strict=True):
            gradients = torch.autograd.grad(each, list(network.parameters()))
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient

    for step, (real, _) in zip(range(5), data.train_dataloader(), strict=False):
        start = [deepcopy(network.state_dict()) for network in networks]
        look(step, real.double())
        for optimizer in optimizers:
            optimizer.step()
        look(step, real.double())
        for network, weights, optimizer in zip(networks, start, optimizers, strict=True):
            network.load_state_dict(weights)
            optimizer.step()
    for name in ("generator", "discriminator"):
        for trained, expected in zip(getattr(gan, name).parameters(), getattr(other, name).parameters(), strict=True):
            torch.testing.assert_close(trained, expected, rtol=0, atol=1e-11)


def test_extragradient_keeps_hooks_and_counters(make_gan, make_trainer, data):
    recorder = Recorder()
    trainer = make_trainer(max_steps=6, callbacks=[recorder])
    trainer.fit(make_gan(extragradient=True), data)
    assert recorder.optimizer_steps == ["d", "g"] * 12
    assert recorder.global_steps == [1, 2, 3, 4, 5, 6]
    assert trainer.global_step == 6


def test_extragradient_clips_gradients_of_both_looks(make_gan, make_trainer, data):
    norms = []

    class Norms(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gradients = [parameter.grad for parameter in optimizer.param_groups[0]["params"]]
            norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

    clip = GradientClipping(generator=ByNorm(0.01), discriminator=ByNorm(0.01))
    make_trainer(max_steps=3, callbacks=[clip, Norms()]).fit(make_gan(extragradient=True), data)
    assert norms == pytest.approx([0.01] * 12, rel=1e-4)


def test_extragradient_clips_weights_where_it_steps_to(make_trainer):
    """A step is cut at the bound from where the batch began, and not from where it has looked."""
    places = in_module(make_trainer, (0.9, 0.45), steps=3, extragradient=True, weight_clip=0.5)
    theta, psi = 0.9, 0.45
    for expected in places[1:]:
        ahead_psi, ahead_theta = np.clip(psi - STEP * theta, -0.5, 0.5), theta + STEP * psi
        theta, psi = theta + STEP * ahead_psi, np.clip(psi - STEP * ahead_theta, -0.5, 0.5)
        np.testing.assert_allclose(expected, [theta, psi], atol=1e-12)


class Bad(Callback):
    """Puts infinity into the gradient of one of a batch's four steps: of D, of G, and of both again."""

    def __init__(self, batch, step):
        self.batch, self.step = batch, step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now, self.steps = trainer.global_step, 0

    def on_after_backward(self, trainer, pl_module):
        if self.now == self.batch and self.steps == self.step:
            network = pl_module.generator if self.step % 2 else pl_module.discriminator
            next(network.parameters()).grad[0, 0] = torch.inf
        self.steps += 1


class Kept(Callback):
    """Keeps the weights and the states of both optimizers after each batch."""

    def on_train_start(self, trainer, pl_module):
        self.kept = {}
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *batch):
        states = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        self.kept[trainer.global_step] = deepcopy((pl_module.state_dict(), states))


def unchanged(one, two):
    return all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("step", range(4))
def test_a_step_of_extragradient_that_is_skipped(make_gan, make_trainer, step):
    """A network that does not look ahead looks from where it is; one that does not step stays."""
    gan, kept = make_gan(extragradient=True), Kept()
    _, ending, said = run(make_trainer, gan, [Bad(4, step), NonFiniteGuard("skip"), kept], max_steps=7)
    assert ending == "done"
    assert len(said) == 1
    assert f"the gradient of the {'generator' if step % 2 else 'discriminator'} is not finite" in said[0]
    before, after = kept.kept[4][0], kept.kept[5][0]
    for number, name in enumerate(("discriminator", "generator")):
        own = {key: value for key, value in before.items() if key.startswith(name)}
        assert unchanged(own, after) == (step == number + 2)
    assert all(value.isfinite().all() for value in gan.state_dict().values())


@pytest.mark.parametrize("step", range(4))
def test_a_batch_of_extragradient_that_is_taken_back(make_gan, make_trainer, step):
    """It ends where rollback has led, whatever its other steps would have been, and the next one trains on."""
    gan, kept = make_gan(extragradient=True), Kept()
    guard = NonFiniteGuard("rollback", every=2)
    trainer, ending, said = run(make_trainer, gan, [Bad(5, step), guard, kept], max_steps=8)
    assert ending == "done"
    assert len(said) == 1
    assert "back to the state after batch 4 (try 1 of 3)" in said[0]
    (weights, states), (now, states_now) = kept.kept[4], kept.kept[6]
    assert unchanged(weights, now)
    for one, two in zip(states, states_now, strict=True):
        assert one.keys() == two.keys()
        assert all(unchanged(one[key], two[key]) for key in one)
    assert not unchanged(now, kept.kept[7][0])
    assert trainer.global_step == 8


FLOAT16 = {
    "sgd": partial(SGD, lr=0.01),
    "fused": partial(Adam, lr=1e-3, fused=True),
    "optimistic": OptimisticAdam,
    "past": PastExtraAdam,
}


@pytest.mark.parametrize("optimizer", FLOAT16.values(), ids=list(FLOAT16))
def test_steps_that_overflow_in_float16_move_nothing(make_gan, make_trainer, optimizer):
    """All four of the first batch, by which the loss scale is found; Lookahead comes right after."""
    both = {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer, "lookahead": Lookahead(every=1)}
    gan, kept, guard = make_gan(extragradient=True, **both), Kept(), NonFiniteGuard()
    scaler, trainer, ending, _ = half(make_trainer, gan, [guard, kept], scale=2.0**40, max_steps=12)
    assert ending == "done"
    assert scaler.get_scale() < 2**37
    assert guard.counts == {"discriminator": 0, "generator": 0}
    assert unchanged(kept.kept[0][0], kept.kept[1][0])
    assert not unchanged(kept.kept[0][0], gan.state_dict())
    assert all(value.isfinite().all() for value in gan.state_dict().values())
    assert trainer.global_step == 12


@pytest.mark.parametrize("optimizer", FLOAT16.values(), ids=list(FLOAT16))
def test_a_batch_that_is_taken_back_in_float16(make_gan, make_trainer, optimizer):
    gan, kept = make_gan(extragradient=True, generator_optimizer=optimizer, discriminator_optimizer=optimizer), Kept()
    callbacks = [Bad(3, 0), NonFiniteGuard("rollback", every=1), kept]
    _, _, ending, said = half(make_trainer, gan, callbacks, scale=0.5, max_steps=6)
    assert ending == "done"
    assert len(said) == 1
    assert unchanged(kept.kept[3][0], kept.kept[4][0])
    assert not unchanged(kept.kept[4][0], kept.kept[5][0])


SETTINGS = {
    "extragradient": {"extragradient": True},
    "Lookahead": {"lookahead": Lookahead(every=3)},
    "both": {"extragradient": True, "lookahead": Lookahead(every=2, alpha=0.8), "weight_clip": 0.2},
    "Lookahead, n_critic": {"lookahead": Lookahead(every=3), "n_critic": 2},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_run_of_both_at_once_goes_on_bit_for_bit(make_gan, make_trainer, data, tmp_path, settings, cut):
    """With layers that draw, an average, and every state that the optimizers have."""

    def train(steps, **fit):
        gan = make_gan(penalties=[R1(1.0, every=2)], **settings)
        gan.discriminator.hidden2 = nn.Sequential(gan.discriminator.hidden2, nn.Dropout(0.3))
        trainer = make_trainer(max_steps=steps, callbacks=[GeneratorEMA()])
        trainer.fit(gan, data, **fit)
        return gan, [optimizer.state_dict()["state"] for optimizer in trainer.optimizers], trainer

    whole, states, _ = train(9)
    train(cut)[2].save_checkpoint(tmp_path / "cut.ckpt")
    resumed, resumed_states, _ = train(9, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert same_weights(whole, resumed)
    for one, two in zip(states, resumed_states, strict=True):
        assert all(unchanged(one[key], two[key]) for key in one)


def test_lookahead_goes_back_to_the_start_of_the_run(make_gan, make_trainer, data):
    """Weights before the first step are kept, though the state of an Adam begins with that."""
    gan = make_gan(lookahead=Lookahead(every=2, alpha=0.25), n_critic=2)
    start, plain = make_gan(), make_gan(n_critic=2)
    make_trainer(max_steps=2).fit(gan, data)
    make_trainer(max_steps=2).fit(plain, SmallMNIST(batch_size=16, validation_size=0))
    for one, two, three in zip(gan.parameters(), start.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, 0.75 * two + 0.25 * three)


class Drawn(Callback):
    """Keeps what networks draw in each batch: the latents that the generator gets, and what is dropped."""

    def __init__(self, gan):
        self.batches = []
        gan.generator.register_forward_pre_hook(lambda _, inputs: self.take(inputs[0]))
        gan.discriminator.hidden2[1].register_forward_hook(lambda _, inputs, output: self.take(output == 0))

    def take(self, drawn):
        if self.batches:  # not before the first
            self.batches[-1].append(drawn.float())

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append([])


def test_both_looks_draw_the_same(make_gan, make_trainer, data):
    gan = make_gan(extragradient=True)
    gan.discriminator.hidden2 = nn.Sequential(gan.discriminator.hidden2, nn.Dropout(0.3))
    drawn = Drawn(gan)
    make_trainer(max_steps=3, callbacks=[drawn]).fit(gan, data)
    for batch in drawn.batches:
        assert len(batch) == 10
        assert all(map(torch.equal, batch[:5], batch[5:]))
    assert not torch.equal(drawn.batches[0][0], drawn.batches[1][0])
    assert not torch.equal(drawn.batches[0][1], drawn.batches[0][2])


class Silent(GAN):
    """Overrides a hook that the extragradient method relies on."""

    def on_before_optimizer_step(self, optimizer):
        pass


class Own(GAN):
    """A step of one's own that does not say where it updates."""

    def generator_step(self, real, condition, noise):
        return {}


class Twice(GAN):
    """Another one, that updates a network again."""

    def generator_step(self, real, condition, noise):
        super().generator_step(real, condition, noise)
        return super().generator_step(real, condition, noise)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Silent, r"must call super\(\)'s"),
        (Own, r"once, by self.update\(optimizer\)"),
        (Twice, r"once, by self.update\(optimizer\)"),
    ],
)
def test_what_extragradient_cannot_work_with_is_a_line(cls, message, make_gan, make_trainer, data):
    gan = make_gan()
    with pytest.raises(ValueError, match=f"model.extragradient: .* {message}"):
        make_trainer().fit(cls(gan.generator, gan.discriminator, extragradient=True), data)


class Plain(GAN):
    """A training step of one's own that evaluates a batch once."""

    def training_step(self, batch, batch_idx):
        noise = self.noise("batch", self.global_step)
        self.discriminator_step(*batch, noise)
        self.generator_step(*batch, noise)


@pytest.mark.parametrize(("name", "value"), [("extragradient", True), ("lookahead", Lookahead())])
def test_a_training_step_that_would_ignore_them_is_a_line(name, value, make_gan, make_trainer, data):
    gan = make_gan()
    make_trainer(max_steps=2).fit(Plain(gan.generator, gan.discriminator), data)
    with pytest.raises(ValueError, match=rf"model\.{name}: .* must take its noise from self.evaluations\(\)"):
        make_trainer().fit(Plain(gan.generator, gan.discriminator, **{name: value}), data)


def test_lookahead_that_is_left_out_is_forgotten(make_gan, make_trainer, data, tmp_path):
    """Taken up again later, it would go back to weights of long ago."""

    def train(steps, lookahead, **fit):
        trainer = make_trainer(max_steps=steps)
        trainer.fit(make_gan(lookahead=lookahead), data, **fit, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return ["slow" in state for each in trainer.optimizers for state in each.state_dict()["state"].values()]

    goes_on = {"ckpt_path": tmp_path / "last.ckpt"}
    assert all(train(2, Lookahead(every=2)))
    assert all(train(3, Lookahead(every=2), **goes_on))
    with pytest.warns(UserWarning, match="Lookahead would go back to are dropped: this run has no model.lookahead"):
        assert not any(train(4, None, **goes_on))


def test_extragradient_is_of_both_networks():
    with pytest.raises(ValueError, match=r"moves both networks at once: set model\.n_critic to 1, got 2"):
        GAN(Point(1.0), Slope(1.0), extragradient=True, n_critic=2)


@pytest.mark.parametrize(("settings", "message"), [({"every": 0}, "every must be"), ({"alpha": 1.5}, "alpha must be")])
def test_bad_lookahead(settings, message):
    with pytest.raises(ValueError, match=f"Lookahead's {message}"):
        Lookahead(**settings)
