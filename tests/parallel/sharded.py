"""What the processes of test_parallel_fsdp.py do: `python sharded.py FOLDER` starts three, then two of them."""

import os
import shutil
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from commands import OwnGenerator
from conftest import Pairs, SmallMNIST
from lightning import Callback, Trainer
from torch import Tensor, distributed, nn
from torch.optim import SGD, Adafactor, Adam

from gan import GAN
from gan.callbacks import GeneratorEMA, ImageLogger, RunProgress
from gan.games import Lookahead
from gan.losses import Hinge, NonSaturating, RelativisticPaired, Wasserstein
from gan.networks import (
    ConditionalDCGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    PatchDiscriminator,
    ProjectionDCGANDiscriminator,
    ResNetDiscriminator,
    ResNetGenerator,
    UNetGenerator,
)
from gan.parallel import FSDP2, replace_lightnings
from gan.penalties import R1, ApproximateR1, ApproximateR2
from gan.terms import Reconstruction

SHAPE = (1, 28, 28)
BATCH = 8  # images per process
BATCHES = 6
SETTINGS = {
    "non-saturating": {"loss": NonSaturating()},
    "wasserstein": {"loss": Wasserstein(), "weight_clip": 0.01, "rule": "steep"},
    "hinge": {"loss": Hinge(), "networks": "dcgan", "rule": "gentle"},
    "attention": {"loss": Hinge(), "networks": "attention", "rule": "gentle"},
    "relativistic": {"loss": RelativisticPaired()},
    "n_critic": {"loss": NonSaturating(), "n_critic": 2},
    "accumulate": {"loss": NonSaturating(), "accumulate": 2},
    # Far apart, as the difference of two logits over sigma enlarges what differs by rounding.
    "approximate": {"loss": NonSaturating(), "penalties": [ApproximateR1(0.5, every=2, sigma=0.5), ApproximateR2(0.5)]},
    "extragradient": {"loss": NonSaturating(), "extragradient": True, "lookahead": Lookahead(every=2)},
    "labels": {"loss": NonSaturating(), "networks": "labels", "rule": "adam"},
    "sources": {"loss": Hinge(), "networks": "sources", "reconstruction": Reconstruction(2.0)},
}
RULES = {
    "sgd": partial(SGD, lr=0.05, momentum=0.9),
    "steep": partial(SGD, lr=1.0, momentum=0.9),
    "gentle": partial(SGD, lr=0.005, momentum=0.9),
    "adam": partial(Adam, lr=1e-3, betas=(0.5, 0.9), fused=True),
}


class TinyDiscriminator(nn.Module):
    """Layers of one and two rows: fewer than processes, so that some of them have nothing."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 2), nn.LeakyReLU(0.2), nn.Linear(2, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


class Scalar(TinyDiscriminator):
    """Has a parameter without a dimension."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.scale


def make_gan(networks: str = "mlp", rule: str = "sgd", start: int = 0, **settings) -> GAN:
    """A GAN with the same weights each time; `start` seeds them."""
    torch.manual_seed(start)
    if networks == "mlp":
        generator, discriminator = MLPGenerator(SHAPE, 8), MLPDiscriminator(SHAPE)
    elif networks == "dcgan":
        generator, discriminator = DCGANGenerator(SHAPE, 8, 4, "layer"), DCGANDiscriminator(SHAPE, 4, "spectral")
    elif networks == "attention":  # gamma, of one number, is on one of the processes
        torch.manual_seed(start + 10)  # from 0, a value comes so near a kink that rounding decides its gradient
        generator = ResNetGenerator(SHAPE, 8, 4, "layer", attention_resolution=14)
        discriminator = ResNetDiscriminator(SHAPE, 4, "layer", attention_resolution=7, minibatch_std=True)
        for network in (generator, discriminator):
            nn.init.constant_(network.attention.gamma, 0.5)
    elif networks == "labels":
        generator = ConditionalDCGANGenerator(SHAPE, 10, 8, 4, "layer")
        discriminator = ProjectionDCGANDiscriminator(SHAPE, 10, 4)
    elif networks == "sources":
        generator = UNetGenerator(SHAPE, Pairs.condition_shape, 8, 4, "layer")
        discriminator = PatchDiscriminator(SHAPE, Pairs.condition_shape, 4)
    elif networks == "batch norm":
        generator, discriminator = DCGANGenerator(SHAPE, 8, 4, "batch"), DCGANDiscriminator(SHAPE, 4, "batch")
    else:
        generator, discriminator = OwnGenerator(width=2), TinyDiscriminator()
    optimizers = {"generator_optimizer": RULES[rule], "discriminator_optimizer": RULES[rule]}
    return GAN(generator, discriminator, **(optimizers | settings))


