"""Loaders of a user's own: a run that goes on sees the batches that it would have seen, or says that it does not."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FAST, MLPS, command, equal, load, resume, table
from conftest import same_weights
from lightning import Callback, LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from parallel.processes import script
from test_resume import KillAt, killed
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from gan import GAN
from gan.callbacks import RunCheckpoint
from gan.loader import KeyedLoaders
from gan.networks import MLPDiscriminator, MLPGenerator

SHAPE = (1, 4, 4)
IMAGES = torch.rand(26, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1  # 6 batches of 4, and half a one
SIX = {"batch_size": 4, "drop_last": True}


class Drawn(Dataset):
    """Images that are augmented as people do, by whatever generator is at hand."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return IMAGES[index] * self.draw(self), index


def of_torch(_):
    return torch.rand(()).item()


def of_numpy(_):
    return float(np.random.rand())  # noqa: NPY002


def of_python(_):
    return random.random()


def of_its_own(dataset):
    return sum(float(generator.random()) for generator in dataset.generators.values())


class OwnGenerators(Drawn):
    """It has generators of its own, that nobody has seeded."""

    def __init__(self):
        super().__init__(lambda self: float(self.numpy.random()) * self.python.random() * self.old.rand())
        self.numpy, self.python, self.old = np.random.default_rng(), random.Random(), np.random.RandomState()


class Wild(Drawn):
    """It draws from what nobody can seed."""

    def __init__(self):
        super().__init__(lambda _: float(np.random.default_rng().random()))


class OwnSampler(Sampler):
    """Draws an order from a generator that goes through all epochs."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __len__(self):
        return len(IMAGES)

    def __iter__(self):
        return iter(self.rng.permutation(len(IMAGES)).tolist())


class GlobalSampler(OwnSampler):
    """Draws each index as it comes."""

    def __init__(self):
        pass

    def __iter__(self):
        return (int(torch.randint(len(IMAGES), ())) for _ in range(len(IMAGES)))


class Stream(IterableDataset):
    """Shuffled anew each time, of a length that nobody knows."""

    def __init__(self, length=24):
        self.length = length

    def __iter__(self):
        for place in random.sample(range(24), self.length):
            yield IMAGES[place] * torch.rand(()).item(), place


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(SHAPE).clamp(-1, 1), 0


class Onwards(IterableDataset):
    """Goes on where it was left, within a process."""

    def __init__(self):
        self.place = 0

    def __iter__(self):
        while True:
            self.place += 1
            yield IMAGES[self.place * 7 % len(IMAGES)] / self.place, self.place


class OnwardsSaved(Onwards):
    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class FiniteSaved(OnwardsSaved):
    """Begins anew at its end."""

    def __iter__(self):
        while self.place < 24:
            self.place += 1
            yield IMAGES[self.place] * torch.rand(()).item(), self.place
        self.place = 0


class NoLoader:
    """No DataLoader, and no state."""

    def __len__(self):
        return 6

    def __iter__(self):
        return iter(IMAGES[torch.randperm(24)].split(4))


class SavedLoader(NoLoader):
    """A loader that keeps its place by itself."""

    def __init__(self):
        self.epoch = self.batch = 0

    def __iter__(self):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(self.epoch))
        for batch in IMAGES[order].split(4)[self.batch :]:
            self.batch += 1
            if self.batch == 6:
                self.epoch, self.batch = self.epoch + 1, 0
            yield batch

    def state_dict(self):
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state):
        self.epoch, self.batch = state["epoch"], state["batch"]


def stateful(*args, **settings):
    module = pytest.importorskip("torchdata.stateful_dataloader")
    return module.StatefulDataLoader(*args, **settings)


class Own(LightningDataModule):
    """Whatever loader a user makes."""

    image_shape = SHAPE

    def __init__(self, make):
        super().__init__()
        self.train_dataloader = make


class AugmentedOnDevice(Own):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return images * torch.rand(len(images), 1, 1, 1) * random.random(), labels


TENSORS = TensorDataset(IMAGES, torch.arange(26))

EXACT = {
    "shuffle": lambda: DataLoader(TENSORS, shuffle=True, **SIX),
    "a last batch that is short": lambda: DataLoader(TENSORS, shuffle=True, batch_size=4),
    "images made with the loader": lambda: DataLoader(torch.rand(26, *SHAPE), shuffle=True, **SIX),
    "generator": lambda: DataLoader(TENSORS, shuffle=True, generator=torch.Generator().manual_seed(3), **SIX),
    "workers": lambda: DataLoader(Drawn(of_torch), shuffle=True, num_workers=2, **SIX),
    "workers and numpy": lambda: DataLoader(Drawn(of_numpy), num_workers=1, **SIX),
    "torch": lambda: DataLoader(Drawn(of_torch), shuffle=True, **SIX),
    "numpy": lambda: DataLoader(Drawn(of_numpy), **SIX),
    "python": lambda: DataLoader(Drawn(of_python), shuffle=True, **SIX),
    "own generators": lambda: DataLoader(OwnGenerators(), shuffle=True, **SIX),
    "of a part": lambda: DataLoader(Subset(OwnGenerators(), range(25)), shuffle=True, **SIX),
    "weights": lambda: DataLoader(TENSORS, sampler=WeightedRandomSampler(torch.arange(26.0), 26), **SIX),
    "subset": lambda: DataLoader(TENSORS, sampler=SubsetRandomSampler(range(25)), **SIX),
    "own sampler": lambda: DataLoader(TENSORS, sampler=OwnSampler(1), **SIX),
    "own sampler of torch": lambda: DataLoader(TENSORS, sampler=GlobalSampler(), num_workers=2, **SIX),
    "own batch sampler": lambda: DataLoader(Drawn(of_torch), batch_sampler=BatchSampler(OwnSampler(2), 4, True)),
    "stream": lambda: DataLoader(Stream(), batch_size=4),
    "stream of workers": lambda: DataLoader(Stream(12), batch_size=4, num_workers=2),
    "endless": lambda: DataLoader(Endless(), batch_size=4),
    "no DataLoader": NoLoader,
    "no DataLoader, with a state": SavedLoader,
    "stateful": lambda: stateful(TENSORS, shuffle=True, **SIX),
    "stateful and augmented": lambda: stateful(Drawn(of_torch), shuffle=True, **SIX),
    "stateful with weights": lambda: stateful(TENSORS, sampler=WeightedRandomSampler(torch.arange(26.0), 26), **SIX),
    "stateful with an own sampler": lambda: stateful(TENSORS, sampler=OwnSampler(3), **SIX),
    "stateful with a batch sampler": lambda: stateful(
        Drawn(of_torch), batch_sampler=BatchSampler(GlobalSampler(), 4, True)
    ),
    "stateful stream": lambda: stateful(OnwardsSaved(), batch_size=4),
    "stateful stream that ends": lambda: stateful(FiniteSaved(), batch_size=4),
    "stateful stream without a state": lambda: stateful(Stream(), batch_size=4),
    "several": lambda: CombinedLoader([DataLoader(part, shuffle=True, **SIX) for part in (IMAGES, IMAGES[:9])]),
}


class Batches(Callback):
    """Keeps the images that are trained on."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        images = batch if isinstance(batch, torch.Tensor) else batch[0]
        self.seen.append(images.clone())


