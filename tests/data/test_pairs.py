"""Images made worse: each degradation by hand and against Pillow, and the data module that pairs them up."""

import numpy as np
import pytest
import torch
from commands import PAIRS, ColourDigits, command, fit, load
from conftest import SmallMNIST, mnist
from pictures import fill
from PIL import Image
from torch import Tensor

from gan.data import Degradation, DegradedDataModule, Downsample, Grey, ImageFolder, InMemoryDataModule, Mask
from gan.data.pairs import CHUNK
from gan.trust import check_names

KEYS = [f"train {number}" for number in range(512)]


def degrade(degradation: Degradation, images: Tensor) -> Tensor:
    made = degradation.degrade(images, KEYS[: len(images)])
    assert made.dtype == torch.uint8
    assert made.shape[1:] == degradation.shape(tuple(images.shape[1:]))
    return made


def levels(data) -> tuple[Tensor, Tensor]:
    """The images and sources of the test batches, as uint8."""
    batches = [tuple(((part + 1) * 127.5).round().byte() for part in batch) for batch in data.test_dataloader()]
    images, sources = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(sources)


# Degradations


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 48)])
@pytest.mark.parametrize("factor", [2, 4])
def test_downsample_is_pillows(shape, factor):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, *shape), generator=rng, dtype=torch.uint8)
    made = degrade(Downsample(factor), images)
    assert made.shape[2:] == (shape[1] // factor, shape[2] // factor)
    for image, small in zip(images, made, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy().squeeze())
        expected = picture.resize((shape[2] // factor, shape[1] // factor), Image.Resampling.BICUBIC)
        difference = small.permute(1, 2, 0).numpy().squeeze().astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 2  # Pillow rounds between rows and columns


def test_downsample_has_no_moire():
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255
    assert (degrade(Downsample(4), board.byte().view(1, 1, 32, 32)).int() - 128).abs().max() <= 1


def test_mask_hides_a_square_and_says_where():
    images, _ = mnist()
    made = degrade(Mask(12), images)
    grey, alpha = made[:, :1], made[:, 1:]
    hole = alpha == 0
    assert (alpha[~hole] == 255).all()
    assert (grey[hole] == 128).all()
    assert torch.equal(grey[~hole], images[~hole])
    tops, lefts = set(), set()
    for each in hole[:, 0]:
        rows, columns = each.any(1).nonzero().flatten(), each.any(0).nonzero().flatten()
        assert each.sum() == 144 == len(rows) * len(columns), "no square"
        assert (rows[-1] - rows[0], columns[-1] - columns[0]) == (11, 11)
        tops.add(int(rows[0]))
        lefts.add(int(columns[0]))
    assert tops == lefts == set(range(17)), "some places never have the hole"


def test_a_hole_is_an_images_own():
    images, _ = mnist()
    whole = Mask(8).degrade(images, KEYS)
    assert torch.equal(Mask(8).degrade(images[100:103], KEYS[100:103]), whole[100:103])
    other = Mask(8).degrade(images, [f"test {number}" for number in range(512)])
    assert not torch.equal(other, whole)


def test_grey_is_pillows():
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 64), generator=rng, dtype=torch.uint8)
    for image, grey in zip(images, degrade(Grey(), images), strict=True):
        expected = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")
        assert np.array_equal(grey[0].numpy(), np.asarray(expected))
    assert (degrade(Grey(), torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)) == 255).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Downsample(1), "factor must be at least 2, got 1"),
        (lambda: Mask(0), "size must be at least 1 pixel, got 0"),
        (lambda: Downsample(3).shape((1, 28, 28)), "3 does not divide 28 x 28 pixels: take one of 2, 4, 7, 14, 28$"),
        (lambda: Downsample(2).shape((1, 28, 27)), "2 does not divide 28 x 27 pixels: no factor does"),
        (lambda: Mask(28).shape((1, 28, 30)), "28 leaves no edge of 28 x 30 pixels: take 27 at most"),
        (lambda: Grey().shape((1, 28, 28)), "out of images of 3 channels, and these have 1"),
    ],
)
def test_what_does_not_suit_the_images_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The data module


@pytest.mark.parametrize("degradation", [Downsample(4), Mask(12)], ids=lambda value: type(value).__name__)
def test_each_image_has_its_own_source(degradation):
    data = DegradedDataModule(SmallMNIST(), degradation, 16, 100)
    assert (data.image_shape, data.condition_shape) == ((1, 28, 28), degradation.shape((1, 28, 28)))
    images, sources = levels(data)
    keys = [f"test {number}" for number in range(512)]
    assert torch.equal(images, mnist()[0])
    assert torch.equal(sources, degradation.degrade(images, keys))
    pairs = {}
    for image, source in (
        pair for _ in range(2) for batch in data.train_dataloader() for pair in zip(*batch, strict=True)
    ):
        assert torch.equal(pairs.setdefault(image.numpy().tobytes(), source), source), "another one in the next epoch"
    assert len(pairs) == 412 // 16 * 16


def test_more_images_than_are_degraded_at_a_time(monkeypatch):
    one = DegradedDataModule(SmallMNIST(), Mask(12)).load(train=True)[1]
    monkeypatch.setattr("gan.data.pairs.CHUNK", 100)
    assert CHUNK > 512
    assert torch.equal(DegradedDataModule(SmallMNIST(), Mask(12)).load(train=True)[1], one)


class Judged(ColourDigits):
    extractor = "a card"
    prepared = 0

    def prepare_data(self):
        self.prepared += 1

    def validation_first(self, num):
        return torch.arange(num)


