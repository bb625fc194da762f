"""Trains the features that FID is measured with: `python -m gan.cli train_features --data MNIST --out FILE`.

They are learnt from the classes of the images or, where there are none, from the images alone (`gan.metrics.pretext`).
Writes the weights (`FILE.safetensors`) and a card that says how good they are (`FILE.md`). One thread and a seed: run
again on the same machine and with the same versions, it writes the same bytes.
"""

import hashlib
import inspect
import math
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, get_args

import torch
from jsonargparse import Namespace
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import gan.data
from gan.data import InMemoryDataModule, InMemoryLoader, MNISTDataModule, TorchvisionDataModule
from gan.data.torchvision import Name
from gan.errors import GANError, or_meant
from gan.metrics import (
    CNNFeatures,
    ImageFeatures,
    fingerprint,
    frechet_distance,
    load_features,
    mean_and_covariance,
    save_features,
)
from gan.metrics.damages import DAMAGES, missing
from gan.metrics.pretext import Classes, Task, Turns
from gan.paths import local_path
from gan.suggestions import Parser

BATCH = 100
FLOOR_SIZES = (1000, 2000, 5000, 10000)
FLOOR_DRAWS = 5
DAMAGED_SIZE = 5000
MIN_STD = 0.05  # of a feature over the test images; tanh bounds it by 1