def train(make_trainer, loader, folder, ckpt_path=None, scramble=0, callbacks=(), module=Own, **settings):
    """A run from its start, or on from a checkpoint: as in a process of its own, whose generators are elsewhere."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(scramble)
    data = module(loader)
    gan = GAN(MLPGenerator(SHAPE, latent_dim=8), MLPDiscriminator(SHAPE))
    batches = Batches()
    callbacks = [batches, RunCheckpoint(every=1, keep=100), *callbacks]
    defaults = {"max_steps": 15, "default_root_dir": Path(folder), "callbacks": callbacks, "num_sanity_val_steps": 0}
    trainer = make_trainer(**(defaults | settings))
    trainer.fit(gan, data, ckpt_path=ckpt_path and Path(ckpt_path), weights_only=True)
    return gan, batches.seen


def step(folder, number):
    return Path(folder, "checkpoints", f"step_{number:06}.ckpt")


MOMENTS = (9, 12)  # in the middle of an epoch, and at its end


def check_exact(make_trainer, loader, tmp_path, moments=MOMENTS, **settings):
    gan, seen = train(make_trainer, loader, tmp_path / "whole", **settings)
    assert len({images.sum().item() for images in seen}) == len(seen)  # no order twice
    for moment in moments:
        parts, rest = train(
            make_trainer, loader, tmp_path / str(moment), step(tmp_path / "whole", moment), moment, **settings
        )
        assert len(rest) == len(seen) - moment
        for number, (images, expected) in enumerate(zip(rest, seen[moment:], strict=True), moment):
            assert torch.equal(images, expected), f"batch {number}, from {moment} on"
        assert same_weights(gan, parts)
    return seen


@pytest.mark.parametrize("case", EXACT)
def test_goes_on_bit_for_bit(make_trainer, tmp_path, case, recwarn, capsys):
    check_exact(make_trainer, EXACT[case], tmp_path)
    assert not [str(warning.message) for warning in recwarn if "bit for bit" in str(warning.message)]
    assert not [str(warning.message) for warning in recwarn if "You're resuming from" in str(warning.message)]


def said(recwarn):
    return [str(warning.message) for warning in recwarn if "bit for bit" in str(warning.message)]


# What cannot be, and what is said of it.
DOUBTFUL = {
    "wild": lambda: DataLoader(Wild(), **SIX),
    "wild workers": lambda: DataLoader(Wild(), num_workers=1, **SIX),
    "goes on by itself": lambda: DataLoader(Onwards(), batch_size=4),
}


@pytest.mark.parametrize("moment", [6, 9, 12])
@pytest.mark.parametrize("case", DOUBTFUL)
def test_data_that_does_not_repeat_is_said(make_trainer, tmp_path, case, moment, recwarn):
    settings = {"limit_train_batches": 6, "max_steps": 12 if moment < 12 else 14}
    train(make_trainer, DOUBTFUL[case], tmp_path / "whole", **settings)
    assert not said(recwarn)
    train(make_trainer, DOUBTFUL[case], tmp_path / "parts", step(tmp_path / "whole", moment), **settings)
    (line,) = said(recwarn)
    assert f"the first batch of epoch {(moment - 1) // 6} is not what it was" in line


@pytest.mark.parametrize(("moment", "exact"), [(4, True), (9, False), (12, False)])
def test_workers_that_persist(make_trainer, tmp_path, moment, exact, recwarn):
    """In the first epoch they are seeded as those of the run that goes on."""

    def loader():
        return DataLoader(Drawn(of_numpy), shuffle=True, num_workers=1, persistent_workers=True, **SIX)

    _, seen = train(make_trainer, loader, tmp_path / "whole")
    _, rest = train(make_trainer, loader, tmp_path / "parts", step(tmp_path / "whole", moment))
    if exact:
        assert torch.equal(rest[0], seen[4])
    assert any("persistent_workers" in line for line in said(recwarn)) != exact


@pytest.mark.slow
def test_workers_of_a_loader_that_goes_on_by_its_state(make_trainer, tmp_path, recwarn):
    def loader():
        return stateful(Drawn(of_torch), shuffle=True, num_workers=1, **SIX)

    _, seen = train(make_trainer, loader, tmp_path / "whole")
    _, rest = train(make_trainer, loader, tmp_path / "end", step(tmp_path / "whole", 6))
    assert torch.equal(torch.stack(rest), torch.stack(seen[6:]))
    assert not said(recwarn)
    train(make_trainer, loader, tmp_path / "middle", step(tmp_path / "whole", 9))
    (line,) = said(recwarn)
    assert "its workers draw random numbers" in line


@pytest.mark.parametrize("case", ["shuffle", "stateful"])
def test_batches_that_are_done_are_skipped(make_trainer, tmp_path, case, capsys):
    """By the loader's state, without reading them, or by reading past them, with a line."""
    read = []

    def draw(_):
        read.append(1)
        return 1.0

    make = DataLoader if case == "shuffle" else stateful

    def loader():
        return make(Drawn(draw), shuffle=True, **SIX)

    train(make_trainer, loader, tmp_path / "whole", max_steps=11)
    assert "reads past" not in capsys.readouterr().out
    read.clear()
    train(make_trainer, loader, tmp_path / "parts", step(tmp_path / "whole", 9), max_steps=11)
    assert len(read) == 4 * (2 if case == "stateful" else 5)
    said = "data           reads past what is done of epoch 1: 3 batches\n"
    assert (said in capsys.readouterr().out) == (case == "shuffle")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"limit_train_batches": 5},
        {"limit_train_batches": 0.5},
        {"max_epochs": 3, "max_steps": -1},
        {"max_epochs": 3, "max_steps": 14},
        {"reload_dataloaders_every_n_epochs": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("case", ["torch", "images made with the loader", "stream", "stateful stream that ends"])
def test_epochs_by_settings(make_trainer, tmp_path, case, settings):
    if case.startswith("st") and isinstance(settings.get("limit_train_batches"), float):
        pytest.skip("no share of an unknown length")
    if case.startswith("stateful") and "reload_dataloaders_every_n_epochs" in settings:
        pytest.skip("Lightning iterates a loader that it has reloaded twice, and fetches a batch for nothing")
    check_exact(make_trainer, EXACT[case], tmp_path, (2, 6, 10), **settings)


def test_overfitted_batches_repeat(make_trainer, tmp_path):
    _, seen = train(make_trainer, EXACT["shuffle"], tmp_path / "whole", overfit_batches=2)
    _, rest = train(make_trainer, EXACT["shuffle"], tmp_path / "parts", step(tmp_path / "whole", 5), overfit_batches=2)
    assert torch.equal(torch.stack(rest), torch.stack(seen[5:]))


@pytest.mark.parametrize("case", ["shuffle", "stateful"])
def test_augmentation_after_the_transfer(make_trainer, tmp_path, case):
    check_exact(make_trainer, EXACT[case], tmp_path, module=AugmentedOnDevice)


def test_augmentation_of_images_in_memory(make_trainer, tmp_path):
    from conftest import SmallMNIST

    class Augmented(SmallMNIST):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            images, labels = batch
            return images * random.random() * float(np.random.rand()), labels  # noqa: NPY002

    def run(folder, ckpt_path=None):
        random.seed(str(folder))
        np.random.seed(len(str(folder)))  # noqa: NPY002
        torch.manual_seed(0)
        gan = GAN(MLPGenerator((1, 28, 28), latent_dim=8), MLPDiscriminator((1, 28, 28)))
        callbacks = [RunCheckpoint(every=1, keep=100)]
        trainer = make_trainer(max_steps=6, default_root_dir=folder, callbacks=callbacks)
        trainer.fit(gan, Augmented(128, 0), ckpt_path=ckpt_path, weights_only=True)
        return gan

    whole = run(tmp_path / "whole")
    for moment in (3, 4):
        assert same_weights(whole, run(tmp_path / f"from {moment}", step(tmp_path / "whole", moment)))


def test_a_callback_that_draws_changes_nothing(make_trainer, tmp_path):
    class Draws(Callback):
        def on_train_batch_end(self, *args):
            torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002

    one, _ = train(make_trainer, EXACT["torch"], tmp_path / "one")
    two, _ = train(make_trainer, EXACT["torch"], tmp_path / "two", callbacks=[Draws()])
    assert same_weights(one, two)


def test_seed_and_generator_decide(make_trainer, tmp_path):
    def orders(seed, generator):
        gan = GAN(MLPGenerator(SHAPE, latent_dim=8), MLPDiscriminator(SHAPE), seed=seed)
        batches = Batches()
        trainer = make_trainer(max_steps=6, callbacks=[batches], default_root_dir=tmp_path)
        generator = generator and torch.Generator().manual_seed(generator)
        trainer.fit(gan, DataLoader(TENSORS, shuffle=True, generator=generator, **SIX))
        return torch.cat(batches.seen)

    runs = [orders(*key) for key in [(1, None), (2, None), (1, 1), (1, 2)]]
    assert torch.equal(runs[0], orders(1, None))
    assert all(not torch.equal(one, two) for index, one in enumerate(runs) for two in runs[:index])


def test_checkpoint_made_after_training(make_trainer, tmp_path):
    """When Lightning has taken the iterators away."""
    for case in ("shuffle", "stateful", "stateful stream", "no DataLoader, with a state"):
        _, seen = train(make_trainer, EXACT[case], tmp_path / case)

        class Keep(Callback):
            def on_fit_start(self, trainer, pl_module):
                self.trainer = trainer

        keep = Keep()
        train(make_trainer, EXACT[case], tmp_path / f"{case} begun", max_steps=9, callbacks=[keep])
        keep.trainer.save_checkpoint(tmp_path / "after.ckpt")
        _, rest = train(make_trainer, EXACT[case], tmp_path / f"{case} on", tmp_path / "after.ckpt")
        assert torch.equal(torch.stack(rest), torch.stack(seen[9:])), case


def test_second_fit_goes_on(make_trainer, tmp_path):
    for case in ("shuffle", "no DataLoader, with a state"):
        _, seen = train(make_trainer, EXACT[case], tmp_path / case)
        torch.manual_seed(0)
        gan, batches, data = GAN(MLPGenerator(SHAPE, latent_dim=8), MLPDiscriminator(SHAPE)), Batches(), EXACT[case]()
        trainer = make_trainer(max_steps=4, callbacks=[batches])
        trainer.fit(gan, data)
        trainer.fit_loop.epoch_loop.max_steps = 15
        trainer.fit(gan, data)
        assert torch.equal(torch.stack(batches.seen), torch.stack(seen)), case


def test_state_that_is_no_plain_data(make_trainer, tmp_path, recwarn):
    class Odd(SavedLoader):
        def state_dict(self):
            return {"numbers": np.zeros(2)}

        def load_state_dict(self, state):
            raise AssertionError

    train(make_trainer, Odd, tmp_path / "whole", max_steps=4)
    assert [warning for warning in recwarn if "is no plain data" in str(warning.message)]
    train(make_trainer, Odd, tmp_path / "parts", step(tmp_path / "whole", 3), max_steps=4)


def test_no_epoch_is_read_where_it_is_not_needed(make_trainer, tmp_path):
    """An iterator is made when its first batch is due, and once an epoch."""
    made = []

    class Counted(DataLoader):
        def __iter__(self):
            made.append(1)
            return super().__iter__()

    train(make_trainer, lambda: Counted(TENSORS, **SIX), tmp_path, max_steps=12)
    assert len(made) == 2
    assert issubclass(KeyedLoaders, CombinedLoader)


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Each goes on with its own part: of an order that all draw alike, or of a stream of its own."""
    run = script("loaders.py", tmp_path)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert "bit for bit" not in errors
    first, second = (load(tmp_path / f"{process}.pt") for process in (0, 1))
    for case in first:
        for runs in (first[case], second[case]):
            (weights, seen), *others = runs
            for moment, (now, rest) in zip((4, 6), others, strict=True):
                assert torch.equal(rest, seen[moment:]), (case, moment)
                assert equal(weights, now), (case, moment)
    for case in ("shuffle", "own sampler", "stateful"):
        images = torch.cat([first[case][0][1][:3], second[case][0][1][:3]]).flatten(0, 1)
        assert len({tuple(image.flatten().tolist()) for image in images}) == 24, case
    for case in ("augmented", "workers", "stream"):
        assert not torch.equal(first[case][0][1], second[case][0][1])


@pytest.mark.parametrize("case", ["shuffle", "stateful", "no DataLoader, with a state"])
def test_other_batches_than_before(make_trainer, tmp_path, case, capsys):
    """It reads to its place in an epoch that is as long as it is now."""
    train(make_trainer, EXACT[case], tmp_path / "whole", max_steps=9)
    settings = {"limit_train_batches": 4, "max_steps": 12}
    train(make_trainer, EXACT[case], tmp_path / "parts", step(tmp_path / "whole", 9), **settings)
    assert "reads past what is done of epoch 2: 1 batch\n" in capsys.readouterr().out


class Fixed(LightningDataModule):
    """A data module as people write one."""

    image_shape = (3, 16, 16)

    def __init__(self, batch_size: int = 8, workers: int = 0):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        images = torch.rand(52, *self.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        settings = {"batch_size": self.hparams["batch_size"], "num_workers": self.hparams["workers"]}
        return DataLoader(TensorDataset(images, torch.arange(52)), shuffle=True, drop_last=True, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(("at", "workers"), [(9, 0), (9, 2), (13, 0)])
def test_command_that_was_killed_goes_on(tmp_path, monkeypatch, capfd, at, workers):
    """In the middle of the second epoch, and where it begins: in all of the last checkpoint, and in the table."""
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", FAST, *MLPS, "--data", "test_loader.Fixed", "--data.workers", workers]
    words += ["--trainer.log_every_n_steps", 1, "--trainer.callbacks+", "RunCheckpoint", "--trainer.callbacks.every", 1]
    words += ["--trainer.max_steps", 15, "--trainer.check_val_every_n_epoch", 1]
    command(*words, "--run_dir", "whole")
    killed(lambda: command(*words, "--run_dir", "parts", callbacks=[KillAt("on_train_batch_start", at - 1)]))
    capfd.readouterr()
    resume("parts")
    output, errors = capfd.readouterr()
    assert ("reads past what is done of epoch 1: 2 batches\n" in output) == (at == 9)
    assert "not bit for bit" not in errors
    assert "resum" not in errors  # Lightning's warning, which is not true here
    whole, parts = (load(f"{run}/checkpoints/last.ckpt") for run in ("whole", "parts"))
    assert all(equal(whole[name], parts[name]) for name in whole)
    assert table("whole") == table("parts")
