"""The in-memory loader and data module: values, orders, ranks, resume."""

import contextlib
import itertools
import math
import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import Tensor

from gan.data import InMemoryDataModule, InMemoryLoader
from gan.data.memory import FewLabelsLoader
from gan.errors import GANError


def loader(n: int = 50, batch_size: int = 8, **options) -> InMemoryLoader:
    """Training batches of n images, of which image i is black but for its label and every pixel i."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 2, 2).contiguous()
    return InMemoryLoader(images, torch.arange(n), batch_size, **{"shuffle": True, "drop_last": True} | options)


def labels(batches) -> list[list[int]]:
    return [y.tolist() for _, y in batches]


def flat(batches) -> list[int]:
    return list(itertools.chain(*labels(batches)))


class Numbers(InMemoryDataModule):
    """52 training images and 7 test images, each labelled with its own index."""

    image_shape = (1, 1, 1)
    num_classes = 52
    loads = 0

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        self.loads += 1
        n = 52 if train else 7
        return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1), torch.arange(n)


# The loader


def test_values_are_exact_at_both_ends_and_never_leave_the_range():
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    [(x, _)] = InMemoryLoader(images, torch.zeros(256, dtype=torch.int64), 256)
    expected = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1
    assert x.dtype == torch.float32
    assert x.min() == -1
    assert 1 - 1e-6 < x.max() <= 1
    torch.testing.assert_close(x.flatten().double(), expected, atol=1e-6, rtol=0)


def test_each_image_keeps_its_label():
    for x, y in loader():
        assert x.shape == (8, 3, 2, 2)
        assert y.dtype == torch.int64
        assert ((x + 1) * 127.5).round().eq(y.view(-1, 1, 1, 1)).all()


def test_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    orders = {}
    for seed, epoch in itertools.product(range(3), range(3)):
        one, other = (loader(seed=seed, counter=lambda: (6 * epoch, 6)) for _ in range(2))  # noqa: B023
        list(other)
        torch.rand(3)
        torch.set_rng_state(state)
        orders[seed, epoch] = labels(one)
        assert torch.equal(torch.get_rng_state(), state), "the order drew from the global generator"
        assert labels(other) == orders[seed, epoch]
    assert len({str(order) for order in orders.values()}) == 9, "two (seed, epoch) share an order"


@pytest.mark.parametrize("counter", [None, lambda: (0, 4), lambda: (9, 4), lambda: (14, math.inf)])
def test_processes_share_the_batches_that_one_process_would_see(counter):
    one = labels(loader(batch_size=8, counter=counter))
    ranks = [labels(loader(batch_size=2, rank=rank, world_size=4, counter=counter)) for rank in range(4)]
    assert one == [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("n", [3, 7, 11, 31, 40, 41, 50])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once_over_all_ranks(n, world_size):
    seen, lengths = [], set()
    for rank in range(world_size):
        mine = loader(n, 5, shuffle=False, drop_last=False, rank=rank, world_size=world_size)
        batches = labels(mine)
        assert len(mine) == len(batches)
        assert batches == labels(mine), "evaluation changed from one epoch to the next"
        assert all(1 <= len(batch) <= 5 for batch in batches)
        lengths.add(len(batches))  # where a network is in shards, each batch is work for all ranks
        seen += itertools.chain(*batches)
    assert sorted(seen) == list(range(n))
    assert len(lengths) == 1


def test_flips_mirror_an_image_and_its_source_together():
    images = torch.arange(50 * 4, dtype=torch.uint8).view(50, 1, 1, 4)
    flipping = InMemoryLoader(images, images, 10, shuffle=True, flips=True)
    plain = InMemoryLoader(images, images, 10, shuffle=True)
    mirrored = []
    for (ours, sources), (theirs, _) in zip(flipping, plain, strict=True):
        assert torch.equal(ours, sources)
        turned = (ours != theirs).flatten(1).any(1)
        assert torch.equal(ours, torch.where(turned.view(-1, 1, 1, 1), theirs.flip(-1), theirs))
        mirrored += turned.tolist()
    assert 10 < sum(mirrored) < 40


def test_evaluation_of_fewer_images_than_ranks_is_refused():
    with pytest.raises(ValueError, match="1 image is too few for 2 processes"):
        loader(1, 5, drop_last=False, world_size=2)


def test_epochs_follow_each_other_and_a_broken_one_starts_again():
    raw, again = loader(), loader()
    first, second = labels(raw), labels(raw)
    assert len(first) == len(raw) == 6
    assert first != second
    next(iter(raw))
    third = labels(raw)
    assert [labels(again) for _ in range(3)] == [first, second, third]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("length", [1, 4, math.inf])
def test_an_iteration_begins_at_the_batch_that_is_next(length, drop_last):
    """An epoch of training may be shorter than the loader's."""
    plain = loader(drop_last=drop_last)
    length = min(length, len(plain))
    whole = [batch for _ in range(14) for batch in labels(plain)[:length]]
    for done in range(12):
        resumed = loader(drop_last=drop_last, counter=lambda: (done, length))  # noqa: B023
        assert len(resumed) == len(plain), "Lightning needs the length of a whole epoch"
        assert labels(resumed) == labels(resumed) == whole[done : done + length]


