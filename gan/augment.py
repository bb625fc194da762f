"""Augmentation of what the discriminator judges, so that it cannot learn few images by heart, nor tell all apart.

Real and generated images are augmented alike, each time that they are judged, and the gradient goes through: what the
generator makes is not augmented by it. Karras et al. 2020, arXiv:2006.06676, section 2.2, say when that holds.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gan.batch import of_samples
from gan.errors import GANError
from gan.schedule import Number, ends
from gan.spec import Described

REAL_SIGN, PROBABILITY = "augment/real_sign", "augment/probability"  # scalars of `AdaptiveAugment`
LUMA = 1 / math.sqrt(3)  # each part of the unit vector of grey, in colours


class Augment(Described, nn.Module, ABC):
    """A random change of images, each by its own numbers, through which a gradient passes, twice too.

    Attributes:
        draws: How many random numbers an image needs.
    """

    draws: int

    def draws_for(self, images: Tensor) -> int:
        """How many random numbers each of the images (N, C, H, W) needs."""
        return self.draws

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Images (N, C, H, W), changed, in their type.

        Args:
            images: (N, C, H, W) in [-1, 1].
            noise: Numbers from U[0, 1), (N, draws_for(images)), drawn by the caller.

        Raises:
            GANError: If these are no images, or of channels that cannot be changed so.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise GANError(
                f"{type(self).__name__} augments floating images (N, C, H, W), got {tuple(images.shape)} of "
                f"{images.dtype}: leave model.augment out"
            )
        wide = torch.promote_types(images.dtype, torch.float32)
        with torch.autocast(images.device.type, enabled=False):
            return self.change(images.to(wide), noise.to(wide)).to(images.dtype)

    @abstractmethod
    def change(self, images: Tensor, noise: Tensor) -> Tensor:
        """What `forward` says, of images in float32 or wider."""


class DiffAugment(Augment):
    """DiffAugment (Zhao et al. 2020, arXiv:2006.10738): every image changes colour, place, and loses a square.

    Colour: brightness is moved by U(-.5, .5), saturation is multiplied by U(0, 2), contrast by U(.5, 1.5). Places are
    moved by whole pixels, and what comes in is 0, as what is cut out is: the grey between -1 and 1.

    Args:
        color: Strength, >= 0, as a part of the paper's, or its schedule; 0 leaves colours alone.
        translation: How far images are moved at most, as a part of their height and width, from 0 to 1, or its
            schedule; the paper takes 1/8.
        cutout: Side of the square that is cut out, likewise; the paper takes 1/2.

    Raises:
        GANError: If a strength is out of range.
    """

    draws = 7

    def __init__(self, color: Number = 1.0, translation: Number = 0.125, cutout: Number = 0.5) -> None:
        super().__init__()
        if not all(0 <= end < math.inf for end in ends(color)):
            raise GANError(f"DiffAugment: color must be a finite number >= 0, got {color}")
        for name, value in {"translation": translation, "cutout": cutout}.items():
            if not all(0 <= end <= 1 for end in ends(value)):
                raise GANError(f"DiffAugment: {name} must be from 0 to 1, a part of the image, got {value}")
        self.color, self.translation, self.cutout = color, translation, cutout

    def change(self, images: Tensor, noise: Tensor) -> Tensor:
        brightness, saturation, contrast, down, right, y, x = noise.unbind(1)  # each (N,)
        color, translation, cutout = float(self.color), float(self.translation), float(self.cutout)
        if color:
            b, s, c = (color * (u - 0.5).view(-1, 1, 1, 1) for u in (brightness, saturation, contrast))
            images = images + b
            images = scaled_about(images.mean(1, keepdim=True), images, 1 + 2 * s)
            images = scaled_about(images.mean((1, 2, 3), keepdim=True), images, 1 + c)
        if translation:
            images = moved(images, down, right, translation)
        return cut_out(images, y, x, cutout) if cutout else images


def scaled_about(center: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Images with their distance to a centre multiplied."""
    return (images - center) * factor + center