def train_features(words: list[str]) -> None:
    """Runs the command.

    Args:
        words: Those after `train_features`.

    Raises:
        GANError: If the data cannot be used, the features come out useless, or the files cannot be written.
    """
    parser = Parser(
        prog="gan train_features", description="Trains the features that FID is measured with.", exit_on_error=False
    )
    names = ["MNIST", *get_args(Name)]
    text = f"data set to learn: {', '.join(names)}; or a data module by its class, with its settings as --data.NAME"
    parser.add_argument("--data", default="MNIST", help=text)
    parser.add_argument("--data_dir", default="datasets", help="folder of the data sets that are downloaded")
    parser.add_argument("--download", action="store_true", help="download what is missing there")
    parser.add_argument("--out", required=True, help="weights to write, .safetensors; the card gets .md")
    parser.add_argument(
        "--unlabelled", action="store_true", help="learn without classes, by turning images, even where there are some"
    )
    text = "passes over the training images; if not given 12, or so many that there are 1,500 batches"
    parser.add_argument("--epochs", type=int | None, help=text)
    parser.add_argument("--lr", type=float, default=0.1, help="largest learning rate")
    parser.add_argument("--weight_decay", type=float, default=5e-4, help="of SGD, on all parameters")
    parser.add_argument("--flip", action="store_true", help="mirror half of the images; not for digits or letters")
    parser.add_argument("--dim", type=int, default=64, help="number of features")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the order and the augmentation")
    words, own = split(words)
    args = parser.parse_args(words)
    out = local_path(args.out, "--out")
    if out.suffix != ".safetensors":
        raise GANError(f"--out must end in .safetensors, got {out}")
    if args.epochs is not None and not args.epochs >= 1:
        raise GANError(f"--epochs must be at least 1, got {args.epochs}")
    if not (0 < args.lr < math.inf and 0 <= args.weight_decay < math.inf):
        raise GANError(f"--lr must be above 0 and --weight_decay at least 0, got {args.lr} and {args.weight_decay}")
    with repeatable():
        data = make_data(args, own)
        data.prepare_data()
        data.setup()
        task = task_of(data, args.unlabelled)
        args.epochs = args.epochs or max(12, -(-1500 // len(data.train_dataloader())))
        start = time.perf_counter()
        extractor, head = train(data, args, task)
        print(f"trained in {time.perf_counter() - start:.0f} s", flush=True)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            save_features(extractor, out)
        except (OSError, SafetensorError) as error:
            raise GANError(f"cannot write --out {out}: {error}") from error
        report = evaluate(load_features(out), data, args.seed, task, head)
        print(report)
        out.with_suffix(".md").write_text(card(args, own, task, report), encoding="utf-8")
    print(f"features       {out}; score a run by them with FIDTracker's extractor: {out}")


@contextmanager
def repeatable() -> Iterator[None]:
    """One thread and deterministic algorithms: sums depend on how they are divided among threads."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of the command, and those among them that are settings of the data module."""
    others, own = [], []
    for before, word in pairwise(["", *words]):
        of_data = word.startswith("--data.") or (before.startswith("--data.") and "=" not in before)
        (own if of_data else others).append(word)
    return others, own


def make_data(args: Namespace, own: Sequence[str] = ()) -> InMemoryDataModule:
    """The data module that `--data` names.

    Args:
        args: Of the command.
        own: Words that give its settings: `--data.NAME`, `VALUE`.

    Raises:
        GANError: If there is none of this name.
    """
    names = ["MNIST", *get_args(Name)]
    settings: dict[str, Any] = {"batch_size": BATCH, "validation_size": 0, "seed": args.seed}
    if args.data == "MNIST":
        cls = MNISTDataModule
    elif args.data in names:
        cls = TorchvisionDataModule
        settings |= {"dataset": args.data, "data_dir": args.data_dir, "download": args.download}
    else:
        try:
            cls = getattr(gan.data, args.data, None) or locate(args.data)
        except ErrorDuringImport as error:
            raise GANError(f"--data {args.data}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, InMemoryDataModule)):
        raise GANError(
            f"--data {args.data} is neither a data set's name nor the class path of an InMemoryDataModule"
            f"{or_meant(args.data, [*names, *gan.data.__all__])}"
        )
    parser = Parser(prog="gan train_features", exit_on_error=False)
    parser.add_class_arguments(cls, "data", fail_untyped=False)
    taken = inspect.signature(cls).parameters  # an `__init__` of one's own may leave some out
    parser.set_defaults({f"data.{name}": value for name, value in settings.items() if name in taken})
    settings_of_class = parser.parse_args([*own])  # which complains, too, where there are none
    return parser.instantiate(settings_of_class).data if taken else cls()  # pyright: ignore[reportCallIssue]


def command_for(data: InMemoryDataModule) -> tuple[str, str]:
    """The command that trains features for the images of a data module, as it is set, and the file that it writes."""
    data = getattr(data, "of", data)  # that of the images, where another one makes pairs of them
    cls, words, file = type(data), [], type(data).__name__.lower()
    for name, parameter in inspect.signature(cls).parameters.items():
        value = getattr(data, name, parameter.default)
        if name in ("batch_size", "seed", "validation_size") or not isinstance(value, bool | int | float | str):
            continue
        if value != parameter.default:
            words += [f"--data.{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        if name in ("folder", "dataset", "targets"):
            file = Path(str(value)).stem.lower()
    path = cls.__name__ if getattr(gan.data, cls.__name__, None) is cls else f"{cls.__module__}.{cls.__qualname__}"
    out = f"{file}.safetensors"
    return shlex.join(["python", "-m", "gan.cli", "train_features", "--data", path, *words, "--out", out]), out


def task_of(data: InMemoryDataModule, unlabelled: bool = False) -> Task:
    """What features are to be learnt from: the classes, unless there are none, or they are not wanted."""
    if data.num_classes > 1 and getattr(data, "condition_shape", None) is None and not unlabelled:
        return Classes(data.num_classes)
    return Turns(data.image_shape)


def train(data: InMemoryDataModule, args: Namespace, task: Task) -> tuple[ImageFeatures, nn.Linear]:
    """The extractor after training, its batch norms folded into the layers before them, and what has judged by it."""
    torch.manual_seed(args.seed)
    if isinstance(task, Classes):
        extractor = CNNFeatures(data.image_shape, task.outputs, args.dim)
        head = extractor.head
    else:
        extractor, head = ImageFeatures(data.image_shape, args.dim), nn.Linear(args.dim, task.outputs)
    normed = with_norms(extractor.layers)
    network = nn.Sequential(normed, head).train()
    change = partial(augment, flip=args.flip)
    optimizer = torch.optim.SGD(network.parameters(), momentum=0.9, nesterov=True, weight_decay=args.weight_decay)
    loader = data.train_dataloader()
    steps = args.epochs * len(loader)
    step = 0
    for epoch in range(args.epochs):
        total, correct, seen = 0.0, 0, 0
        for images, labels in loader:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * schedule(step / steps)
            loss, right = task.learn(network, images, labels, change)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            correct += right.sum().item()
            seen += len(right)
            step += 1
        accuracy = correct / seen
        print(f"epoch {epoch + 1:2}/{args.epochs}  loss {total / len(loader):.4f}  ", end="")
        print(f"accuracy on augmented training images {accuracy:.2%}", flush=True)
    fold_norms(normed.eval(), extractor.layers)
    return extractor, head


def schedule(progress: float) -> float:
    """Up in the first tenth, then down to 0 on half a cosine."""
    if progress < 0.1:
        return progress / 0.1
    return 0.5 + 0.5 * math.cos(math.pi * (progress - 0.1) / 0.9)


def augment(images: Tensor, flip: bool) -> Tensor:
    """Each image turned by up to 10 degrees, scaled by up to 10 % and moved by up to 7 % of its size."""
    n = len(images)
    angle = (2 * torch.rand(n) - 1) * math.radians(10)
    scale = 1 + 0.1 * (2 * torch.rand(n) - 1)
    shift = 2 * 0.07 * (2 * torch.rand(n, 2) - 1)
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], dim=1)
    grid = F.affine_grid(rows.view(n, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def with_norms(layers: nn.Sequential) -> nn.Sequential:
    """The same layers, a batch norm after each that has weights."""
    result = nn.Sequential()
    for layer in layers:
        result.append(layer)
        if isinstance(layer, nn.Conv2d):
            result.append(nn.BatchNorm2d(layer.out_channels))
        elif isinstance(layer, nn.Linear):
            result.append(nn.BatchNorm1d(layer.out_features))
    return result


def fold_norms(normed: nn.Sequential, layers: nn.Sequential) -> None:
    """Give `layers` weights and biases with which they compute what `normed` does in eval mode."""
    for layer, norm in pairwise(normed):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layer.load_state_dict(fuse_conv_bn_eval(layer, norm).state_dict())
        elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            layer.load_state_dict(fuse_linear_bn_eval(layer, norm).state_dict())


def evaluate(
    extractor: ImageFeatures,
    data: InMemoryDataModule,
    seed: int,
    task: Task | None = None,
    head: nn.Module | None = None,
) -> str:
    """What the card says of the extractor, in Markdown.

    Args:
        extractor: The extractor.
        data: What it was trained on.
        seed: Of the draws.
        task: What it was trained by; the classes if not given.
        head: Its features to the answers; its own if not given.

    Raises:
        GANError: If a feature hardly varies, or the features are linearly dependent.
    """
    task, head = task or Classes(data.num_classes), head or extractor.get_submodule("head")
    generator = torch.Generator().manual_seed(seed)
    test_images, test_labels = whole(data, train=False)
    test = features_of(extractor, test_images)
    accuracy, guess = right_share(task, extractor, head, test_images, test_labels), ""
    if not isinstance(task, Classes):
        guess = f"; a guess: {task.guess:.2%}"
    real = mean_and_covariance(test)
    std = real[1].diagonal().clamp_min(0).sqrt()
    eigenvalues = torch.linalg.eigvalsh(real[1])
    rank = int(torch.linalg.matrix_rank(real[1], hermitian=True))
    if std.min() < MIN_STD:
        dead = (std < MIN_STD).nonzero().flatten().tolist()
        raise GANError(f"features {dead} hardly vary on the test images, std {std.min():.3g}: train longer")
    if rank < extractor.dim:
        raise GANError(f"the {extractor.dim} features have a covariance of rank {rank}: train longer or lower --dim")

    train_images, train_labels = whole(data, train=True)
    train = features_of(extractor, train_images)
    floor_rows = ["| N | floor |", "|---|---|"]
    for n in sorted({min(n, len(train)) for n in FLOOR_SIZES}):
        draws = [train[torch.randperm(len(train), generator=generator)[:n]] for _ in range(FLOOR_DRAWS)]
        values = [frechet_distance(*mean_and_covariance(draw), *real) for draw in draws]
        floor_rows.append(f"| {n:,} | {sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f}) |")

    order = torch.randperm(len(train), generator=generator)
    size = min(DAMAGED_SIZE, len(train))
    clean = frechet_distance(*mean_and_covariance(train[order[:size]]), *real)
    damage_rows = ["| damage | FID at rising strength |", "|---|---|", f"| none | {clean:.3f} |"]
    for name, damage, strengths in DAMAGES:
        if damage is missing and not isinstance(task, Classes):
            continue  # there is none that could be
        cells = []
        for strength in strengths:
            images = damage(train_images[order], train_labels[order], size, strength, generator)
            value = frechet_distance(*mean_and_covariance(features_of(extractor, images)), *real)
            cells.append(f"{strength:g}: {value:.3g}")
        damage_rows.append(f"| {name} | {', '.join(cells)} |")

    return "\n".join(
        [
            f"- {task.told} on the {len(test):,} test images: {accuracy:.2%}{guess}",
            f"- Features: {extractor.dim}, in (-1, 1); std on the test images {std.min():.2f} to {std.max():.2f}",
            f"- Covariance on the test images: rank {rank}, trace {eigenvalues.sum():.2f}, "
            f"eigenvalues {eigenvalues[0]:.1e} to {eigenvalues[-1]:.1e}",
            "",
            f"Floor: FID of N random training images against the {len(test):,} test images, "
            f"mean and range of {FLOOR_DRAWS} draws. A generator's score below it is too good to be true.",
            "",
            *floor_rows,
            "",
            f"Damage: FID of {size:,} damaged training images against the {len(test):,} test images.",
            "",
            *damage_rows,
        ]
    )


@torch.no_grad()
def right_share(task: Task, extractor: nn.Module, head: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of test images (N, C, H, W) of which the task's question is answered rightly."""
    parts = zip(images.split(500), labels.split(500), strict=True)
    network = nn.Sequential(extractor, head)
    return torch.cat([task.learn(network, *part, nn.Identity())[1] for part in parts]).float().mean().item()


def whole(data: InMemoryDataModule, train: bool) -> tuple[Tensor, Tensor]:
    """Images of a set, float32 (N, C, H, W) in [-1, 1], and their labels: all, or what a gigabyte holds, at random."""
    images, labels = data.load_checked(train)
    most = 2**30 // (4 * images[0].numel())
    if len(images) > most:
        some = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:most].sort().values
        images, labels = images[some], labels[some]
    images, labels = zip(*InMemoryLoader(images, labels, 500), strict=True)
    return torch.cat(images), torch.cat(labels)


@torch.no_grad()
def features_of(extractor: ImageFeatures, images: Tensor) -> Tensor:
    """The features (N, dim) of images, 500 at a time."""
    return torch.cat([extractor(batch) for batch in images.split(500)])


def card(args: Namespace, own: Sequence[str], task: Task, report: str) -> str:
    """The model card: everything needed to judge the weights and to train them again."""
    out = local_path(args.out, "--out")
    command = ["python", "-m", "gan.cli", "train_features"]
    for name, value in vars(args).items():
        if value is not False:
            command += [f"--{name}"] + ([] if value is True else [str(value)])
        command += own if name == "data" else []
    what = f"A classifier of {args.data}. Its penultimate layer holds the features"
    if not isinstance(task, Classes):
        what = (
            f"A network that has learnt, without classes, to tell how an image of {args.data} is turned.\n"
            "Its penultimate layer holds the features"
        )
    return f"""# {out.stem}

{what} that FID and the other metrics compare images in.
Scores by other extractors, Inception among them, do not compare with scores by this one.

- Fingerprint: {fingerprint(load_features(out))}
- SHA-256 of {out.name}: {hashlib.sha256(out.read_bytes()).hexdigest()}
- Seed: {args.seed}
{report}

Trained and measured on {platform.machine()} by Python {platform.python_version()} and torch {torch.__version__}, with:

    {shlex.join(command)}
"""
