"""Images of a data module in another range are brought to [-1, 1], wherever they are read."""

import copy

import pytest
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gan.data import InMemoryDataModule, Rescaled
from gan.lab.unscaled import UnscaledMNIST

BYTES = torch.arange(256).view(16, 1, 4, 4)


class Unit(LightningDataModule):
    """Images in [0, scale] of a loader of one's own."""

    image_shape = (1, 4, 4)
    shown = "of its own"

    def __init__(self, scale: int = 1, batch_size: int = 16, seed: int = 1) -> None:
        super().__init__()
        self.scale, self.batch_size, self.seed = scale, batch_size, seed
        images = BYTES / 255 if scale == 1 else BYTES.to(torch.uint8)
        self.loader = DataLoader(TensorDataset(images, torch.arange(16)), batch_size)

    def train_dataloader(self) -> DataLoader:
        return self.loader  # the same one each time

    def test_dataloader(self) -> dict[str, DataLoader]:
        return {"all": DataLoader(list(BYTES / 255), self.batch_size)}  # pyright: ignore[reportArgumentType] # as torch takes it


class Own(LightningDataModule):
    """Batches of a loader that is no DataLoader, with what stands beside the images."""

    def train_dataloader(self) -> "Pairs":
        return Pairs()


class Pairs:
    place = 3

    def __iter__(self):
        yield BYTES / 255, BYTES / 255

    def __len__(self) -> int:
        return 1


class Small(InMemoryDataModule):
    image_shape = (1, 4, 4)

    def load(self, train: bool) -> Tensor:
        return BYTES.to(torch.uint8)


def wanted() -> Tensor:
    return BYTES / 127.5 - 1


@pytest.mark.parametrize("scale", [1, 255])
def test_batches_of_loaders_are_rescaled_once_however_often_they_are_asked_for(scale):
    data = Rescaled(Unit(scale), high=scale)
    for _ in range(2):
        images, labels = next(iter(data.train_dataloader()))
        torch.testing.assert_close(images, wanted())
        assert labels.dtype == torch.int64
        assert images.dtype == torch.float32
    images, _ = next(iter(copy.deepcopy(data).train_dataloader()))
    torch.testing.assert_close(images, wanted())


def test_collections_of_loaders_and_images_alone_are_rescaled():
    torch.testing.assert_close(next(iter(Rescaled(Unit()).test_dataloader()["all"])), wanted())


def test_a_loader_that_is_no_dataloader_keeps_all_else():
    loader = Rescaled(Own()).train_dataloader()
    images, sources = next(iter(loader))
    torch.testing.assert_close((images, sources), (wanted(), wanted()))
    assert (len(loader), loader.place) == (1, 3)


def test_all_else_is_the_modules():
    data = Rescaled(Unit(), seed=7)
    assert isinstance(data, Unit)
    assert data.shown == "of its own"
    assert data.image_shape == (1, 4, 4)
    assert data.seed == 7
    assert "val_dataloader" not in vars(data)  # which it has not, as Lightning asks


def test_what_a_hook_makes_is_rescaled_and_its_loaders_are_as_they_were():
    data = Rescaled(UnscaledMNIST(batch_size=8))
    images, labels = next(iter(data.train_dataloader()))
    assert images.min() == -1  # as scores see them
    after, _ = data.on_after_batch_transfer((images, labels), 0)
    torch.testing.assert_close(after, images)


def test_images_that_are_in_range_are_refused():
    with pytest.raises(ValueError, match="gives them in"):
        Rescaled(Small(batch_size=8, validation_size=0)).train_dataloader()
    with pytest.raises(ValueError, match="leave it out"):
        Rescaled(Unit(), low=-1, high=1)
    with pytest.raises(ValueError, match="above its low"):
        Rescaled(Unit(), low=1, high=1)
