"""Augmentation: each change by hand, gradients through it twice, draws by batch, and the probability that adapts."""

import math

import pytest
import torch
from commands import SHORT, SMALL, command, equal, load
from conftest import Recorder, SmallMNIST, TableLogger, same_weights
from lightning import Callback
from torch import nn

from gan import GAN
from gan.augment import (
    AdaptiveAugment,
    Augment,
    Augmentation,
    DiffAugment,
    InstanceNoise,
    ScheduledAugment,
    real_sign,
)
from gan.callbacks import GradientMonitor, NonFiniteGuard
from gan.losses import LeastSquares, NonSaturating, RelativisticPaired, Wasserstein
from gan.networks import AuxiliaryDCGANDiscriminator, ConditionalDCGANGenerator, given
from gan.noise import Noise, keyed
from gan.penalties import DRAGAN, R1, ApproximateR1, ApproximateR2, GradientPenalty
from gan.schedule import Schedule
from gan.terms import Classification

HALF = 0.5  # in most draws: the middle, at which nothing changes


def images(num=4, channels=3, height=8, width=8, dtype=torch.float64, seed=0):
    return torch.rand(num, channels, height, width, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def draws(augment: Augment, num=4, seed=1, dtype=torch.float64):
    return torch.rand(num, getattr(augment, "draws", 0), dtype=dtype, generator=torch.Generator().manual_seed(seed))


def at(probability: float, **settings) -> AdaptiveAugment:
    augment = AdaptiveAugment(**settings)
    augment.probability.fill_(probability)
    return augment


def only(number: int, *values: float) -> torch.Tensor:
    """Draws of AdaptiveAugment for one image that let the changes from `number` on happen, and no other."""
    noise = torch.full((1, AdaptiveAugment.draws), 0.999, dtype=torch.float64)
    noise[0, number : number + len(values)] = torch.tensor(values, dtype=torch.float64)
    return noise


# ---------------------------------------------------------------------- DiffAugment


def test_colors_are_the_papers():
    """x + U(-.5, .5); then about the mean of the channels by U(0, 2), about that of the image by U(.5, 1.5)."""
    x = images()
    noise = draws(DiffAugment())
    b, s, c = (noise[:, number].view(-1, 1, 1, 1) for number in range(3))
    want = x + b - 0.5
    grey = want.mean(1, keepdim=True)
    want = (want - grey) * 2 * s + grey
    mean = want.mean((1, 2, 3), keepdim=True)
    want = (want - mean) * (c + 0.5) + mean
    torch.testing.assert_close(DiffAugment(translation=0, cutout=0)(x, noise), want)


@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (0.5, 0.5), (0.999, 0.3), (0.1, 0.999)])
def test_translation_moves_whole_pixels_and_fills_with_0(down, right):
    x = images(1, height=8, width=12)
    noise = torch.full((1, 7), HALF, dtype=torch.float64)
    noise[0, 3], noise[0, 4] = down, right
    dy, dx = math.floor(down * 3) - 1, math.floor(right * 5) - 2  # 1/8 of 8 is 1 pixel, of 12 is 1.5, rounded to 2
    want = torch.zeros_like(x)
    want[:, :, max(0, dy) : 8 + min(0, dy), max(0, dx) : 12 + min(0, dx)] = x[
        :, :, max(0, -dy) : 8 - max(0, dy), max(0, -dx) : 12 - max(0, dx)
    ]
    assert torch.equal(DiffAugment(color=0, cutout=0)(x, noise), want)


def test_each_translation_is_as_likely():
    x = torch.zeros(7000, 1, 24, 1, dtype=torch.float64)
    x[:, :, 12] = 1
    augment = DiffAugment(color=0, cutout=0)
    places = augment(x, draws(augment, 7000)).flatten(1).argmax(1) - 12
    counts = torch.bincount(places + 3, minlength=7)
    assert len(counts) == 7
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000 * 6 / 7)


