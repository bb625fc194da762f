"""What somebody would type into Python: `python session.py START_METHOD FOLDER`."""

import sys
from pathlib import Path

import torch
from conftest import SmallMNIST
from lightning import Trainer

from gan import GAN
from gan.callbacks import GeneratorEMA
from gan.networks import MLPDiscriminator, MLPGenerator
from gan.parallel import DDP


def train(devices: int, strategy, file: Path) -> None:
    torch.manual_seed(0)
    gan = GAN(MLPGenerator((1, 28, 28), latent_dim=8), MLPDiscriminator((1, 28, 28)))
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=4, callbacks=[GeneratorEMA()], **quiet
    )
    trainer.fit(gan, SmallMNIST(16 // devices, validation_size=0))
    torch.save(gan.state_dict(), file)


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    train(2, DDP(start_method=sys.argv[1]), folder / "two.pt")
    train(1, "auto", folder / "one.pt")
