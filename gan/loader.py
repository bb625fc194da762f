"""Training data of any loader, by the batch: its order, its workers and its augmentation come from seed and epoch.

A loader of one's own draws from generators that nobody saves. Here they are seeded anew for each epoch, and a run that
goes on finds in them what it would have found.
"""

import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Protocol, Self, cast

import torch
from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import CombinedLoader, rank_zero_warn
from torch.utils.data import DataLoader

from gan.batch import as_pair
from gan.data.epochs import EpochLoader
from gan.noise import keyed, seed_all
from gan.repeat import (
    can_load,
    digest,
    doubts,
    generators_of,
    goes_on,
    has_state,
    loadable,
    parts,
    reseed,
    seed_of,
)


class Trained(Protocol):
    """A model, for what concerns its data."""

    seed: int
    data_place: dict[str, Any]  # see `place_in`

    @property
    def trainer(self) -> Trainer:
        """Whose data it is."""
        ...

    @property
    def device(self) -> torch.device:
        """Whose generator is seeded too, for augmentation there."""
        ...


def key_loaders(model: Trained) -> None:
    """Has a model's trainer read its training data by way of `KeyedLoaders`."""
    source = model.trainer.fit_loop._data_source  # private
    source.dataloader = partial(training_data, model, source)
    # It is, by reading past the batches that are done.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")


def training_data(model: Trained, source: Any) -> Any:
    """What the trainer gets when it asks for its training data."""
    trainer = model.trainer
    if trainer.lightning_module is not model:  # but another one, since
        return type(source).dataloader(source)
    every = trainer.reload_dataloaders_every_n_epochs  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
    epoch = trainer.current_epoch - trainer.current_epoch % every if every else 0
    seed_all(keyed(model.seed, "training data", epoch, device=model.device))  # what is drawn while it is made
    return KeyedLoaders(type(source).dataloader(source), model, trainer.fit_loop._combined_loader)  # private


def held_out(data: LightningDataModule, num: int, kinds: Sequence[str] = ("test", "val")) -> list[Any]:
    """The first batches of the test data, with `num` images at least if there are, or else of the validation data.

    Args:
        data: The data module.
        num: Images that are wanted.
        kinds: Which to ask for first, and which then.
    """
    for kind in kinds:
        name = f"{kind}_dataloader"
        if kind == "test":
            data.setup("test")
        try:
            loaders = getattr(data, name)()
        except MisconfigurationException:  # it has no such data
            continue
        batches, images = [], 0
        for batch, *_ in CombinedLoader(loaders, "sequential"):
            batches.append(batch)
            images += len(as_pair(batch)[0])
            if images >= num:
                break
        if batches:
            return batches
    return []


