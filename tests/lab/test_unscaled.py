"""Digits in [0, 1]: that a run which asks for them trains on them."""

import lightning as L
import pytest
import torch

from gan.data import MNISTDataModule
from gan.lab.unscaled import UnscaledMNIST


class Watch(L.LightningModule):
    """Keeps the images that each kind of step is given."""

    def __init__(self):
        super().__init__()
        self.seen = {}
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        self.seen["train"] = batch[0]
        return self.weight

    def validation_step(self, batch, index):
        self.seen["validation"] = batch[0]

    def test_step(self, batch, index):
        self.seen["test"] = batch[0]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_every_step_sees_pixels_from_0_to_1():
    def seen(kind):
        data, module = kind(batch_size=64), Watch()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(accelerator="cpu", limit_val_batches=1, limit_test_batches=1, max_steps=1, **quiet,
                            enable_model_summary=False, num_sanity_val_steps=0)  # fmt: skip
        trainer.fit(module, data)
        trainer.validate(module, data, verbose=False)
        trainer.test(module, data, verbose=False)
        return module.seen

    ours, usual = seen(UnscaledMNIST), seen(MNISTDataModule)
    assert set(ours) == {"train", "validation", "test"}
    for step, images in ours.items():
        assert (images.min().item(), images.max().item()) == pytest.approx((0, 1), abs=1e-6)
        assert torch.allclose(2 * images - 1, usual[step], atol=1e-6), "the same digits in the same order"