def moved(images: Tensor, down: Tensor, right: Tensor, most: float) -> Tensor:
    """Images (N, C, H, W) moved by whole pixels, up to a part `most` of their size, 0 where nothing comes from.

    Args:
        images: (N, C, H, W).
        down: From 0, as far up as can be, to 1, as far down, (N,).
        right: Likewise, from left to right.
        most: Of the height, and of the width.
    """
    for dim, part in ((2, down), (3, right)):
        size = images.shape[dim]
        whole = int(size * most + 0.5)
        # From -whole to whole, each as likely.
        shift = one_of(part, 2 * whole + 1) - whole
        source = torch.arange(size, device=images.device) - shift.long().view(-1, 1)  # (N, size)
        lines = [1, 1, 1, 1]
        lines[0], lines[dim] = len(images), size
        inside = ((source >= 0) & (source < size)).view(lines)
        index = source.clamp(0, size - 1).view(lines).expand_as(images)
        images = images.gather(dim, index).masked_fill(~inside, 0)
    return images


def cut_out(images: Tensor, y: Tensor, x: Tensor, part: float) -> Tensor:
    """Images (N, C, H, W) with a square of 0, a `part` of them wide, in the middle of which lies (y, x) in [0, 1)."""
    within = []
    for dim, u in ((2, y), (3, x)):
        size = images.shape[dim]
        side = int(size * part + 0.5)
        places = size + 1 - side % 2
        first = one_of(u, places) - side // 2  # (N,)
        line = torch.arange(size, device=images.device) - first.view(-1, 1)  # (N, size)
        within.append((line >= 0) & (line < side))
    rows, columns = within
    return images.masked_fill((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), 0)


class InstanceNoise(Augment):
    """Normal noise on what the discriminator judges, of real and generated images alike.

    Images lie on few dimensions of their space, those of a generator on others, and a discriminator that tells them
    apart without error leaves no gradient. Noise lets the two overlap (Sonderby et al. 2016, arXiv:1610.04490; Arjovsky
    and Bottou 2017, arXiv:1701.04862); a level that falls to 0 lets training end on the images themselves.

    Args:
        level: Standard deviation of the noise, >= 0, of images in [-1, 1], or its schedule, such as from .5 to 0.

    Raises:
        GANError: If `level` is negative or not finite.
    """

    def __init__(self, level: Number) -> None:
        super().__init__()
        if not all(0 <= end < math.inf for end in ends(level)):
            raise GANError(f"InstanceNoise: level must be a finite number >= 0, got {level}")
        self.level = level

    def draws_for(self, images: Tensor) -> int:
        return math.prod(images.shape[1:])

    def change(self, images: Tensor, noise: Tensor) -> Tensor:
        level = float(self.level)
        return images + level * normal(noise).view_as(images) if level else images


class Pipeline(Augment):
    """The changes of ADA, each with the same probability: see `AdaptiveAugment`.

    Args:
        blit: Whether to flip, to turn by 90 degrees, and to move by whole pixels.
        geometry: Whether to scale, to rotate, and to move by parts of pixels.
        color: Whether to change brightness, contrast, luma, hue and saturation.

    Raises:
        GANError: If all changes are off.
    """

    draws = 28

    def __init__(self, blit: bool = True, geometry: bool = True, color: bool = True) -> None:
        super().__init__()
        if not (blit or geometry or color):
            raise GANError(f"{type(self).__name__}: blit, geometry and color are all off: leave model.augment out")
        self.blit, self.geometry, self.color = blit, geometry, color

    @abstractmethod
    def chance(self, images: Tensor) -> Tensor:
        """The probability of each change, (), in the type of the images."""

    def change(self, images: Tensor, noise: Tensor) -> Tensor:
        p = self.chance(images)
        u = noise.unbind(1)  # each (N,)
        if self.color and images.shape[1] not in (1, 3):
            raise GANError(
                f"{type(self).__name__} changes colours of 1 or 3 channels, got {images.shape[1]}: set "
                "model.augment.color to false"
            )
        if self.blit or self.geometry:
            height, width = images.shape[2:]
            back = identity(images, 3)
            if self.blit:
                back = back @ blits(p, u[:7], height, width)
            if self.geometry:
                back = back @ geometry(p, u[7:18], height, width)
            images = looked_up(images, back)
        return recolored(images, p, u[18:]) if self.color else images


