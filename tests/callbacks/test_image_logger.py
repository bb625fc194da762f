"""Pictures: right in every pixel, at the right batches, and without effect on training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SmallMNIST, mnist, same_weights
from lightning.pytorch.loggers import TensorBoardLogger
from pictures import fill_classes
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_images import ipython

from gan import GAN
from gan.callbacks import GeneratorEMA, ImageLogger
from gan.callbacks.image_logger import animate, in_rows
from gan.data import ImageFolder
from gan.images import image_grid, to_pil, to_uint8
from gan.networks import (
    ConditionalDCGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    ProjectionDCGANDiscriminator,
)


def dcgan() -> GAN:
    torch.manual_seed(0)
    shape = (1, 28, 28)
    networks = (
        DCGANGenerator(image_shape=shape, base_channels=4),
        DCGANDiscriminator(image_shape=shape, base_channels=4),
    )
    return GAN(*networks, num_fixed_latents=16)


def test_training_is_bit_identical_with_and_without(make_trainer, data):
    one, two = dcgan(), dcgan()  # batch norm: a sample drawn in training mode would show
    make_trainer(callbacks=[ImageLogger(every=2)]).fit(one, data)
    make_trainer().fit(two, data)
    assert same_weights(one, two)


def test_each_row_of_the_fixed_grid_is_a_class(make_trainer, data, tmp_path):
    torch.manual_seed(0)
    shape, classes = (1, 28, 28), {"num_classes": 10, "base_channels": 4}
    networks = ConditionalDCGANGenerator(shape, latent_dim=8, **classes), ProjectionDCGANDiscriminator(shape, **classes)
    gan = GAN(*networks, num_fixed_latents=33)
    make_trainer(max_steps=2, callbacks=[ImageLogger(every=2)]).fit(gan, data)
    assert gan.fixed_condition.tolist() == [*[label for label in range(10) for _ in range(3)], 0, 0, 0]
    expected = image_grid(gan(gan.fixed_latents, gan.fixed_condition), columns=3)
    picture = np.asarray(Image.open(tmp_path / "samples" / "fixed_000002.png"))
    np.testing.assert_array_equal(picture, expected[0].numpy())
    said = (tmp_path / "samples" / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert said == [f"row {row + 1} of fixed_*.png: class {row % 10}" for row in range(11)]


def test_of_two_classes_the_fixed_grid_is_no_strip_and_says_what_they_are_called(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    folder = ImageFolder(str(fill_classes(tmp_path / "p", {"круг": 20, "square": 20})), size=16, batch_size=8)
    classes = {"num_classes": 2, "base_channels": 4}
    networks = (
        network((3, 16, 16), **classes) for network in (ConditionalDCGANGenerator, ProjectionDCGANDiscriminator)
    )
    gan = GAN(*networks, num_fixed_latents=80)
    make_trainer(max_steps=1, callbacks=[ImageLogger(every=2)]).fit(gan, folder)
    assert gan.fixed_columns == 10
    assert gan.fixed_condition.view(8, 10).tolist() == [[row % 2] * 10 for row in range(8)]
    said = (tmp_path / "samples" / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert said[:2] == ["row 1 of fixed_*.png: class 0, square", "row 2 of fixed_*.png: class 1, круг"]
    assert len(said) == 8


def test_files_and_tensorboard(make_trainer, data, tmp_path):
    gan = dcgan()
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    make_trainer(max_steps=8, logger=logger, callbacks=[GeneratorEMA(), ImageLogger(every=3)]).fit(gan, data)
    samples = tmp_path / "samples"
    assert sorted(path.name for path in samples.iterdir()) == [
        "fixed_000000.png",
        "fixed_000003.png",
        "fixed_000006.png",
        "fixed_000008.png",
        "interpolation_000008.png",
        "real.png",
        "training.gif",
    ]
    # The last picture is what the averaged generator makes now, in evaluation mode.
    gan.generator_ema.eval()
    with torch.no_grad():
        expected = image_grid(gan.generator_ema(gan.fixed_latents))
    drawn = torch.from_numpy(np.array(Image.open(samples / "fixed_000008.png")))
    assert torch.equal(drawn, expected[0])
    with Image.open(samples / "training.gif") as animation:
        assert animation.n_frames == 4

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["samples/fixed", "samples/interpolation", "samples/real"]
    assert [image.step for image in events.Images("samples/fixed")] == [0, 3, 6, 8]
    assert [event.step for event in events.Scalars("loss/generator")] == list(range(1, 9))


def test_real_images_are_real(make_trainer, tmp_path):
    data = SmallMNIST(batch_size=4, validation_size=0)
    make_trainer(max_steps=1, callbacks=[ImageLogger()]).fit(dcgan(), data)
    drawn = torch.from_numpy(np.array(Image.open(tmp_path / "samples" / "real.png")))
    first = drawn[2:30, 2:30]
    assert any(torch.equal(first, image[0]) for image in mnist()[0])


def test_ends_of_the_interpolation_are_fixed_samples(make_trainer, data, tmp_path):
    make_trainer(max_steps=1, callbacks=[ImageLogger()]).fit(dcgan(), data)
    fixed = np.array(Image.open(tmp_path / "samples" / "fixed_000001.png"))[2:30, 2:30]
    path = np.array(Image.open(tmp_path / "samples" / "interpolation_000001.png"))[2:30, 2:30]
    assert np.abs(fixed.astype(int) - path.astype(int)).max() <= 1


def test_long_animation_is_thinned(tmp_path):
    for number in range(130):
        to_pil(torch.full((3, 4, 4), number, dtype=torch.uint8)).save(tmp_path / f"fixed_{number:06d}.png")
    (tmp_path / "training.gif").write_bytes(animate(tmp_path))
    with Image.open(tmp_path / "training.gif") as animation:
        assert animation.n_frames == 100
        assert animation.info["loop"] == 0
        animation.seek(99)
        assert animation.convert("L").getpixel((0, 0)) == 129


@pytest.mark.parametrize("numbers", [[999_998, 999_999, 1_000_000, 10_000_000], [0, 200, 1_000_000, 2_000_000]])
def test_animation_is_in_the_order_of_batches(tmp_path, numbers):
    """A name with more digits sorts before one with fewer; and what is no picture of a batch is left out."""
    for shade, number in enumerate(numbers):
        to_pil(torch.full((3, 4, 4), 50 * shade, dtype=torch.uint8)).save(tmp_path / f"fixed_{number:06d}.png")
    to_pil(torch.full((3, 4, 4), 255, dtype=torch.uint8)).save(tmp_path / "fixed_favourite.png")
    (tmp_path / "training.gif").write_bytes(animate(tmp_path))
    with Image.open(tmp_path / "training.gif") as animation:
        shades = []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            shades.append(animation.convert("L").getpixel((0, 0)))
    assert shades == [50 * shade for shade in range(len(numbers))]


def test_bad_every():
    with pytest.raises(ValueError, match="every"):
        ImageLogger(every=0)


def test_a_picture_that_cannot_be_written_does_not_end_the_run(make_gan, make_trainer, data, tmp_path):
    (tmp_path / "samples").write_text("in the way", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"cannot write .*fixed_000000\.png.*Training goes on"):
        make_trainer(max_steps=2, callbacks=[ImageLogger()]).fit(make_gan(), data)


def test_pictures_in_a_notebook(make_trainer, data, monkeypatch, tmp_path):
    """The latest fixed grid, in one place for each `fit`."""
    shown = ipython(monkeypatch, SimpleNamespace(kernel=object()))
    logger = ImageLogger(every=3)
    for _ in range(2):
        make_trainer(max_steps=8, callbacks=[logger]).fit(dcgan(), data)
    assert [len(pictures) for pictures in shown] == [4, 4]  # of batches 0, 3, 6 and 8
    last = np.asarray(Image.open(tmp_path / "samples" / "fixed_000008.png"))
    assert np.array_equal(np.asarray(shown[-1][-1]), last)


def test_training_is_bit_identical_in_a_notebook(make_trainer, data, monkeypatch):
    one, two = dcgan(), dcgan()
    make_trainer().fit(one, data)
    ipython(monkeypatch, SimpleNamespace(kernel=object()))
    make_trainer(callbacks=[ImageLogger(every=2)]).fit(two, data)
    assert same_weights(one, two)


# ---------------------------------------------------------------------- images made from images


class Pairs(SmallMNIST):
    """Digits and their halves in size, with an alpha channel that hides the left of each."""

    condition_shape = (2, 14, 14)

    def load(self, train):
        images, _ = super().load(train)
        sources = images[:, :, ::2, ::2].clone()
        alpha = torch.full_like(sources, 255)
        alpha[..., :7] = 0
        return images, torch.cat([sources, alpha], 1)


class Lightens(torch.nn.Module):
    """A generator that is told a source, and makes plain images as light as the first of its latents."""

    latent_dim = 4
    condition_shape = (2, 14, 14)

    def __init__(self):
        super().__init__()
        self.lighter = torch.nn.Parameter(torch.zeros(1))

    def forward(self, latents, condition):
        light = condition[:, 0].mean((1, 2)) + latents[:, 0] / 4 + 100 * self.lighter  # moves some levels in a batch
        return light[:, None, None, None].expand(-1, 1, 28, 28).clamp(-1, 1)


def pixels(path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path)))


def test_each_pair_is_shown_once_where_there_are_few(make_trainer, tmp_path):
    class Few(Pairs):
        def load(self, train):
            return tuple(part[: 64 if train else 3] for part in super().load(train))

    gan = GAN(Lightens(), DCGANDiscriminator((1, 28, 28), 4), num_fixed_latents=12)
    make_trainer(max_steps=1, callbacks=[ImageLogger()]).fit(gan, Few(batch_size=8, validation_size=8))
    assert pixels(tmp_path / "samples" / "translation_000001.png").shape == (2 + 3 * 30, 2 + 3 * 28 + 5 * 2)


def test_translations_stand_between_their_sources_and_targets(make_trainer, tmp_path):
    gan = GAN(Lightens(), DCGANDiscriminator((1, 28, 28), 4), num_fixed_latents=12)
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    data = Pairs(batch_size=8, validation_size=8)
    make_trainer(max_steps=4, logger=logger, callbacks=[ImageLogger(every=2)]).fit(gan, data)
    names = {path.name for path in (tmp_path / "samples").iterdir()}
    assert {f"{kind}_00000{step}.png" for kind in ("fixed", "translation") for step in (0, 2, 4)} < names
    assert "classes.txt" not in names
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [image.step for image in events.Images("samples/translation")] == [0, 2, 4]

    picture = pixels(tmp_path / "samples" / "translation_000004.png")
    images, sources = data.load(train=False)
    made = gan(gan.fixed_latents, gan.fixed_condition)
    width = 3 * 28 + 4 * 2  # of a trio, with what parts it from the next
    assert picture.shape == (2 + 6 * 30, 2 + 2 * (width + 2))  # 2 trios a row
    for number in range(12):
        top, left = 2 + number // 2 * 30, 2 + number % 2 * (width + 2)
        source, output, target = (picture[top : top + 28, left + shift :][:, :28] for shift in (0, 30, 60))
        shown = sources[number, 0].repeat_interleave(2, 0).repeat_interleave(2, 1)
        assert (source[:, 14:].int() - shown[:, 14:].int()).abs().max() <= 1
        assert ((source[:, :14] == 127) | (source[:, :14] == 128)).all()  # hidden, so grey
        assert torch.equal(target, images[number, 0])
        assert torch.equal(output, to_uint8(made[number, 0]))
    with Image.open(tmp_path / "samples" / "training.gif") as animation:
        assert animation.n_frames == 3
        assert animation.size == picture.shape[::-1]


def test_the_interpolation_keeps_a_source_a_row(make_trainer, tmp_path):
    gan = GAN(Lightens(), DCGANDiscriminator((1, 28, 28), 4), num_fixed_latents=5)
    make_trainer(max_steps=1, callbacks=[ImageLogger()]).fit(gan, Pairs(batch_size=8, validation_size=8))
    picture = pixels(tmp_path / "samples" / "interpolation_000001.png")
    assert picture.shape == (2 + 5 * 30, 2 + 8 * 30)
    for row in range(5):
        ends = gan(gan.fixed_latents[[row, -5 + row]], gan.fixed_condition[[row, row]])
        for column, expected in zip((0, 7), image_grid(ends, 2)[0, 2:30].split([32, 30], dim=1), strict=True):
            found = picture[2 + 30 * row + 5, 2 + 30 * column + 5]
            assert abs(int(found) - int(expected[5, 7 if column == 0 else 5])) <= 1


def test_without_sources_a_warning_says_that_there_are_no_pictures(make_trainer, tmp_path):
    data = Pairs(batch_size=8, validation_size=0)
    data.setup("fit")
    with pytest.warns(UserWarning, match="no pictures of what the generator makes: it is told source images"):
        make_trainer(max_steps=2, callbacks=[ImageLogger()]).fit(
            GAN(Lightens(), DCGANDiscriminator((1, 28, 28), 4)), data.train_dataloader()
        )
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["real.png"]


@pytest.mark.parametrize(
    ("source", "image", "channels"),
    [(1, 1, 1), (2, 1, 1), (3, 1, 3), (1, 3, 3), (4, 3, 3), (2, 3, 3), (3, 3, 3), (3, 4, 4), (1, 4, 4), (5, 4, 4)],
)
def test_sources_and_images_of_other_channels_stand_side_by_side(source, image, channels):
    trios = in_rows(torch.zeros(2, source, 5, 4), torch.ones(2, image, 10, 8), torch.ones(2, image, 10, 8))
    assert trios.shape == (2, channels, 10, 3 * 8 + 4 * 2)