@pytest.mark.parametrize("size", [8, 9])
def test_cutout_leaves_0_in_a_square(size):
    x = images(500, 1, size, size).abs() + 1
    noise = draws(DiffAugment(), 500)
    out = DiffAugment(color=0, translation=0)(x, noise)
    side = int(size / 2 + 0.5)
    for one, image, u in zip(out, x, noise, strict=True):
        top, left = (math.floor(float(u[n]) * (size + 1 - side % 2)) - side // 2 for n in (5, 6))
        want = image.clone()
        want[:, max(0, top) : top + side, max(0, left) : left + side] = 0
        assert torch.equal(one, want)
    # In the middle a quarter is gone, at the edges less.
    assert 0.12 < float((out == 0).double().mean()) < 0.25


# ---------------------------------------------------------------------- AdaptiveAugment


@pytest.mark.parametrize(
    ("number", "values", "want"),
    [
        (0, (0, 0.9), lambda x: x.flip(3)),
        (0, (0, 0.1), lambda x: x),
        (2, (0, 0.1), lambda x: x),
        (2, (0, 0.3), lambda x: torch.rot90(x, 3, (2, 3))),
        (2, (0, 0.6), lambda x: torch.rot90(x, 2, (2, 3))),
        (2, (0, 0.9), lambda x: torch.rot90(x, 1, (2, 3))),
        (4, (0, 1.0, 0.5), lambda x: torch.cat([x[..., 1:2], x[..., :-1]], 3)),  # to the right, and mirrored
        (4, (0, 0.5, 0.0), lambda x: torch.cat([x[:, :, 1:], x[:, :, -2:-1]], 2)),
    ],
)
def test_blits_are_pixels_in_other_places(number, values, want):
    x = images(1)
    torch.testing.assert_close(at(0.8)(x, only(number, *values)), want(x), rtol=0, atol=1e-12)


def test_turns_go_both_ways_round():
    """By 90 degrees and by 270: which is which does not matter."""
    x = images(1)
    turned = [at(0.8)(x, only(2, 0, u)) for u in (0.3, 0.9)]
    torch.testing.assert_close(turned[0].flip((2, 3)), turned[1])


def gaussian(u: float) -> float:
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * u - 1, dtype=torch.float64)))


def corners(number: int, *values: float, size: int = 33) -> torch.Tensor:
    """Where pixels come from, (2, size, size): x and y from the middle, as the look-up of two slopes gives them."""
    line = torch.arange(size, dtype=torch.float64) - size // 2
    slopes = torch.stack([line.expand(size, size), line.view(-1, 1).expand(size, size)]).unsqueeze(0)
    return at(0.8, color=False)(slopes, only(number, *values))[0]


def test_geometry_by_where_pixels_come_from():
    x, y = corners(0, 1.0)
    near = slice(12, 21)  # about the middle, so that nothing is mirrored
    assert torch.equal(x[16], torch.arange(-16, 17).double())
    scale = 2 ** (0.2 * gaussian(0.9))
    for got, want in zip(corners(7, 0, 0.9), (x / scale, y / scale), strict=True):
        torch.testing.assert_close(got[near, near], want[near, near])
    stretch = 2 ** (0.2 * gaussian(0.2))
    for got, want in zip(corners(11, 0, 0.2), (x / stretch, y * stretch), strict=True):
        torch.testing.assert_close(got[near, near], want[near, near])
    angle = math.pi * (2 * 0.7 - 1)
    rotated = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    for number in (9, 13):
        for got, want in zip(corners(number, 0, 0.7), rotated, strict=True):
            torch.testing.assert_close(got[near, near], want[near, near])
    moved = x - gaussian(0.6) * 33 / 8, y - gaussian(0.45) * 33 / 8
    for got, want in zip(corners(15, 0, 0.6, 0.45), moved, strict=True):
        torch.testing.assert_close(got[near, near], want[near, near])