class ScheduledAugment(Pipeline):
    """The changes of ADA with a probability that is given, or follows a schedule, as R3GAN has them.

    Huang et al. 2024 (arXiv:2501.05441) let it rise. It asks nothing of the loss: a relativistic one, whose logits tell
    `AdaptiveAugment` nothing to go by, can have it.

    Args:
        probability: Of each change, from 0 to 1, or its schedule.
        blit: Flips left to right, turns by 90 degrees, moves by whole pixels up to 1/8 of the size.
        geometry: Scale, rotation, another scale for each side, moves by parts of pixels.
        color: Brightness, contrast, luma flip, hue, saturation; of images of 1 or 3 channels.

    Raises:
        GANError: If `probability` is out of range, or all changes are off.
    """

    def __init__(self, probability: Number, blit: bool = True, geometry: bool = True, color: bool = True) -> None:
        super().__init__(blit, geometry, color)
        if not all(0 <= end <= 1 for end in ends(probability)):
            raise GANError(f"ScheduledAugment: probability must be from 0 to 1, got {probability}")
        self.probability = probability

    def change(self, images: Tensor, noise: Tensor) -> Tensor:
        return super().change(images, noise) if float(self.probability) else images

    def chance(self, images: Tensor) -> Tensor:
        return images.new_tensor(float(self.probability))


class AdaptiveAugment(Pipeline):
    """ADA (Karras et al. 2020, arXiv:2006.06676): each change with a probability that overfitting sets.

    After each batch the probability rises if the mean sign of the discriminator's logits of real images is above the
    target, and falls if it is below: the surer it is of what it trains on, the more of it is changed. It starts at 0,
    is a buffer, and is logged as `augment/probability`, the mean sign as `augment/real_sign`. A sign is that of the
    distance to the loss's border; a loss without one, Wasserstein's or a relativistic one, tells nothing to go by.

    Of the paper's changes those that apply to small images: all of pixel blitting, geometry and colour; no filters, no
    corruptions. Geometry is one bilinear look-up, images beyond their edges being mirrored, where the paper filters.
    Strengths are the paper's. An image of one channel has brightness, contrast, and is inverted where one of three has
    its luma flipped.

    Args:
        blit: Flips left to right, turns by 90 degrees, moves by whole pixels up to 1/8 of the size. Not for images
            that nobody would take for one of the data when they are turned, if p comes near 1.
        geometry: Scale, rotation, another scale for each side, moves by parts of pixels.
        color: Brightness, contrast, luma flip, hue, saturation; of images of 1 or 3 channels.
        target: Mean sign of the logits of real images, from -1 to 1, that the probability is moved towards; the paper
            takes .6.
        ramp: Images, of all processes, in which the probability moves by 1, at least 1. The paper takes 500,000, in
            runs of 25 million; here whole runs have a few 100,000.
        max_probability: The highest probability, from 0 to 1. Changes leak into what is generated where there are
            hardly any images without; the paper finds them safe up to .8.

    Raises:
        GANError: If a setting is out of range, or all changes are off.
    """

    probability: Tensor  # ()

    def __init__(
        self,
        blit: bool = True,
        geometry: bool = True,
        color: bool = True,
        target: float = 0.6,
        ramp: int = 100_000,
        max_probability: float = 0.8,
    ) -> None:
        super().__init__(blit, geometry, color)
        if not -1 <= target <= 1:
            raise GANError(f"AdaptiveAugment: target must be from -1 to 1, a mean sign, got {target}")
        if not 1 <= ramp < math.inf:
            raise GANError(f"AdaptiveAugment: ramp must be at least 1 image, got {ramp}")
        if not 0 <= max_probability <= 1:
            raise GANError(f"AdaptiveAugment: max_probability must be from 0 to 1, got {max_probability}")
        self.target, self.ramp, self.max_probability = target, ramp, max_probability
        self.register_buffer("probability", torch.tensor(0.0))

    def adapt(self, real_sign: Tensor, images: int) -> None:
        """Moves the probability by a batch.

        Args:
            real_sign: Mean sign of the logits of its real images, (); of NaN the probability stays where it is.
            images: How many they were, over all processes.
        """
        over = real_sign - self.target  # the same on one process and on several, but for rounding
        way = (over > 1e-6).to(self.probability) - (over < -1e-6).to(self.probability)
        self.probability.add_(way * images / self.ramp).clamp_(0, self.max_probability)

    def chance(self, images: Tensor) -> Tensor:
        return self.probability.to(images)


