"""What a stranger's batch does: it trains, or a line says what came and what is wanted, before anything is trained."""

import pytest
import torch
from commands import FAST, command
from lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from gan import GAN
from gan.batch import as_pair, check_batch
from gan.callbacks import FIDTracker, GradientMonitor, ImageLogger, NonFiniteGuard
from gan.data import InMemoryDataModule
from gan.errors import GANError
from gan.metrics import CNNFeatures
from gan.networks import MLPDiscriminator, MLPGenerator

SHAPE = (3, 16, 16)
IMAGES = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
LABELS = torch.zeros(64)


class Own(LightningDataModule):
    """A data module of a user's own, over whatever data set it is given."""

    image_shape = SHAPE

    def __init__(self, data, validation=None, shape=SHAPE):
        super().__init__()
        self.data, self.validation, self.image_shape = data, validation, shape

    def train_dataloader(self):
        return self.data if isinstance(self.data, dict) else DataLoader(self.data, batch_size=16)

    def test_dataloader(self):
        return self.train_dataloader()

    def val_dataloader(self):
        return [] if self.validation is None else DataLoader(self.validation, batch_size=16)


def train(make_trainer, data, callbacks=(), **settings):
    torch.manual_seed(0)
    gan = GAN(MLPGenerator(SHAPE, latent_dim=8), MLPDiscriminator(SHAPE))
    trainer = make_trainer(max_steps=2, callbacks=list(callbacks), **settings)
    trainer.fit(gan, data)
    return gan


WELCOME = {
    "images and labels": TensorDataset(IMAGES, LABELS),
    "images alone": IMAGES,
    "images alone in a data set of tensors": TensorDataset(IMAGES),
    "float64": TensorDataset(IMAGES.double(), LABELS),
    "float16": IMAGES.half(),
    "somewhat outside": TensorDataset(IMAGES * 2.64, LABELS),
    "labels that are no tensor": [(image, "cat") for image in IMAGES],
}


@pytest.mark.parametrize("case", WELCOME)
def test_welcome(make_trainer, case, tmp_path):
    """With all callbacks that look at a batch, and with the weights that the same float32 images give."""
    extractor = CNNFeatures(SHAPE)
    tracker = FIDTracker(extractor, every=1, num_samples=32, final_samples=32)
    callbacks = [ImageLogger(every=1), NonFiniteGuard(), GradientMonitor(every=1, images=8), tracker]
    gan = train(make_trainer, Own(WELCOME[case], validation=WELCOME[case]), callbacks, limit_val_batches=1)
    images = torch.stack([as_pair(item)[0] for item in WELCOME[case]]).float()
    expected = train(make_trainer, Own(TensorDataset(images, LABELS)))
    for key, value in gan.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key
    assert (tmp_path / "samples" / "real.png").exists()


def loader(*tensors):
    return DataLoader(TensorDataset(*tensors), batch_size=16)


