"""What augmentation is worth where images are few: DiffAugment and ADA against none, on a folder of pictures.

Features are trained on the pictures' own classes, or given. Runs that are whole are not made again, and broken ones go
on.
"""

import argparse
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image

from benchmarks.runs import gan, scored

VARIANTS = {  # what a run is called, and what it is given
    "none": [],
    "DiffAugment": ["--model.augment", "DiffAugment"],
    "ADA": ["--model.augment", "AdaptiveAugment", "--model.augment.ramp", "20000"],
}
NETWORKS = {32: 32, 64: 16}  # base channels, so that runs of either size take about as long
BATCH_SIZE = 32
IN_A_ROW = 12  # images of the picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="pictures in class folders, or an archive of them")
    parser.add_argument("--sizes", type=int, nargs="+", default=[*NETWORKS], help="pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the runs")
    parser.add_argument("--batches", type=int, default=1000, help="of a run")
    parser.add_argument("--out", type=Path, default=Path("runs/augment"), help="folder of features and runs")
    parser.add_argument("--picture", type=Path, help="where to draw images of the largest size, a variant a row")


def measure(settings: argparse.Namespace) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in settings.sizes:
        features = features_of(settings, size)
        for variant in VARIANTS:
            runs = [train(settings, features, size, variant, seed) for seed in settings.seeds]
            cells = [
                spread([run["kid"] for run in runs], "{:.1f}"),
                spread([run["fid"] for run in runs], "{:.2f}"),
                spread([run["coverage"] for run in runs], "{:.2f}"),
                f"{mean(run['seconds'] for run in runs):.0f}",
            ]
            rows.append(f"| {size} | {variant} | {' | '.join(cells)} |")
            print(f"augment   {size} {variant}: KID x 1000 {cells[0]}", flush=True)
    print(f"augment   seeds {', '.join(map(str, settings.seeds))}, {settings.batches:,} batches of {BATCH_SIZE}\n")
    print("| pixels | augmentation | KID x 1000 | FID | coverage | seconds of one core |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    if settings.picture is not None:
        draw(settings).save(settings.picture)


def of_data(settings: argparse.Namespace, size: int) -> list[object]:
    """The words that say what the images are."""
    return ["--data", "ImageFolder", "--data.folder", settings.folder, "--data.size", size, "--data.test_share", "0.25"]


def features_of(settings: argparse.Namespace, size: int) -> Path:
    """The file of features of such images, trained if there is none."""
    out = settings.out / f"features{size}.safetensors"
    if not out.exists():
        gan("train_features", *of_data(settings, size), "--out", out)
    return out


def folder_of(settings: argparse.Namespace, size: int, variant: str, seed: int) -> Path:
    """The folder of a run."""
    return settings.out / f"{variant}-{size}-{seed}"


def train(settings: argparse.Namespace, features: Path, size: int, variant: str, seed: int) -> dict[str, float]:
    """The scores of a run, and the seconds of one core that it took."""
    words = [*of_data(settings, size), "--data.batch_size", BATCH_SIZE, "--trainer.max_steps", settings.batches]
    for network in ("generator", "discriminator"):
        words += [f"--model.{network}.base_channels", NETWORKS[size]]
    words += ["--trainer.callbacks+=FIDTracker", f"--trainer.callbacks.extractor={features}"]
    return scored(folder_of(settings, size, variant, seed), *words, "--seed_everything", seed, *VARIANTS[variant])


def spread(values: list[float], form: str) -> str:
    """The mean, and all values."""
    return f"{form.format(mean(values))} ({', '.join(form.format(value) for value in values)})"


def draw(settings: argparse.Namespace) -> Image.Image:
    """Images of the same latents by the last checkpoint of each variant, one below the other."""
    size, rows = max(settings.sizes), []
    for variant in VARIANTS:
        run_dir = folder_of(settings, size, variant, settings.seeds[0])
        out = run_dir / "picture.npy"
        ckpt = run_dir / "checkpoints" / "last.ckpt"
        gan("sample", "--ckpt", ckpt, "--num", 2 * IN_A_ROW, "--seed", 0, "--out", out)
        images = np.load(out)
        rows += [np.concatenate(list(images[:IN_A_ROW]), 1), np.concatenate(list(images[IN_A_ROW:]), 1)]
        rows.append(np.full_like(rows[-1][:6], 255))
    return Image.fromarray(np.concatenate(rows[:-1]))