def test_one_of_two_rotations_has_the_probability():
    """Each has 1 - sqrt(1 - p): here .2, of p = .36."""
    for u, turned in ((0.21, False), (0.19, True)):
        x = images(1)
        noise = only(9, u, 0.9)
        assert torch.equal(at(0.36)(x, noise), x) != turned


def test_colors_by_hand():
    x = images(1)
    grey = x.mean(1, keepdim=True)
    torch.testing.assert_close(at(0.8)(x, only(18, 0, 0.8)), x + 0.2 * gaussian(0.8))
    torch.testing.assert_close(at(0.8)(x, only(20, 0, 0.8)), x * 2 ** (0.5 * gaussian(0.8)))
    torch.testing.assert_close(at(0.8)(x, only(22, 0, 0.8)), x - 2 * grey)  # the same colour, as bright as it was dark
    torch.testing.assert_close(at(0.8)(x, only(24, 0, 5 / 6)), x.roll(1, 1))  # 120 degrees: red, green, blue in turn
    torch.testing.assert_close(at(0.8)(x, only(26, 0, 0.8)), grey + (x - grey) * 2 ** gaussian(0.8))
    both = only(18, 0, 0.8)
    both[0, 20:22] = torch.tensor([0, 0.3])
    torch.testing.assert_close(at(0.8)(x, both), (x + 0.2 * gaussian(0.8)) * 2 ** (0.5 * gaussian(0.3)))


def test_grey_images_have_brightness_contrast_and_are_inverted():
    """As three equal channels would be."""
    x, augment = images(64, 1), at(0.8, blit=False, geometry=False)
    noise = draws(augment, 64)
    color = augment(x.expand(-1, 3, -1, -1), noise)
    torch.testing.assert_close(augment(x, noise), color[:, :1])
    torch.testing.assert_close(color[:, :1], color[:, 1:2])
    assert not torch.allclose(augment(x, noise), x)


def test_each_kind_by_flag():
    x = images(64)
    noise = draws(AdaptiveAugment(), 64)
    for kind in ("blit", "geometry", "color"):
        off = {name: name == kind for name in ("blit", "geometry", "color")}
        assert not torch.equal(at(0.8, **off)(x, noise), x)
    blitted = at(1.0, geometry=False, color=False, max_probability=1)(x, noise)
    pixels = [image.flatten().tolist() for image in x]
    for one, known in zip(blitted.round(decimals=9), pixels, strict=True):
        assert set(one.flatten().tolist()) <= {round(value, 9) for value in known}
    recolored = at(0.8, blit=False, geometry=False)(torch.full((64, 3, 4, 4), 0.3), draws(AdaptiveAugment(), 64))
    assert torch.equal(recolored.amin((2, 3)), recolored.amax((2, 3)))


# ---------------------------------------------------------------------- both

EITHER = [DiffAugment(), at(0.7)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nothing_to_do_is_the_same_to_the_bit(channels, dtype):
    x = images(16, channels, 9, 12, dtype=torch.float64).to(dtype)
    for augment in (AdaptiveAugment(), DiffAugment(0, 0, 0)):
        out = augment(x, draws(augment, 16, dtype=torch.float32))
        assert torch.equal(out, x)
        assert out.dtype == dtype


@pytest.mark.parametrize("augment", EITHER, ids=lambda augment: type(augment).__name__)
def test_no_image_depends_on_another(augment):
    x, noise = images(6), draws(augment, 6)
    alone = torch.cat([augment(x[number : number + 1], noise[number : number + 1]) for number in range(6)])
    torch.testing.assert_close(augment(x, noise), alone)


@pytest.mark.parametrize("augment", EITHER, ids=lambda augment: type(augment).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_pass_twice(augment, channels):
    x, noise = images(3, channels, 5, 6).requires_grad_(), draws(augment, 3)
    assert torch.autograd.gradcheck(lambda x: augment(x, noise), x)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, noise).square(), x)