def test_it_is_as_its_images_are():
    data = DegradedDataModule(Judged(), Grey(), 16, 12)
    assert (data.image_shape, data.condition_shape, data.extractor) == ((3, 32, 32), (1, 32, 32), "a card")
    data.prepare_data()
    assert data.of.prepared == 1
    images, _ = next(iter(data.val_dataloader()))
    assert torch.equal(((images + 1) * 127.5).round().byte(), Judged().load(True)[0][:12]), "another validation split"


def test_a_folder_is_mirrored_with_its_sources(tmp_path):
    of = ImageFolder(str(fill(tmp_path / "photos", 40)), size=16, channels=3, flips=True)
    data = DegradedDataModule(of, Grey(), 8, 5)
    assert (data.condition_shape, len(data.val_dataloader())) == ((1, 16, 16), 1)
    loader, seen = data.train_dataloader(), {}
    for images, sources in [*loader, *loader, *loader]:
        images, sources = (((part + 1) * 127.5).round().byte() for part in (images, sources))
        assert torch.equal(Grey().degrade(images, []), sources)
        for image in images:
            whole = min(image.numpy().tobytes(), image.flip(-1).numpy().tobytes())
            seen.setdefault(whole, set()).add(image.numpy().tobytes())
    assert any(len(sides) == 2 for sides in seen.values()), "never mirrored"
    with pytest.raises(ValueError, match=r"validation_share=0\.2 would do nothing: data.validation_size decides"):
        DegradedDataModule(ImageFolder(str(tmp_path / "photos"), validation_share=0.2), Grey(), validation_size=5)


def test_what_its_images_keep_out_is_kept_out(tmp_path):
    """Not given, the split is that of the images' own module: a folder's share, a tensor's number."""
    of = ImageFolder(str(fill(tmp_path / "photos", 40)), size=16, channels=3, validation_share=0.3)
    data = DegradedDataModule(of, Grey(), 8)
    assert data.val_dataloader().images.shape[0] == of.bounds()["validation"].stop > 3
    held, _ = next(iter(data.val_dataloader()))
    assert torch.equal(held, next(iter(of.val_dataloader()))[0])
    few = DegradedDataModule(SmallMNIST(validation_size=9), Mask())
    assert len(few.val_dataloader().images) == 9
    none = DegradedDataModule(SmallMNIST(), Mask(), validation_size=0)
    assert none.val_dataloader() == []


@pytest.mark.parametrize(("of", "size"), [({"validation_size": 9}, None), ({}, 20)])
def test_as_many_are_trained_on_as_its_images_say(of, size):
    pairs = DegradedDataModule(SmallMNIST(**of, train_size=30), Mask(), 4, size)
    pairs.setup("fit")
    assert pairs.train_dataloader().count == 30


class Blur(Degradation):
    """A user's own."""

    def shape(self, image_shape):
        return image_shape

    def degrade(self, images, keys):
        return images.float().mean((2, 3), keepdim=True).expand(images.shape).byte()


class OwnBatches(SmallMNIST):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


class Sourced(SmallMNIST):
    condition_shape = (1, 28, 28)


class Shapeless(InMemoryDataModule):
    pass


@pytest.mark.parametrize(
    ("of", "degradation", "message"),
    [
        (mnist, Grey(), r"takes the images of an InMemoryDataModule, and data.of is a "),
        (SmallMNIST(), "Grey", "data.degradation must be a Degradation, and is a str"),
        (Shapeless(), Mask(), "Shapeless must state image_shape"),
        (Sourced(), Mask(), "makes sources, and Sourced has its own: give it by itself, as --data"),
        (OwnBatches(), Mask(), "OwnBatches has a on_after_batch_transfer of its own, which .* would not call"),
        (SmallMNIST(64), Mask(), "data.of.batch_size=64 would do nothing: data.batch_size decides. Leave it out"),
        (SmallMNIST(validation_size=9), Mask(), "data.of.validation_size=9 would do nothing"),
        (SmallMNIST(seed=1), Mask(), "data.of.seed=1 would do nothing"),
        (SmallMNIST(labels=20), Mask(), "data.of.labels=20 would do nothing: what an image is to be of is its source"),
        (SmallMNIST(), Grey(), "3 channels, and these have 1"),
    ],
)
def test_what_would_be_silently_otherwise_is_refused(of, degradation, message):
    with pytest.raises(ValueError, match=message):
        DegradedDataModule(of, degradation, validation_size=10)


def test_a_degradation_that_breaks_its_word_is_named():
    blur = Blur()
    blur.degrade = lambda images, keys: images.float()
    with pytest.raises(ValueError, match=r"must return sources as a tensor of torch\.uint8, got torch\.float32"):
        DegradedDataModule(SmallMNIST(), blur, validation_size=10).setup("fit")


# The commands


def test_a_checkpoint_rebuilds_it(tmp_path, capsys):
    """From flags, with what it is of in words; the config in the checkpoint is what another command takes it up by."""
    checkpoint = fit(tmp_path, *PAIRS, "gan.data.Downsample", "--data.degradation.factor", "7")
    of = "of conftest.SmallMNIST (batch_size 32, validation_size 5000, seed 42)"
    shown = f"gan.data.DegradedDataModule {of}, degradation gan.data.Downsample (factor 7)"
    assert f"data: {shown}, batch_size 8" in capsys.readouterr().out
    config = load(checkpoint)["config"]
    made = {"class_path": "gan.data.Downsample", "init_args": {"factor": 7}}
    assert config["data"]["init_args"]["degradation"] == made
    command("validate", "--ckpt_path", checkpoint, "--trust", "conftest", "--trust", "commands")
    lines = capsys.readouterr().out
    assert "changed" not in lines
    assert shown in lines
    with pytest.raises(ValueError, match=r"holds conftest\.SmallMNIST; give --trust conftest to import it"):
        check_names(config)