def make_trainer(folder: Path, processes: int, callbacks: list[Callback] = (), **settings) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": processes,
        "max_steps": BATCHES,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }
    return Trainer(callbacks=[*callbacks], **(defaults | settings))


def make_data(gan: GAN) -> SmallMNIST:
    return (SmallMNIST if gan.condition_shape is None else Pairs)(batch_size=BATCH, validation_size=16)


class Inputs(Callback):
    """Keeps what a process trains on: its real images and the latents that its generator gets."""

    def on_fit_start(self, trainer, pl_module):
        self.real, self.condition, self.latents = [], [], []
        pl_module.generator.register_forward_pre_hook(self.keep)

    def keep(self, network, inputs):
        if network.training:
            self.latents.append(inputs[0].clone())

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.real.append(batch[0].clone())
        self.condition.append(batch[1].clone())


class SaveAt(Callback):
    """Saves checkpoints by number of batches."""

    def __init__(self, paths: dict[int, Path]):
        self.paths = paths

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step in self.paths:
            trainer.save_checkpoint(self.paths[trainer.global_step])


class Traffic:
    """Counts the numbers that come out of each all-gather and go into each reduce-scatter of torch's sharding."""

    GATHER = "all_gather_single" if hasattr(distributed, "all_gather_single") else "all_gather_into_tensor"
    REDUCE = "reduce_scatter_single" if hasattr(distributed, "reduce_scatter_single") else "reduce_scatter_tensor"

    def __enter__(self):
        self.gathered, self.reduced = [], []
        self.real = {name: getattr(distributed, name) for name in (self.GATHER, self.REDUCE)}

        def gather(output_tensor, input_tensor, **options):
            self.gathered.append(output_tensor.numel())
            return self.real[self.GATHER](output_tensor, input_tensor, **options)

        def reduce(output, input, **options):
            self.reduced.append(input.numel())
            return self.real[self.REDUCE](output, input, **options)

        setattr(distributed, self.GATHER, gather)
        setattr(distributed, self.REDUCE, reduce)
        return self

    def __exit__(self, *error):
        for name, function in self.real.items():
            setattr(distributed, name, function)


def sharded(distributed_checkpoint: bool = False) -> FSDP2:
    return FSDP2(distributed_checkpoint, patience=120)


def fit(gan: GAN, folder: Path, strategy: FSDP2, callbacks: list[Callback] = (), ckpt_path=None, **settings) -> Trainer:
    trainer = make_trainer(folder, PROCESSES, callbacks, strategy=strategy, **settings)
    trainer.fit(gan, datamodule=make_data(gan), ckpt_path=ckpt_path)
    return trainer


def train(name: str, folder: Path, **settings) -> None:
    """Trains, and keeps what each process trained on and what came out."""
    inputs = Inputs()
    # Another start on each process: the first one's counts.
    trainer = fit(make_gan(start=RANK, **settings), folder, sharded(), [inputs, GeneratorEMA(half_life=50)])
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    latents, passes = inputs.latents, settings.get("accumulate", 1)
    latents = [torch.cat(latents[start : start + passes]) for start in range(0, len(latents), passes)]
    kept = {"real": inputs.real, "condition": inputs.condition, "latents": latents}
    torch.save(kept, folder / f"{name}-{RANK}.pt")