@pytest.mark.parametrize("augment", EITHER, ids=lambda augment: type(augment).__name__)
def test_autocast_and_16_bits_lose_nothing_within(augment):
    x = images(4, dtype=torch.float32)
    noise = draws(augment, dtype=torch.float32)
    want = augment(x, noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(x, noise), want)
    half = x.bfloat16()
    assert torch.equal(augment(half, noise), augment(half.float(), noise).bfloat16())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffAugment(color=-1), "DiffAugment: color must be a finite number >= 0, got -1"),
        (lambda: DiffAugment(translation=1.5), "DiffAugment: translation must be from 0 to 1, a part of the image"),
        (lambda: DiffAugment(cutout=-0.1), "DiffAugment: cutout must be from 0 to 1"),
        (lambda: InstanceNoise(-1), "InstanceNoise: level must be a finite number >= 0, got -1"),
        (lambda: ScheduledAugment(1.5), "ScheduledAugment: probability must be from 0 to 1, got 1.5"),
        (lambda: ScheduledAugment(1, False, False, False), "ScheduledAugment: blit, .* are all off"),
        (lambda: AdaptiveAugment(target=2), "AdaptiveAugment: target must be from -1 to 1, a mean sign, got 2"),
        (lambda: AdaptiveAugment(ramp=0), "AdaptiveAugment: ramp must be at least 1 image, got 0"),
        (lambda: AdaptiveAugment(max_probability=1.1), "max_probability must be from 0 to 1, got 1.1"),
        (lambda: AdaptiveAugment(False, False, False), "are all off: leave model.augment out"),
        (lambda: DiffAugment()(torch.zeros(2, 5), torch.zeros(2, 7)), r"augments floating images .* got \(2, 5\)"),
        (lambda: AdaptiveAugment()(images(channels=2), torch.zeros(4, 28)), "1 or 3 channels, got 2"),
    ],
)
def test_bad_settings_and_shapes_are_a_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_of_a_given_probability_as_ada_at_it():
    """To the bit; and at 0, where a schedule may begin, nothing."""
    x, noise = images(), draws(at(0.3))
    for p in (0.0, 0.3, 0.8):
        assert torch.equal(ScheduledAugment(p)(x, noise), at(p)(x, noise))
    rising = ScheduledAugment(Schedule(0, 0.8, batches=10))
    assert rising(x, noise) is x  # and costs nothing
    rising.probability.move(10)
    assert torch.equal(rising(x, noise), at(0.8)(x, noise))


def test_a_relativistic_loss_takes_a_given_probability(make_gan, make_trainer, data):
    augment = ScheduledAugment(Schedule(0, 0.5))
    make_trainer(max_steps=2).fit(make_gan(loss=RelativisticPaired(), augment=augment), data)


# ---------------------------------------------------------------------- noise


def test_noise_is_normal_of_its_level_and_passes_the_gradient():
    x = images(64, 1, 28, 28).requires_grad_()
    augment = InstanceNoise(0.3)
    assert augment.draws_for(x) == 28 * 28
    noise = torch.rand(64, 28 * 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    added = augment(x, noise) - x
    assert float(added.mean()) == pytest.approx(0, abs=0.01)
    assert float(added.std()) == pytest.approx(0.3, rel=0.02)
    assert float((added.abs() < 0.3).double().mean()) == pytest.approx(0.6827, abs=0.01)  # of a normal distribution
    (gradient,) = torch.autograd.grad(augment(x, noise).sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))
    assert torch.equal(InstanceNoise(0.0)(x, noise), x)


def test_noise_is_real_and_generated_ones_own_and_falls(make_gan, make_trainer, data):
    """Each time that images are judged by its own numbers, at the level of the batch; in the end none is left."""
    seen = []

    class Spied(InstanceNoise):
        def change(self, images, noise):
            out = super().change(images, noise)
            seen.append((float((out - images).std()), float(noise.sum())))
            return out

    gan = make_gan(augment=Spied(Schedule(1, 0, "linear", batches=4)))
    make_trainer(max_steps=6).fit(gan, data)
    levels = [level for level, _ in seen]
    assert levels == pytest.approx([1 - min(4, step) / 4 for step in range(6) for _ in range(3)], rel=0.05)
    assert len({numbers for _, numbers in seen}) == 18