def test_the_counter_is_asked_when_a_batch_is():
    """Lightning calls `iter` before it knows the batches of an epoch, and long before it wants one."""
    now = [0, math.inf]
    iterator = iter(loader(counter=lambda: tuple(now)))
    now[:] = [9, 4]
    assert labels([next(iterator)]) == [labels(loader(counter=lambda: (8, 4)))[1]]


def test_nothing_is_kept_and_who_cannot_know_the_place_says_so():
    following, alone = loader(counter=lambda: (3, 6)), loader()
    expected = labels(following)
    assert following.state_dict() == {}
    following.load_state_dict({"epoch": 5, "position": 16})  # of an earlier version
    assert labels(following) == expected
    with pytest.raises(ValueError, match=r"without a counter would begin its epochs anew: .*InMemoryDataModule"):
        alone.load_state_dict({})


def test_batches_larger_than_the_data_are_refused():
    with pytest.raises(ValueError, match=r"batch_size=8 on 7 process.*56 images.*only 50.*lower batch_size"):
        loader(world_size=7)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        loader(batch_size=0)


# The data module


def test_validation_split_is_the_same_for_every_seed_and_loses_nothing():
    one, other = Numbers(8, 12, seed=1), Numbers(8, 12, seed=2)
    validation = flat(one.val_dataloader())
    assert validation == flat(other.val_dataloader())
    assert validation != sorted(validation), "not a random choice"
    training = flat(one.train_dataloader())
    assert training != flat(other.train_dataloader())
    assert sorted(training + validation) == list(range(52))


def test_training_images_can_be_few():
    """The same ones for every seed, and none of those held out."""
    few, other = Numbers(2, 12, seed=1, train_size=5), Numbers(2, 12, seed=2, train_size=5)
    assert len(few.train_dataloader()) == 2
    other.setup("fit")
    assert set(few._subsets["train"][1].tolist()) == set(other._subsets["train"][1].tolist())
    assert len(few._subsets["train"][1]) == 5
    assert flat(few.val_dataloader()) == flat(Numbers(2, 12).val_dataloader())
    Numbers(2, 12, train_size=40).train_dataloader()
    with pytest.raises(ValueError, match="train_size=41 is more than the 40 images that validation leaves: lower it"):
        Numbers(2, 12, train_size=41).train_dataloader()


class Fives(Numbers):
    """The same images, of five classes in turn."""

    num_classes = 5

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = super().load(train)
        return images, labels % 5


