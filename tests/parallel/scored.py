"""What the processes of test_parallel_scores.py do: `python scored.py FOLDER` starts one, two and three of them."""

import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from commands import Pooled
from conftest import SmallMNIST
from lightning import Callback

from gan import GAN
from gan.callbacks import FIDTracker, GeneratorEMA, RunCheckpoint
from gan.losses import Hinge
from gan.networks import PatchDiscriminator, UNetGenerator
from gan.parallel import DDP, FSDP2, replace_lightnings
from parallel import sharded
from parallel.sharded import make_gan, make_trainer

NUM = 1130  # images: five chunks, the last one short, which two or three processes cannot share evenly


class Break(Callback):
    """Makes the images of one process NaN after the second batch, until `Mend` comes."""

    def __init__(self, rank: int):
        self.rank = rank

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.bias = list(pl_module.generator.parameters())[-1].data
        self.kept = self.bias.clone()
        if trainer.global_rank == self.rank and trainer.global_step == 2:
            self.bias.fill_(torch.nan)


class Mend(Callback):
    def __init__(self, broken: Break):
        self.broken = broken

    def on_train_batch_end(self, *args):
        self.broken.bias.copy_(self.broken.kept)


def tracker(num: int = NUM) -> FIDTracker:
    return FIDTracker(Pooled(), every=2, num_samples=num, final_samples=num)


def make_data() -> SmallMNIST:
    return SmallMNIST(batch_size=12 // sharded.PROCESSES, validation_size=16)


def score(name: str, folder: Path, strategy) -> None:
    """The scores of the same weights, in `validate`."""
    gan = make_gan("dcgan", loss=Hinge())
    if name == "fsdp2":
        gan.to(memory_format=torch.contiguous_format)  # as shards are, and other convolutions round otherwise
    scores = tracker()
    make_trainer(folder, sharded.PROCESSES, [scores], strategy=strategy).validate(gan, make_data(), verbose=False)
    torch.save(scores.scores, folder / f"{name}-{sharded.PROCESSES}-{sharded.RANK}.pt")


class Halved(SmallMNIST):
    """Digits, and those of half the size that they are to be made from."""

    condition_shape = (1, 14, 14)

    def load(self, train: bool):
        images, _ = super().load(train)
        return images, images[:, :, ::2, ::2]


def translate(folder: Path, strategy) -> None:
    """The scores of images that are made from images, in `validate`."""
    torch.manual_seed(0)
    shapes = {"image_shape": (1, 28, 28), "condition_shape": (1, 14, 14), "base_channels": 4}
    gan = GAN(UNetGenerator(**shapes, latent_dim=4), PatchDiscriminator(**shapes)).double()
    scores, data = tracker(), Halved(batch_size=12 // sharded.PROCESSES, validation_size=16)
    settings = {"strategy": strategy, "precision": "64-true"}  # else images differ by a level now and then
    make_trainer(folder, sharded.PROCESSES, [scores], **settings).validate(gan, data, verbose=False)
    found = scores.scores | {f"{name} of source": value for name, value in scores.source_scores.items()}
    torch.save(found, folder / f"translation-{sharded.PROCESSES}-{sharded.RANK}.pt")


def train(name: str, folder: Path, strategy, networks: str = "dcgan", **settings) -> None:
    """A run that is scored as it trains, its best kept and scored again at the end."""
    gan, scores = make_gan(networks, "adam", loss=Hinge()), tracker(num=280)
    run_dir = folder / f"{name}-{sharded.PROCESSES}"
    callbacks = [GeneratorEMA(half_life=50), scores, RunCheckpoint(every=2)]
    settings |= {"strategy": strategy, "enable_checkpointing": True}
    make_trainer(run_dir, sharded.PROCESSES, callbacks, **settings).fit(gan, make_data())
    kept = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] if strategy else None
    result = {"best": scores.best, "step": scores.best_step, "kept": kept}
    torch.save(result, folder / f"{name}-{sharded.PROCESSES}-{sharded.RANK}.pt")


def one(folder: Path) -> None:
    score("ddp", folder, "auto")
    score("fsdp2", folder, "auto")
    translate(folder, "auto")
    train("float64", folder, "auto", precision="64-true")


def several(folder: Path) -> None:
    score("ddp", folder, DDP(patience=120))
    score("fsdp2", folder, FSDP2(patience=120))
    translate(folder, DDP(patience=120))
    train("float64", folder, DDP(patience=120), precision="64-true")
    train("fsdp2 run", folder, FSDP2(patience=120))
    train("batch norm", folder, DDP(patience=120), networks="batch norm")
    train("batch norm in shards", folder, FSDP2(patience=120), networks="batch norm")
    gan, broken = make_gan("dcgan", "adam", loss=Hinge()), tracker(num=280)
    on_one = Break(rank=1)
    callbacks = [on_one, broken, Mend(on_one)]
    make_trainer(folder, sharded.PROCESSES, callbacks, strategy=DDP(patience=120)).fit(gan, make_data())
    torch.save(broken.best_step, folder / f"broken-{sharded.PROCESSES}-{sharded.RANK}.pt")


two, three = partial(several), partial(several)
two.__name__, three.__name__ = "two", "three"

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    replace_lightnings()
    for job, number in ((one, 1), (two, 2), (three, 3)):
        sharded.run(job, number, Path(sys.argv[1]))