# ---------------------------------------------------------------------- the probability


def test_probability_moves_by_the_sign():
    """p += sign(mean sign - target) * images / ramp, from 0 to its maximum; a NaN moves nothing."""
    augment = AdaptiveAugment(ramp=1000, max_probability=0.7)
    want = 0.0
    for sign, images_seen in [(1, 100), (0.2, 30), (0.61, 50), (-1, 500), (0.9, 400), (1.0, 400), (math.nan, 50)]:
        augment.adapt(torch.tensor(float(sign)), images_seen)
        way = (sign > 0.6) - (sign < 0.6)
        want = min(0.7, max(0, want + way * images_seen / 1000))
        assert float(augment.probability) == pytest.approx(want)
    assert want == 0.7
    augment.adapt(torch.tensor(-1.0), 100)
    augment.adapt(torch.tensor(0.6, dtype=torch.float64) + 1e-12, 50)  # of 1 process .6, of 2 a little more
    assert float(augment.probability) == pytest.approx(0.6)


def test_real_sign_is_that_of_images():
    """Of one that is judged in patches, by their mean."""
    logits = torch.tensor([[[3.0, -1.0]], [[-2.0, 1.0]], [[1.0, 1.0]]], requires_grad=True)
    assert float(real_sign(logits)) == pytest.approx(1 / 3)
    assert not real_sign(logits).requires_grad


def test_signs_are_seen_from_the_border_of_the_loss(make_gan):
    """Of a logit of .4 least squares says generated, and cross-entropy real."""
    for loss, sign in ((NonSaturating(), 1), (LeastSquares(), -1)):
        assert make_gan(loss=loss, augment=at(0.5)).watch(torch.full((4,), 0.4)) == {"augment/real_sign": sign}


@pytest.mark.parametrize("loss", [Wasserstein(), RelativisticPaired()], ids=lambda loss: type(loss).__name__)
def test_logits_that_say_nothing_by_themselves_are_no_guide(loss, make_gan, make_trainer, data):
    with pytest.raises(ValueError, match=f"AdaptiveAugment goes by .* model.loss={type(loss).__name__} no") as caught:
        make_trainer(max_steps=1).fit(make_gan(loss=loss, augment=at(0.5)), data)
    assert "\n" not in str(caught.value)
    make_trainer(max_steps=1).fit(make_gan(loss=loss, augment=DiffAugment()), data)


# ---------------------------------------------------------------------- draws of a batch


class Sees(Augment):
    """Leaves images as they are, and notes with which numbers."""

    draws = 2

    def __init__(self):
        super().__init__()
        self.seen = []

    def change(self, images, noise):
        self.seen.append(noise)
        return images


def test_passes_and_processes_share_the_draws_of_a_batch():
    def noises(process=0, processes=1, passes=1):
        noise = Noise(keyed(3, "batch", 5), 8, torch.float64, process, processes)
        augment = Sees()
        augmentation = Augmentation(augment, noise.wide_uniform, passes)
        size = 12 // processes // passes
        for number in range(passes):
            one = augmentation.of_pass(number)
            for _ in range(3):  # what is judged first, second and third
                one(torch.zeros(size, 1, 2, 2, dtype=torch.float64))
        calls = [torch.cat(augment.seen[call::3]) for call in range(3)]
        assert not torch.equal(calls[0], calls[1])
        return calls

    whole = noises()
    for passes in (1, 2, 3):
        for call in range(3):
            assert torch.equal(noises(passes=passes)[call], whole[call])
            parts = [noises(process, 2, passes)[call] for process in range(2)]
            assert torch.equal(torch.cat(parts), whole[call])