REFUSED = {
    "bytes": (TensorDataset((IMAGES * 127).byte(), LABELS), "has images of torch.uint8: scale them to floating values"),
    "integers": (TensorDataset((IMAGES * 127).long(), LABELS), "has images of torch.int64: scale them"),
    "floats to 255": (
        TensorDataset(IMAGES * 127.5 + 127.5, LABELS),
        r"images from .* to 25\d.*: scale them",
    ),
    "dicts": ([{"image": image, "label": 0} for image in IMAGES], "alone, and is a dict of image, label"),
    "two loaders": ({"a": loader(IMAGES, LABELS), "b": loader(IMAGES, LABELS)}, "alone, and is a dict of a, b"),
    "three": (TensorDataset(IMAGES, LABELS, LABELS), r"is a list of \(16, 3, 16, 16\), \(16,\), \(16,\)"),
    "labels first": (TensorDataset(LABELS, IMAGES), r"must have images of shape \(N, 3, 16, 16\), and has \(16,\)"),
    "another size": (IMAGES[:, :, :15], r"must have images of shape \(N, 3, 16, 16\), and has \(16, 3, 15, 16\)"),
    "channels last": (IMAGES.permute(0, 2, 3, 1), r"and has \(16, 16, 16, 3\)"),
    "no number": (torch.full((64, *SHAPE), torch.nan), "has images that are not finite"),
    "infinite": (IMAGES / 0, "has images that are not finite"),
    "flat": (IMAGES.flatten(1), r"and has \(16, 768\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_line_before_a_step(make_trainer, case):
    data, message = REFUSED[case]
    with pytest.raises(ValueError, match=rf"^a training batch of Own .*{message}"):
        train(make_trainer, Own(data), [NonFiniteGuard(), GradientMonitor(every=1)])


@pytest.mark.parametrize("case", ["bytes", "dicts"])
def test_validation_is_looked_at_too(make_trainer, case):
    data, message = REFUSED[case]
    with pytest.raises(ValueError, match=rf"^a validation batch of Own .*{message}"):
        train(make_trainer, Own(TensorDataset(IMAGES, LABELS), validation=data), limit_val_batches=1)


def test_labels_of_another_number():
    from gan.batch import check_batch

    check_batch((IMAGES, LABELS), SHAPE, "a batch")
    with pytest.raises(ValueError, match=r"64 images and labels of shape \(63,\): one for each"):
        check_batch((IMAGES, LABELS[:63]), SHAPE, "a batch")
    with pytest.raises(ValueError, match="a batch has no images"):
        check_batch((IMAGES[:0], LABELS[:0]), SHAPE, "a batch")


class Loads(InMemoryDataModule):
    image_shape = SHAPE

    def __init__(self, data):
        super().__init__(batch_size=16, validation_size=16)
        self.data = data

    def load(self, train):
        return self.data


BYTES = (IMAGES * 127 + 127).byte()


@pytest.mark.parametrize("data", [BYTES, (BYTES, torch.zeros(64, dtype=torch.int64))])
def test_load_of_images_without_classes(make_trainer, data):
    """`num_classes` need not be stated."""
    train(make_trainer, Loads(data))
    images, labels = next(iter(Loads(data).val_dataloader()))
    assert images.shape == (16, *SHAPE)
    assert labels.tolist() == [0] * 16


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((BYTES, LABELS, LABELS), r"must return \(images, labels\), or images alone, and returns a tuple of"),
        ({"images": BYTES}, "returns a dict of images"),
        (None, "returns a NoneType"),
    ],
)
def test_load_of_something_else(data, message):
    with pytest.raises(ValueError, match=message):
        Loads(data).setup("fit")


@pytest.mark.parametrize("shape", [None, (8, 8), 3])
def test_data_without_a_shape_of_images(shape, capsys, monkeypatch):
    monkeypatch.setattr(Shapeless, "image_shape", shape, raising=False)
    monkeypatch.setattr(ShapelessInMemory, "image_shape", shape, raising=False)
    for name in ("Shapeless", "ShapelessInMemory"):
        with pytest.raises(SystemExit, match="2"):
            command("fit", "--config", FAST, "--data", f"test_batch.{name}")
        assert f"error: {name} must state image_shape, the channels, height and width" in capsys.readouterr().err


class Shapeless(LightningDataModule):
    def train_dataloader(self):
        return loader(IMAGES, LABELS)


class ShapelessInMemory(InMemoryDataModule):
    def load(self, train):
        return BYTES