def normal(u: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones in [0, 1)."""
    return math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-6, 1 - 1e-6))


def one_of(u: Tensor, num: int) -> Tensor:
    """Whole numbers from 0 to num - 1 of uniform ones in [0, 1)."""
    return (u * num).floor().clamp(max=num - 1)


def identity(like: Tensor, size: int) -> Tensor:
    """Matrices (N, size, size) for as many images, that change nothing."""
    return torch.eye(size, dtype=like.dtype, device=like.device).expand(len(like), size, size)


def matrix(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """Matrices (N, rows, columns) of numbers, or of tensors (N,)."""
    flat = [value if isinstance(value, Tensor) else torch.full_like(like, value) for row in rows for value in row]
    return torch.stack(flat, 1).view(len(like), len(rows), -1)


def affine(like: Tensor, xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
    """Maps (N, 3, 3) of places (x, y, 1), without a move."""
    return matrix([[xx, xy, 0.0], [yx, yy, 0.0], [0.0, 0.0, 1.0]], like)


def shift_back(x: Tensor, y: Tensor) -> Tensor:
    """From where pixels come that are moved by (x, y): maps (N, 3, 3)."""
    return matrix([[1.0, 0.0, -x], [0.0, 1.0, -y], [0.0, 0.0, 1.0]], x)


def blits(p: Tensor, u: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Maps (N, 3, 3) of places to where their pixels come from: flips, turns by 90 degrees, moves by whole pixels."""
    flip = one_of(u[1], 2) * (u[0] < p)
    one, nought = torch.ones_like(flip), torch.zeros_like(flip)
    turns = (one_of(u[3], 4) * (u[2] < p)).long()
    cosine, sine = (flip.new_tensor(values)[turns] for values in ([1, 0, -1, 0], [0, 1, 0, -1]))
    x, y = (((2 * part - 1) * size / 8).round() * (u[4] < p) for part, size in ((u[5], width), (u[6], height)))
    mirrored = affine(flip, 1 - 2 * flip, nought, nought, one)
    return mirrored @ affine(flip, cosine, sine, -sine, cosine) @ shift_back(x, y)


def geometry(p: Tensor, u: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Likewise: scale, rotation, scale of one side, rotation, moves by parts of pixels."""
    nought = torch.zeros_like(u[0])
    scale = torch.exp2(0.2 * normal(u[1]) * (u[0] < p))
    each = 1 - (1 - p).sqrt()  # so that one of both rotations has probability p
    before, after = (math.pi * (2 * u[at + 1] - 1) * (u[at] < each) for at in (2, 6))
    stretch = torch.exp2(0.2 * normal(u[5]) * (u[4] < p))
    x, y = (normal(part) * size / 8 * (u[8] < p) for part, size in ((u[9], width), (u[10], height)))
    back = affine(nought, 1 / scale, nought, nought, 1 / scale)
    back = back @ affine(nought, before.cos(), before.sin(), -before.sin(), before.cos())
    back = back @ affine(nought, 1 / stretch, nought, nought, stretch)
    return back @ affine(nought, after.cos(), after.sin(), -after.sin(), after.cos()) @ shift_back(x, y)


def looked_up(images: Tensor, back: Tensor) -> Tensor:
    """Images (N, C, H, W) whose pixels come from other places, by bilinear interpolation; beyond the edge, mirrored.

    Not by `grid_sample`, which cannot be differentiated twice.

    Args:
        images: (N, C, H, W).
        back: Maps (N, 3, 3) of places (x, y, 1), in pixels from the middle, to those where the pixels come from.
    """
    num, _, height, width = images.shape
    x, y = (torch.arange(size, device=images.device) - (size - 1) / 2 for size in (width, height))
    x, y = x.to(images.dtype).view(1, 1, -1), y.to(images.dtype).view(1, -1, 1)
    at = back.view(num, 9, 1, 1).unbind(1)
    columns, right = between(at[0] * x + at[1] * y + at[2] + (width - 1) / 2, width)  # each (N, H, W)
    rows, low = between(at[3] * x + at[4] * y + at[5] + (height - 1) / 2, height)
    flat = images.flatten(2)

    def pixels(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows * width + columns).flatten(1).unsqueeze(1)  # (N, 1, H * W)
        return flat.gather(2, index.expand_as(flat)).view_as(images)

    right, low = right.unsqueeze(1), low.unsqueeze(1)
    upper = pixels(rows[0], columns[0]) * (1 - right) + pixels(rows[0], columns[1]) * right
    lower = pixels(rows[1], columns[0]) * (1 - right) + pixels(rows[1], columns[1]) * right
    return upper * (1 - low) + lower * low


def between(place: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The two pixels of a line that a place lies between, mirrored at the ends, and the part of the second."""
    period = max(1, 2 * (size - 1))
    place = place.remainder(period)
    place = torch.minimum(place, period - place).clamp(0, size - 1)
    first = place.floor()
    index = first.long()
    return (index, (index + 1).clamp(max=size - 1)), place - first


def recolored(images: Tensor, p: Tensor, u: Sequence[Tensor]) -> Tensor:
    """Images (N, 1 or 3, H, W) with other colours: brightness, contrast, luma flip, hue, saturation."""
    brightness = 0.2 * normal(u[1]) * (u[0] < p)
    contrast = torch.exp2(0.5 * normal(u[3]) * (u[2] < p))
    flip = one_of(u[5], 2) * (u[4] < p)
    move = brightness * contrast  # which contrast follows
    if images.shape[1] == 1:
        sign = 1 - 2 * flip
        return images * (contrast * sign).view(-1, 1, 1, 1) + (move * sign).view(-1, 1, 1, 1)
    angle = math.pi * (2 * u[7] - 1) * (u[6] < p)
    saturation = torch.exp2(normal(u[9]) * (u[8] < p))

    def by(number: Tensor) -> Tensor:
        return number.view(-1, 1, 1)

    eye = identity(images, 3)
    grey = torch.full_like(eye, LUMA * LUMA)  # projects on it
    across = images.new_tensor([[0.0, -LUMA, LUMA], [LUMA, 0.0, -LUMA], [-LUMA, LUMA, 0.0]])
    hue = eye + by(1 - angle.cos()) * (grey - eye) + by(angle.sin()) * across
    flipped = eye - 2 * by(flip) * grey
    colors = (eye + by(saturation - 1) * (eye - grey)) @ hue @ flipped  # (N, 3, 3)
    moved_by = (colors.sum(2) * move.view(-1, 1)).view(-1, 3, 1, 1)
    colors = colors * by(contrast)
    parts = [colors[:, :, channel].view(-1, 3, 1, 1) * images[:, channel : channel + 1] for channel in range(3)]
    return parts[0] + parts[1] + parts[2] + moved_by


# ---------------------------------------------------------------------- in a batch


def real_sign(logits: Tensor, border: float = 0.0) -> Tensor:
    """The mean sign () of the logits (N, ...) of real images, seen from the logit that says neither."""
    return (of_samples(logits.detach()) - border).sign().mean()


class Augmentation:
    """The augmentation of a batch that is worked through in passes: each has its part of what the batch draws.

    What is judged first, second and so on draws numbers of its own.

    Args:
        augment: What is done to images.
        uniform: Numbers from U[0, 1), as many rows and columns as are asked for, see `gan.noise.Noise`.
        passes: Passes of the batch.
    """

    def __init__(self, augment: Augment, uniform: Callable[[int, int], Tensor], passes: int = 1) -> None:
        self.augment, self.uniform, self.passes = augment, uniform, passes
        self.drawn: list[Tensor] = []

    def of_pass(self, number: int) -> "AugmentationOfPass":
        """What is to be done to images (N, C, H, W) each time that they are judged in a pass, by its number."""
        return AugmentationOfPass(self, number)

    def numbers(self, call: int, images: Tensor) -> Tensor:
        """What is drawn for all passes' images when they are judged for the `call`-th time, from 0."""
        if call == len(self.drawn):
            self.drawn.append(self.uniform(self.passes * len(images), self.augment.draws_for(images)))
        return self.drawn[call]


class AugmentationOfPass:
    """Images (N, C, H, W) of a pass to those that are judged.

    Args:
        augmentation: Of the batch.
        number: Of the pass.
    """

    def __init__(self, augmentation: Augmentation, number: int) -> None:
        self.augmentation, self.number = augmentation, number
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        """By numbers of their own."""
        self.calls += 1
        return self.again(images)

    def again(self, images: Tensor) -> Tensor:
        """By the numbers of the call before."""
        drawn = self.augmentation.numbers(self.calls - 1, images)
        return self.augmentation.augment(images, drawn.chunk(self.augmentation.passes)[self.number])