def stop_and_go(folder: Path) -> None:
    """Runs of six batches, and of three and three more, with both kinds of checkpoints."""
    for kind, distributed_checkpoint in (("full", False), ("parts", True)):
        strategy = partial(sharded, distributed_checkpoint)
        gan = partial(make_gan, "dcgan", "adam", loss=Hinge())
        paths = {3: folder / f"{kind}-3.ckpt", 6: folder / f"{kind}-6.ckpt"}
        fit(gan(), folder, strategy(), [GeneratorEMA(), SaveAt(paths)])
        again = [GeneratorEMA(), SaveAt({6: folder / f"{kind}-resumed.ckpt"})]
        fit(gan(start=1), folder, strategy(), again, ckpt_path=paths[3])
    # A run without an average, and one with it that goes on from there.
    path = folder / "no-average.ckpt"
    fit(gan(), folder, sharded(distributed_checkpoint=True), [SaveAt({3: path})], max_steps=3)
    resumed = gan(start=1)
    trainer = fit(resumed, folder, sharded(), [GeneratorEMA()], ckpt_path=path, max_steps=3)
    trainer.save_checkpoint(folder / "average.ckpt")
    # One kind goes on from the other, and takes its name.
    shutil.copy(folder / "full-3.ckpt", folder / "swap.ckpt")
    again = [GeneratorEMA(), SaveAt({4: folder / "swap.ckpt"})]
    fit(gan(start=1), folder, sharded(distributed_checkpoint=True), again, ckpt_path=folder / "swap.ckpt", max_steps=4)
    again = [GeneratorEMA(), SaveAt({6: folder / "swap.ckpt"})]
    fit(gan(start=1), folder, sharded(), again, ckpt_path=folder / "swap.ckpt")


def from_one(folder: Path) -> None:
    """Goes on with the run of one process, at another rate."""
    gan = make_gan(
        "dcgan", "adam", start=1, discriminator_optimizer=partial(Adam, lr=0.5, betas=(0.5, 0.9), fused=True)
    )
    trainer = fit(gan, folder, sharded(), [GeneratorEMA()], ckpt_path=folder / "one-6.ckpt")
    trainer.save_checkpoint(folder / "one-again.ckpt")


def with_all(folder: Path) -> None:
    """Batch norm, pictures, progress, validation, a test after it, bfloat16."""
    for precision in ("bf16-mixed", "bf16-true"):
        callbacks = [GeneratorEMA(), ImageLogger(every=2), RunProgress()]
        gan = make_gan("batch norm", "adam")
        settings = {"precision": precision, "max_steps": -1, "max_epochs": 1, "enable_progress_bar": True}
        trainer = fit(gan, folder / precision, sharded(), callbacks, limit_train_batches=4, **settings)
        scores = [trainer.validate(gan, datamodule=trainer.datamodule, verbose=False)[0]]
        trainer.save_checkpoint(folder / f"{precision}.ckpt")
        fresh = make_trainer(folder, PROCESSES, strategy=sharded(), precision=precision)
        scores += fresh.validate(
            make_gan("batch norm", start=1), make_data(gan), folder / f"{precision}.ckpt", verbose=False
        )
        torch.save(scores, folder / f"{precision}-{RANK}.pt")
        assert not trainer.validate_loop.inference_mode  # which gloo never sees, and NCCL would


def count(folder: Path) -> None:
    """Counts what goes over the wire in a run of one batch."""
    with Traffic() as traffic:
        gan = make_gan()
        trainer = fit(gan, folder, sharded(), max_steps=1, limit_val_batches=0)
    assert trainer.global_step == 1
    torch.save({"gathered": traffic.gathered, "reduced": traffic.reduced}, folder / f"traffic-{RANK}.pt")


