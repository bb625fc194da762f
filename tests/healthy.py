"""Ten runs with nothing wrong, of a user's own networks: the doctor is to tell nothing in any of them.

python -m healthy --out FOLDER        trains them, and says what it told; what has been run is read from FOLDER
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from heal import Result, train
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.data import MNISTDataModule
from gan.metrics import load_features


class Tinted(MNISTDataModule):
    """Digits in colour: each in a tint of its own, on black."""

    image_shape = (3, 28, 28)
    extractor = None  # the one that is shipped sees grey digits

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = super().load(train)
        tints = torch.rand(len(images), 3, 1, 1, generator=torch.Generator().manual_seed(int(train)))
        tints = (tints / tints.amax(1, keepdim=True) * 256).int()  # the brightest channel keeps its value
        return (images * tints // 256).byte(), labels


class Brightest(nn.Module):
    """Sees of a colour digit its brightest channel, as the shipped classifier sees grey ones."""

    def __init__(self):
        super().__init__()
        self.grey = load_features("mnist_cnn")

    def forward(self, images: Tensor) -> Tensor:
        return self.grey(images.amax(1, keepdim=True))

    def classify(self, features: Tensor) -> Tensor:
        return self.grey.classify(features)


class SmoothWatcher(nn.Module):
    """Spectral norm in each layer (Miyato et al. 2018)."""

    def __init__(self, chan: int = 24):
        super().__init__()
        self.main = nn.Sequential(
            spectral_norm(nn.Conv2d(1, chan, 4, 2, 1)),
            nn.LeakyReLU(0.1),
            spectral_norm(nn.Conv2d(chan, 2 * chan, 4, 2, 1)),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            spectral_norm(nn.Linear(2 * chan * 49, 1)),
        )

    def forward(self, img: Tensor) -> Tensor:
        return self.main(img).squeeze(1)


class Tutorial(nn.Module):
    """The DCGAN of the tutorials."""

    def __init__(self, nz: int = 64, ngf: int = 16, nc: int = 1):
        super().__init__()
        self.latent_dim = nz
        self.main = nn.Sequential(
            nn.Unflatten(1, (nz, 1, 1)),
            nn.ConvTranspose2d(nz, 2 * ngf, 7, bias=False),
            nn.BatchNorm2d(2 * ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * ngf, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class TutorialCritic(nn.Module):
    def __init__(self, ndf: int = 16, nc: int = 1):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, 2 * ndf, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * ndf, 1, 7),
        )

    def forward(self, img: Tensor) -> Tensor:
        return self.main(img).view(-1)


def run(
    generator: dict[str, Any],
    discriminator: dict[str, Any],
    loss: str = "NonSaturating",
    penalties: tuple[tuple[str, float, int], ...] = (("R1", 1.0, 4),),
    lr: float = 2e-3,
    batch_size: int = 64,
    batches: int = 300,
    colour: bool = False,
    **model: Any,
) -> dict[str, Any]:
    """The YAML of a run."""
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": lr, "betas": [0.0, 0.9]}}
    networks = {"generator": generator, "discriminator": discriminator}
    for name, network in networks.items():
        owner = (
            "strangers"
            if network["is"] in ("Painter", "Critic", "Sculptor", "Judge", "Upscaler", "Watcher")
            else "healthy"
        )
        arguments = {key: value for key, value in network.items() if key != "is"}
        networks[name] = {"class_path": f"{owner}.{network['is']}", "init_args": arguments}
    tracker: dict[str, Any] = {"every": batches // 3, "num_samples": 500, "final_samples": 1000}
    data: dict[str, Any] = {"init_args": {"batch_size": batch_size}}
    if colour:
        data = {"class_path": "healthy.Tinted", **data}
        tracker["extractor"] = {"class_path": "healthy.Brightest"}
    return {
        "data": data,
        "model": {
            **networks,
            "loss": {"class_path": f"gan.losses.{loss}"},
            "penalties": [
                {"class_path": f"gan.penalties.{name}", "init_args": {"weight": weight, "every": every}}
                for name, weight, every in penalties
            ],
            "generator_optimizer": adam,
            "discriminator_optimizer": adam,
            **model,
        },
        "trainer": {
            "max_steps": batches,
            "enable_progress_bar": False,
            "callbacks+": [
                {"class_path": "gan.callbacks.FIDTracker", "init_args": tracker},
                {"class_path": "gan.callbacks.GradientMonitor", "init_args": {"every": 25}},
            ],
        },
    }


PAINTER, CRITIC = {"is": "Painter", "bn": True}, {"is": "Critic"}
UPSCALER, WATCHER = {"is": "Upscaler"}, {"is": "Watcher"}
SCULPTOR, JUDGE = {"is": "Sculptor", "norm": True, "width": 256}, {"is": "Judge", "width": 256, "depth": 2}

RUNS = {
    "hinge": run(PAINTER, CRITIC, "Hinge", batches=600),
    "least squares": run(UPSCALER, WATCHER, "LeastSquares"),
    "Wasserstein": run(UPSCALER, WATCHER, "Wasserstein", (("GradientPenalty", 10.0, 1),), n_critic=2, batches=600),
    "relativistic": run(
        UPSCALER, {**WATCHER, "activation": "elu"}, "RelativisticPaired", (("R1", 1.0, 1), ("R2", 1.0, 1))
    ),
    "batches of 16": run(UPSCALER, WATCHER, lr=1e-3, batch_size=16, batches=900),
    "batches of 256": run(PAINTER, {**CRITIC, "layers": 2}, batch_size=256, lr=3e-3),
    "four latents": run({**UPSCALER, "latent_dim": 4}, {**WATCHER, "activation": "softplus"}),
    "spectral norm": run({"is": "Tutorial"}, {"is": "SmoothWatcher"}, "Hinge", ()),
    "colour": run({"is": "Tutorial", "nc": 3}, {"is": "TutorialCritic", "nc": 3}, colour=True, lr=1e-3, batches=600),
    "colour, hinge": run({**SCULPTOR, "noise": 128}, JUDGE, "Hinge", colour=True, batches=600),
}


def train_all(out: Path) -> dict[str, Result]:
    """What came of each."""
    return {name: train(out / name.replace(" ", "-").replace(",", ""), config) for name, config in RUNS.items()}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="healthy", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args(words).out.absolute()
    os.environ.setdefault("SICK_CACHE", str(out / "cache"))
    for name, result in train_all(out).items():
        print(
            f"{name}: FID {', '.join(f'{fid:.3g}' for fid in result.fids.values())}; told {result.said}; "
            f"{result.refused or result.ended or f'{result.seconds:.0f} s'}"
        )
        for finding in result.findings:
            print(f"    batch {finding['since']} to {finding['until']}: {finding['name']}: {finding['why']}")


if __name__ == "__main__":
    main()