def pixels(batch: Tensor) -> list[int]:
    return ((batch.flatten() + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize(("num", "of_classes"), [(5, [1, 1, 1, 1, 1]), (12, [3, 3, 2, 2, 2])])
def test_a_few_labels_are_kept_by_the_seed(num, of_classes):
    """As many of each class; and all others are -1, in training alone."""
    kept = []
    for seed in (1, 2, 1):
        data = Fives(8, 12, seed, labels=num)
        data.setup()
        images, labels = data._subsets["train"]
        assert labels[labels >= 0].bincount().tolist() == of_classes
        assert (labels == -1).sum() == 40 - num
        known = labels >= 0
        assert torch.equal(images[known].flatten() % 5, labels[known])
        kept.append(images[known].flatten().tolist())
        assert min(flat(data.val_dataloader())) == min(flat(data.test_dataloader())) == 0
    assert kept[0] == kept[2] != kept[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_fourth_image_has_a_label(processes):
    """In each batch of each process, all of them in turn; and processes see what one would see."""

    def batches(size, **share):
        data = Fives(8, 12, 3, labels=10)
        data.setup("fit")
        images, labels = data._subsets["train"]
        loader = FewLabelsLoader(images, labels, size, shuffle=True, drop_last=True, seed=3, **share)
        return [[*loader] for _ in range(4)]

    whole = batches(16)
    assert len(whole[0]) == 2
    parts = [batches(16 // processes, rank=rank, world_size=processes) for rank in range(processes)]
    seen = set()
    for epoch, batches_of_epoch in enumerate(whole):
        assert len({pixel for images, _ in batches_of_epoch for pixel in pixels(images[::4])}) == 8, "in turn"
        for number, (images, labels) in enumerate(batches_of_epoch):
            assert (labels >= 0).tolist() == [True, False, False, False] * 4
            seen |= set(pixels(images[::4]))
            shared = [part[epoch][number] for part in parts]
            assert torch.equal(torch.cat([images for images, _ in shared]), images)
            assert torch.equal(torch.cat([labels for _, labels in shared]), labels)
    assert len(seen) == 10
    data = Fives(8, 12, 3, labels=10)
    data.setup("fit")
    still = FewLabelsLoader(*data._subsets["train"], 16, drop_last=True)  # as where batches are overfitted
    assert flat(still) == flat(still)
    assert len({str([found.tolist() for _, found in epoch]) for epoch in whole}) == 4, (
        "each epoch has an order of its own"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": 4}, "labels=4 is fewer than the 5 classes of Fives: one of each is the least, labels=5"),
        ({"labels": 50}, "labels=50 asks for 10 images of class [0-4], and . of 40 training images are of it"),
        ({"labels": 5, "train_size": 4}, "labels=5 asks for 1 image of class"),
    ],
)
def test_labels_that_there_are_not_are_refused(settings, message):
    with pytest.raises(GANError, match=message):
        Fives(2, 12, **settings).setup("fit")


def test_parts_of_a_batch_have_as_many_labels_each():
    """Of batches of 6 in two passes, one would have two and the other one."""
    trainer = SimpleNamespace(
        global_rank=0,
        world_size=1,
        overfit_batches=0,
        training=False,
        lightning_module=SimpleNamespace(accumulate=2),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    for size, passes, processes in ((6, 2, 1), (6, 1, 2), (6, 1, 1), (8, 2, 2)):
        data = Fives(size, 2, labels=10)
        data.trainer = trainer
        trainer.world_size, trainer.lightning_module.accumulate = processes, passes
        if size == 8 or passes * processes == 1:
            data.train_dataloader()
        else:
            with pytest.raises(GANError, match=r"^data.batch_size=6 is not a multiple of 4, .* the 2 parts of a batch"):
                data.train_dataloader()


def test_a_module_may_have_labels_of_its_own():
    """As a subclass that is given tensors keeps them; the setting of that name has another attribute."""

    class Given(Fives):
        def __init__(self, labels):
            super().__init__(8, 12)
            self.labels = labels

        def load(self, train):
            return super().load(train)[0], self.labels

    data = Given(Fives(8, 12).load(train=True)[1])
    data.setup("fit")
    assert set(flat(data.train_dataloader())) == {0, 1, 2, 3, 4}


def test_data_is_loaded_once_and_only_when_needed():
    data = Numbers(8, 4)
    data.setup("fit")
    data.setup("validate")
    data.train_dataloader()
    assert data.loads == 1
    data.setup("test")
    assert flat(data.test_dataloader()) == list(range(7))
    assert data.loads == 2


class Pairs(Numbers):
    """Numbers of which image i is to be made from a source of 2 channels and 3 by 2 pixels, all 200 - i."""

    condition_shape = (2, 3, 2)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, _ = super().load(train)
        return images, (200 - images).expand(-1, 2, 3, 2)


@pytest.mark.parametrize("counter", [None, lambda: (9, 4)])
def test_each_image_keeps_its_source(counter):
    images, sources = Pairs().load(train=True)
    options = {"shuffle": True, "drop_last": True, "counter": counter}
    batches = list(InMemoryLoader(images, sources, 8, **options))
    for x, y in batches:
        assert (x.dtype, y.dtype, y.shape) == (torch.float32, torch.float32, (8, 2, 3, 2))
        assert ((y + 1) * 127.5).round().eq(200 - ((x + 1) * 127.5).round()).all()
    labelled = list(InMemoryLoader(images, torch.arange(52), 8, **options))
    assert all(torch.equal(x, other) for (x, _), (other, _) in zip(batches, labelled, strict=True)), "another order"


def test_sources_are_normalised_as_images_are():
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    [(x, y)] = InMemoryLoader(levels, levels.clone(), 256)
    assert torch.equal(x, y)


def test_sources_are_split_with_their_images():
    data = Pairs(8, 12)
    for batches, count in ((data.train_dataloader(), 40), (data.val_dataloader(), 12), (data.test_dataloader(), 7)):
        assert sum(len(x) for x, _ in batches) == count
        assert all(((y[:, :1, :1, :1] + x) * 127.5).round().eq(200 - 255).all() for x, y in batches)


def test_device_rank_and_passes_are_the_trainers():
    data = Numbers(8, 4)
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("meta")),
        global_rank=1,
        world_size=3,
        training=False,
        overfit_batches=0,
        lightning_module=SimpleNamespace(accumulate=2),
    )
    data.setup("fit")
    train, validation = data.train_dataloader(), data.val_dataloader()
    assert train.images.is_meta
    assert train.labels.is_meta
    assert (train.rank, train.world_size, validation.rank, validation.world_size) == (1, 3, 1, 3)
    assert train.batch_size == 2 * data.batch_size


def made(images, labels, condition_shape=None):
    shape = condition_shape

    class Made(InMemoryDataModule):
        image_shape = (1, 4, 4)
        num_classes = 3
        condition_shape = shape

        def load(self, train):
            return images, labels

    return Made(2, 2)


GOOD = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
ZEROS = torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD.float(), ZEROS, "images as a tensor of torch.uint8, got torch.float32"),
        (GOOD.numpy(), ZEROS, "images as a tensor of torch.uint8, got ndarray"),
        (GOOD, ZEROS.int(), "labels as a tensor of torch.int64, got torch.int32$"),
        (GOOD, GOOD, "torch.int64, got torch.uint8; for images in their place, state condition_shape"),
        (GOOD.squeeze(1), ZEROS, r"image_shape=\(1, 4, 4\), got \(6, 4, 4\)"),
        (GOOD[..., :3], ZEROS, r"image_shape=\(1, 4, 4\), got \(6, 1, 4, 3\)"),
        (GOOD, ZEROS[:5], r"one label per image, got labels of shape \(5,\) for 6 images$"),
        (
            GOOD,
            ZEROS[:, None].expand(-1, 3),
            r"labels of shape \(6, 3\) for 6 images; of one-hot labels, labels.argmax",
        ),
        (GOOD[:0], ZEROS[:0], "no images"),
        (GOOD, ZEROS + 3, "below num_classes=3, got 3 to 3"),
        (GOOD, ZEROS - 1, "of at least 0 .* got -1 to -1"),
        (
            GOOD[:2],
            ZEROS[:2],
            "validation_size=2 leaves nothing of the 2 training images: lower it to at most 1",
        ),
    ],
)
def test_what_load_gets_wrong_is_said(images, labels, message):
    with pytest.raises(ValueError, match=message):
        made(images, labels).setup("fit")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (GOOD.float(), "sources as a tensor of torch.uint8, got torch.float32"),
        (ZEROS, "sources as a tensor of torch.uint8, got torch.int64"),
        (GOOD[:5], r"one source per image, got sources of shape \(5, 1, 4, 4\) for 6 images"),
        (
            GOOD[..., :3],
            r"sources of shape \(N, \*condition_shape\) with condition_shape=\(1, 4, 4\), got \(6, 1, 4, 3\)",
        ),
        (GOOD.squeeze(1), r"condition_shape=\(1, 4, 4\), got \(6, 4, 4\)"),
    ],
)
def test_what_load_gets_wrong_of_sources_is_said(sources, message):
    with pytest.raises(ValueError, match=message):
        made(GOOD, sources, (1, 4, 4)).setup("fit")