def test_draws_are_in_32_bits_at_least():
    noise = Noise(keyed(3, "batch", 5), 8, torch.bfloat16)
    assert noise.wide_uniform(4, 2).dtype == torch.float32
    assert noise.uniform(4, 2).dtype == torch.bfloat16


# ---------------------------------------------------------------------- in training


class Reversed(Augment):
    """Turns images upside down, by no chance."""

    draws = 1

    def change(self, images, noise):
        return images.flip(2)


class UpsideDown(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images.flip(2))


@pytest.mark.parametrize(
    "settings", [{}, {"loss": RelativisticPaired()}, {"accumulate": 2}], ids=["plain", "relativistic", "accumulate"]
)
def test_all_that_is_judged_in_training_is_augmented(settings, make_gan, make_trainer, data):
    """As by a discriminator that does it itself: in both steps, and under the penalties."""
    settings |= {"penalties": [R1(1.0), GradientPenalty(1.0), DRAGAN(1.0)]}
    one, two = make_gan(augment=Reversed(), **settings), make_gan(**settings)
    two.discriminator = UpsideDown(two.discriminator)
    for gan in (one, two):
        make_trainer(max_steps=3).fit(gan, data)
    assert same_weights(one.generator, two.generator)
    assert same_weights(one.discriminator, two.discriminator.network)


def test_r1_is_of_images_before_they_are_augmented(make_gan):
    """Of images made twice as bright, D changes twice as much."""

    class Brighter(Reversed):
        def change(self, images, noise):
            return 2 * images

    gan, x = make_gan(), images(5, 1, 28, 28, dtype=torch.float32) / 2
    plain, augmented = given(None, gan.discriminator, gan.discriminator)
    augmented.before = Augmentation(Brighter(), lambda num, draws: torch.zeros(num, draws)).of_pass(0)
    penalty = R1(1.0)
    torch.testing.assert_close(penalty(augmented, x, x), 4 * penalty(plain, 2 * x, x))