def refused(folder: Path) -> None:
    """Settings that must not run."""
    cases = {
        "penalty": {"gan": {"penalties": [R1(1.0, every=2)]}},
        "penalty off": {"gan": {"penalties": [R1(0.0)]}},
        "optimizer": {"gan": {"generator_optimizer": Adafactor}},
        "scalar": {"discriminator": Scalar()},
        "sync batch norm": {"trainer": {"sync_batchnorm": True}},
    }
    outcomes = {}
    for name, case in cases.items():
        gan = make_gan(**case.get("gan", {}))
        gan.discriminator = case.get("discriminator", gan.discriminator)
        try:
            settings = {"strategy": sharded(), "max_steps": 1} | case.get("trainer", {})
            make_trainer(folder, PROCESSES, **settings).fit(gan, datamodule=make_data(gan))
            outcomes[name] = "runs"
        except ValueError as error:
            outcomes[name] = str(error)
    torch.save(outcomes, folder / f"refused-{RANK}.pt")


def failing_disk(folder: Path) -> None:
    """A save that one process cannot do fails on all of them, and training can go on."""

    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            try:
                trainer.save_checkpoint(folder / "a file" / "no.ckpt")
            except OSError as error:
                self.error = str(error)

    if RANK == 0:
        (folder / "a file").touch()
    for distributed_checkpoint in (False, True):
        save = Save()
        trainer = fit(make_gan(), folder, sharded(distributed_checkpoint), [save], max_steps=2)
        assert trainer.global_step == 2
        assert "a file" in save.error


def damaged(folder: Path) -> None:
    """A part that one process cannot read stops all of them."""
    path = folder / "damaged.ckpt"
    if RANK == 0:
        shutil.copytree(folder / "parts-3.ckpt", path)
        (path / "1-of-2.ckpt").write_bytes(b"")
    distributed.barrier()
    try:
        fit(make_gan("dcgan", "adam"), folder, sharded(), ckpt_path=path)
    except (OSError, ValueError) as error:
        torch.save(f"{type(error).__name__}: {error}", folder / f"damaged-{RANK}.pt")


def three(folder: Path) -> None:
    """Three processes: layers of fewer rows than processes."""
    train("three", folder, networks="tiny")
    gan = make_gan("tiny", "adam")
    fit(gan, folder, sharded(distributed_checkpoint=True), [GeneratorEMA(), SaveAt({4: folder / "three-4.ckpt"})])


def two(folder: Path) -> None:
    for name, settings in SETTINGS.items():
        train(name, folder, **settings)
    train("tiny", folder, networks="tiny")
    stop_and_go(folder)
    from_one(folder)
    with_all(folder)
    count(folder)
    refused(folder)
    failing_disk(folder)
    damaged(folder)
    # What three processes saved.
    gan = make_gan("tiny", "adam", start=1)
    trainer = fit(gan, folder, sharded(), [GeneratorEMA()], ckpt_path=folder / "three-4.ckpt", max_steps=4)
    trainer.save_checkpoint(folder / "three-in-two.ckpt")


def run(job: Callable[[Path], None], number: int, folder: Path) -> None:
    """Does a job in so many processes, which import nothing: they are forks of this one."""
    global RANK, PROCESSES
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    processes = {}
    for rank in range(number):
        if process := os.fork():
            processes[process] = rank
            continue
        try:
            RANK, PROCESSES = rank, number
            os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(number)}
            with (folder / f"{job.__name__}-{rank}.txt").open("w", encoding="utf-8") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                job(folder)
                sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    failed = None
    while processes:
        process, status = os.wait()
        rank = processes.pop(process)
        if status and failed is None:
            failed = rank
            for other in processes:
                os.kill(other, signal.SIGKILL)
    if failed is not None:
        sys.exit((folder / f"{job.__name__}-{failed}.txt").read_text(encoding="utf-8"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    replace_lightnings()
    run(three, 3, Path(sys.argv[1]))
    run(two, 2, Path(sys.argv[1]))