def test_images_alone_where_sources_are_stated_are_refused():
    data = made(GOOD, GOOD, (1, 4, 4))
    data.load = lambda train: GOOD
    with pytest.raises(ValueError, match=r"\(images, sources\), since it states condition_shape, and returns a Tensor"):
        data.setup("fit")
    with pytest.raises(ValueError, match="must state condition_shape, the channels, height and width"):
        made(GOOD, GOOD, (4, 4)).setup("fit")


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"validation_size": -1}, {"train_size": 0}])
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Numbers(**setting)


# Under Lightning


class Recorder(L.LightningModule):
    """Keeps the labels of the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []
        self.validated = 0

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.seen.append(labels.tolist())
        return self.weight * images.mean()

    def validation_step(self, batch, batch_idx):
        self.validated += len(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Killed(Exception):
    pass


class KillAt(L.Callback):
    """Saves a checkpoint at a hook after so many batches, and ends the run there and then."""

    def __init__(self, hook: str, step: int, path) -> None:
        self.path = path

        def save(trainer, *args):
            if trainer.global_step == step:
                trainer.save_checkpoint(path)
                raise Killed

        setattr(self, hook, save)


def make_trainer(limit: dict[str, int], callbacks=(), **options) -> L.Trainer:
    return L.Trainer(
        **limit,
        **options,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(limit, callbacks=(), ckpt_path=None, validation_size=4, batch_size=8, **options) -> Recorder:
    model = Recorder()
    with contextlib.suppress(Killed):
        trainer = make_trainer(limit, callbacks, **options)
        trainer.fit(model, datamodule=Numbers(batch_size, validation_size), ckpt_path=ckpt_path)
    return model


EPOCH_BATCHES = 6  # (52 - 4) / 8


@pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_steps": 24}], ids=["max_epochs", "max_steps"])
@pytest.mark.parametrize(
    "kills",
    [
        [("on_train_batch_end", 8)],
        [("on_train_batch_end", 12)],  # the last batch of an epoch
        [("on_validation_end", 9)],
        [("on_train_epoch_end", 6)],
        [
            ("on_train_epoch_end", 6),
            ("on_train_batch_end", 8),
            ("on_train_epoch_end", 12),
            ("on_train_batch_end", 23),
        ],
    ],
    ids=lambda kills: "+".join(f"{hook}@{step}" for hook, step in kills),
)
def test_lightning_resumes_with_exactly_the_batches_that_were_left(limit, kills, tmp_path):
    straight = fit(limit, val_check_interval=3).seen
    assert len(straight) == 4 * EPOCH_BATCHES
    assert len({str(straight[i : i + EPOCH_BATCHES]) for i in range(0, 24, EPOCH_BATCHES)}) == 4
    seen, path = [], None
    for i, (hook, step) in enumerate(kills):
        kill = KillAt(hook, step, tmp_path / f"{i}.ckpt")
        seen += fit(limit, [kill], path, val_check_interval=3).seen
        path = kill.path
    seen += fit(limit, ckpt_path=path, val_check_interval=3).seen
    assert seen == straight


HALF = EPOCH_BATCHES // 2


@pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_steps": 4 * HALF}], ids=["max_epochs", "max_steps"])
@pytest.mark.parametrize(
    "options",
    [
        {"limit_train_batches": HALF},
        {"limit_train_batches": 0.5, "reload_dataloaders_every_n_epochs": 1},
        {"overfit_batches": HALF},
        {"overfit_batches": 0.5, "validation_size": 0},
    ],
    ids=lambda options: "+".join(options),
)
def test_epochs_cut_short_resume_too(limit, options, tmp_path):
    """At their end, in their middle, and from what was resumed."""
    straight = fit(limit, **options).seen
    assert len(straight) == 4 * HALF
    orders = {str(sorted(straight[i : i + HALF])) for i in range(0, 4 * HALF, HALF)}
    assert len(orders) == (1 if "overfit_batches" in options else 4)
    seen, path = [], None
    for hook, step in (("on_train_epoch_end", 3), ("on_train_batch_end", 5), ("on_train_batch_end", 9)):
        kill = KillAt(hook, step, tmp_path / f"{step}.ckpt")
        seen += fit(limit, [kill], path, **options).seen
        path = kill.path
    assert seen + fit(limit, ckpt_path=path, **options).seen == straight


@pytest.mark.parametrize("batch_size", [4, 16])
def test_other_batches_go_on_as_if_they_had_always_been(batch_size, tmp_path):
    straight = fit({"max_steps": 20}, batch_size=batch_size).seen
    for hook, step in (("on_train_batch_end", 8), ("on_train_epoch_end", 6)):
        kill = KillAt(hook, step, tmp_path / f"{step}.ckpt")
        fit({"max_steps": 20}, [kill])
        assert fit({"max_steps": 20}, ckpt_path=kill.path, batch_size=batch_size).seen == straight[step:]


def test_a_second_fit_goes_on():
    """In the middle of an epoch of ours, with which Lightning begins one of its own."""
    straight = fit({"max_steps": 20}).seen
    trainer, model, data = make_trainer({"max_steps": 8}), Recorder(), Numbers(8, 4)
    trainer.fit(model, datamodule=data)
    trainer.fit_loop.epoch_loop.max_steps = 20
    trainer.fit(model, datamodule=data)
    assert model.seen == straight


def test_a_loader_outside_of_training_is_whole():
    data = Numbers(8, 4)
    make_trainer({"max_steps": 5}, limit_train_batches=3).fit(Recorder(), datamodule=data)
    assert labels(data.train_dataloader()) == labels(Numbers(8, 4).train_dataloader())


@pytest.mark.filterwarnings("error:.*resuming from a checkpoint that ended before")
def test_a_resume_in_the_middle_of_an_epoch_is_silent(tmp_path):
    kill = KillAt("on_train_batch_end", 4, tmp_path / "x.ckpt")
    fit({"max_steps": 9}, [kill])
    assert len(fit({"max_steps": 9}, ckpt_path=kill.path).seen) == 5


def test_no_validation_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*LeafSpec")  # Lightning 2.6 under torch 2.14
        assert fit({"max_epochs": 2}, validation_size=0).validated == 0
        assert fit({"max_epochs": 2}, num_sanity_val_steps=0).validated == 8


def test_overfit_batches_shows_the_same_batches_every_epoch():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "You requested to overfit")  # Lightning would say that it stops the shuffling
        seen = fit({"max_epochs": 3}, overfit_batches=2).seen
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]