@pytest.mark.parametrize("penalty", [ApproximateR1(1.0), ApproximateR2(1.0)], ids=lambda penalty: penalty.name)
@pytest.mark.parametrize("augment", [DiffAugment(), InstanceNoise(0.3), at(0.5)], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("number", [0, 1])
def test_approximate_penalties_are_of_two_points_of_one_function(penalty, augment, number, make_gan):
    """Both images are changed alike, or the penalty would be of what the changes differ by."""
    judge, x = make_gan().discriminator.double(), images(6, 1, 28, 28)
    u = images(6, 1, 28, 28, seed=1).add(1).div(2)
    rng = torch.Generator().manual_seed(0)
    (augmented,) = given(None, judge)
    augmentation = Augmentation(augment, lambda *shape: torch.rand(shape, generator=rng, dtype=x.dtype), passes=2)
    augmented.before = augmentation.of_pass(number)
    augmented(x)  # as the adversarial loss does, by numbers of its own
    values = penalty(augmented, x, x, u)
    assert len(augmentation.drawn) == 2
    drawn = augmentation.drawn[1].chunk(2)[number]
    torch.testing.assert_close(values, penalty(lambda points: judge(augment(points, drawn)), x, x, u))
    assert torch.equal(augmented.before.again(x), augment(x, drawn))


def test_the_classifier_of_a_discriminator_sees_what_it_judges():
    judge = AuxiliaryDCGANDiscriminator((1, 8, 8), num_classes=3, base_channels=4).double()
    x, labels = images(5, 1), torch.tensor([0, 1, 2, 0, 1])
    plain, augmented = given(labels, judge, judge)
    augmented.before = Augmentation(Reversed(), lambda num, draws: torch.zeros(num, draws)).of_pass(0)
    torch.testing.assert_close(
        Classification().generator(augmented, x, x), Classification().generator(plain, x, x.flip(2))
    )


@pytest.mark.parametrize("make", [DiffAugment, lambda: at(0.5, ramp=100)], ids=["DiffAugment", "ADA"])
def test_passes_of_a_batch_are_as_one(make, make_gan, make_trainer):
    """To rounding, in float64: the probability too."""
    runs = []
    for accumulate in (1, 2):
        gan = make_gan(accumulate=accumulate, augment=make(), penalties=[R1(1.0, every=2), DRAGAN(0.5)])
        data = SmallMNIST(batch_size=16 // accumulate, validation_size=0)
        table = TableLogger()
        make_trainer(max_steps=6, precision="64-true", logger=table).fit(gan, data)
        runs.append((gan, table.rows))
    (one, rows), (two, others) = runs
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[key], rtol=0, atol=1e-9)
    for (step, row), (other_step, other) in zip(rows, others, strict=True):
        assert step == other_step
        assert list(row.values()) == pytest.approx(list(other.values()), rel=1e-9)


def test_the_probability_is_logged_and_follows_the_real_logits(make_gan, make_trainer, data):
    table = TableLogger()
    gan = make_gan(augment=AdaptiveAugment(ramp=160, target=0.0))
    make_trainer(max_steps=12, logger=table).fit(gan, data)
    rows = [row for _, row in table.rows if "augment/probability" in row]
    assert len(rows) == 12
    p = 0.0
    for row in rows:
        sign = row["augment/real_sign"]
        p = min(0.8, max(0.0, p + ((sign > 1e-6) - (sign < -1e-6)) * 16 / 160))
        assert row["augment/probability"] == pytest.approx(p, abs=1e-6)
    assert any(row["augment/probability"] > 0 for row in rows)
    assert float(gan.state_dict()["augment.probability"]) == pytest.approx(p, abs=1e-6)


def test_without_is_as_it_was(make_gan, make_trainer, data):
    """As with an augmentation that does nothing: what it draws changes nothing that is drawn beside it."""
    gans = [make_gan(augment=augment, penalties=[DRAGAN(1.0)]) for augment in (None, DiffAugment(0, 0, 0), Sees())]
    for gan in gans:
        make_trainer(max_steps=3).fit(gan, data)
    assert all(same_weights(gans[0], gan) for gan in gans[1:])
    seen = gans[2].augment.seen  # D's real and generated images, and DRAGAN's; then G's
    assert len(seen) == 3 * 4
    assert len({float(noise.sum()) for noise in seen}) == 3 * 4


def test_samples_and_scores_are_not_augmented(make_gan, make_trainer):
    augment = Sees()
    gan = make_gan(augment=augment)
    gan.sample(4)
    make_trainer().validate(gan, SmallMNIST(batch_size=16, validation_size=64))
    assert augment.seen == []


def test_the_monitor_sees_it_and_leaves_the_probability(make_gan, make_trainer, data):
    """What it measures is the gradient that training has; the batches, and the probability, are the same without it."""
    runs = []
    for callbacks in ([], [GradientMonitor(every=1, images=16)]):
        gan = make_gan(augment=at(0.5, ramp=100), penalties=[R1(1.0)])
        make_trainer(max_steps=4, callbacks=callbacks).fit(gan, data)
        runs.append(gan)
    assert same_weights(*runs)
    counted = []
    for augment in (None, Reversed()):
        monitor = GradientMonitor(every=1, images=16)
        make_trainer(max_steps=1, callbacks=[monitor]).fit(make_gan(augment=augment), data)
        counted.append(monitor.stats)
    assert counted[0].logit_real != counted[1].logit_real
    assert counted[0].range_real == counted[1].range_real  # of images as they are


def test_in_16_bits_the_probability_keeps_its_small_steps(make_gan, make_trainer, data):
    gan = make_gan(augment=at(0.5, target=-1.0))
    before = []

    class Watch(Recorder):
        def on_train_batch_end(self, trainer, pl_module, *args):
            before.append(float(pl_module.augment.probability))

    make_trainer(max_steps=4, precision="bf16-true", callbacks=[Watch()]).fit(gan, data)
    assert gan.augment.probability.dtype == torch.float32
    assert before == pytest.approx([0.5 + number * 16 / 100_000 for number in range(1, 5)], abs=1e-7)


def test_rollback_takes_the_probability_back(make_gan, make_trainer, data):
    class Poison(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 3 and trainer.optimizers.index(optimizer) == 0:
                next(pl_module.discriminator.parameters()).grad.fill_(math.nan)

    guard = NonFiniteGuard(policy="rollback", every=100)
    gan = make_gan(augment=at(0.5, target=-1.0, ramp=1600))
    with pytest.warns(UserWarning, match="back to the state after batch 0"):
        make_trainer(max_steps=4, callbacks=[Poison(), guard]).fit(gan, data)
    assert float(gan.augment.probability) == pytest.approx(0.51)  # that of the start, and the last batch's step


def test_translations_are_refused(told, make_trainer, request):
    gan, data = told(augment=DiffAugment())
    if gan.num_classes is not None:
        make_trainer(max_steps=1).fit(gan, data)
        return
    with pytest.raises(ValueError, match=r"model\.augment=DiffAugment changes images and not the sources") as caught:
        make_trainer(max_steps=1).fit(gan, data)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- the command, and checkpoints

ADA = ["--model.augment", "AdaptiveAugment", "--model.augment.ramp", "400", "--model.augment.target", "-0.9"]


def test_goes_on_bit_for_bit_with_its_probability(tmp_path):
    words = [*SMALL, *SHORT, "--trainer.max_steps"]
    command("fit", *words, 8, *ADA, "--run_dir", tmp_path / "whole")
    command("fit", *words, 5, *ADA, "--run_dir", tmp_path / "parts")
    command("fit", "--run_dir", tmp_path / "parts", "--resume", "auto", "--trainer.max_steps", 8)
    one, two = (load(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "parts"))
    assert equal(one["state_dict"], two["state_dict"])
    assert 0 < float(one["state_dict"]["augment.probability"]) <= 0.8
    assert equal(one["scalars"], two["scalars"])
    assert "augment/probability" in one["scalars"]
    gan = GAN.load_from_checkpoint(tmp_path / "parts" / "checkpoints" / "last.ckpt")
    assert isinstance(gan.augment, AdaptiveAugment)
    assert torch.equal(gan.augment.probability, two["state_dict"]["augment.probability"])
    gan.sample(2)


@pytest.mark.parametrize("other", [[], ADA], ids=["to none", "from none"])
def test_a_run_that_goes_on_may_change_it(tmp_path, other):
    words = [*SMALL, *SHORT, "--trainer.max_steps"]
    command("fit", *words, 3, *(() if other else ADA), "--run_dir", tmp_path / "run")
    then = other or ["--model.augment", "null"]
    command("fit", "--run_dir", tmp_path / "run", "--resume", "auto", *then, "--trainer.max_steps", 5)
    state = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert ("augment.probability" in state) == bool(other)


def test_saved_from_python_it_is_rebuilt(make_gan, make_trainer, data, tmp_path):
    gan = make_gan(augment=DiffAugment(cutout=0.25))
    trainer = make_trainer(max_steps=2)
    trainer.fit(gan, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = GAN.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.augment.spec == gan.augment.spec
    assert again.augment.cutout == 0.25


def test_conditional_networks_take_it(make_trainer):
    torch.manual_seed(0)
    generator = ConditionalDCGANGenerator((1, 28, 28), 10, latent_dim=8, base_channels=4)
    gan = GAN(
        generator,
        AuxiliaryDCGANDiscriminator((1, 28, 28), 10, 4),
        classification=Classification(),
        augment=at(0.5),
    )
    make_trainer(max_steps=2).fit(gan, SmallMNIST(batch_size=8, validation_size=0))