def place_in(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the place in the data, and when that holds."""
    kept = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader") or [{}]
    return kept[0] | {name: checkpoint.get(name) for name in ("global_step", "world_size", "epoch_batches")}


class KeyedLoaders(CombinedLoader):
    """The loaders of a run, as Lightning combines them, whose batches depend on the seed and their number alone.

    At the start of an epoch all generators that draw for it are seeded by the seed and the epoch: torch's, numpy's and
    Python's own, from which samplers and workers get their seeds, and those that a loader, its samplers, its data set
    and its transforms keep; what these were seeded with is a part of it. Each later batch seeds the first three by its
    number and the process, for what augments in this process.

    An iteration begins at the batch that is next in training. The batches of its epoch that are done are skipped by
    the state of the loader, where it has one in the checkpoint, and are read past otherwise. Loaders in memory begin
    there by themselves.

    Args:
        loaders: What a data module gives: a loader, a collection of them, or a CombinedLoader.
        model: That trains on it.
        before: The loaders that these take the place of in the middle of a run.
    """

    def __init__(self, loaders: Any, model: Trained, before: CombinedLoader | None = None) -> None:
        combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")
        super().__init__(combined.iterables, cast(Any, combined._mode))  # private
        self.model, self.trainer = model, model.trainer
        self.begun = False
        self.counted_from = 0, 0  # an epoch, and the number of its first batch
        self.following: tuple[int, int] | None = None  # the epoch after one that has ended before its time
        self.first = ""  # digest of the first batch of the epoch that was begun last
        self.seeds: list[int] = []  # which the loaders' generators had when the run began
        if isinstance(before, KeyedLoaders):
            for name in ("begun", "counted_from", "following", "first", "seeds"):
                setattr(self, name, getattr(before, name))
        self.index: int | None = None  # in its epoch, of the batch that comes next; None outside of one
        self.states_before: list[Any] | None = None  # the batch that Lightning fetches ahead where it knows no length
        self.states_at_end: list[Any] | None = None  # of training, before the iterators are gone
        self.told_at = -1

    # ------------------------------------------------------------------ batches

    def place(self) -> tuple[int, int]:
        """The epoch that training is in, and how many of its batches are done."""
        step, length = self.trainer.global_step, self.trainer.num_training_batches
        if self.following is not None and step >= self.following[1]:
            self.counted_from, self.following = self.following, None
        epoch, first = self.counted_from
        epochs, done = divmod(step - first, int(length)) if 0 < length < float("inf") else (0, step - first)
        return epoch + epochs, done

    def __iter__(self) -> Self:
        # Not before the first batch is asked for: Lightning calls this before it knows where the run goes on.
        loaders = self.flattened
        self.late = [Late(loader) for loader in loaders]
        self.flattened = self.late
        super().__iter__()
        self.flattened = loaders
        self.index = None
        return self

    def __next__(self) -> Any:
        # Lightning takes for a whole epoch what was begun in the middle of one, by a second `fit` say.
        if self.index is None or self.index >= self.trainer.num_training_batches:
            self.begin()
        return self.fetch()

    def begin(self) -> None:
        """Begins an iteration at the batch that is next in training."""
        step, loaders = self.trainer.global_step, self.flattened
        saved = self.model.data_place if self.model.data_place.get("global_step") == step else {}
        if saved:
            self.counted_from = saved.get("epoch", 0), saved.get("start", 0)
            self.first = saved.get("first", "")
            self.seeds = self.own(saved, "seeds") or self.seeds
        self.begun, self.states_before = True, None
        epoch, done = self.place()
        states = self.own(saved, "states") or [None if "states" in saved else {} for _ in loaders]
        by_state = bool(saved) and all(map(can_load, loaders, states))
        # Loaders of a user's own that have a state, and live on, are where they were.
        lives_on = not saved and all(has_state(loader) and not isinstance(loader, DataLoader) for loader in loaders)

        first = ""
        if saved and self.told_at != step:
            self.told_at = step
            for doubt in doubts(loaders, epoch, done, by_state):
                rank_zero_warn(f"this run goes on, but not bit for bit {doubt}")
            first = self.first if self.is_same(saved) else ""
        if first and not done and not (by_state and all(map(goes_on, loaders))):
            # Twice: what keeps a place of its own is somewhere else then.
            self.check([self.rehearse(epoch - 1) for _ in range(2)], first, epoch - 1)
        self.begin_epoch(epoch, states if by_state else [])
        self.index = done if by_state or lives_on else 0
        if self.index < done and self.trainer.is_global_zero:
            batches = f"{done:,} batch{'es' * (done > 1)}"
            print(f"data           reads past what is done of epoch {epoch}: {batches}")
        while self.index < done:
            try:
                self.fetch()
            except StopIteration:
                if self.following is None:
                    raise
                epoch, done = self.place()
                self.begin_epoch(epoch)
                self.index = 0
            else:
                if self.index == 1 and first:
                    self.check([self.first], first, epoch)

    def begin_epoch(self, epoch: int, states: Sequence[Any] = ()) -> None:
        """Begins an epoch anew, or where states of the loaders say, with all that draws for it seeded."""
        iter(self)
        done = self.place()[1]
        self.epoch, self.start = epoch, self.trainer.global_step - done
        # The same on all processes, of which each may draw the whole order and take its part.
        seed_all(keyed(self.model.seed, "epoch", epoch, device=self.model.device))
        every_part = [part for loader in self.flattened for part in parts(loader)]
        for part in every_part:
            if callable(getattr(type(part), "set_epoch", None)):
                part.set_epoch(epoch)
        generators = generators_of(every_part)
        if len(self.seeds) != len(generators):
            self.seeds = [seed_of(generator) for generator in generators]
        for seed, generator in zip(self.seeds, generators, strict=True):
            reseed(generator, keyed(self.model.seed, "epoch", epoch, seed).initial_seed())
        for loader, state in zip(self.flattened, states, strict=False):
            if done or goes_on(loader):
                loader.load_state_dict(state)
        for late in self.late:
            late.begin(keyed(self.model.seed, "workers", epoch, self.trainer.global_rank))

    def fetch(self) -> Any:
        """The next batch of the epoch.

        Raises:
            StopIteration: If there is none.
        """
        assert self.index is not None  # which `begin` has set
        if self.index:  # with the first, a sampler may draw the order: from what the epoch was seeded with
            key = self.start + self.index, self.trainer.global_rank
            seed_all(keyed(self.model.seed, "data", *key, device=self.model.device))
        if self.trainer.num_training_batches == float("inf"):
            self.states_before = deepcopy(self.states())
        try:
            batch = super().__next__()
        except StopIteration:
            if self.index:
                self.following = self.epoch + 1, self.start + self.index
                self.model.data_place = {}  # is behind
            self.index = None
            raise
        if self.index == 0 and not all(isinstance(loader, EpochLoader) for loader in self.flattened):
            self.first = digest(batch[0])
        self.index += 1
        return batch

    def rehearse(self, epoch: int) -> str:
        """Digest of the first batch of an epoch, if it is begun now."""
        self.begin_epoch(epoch)
        self.index = 0
        self.fetch()
        return self.first

    def check(self, now: list[str], before: str, epoch: int) -> None:
        """Warns if the first batch of an epoch is not what it was before the run was stopped."""
        if any(digest != before for digest in now):
            rank_zero_warn(
                f"this run goes on, but not bit for bit: the first batch of epoch {epoch} is not what it was. The "
                "seed, the data's settings or its workers are others, or the data draws from something that cannot be "
                "seeded, or it keeps a place of its own without a state_dict"
            )

    # ------------------------------------------------------------------ checkpoints

    def is_same(self, saved: dict[str, Any]) -> bool:
        """Whether the batches of a checkpoint are those of this run."""
        now = self.trainer.world_size, self.trainer.num_training_batches
        return (saved.get("world_size"), saved.get("epoch_batches")) == now

    def own(self, saved: dict[str, Any], name: str) -> list[Any]:
        """What is saved of this process, if it holds for this run."""
        processes = saved.get(name, []) if self.is_same(saved) else []
        return processes[self.trainer.global_rank] if processes else []

    def states(self) -> list[Any]:
        """The states of the loaders that have one, None of others."""
        return [loader.state_dict() if has_state(loader) else None for loader in self.flattened]

    def states_to_save(self) -> list[Any]:
        """Those that hold after the batches that are done."""
        if self.states_at_end is not None:
            return self.states_at_end
        is_ahead = self.index is not None and self.start + self.index > self.trainer.global_step
        states = self.states_before if is_ahead else self.states()
        return [loadable(state) for state in states or [None for _ in self.flattened]]

    def _state_dicts(self) -> list[dict[str, Any]]:  # private: what Lightning saves, here of all processes
        if not self.begun:
            return [{name: value for name, value in self.model.data_place.items() if name in PLACE}]
        self.place()
        place = {"epoch": self.counted_from[0], "start": self.counted_from[1], "first": self.first}
        states = self.states_to_save()
        own = {"states": states if any(state != {} for state in states) else [], "seeds": self.seeds}
        place |= {name: self.of_all(value) for name, value in own.items() if value}
        return [{name: value for name, value in place.items() if value}]

    def of_all(self, own: list[Any]) -> list[list[Any]]:
        """What each process has of something."""
        everybodys = [own] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(everybodys, own)
        return everybodys

    def _load_state_dicts(self, states: list[dict[str, Any]]) -> None:  # private
        """Loads nothing: Lightning calls it where it takes a run for one in the middle of an epoch, and only there."""

    def reset(self) -> None:
        """Ends the iterations, as training is over."""
        if self.begun and not self.trainer.interrupted:
            self.states_at_end = self.states_to_save()
        super().reset()

    @property
    def is_stale(self) -> bool:
        """Whether a batch was fetched before the run knew where it goes on."""
        return self.index is not None and self.index > 0 and self.start + self.index - 1 < self.trainer.global_step


PLACE = ("epoch", "start", "first", "states", "seeds")


class Late:
    """A loader that is iterated when it is told to, or when its first batch is asked for."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.begun: Iterator[Any] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        begun, self.begun = self.begun, None
        yield from iter(self.loader) if begun is None else begun

    def begin(self, generator: torch.Generator) -> None:
        """Begins what the next iteration gives, with workers that are seeded from a generator."""
        lent = isinstance(self.loader, DataLoader) and self.loader.generator is None
        if lent:  # it would draw from torch's own, and what comes after it something else
            self.loader.generator = generator
        self.begun = iter(self.loader)
        if lent:
            self.loader.generator = None