# ---------------------------------------------------------------------- labels of conditional networks


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "is images alone, and the networks are conditional: give int64 labels"),
        (["cat", "dog"], "is images with a list of str, str, and the networks are conditional"),
        (torch.eye(10)[:2], r"has one-hot labels \(2, 10\): .* labels.argmax\(1\)"),
        (torch.zeros(2, 3, dtype=torch.int64), r"has labels of shape \(2, 3\)"),
        (torch.zeros(2), r"has labels of torch.float32: .* labels.long\(\)"),
        (torch.zeros(2, dtype=torch.int32), r"has labels of torch.int32"),
        (torch.tensor([1, 10]), "has labels from 1 to 10, and the networks have 10 classes: 0 comes first"),
        (torch.tensor([-1, 3]), r"has images without a label \(-1\), .* leave data.labels out"),
    ],
)
def test_labels_that_conditional_networks_cannot_take(labels, message):
    images = torch.zeros(2, 1, 8, 8)
    batch = images if labels is None else (images, labels)
    with pytest.raises(GANError, match=message):
        check_batch(batch, (1, 8, 8), "a training batch of X", num_classes=10)
    check_batch(batch, (1, 8, 8), "a training batch of X")  # to others they mean nothing


def test_labels_as_they_should_be():
    check_batch((torch.zeros(2, 1, 8, 8), torch.tensor([0, 9])), (1, 8, 8), "a training batch of X", num_classes=10)


# ---------------------------------------------------------------------- source images of conditional networks


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (None, r"is images alone, and the networks are told source images: give floating \(N, 1, 4, 4\) in \[-1, 1\]"),
        (["cat", "dog"], "is images with a list of str, str, and the networks are told source images"),
        (torch.tensor([1, 3]), r"has torch.int64 of shape \(2,\), as labels are, beside its images"),
        (torch.zeros(2, 1, 8, 4), r"must have sources of shape \(N, 1, 4, 4\), and has \(2, 1, 8, 4\)"),
        (torch.zeros(2, 3, 4, 4), r"and has \(2, 3, 4, 4\)"),
        (torch.zeros(3, 1, 4, 4), r"has 2 images and sources of shape \(3, 1, 4, 4\): one for each"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "has sources of torch.uint8: scale them"),
        (torch.full((2, 1, 4, 4), 200.0), r"has sources from 200 to 200: scale them to \[-1, 1\]"),
        (torch.full((2, 1, 4, 4), torch.nan), "has sources that are not finite"),
    ],
)
def test_sources_that_conditional_networks_cannot_take(sources, message):
    images = torch.zeros(2, 1, 8, 8)
    batch = images if sources is None else (images, sources)
    with pytest.raises(GANError, match=f"^a training batch of X .*{message}"):
        check_batch(batch, (1, 8, 8), "a training batch of X", condition_shape=(1, 4, 4))


def test_sources_as_they_should_be():
    pairs = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4, 4)
    check_batch(pairs, (1, 8, 8), "a training batch of X", condition_shape=(1, 4, 4))
    check_batch(pairs, (1, 8, 8), "a training batch of X")  # to networks that are told nothing they mean nothing


def test_sources_where_labels_are_wanted():
    pairs = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4, 4)
    with pytest.raises(
        GANError, match=r"has source images \(2, 1, 4, 4\) beside its images, and the networks are told a"
    ):
        check_batch(pairs, (1, 8, 8), "a training batch of X", num_classes=10)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_names_beside_images_are_no_condition(make_trainer, accumulate):
    torch.manual_seed(0)
    gan = GAN(MLPGenerator(SHAPE, latent_dim=8), MLPDiscriminator(SHAPE), accumulate=accumulate)
    make_trainer(max_steps=2).fit(gan, Own([(image, "cat") for image in IMAGES]))


def test_a_run_on_data_without_what_its_networks_are_told_is_a_line(told, make_trainer):
    gan, _ = told()
    images = torch.zeros(32, 1, 28, 28)
    for other in (TensorDataset(images), TensorDataset(images, torch.zeros(32))):
        told_of = "are conditional|has labels of torch.float32" if gan.num_classes else "are told source images"
        with pytest.raises(GANError, match=f"^a (training|held-out) batch of Own .*({told_of})"):
            make_trainer(max_steps=1).fit(gan, Own(other, shape=(1, 28, 28)))
