"""The table of recipes: each config trained over several seeds, and the last checkpoint of each run scored."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from benchmarks.runs import scored
from gan.run import CONFIGS

RECIPES = [
    "default",
    "article",
    "dcgan",
    "resnet",
    "wgan_gp",
    "r3gan",
    "hinge_sn",
    "optimistic",
    "extragradient",
    "speedrun",
    "conditional",
    "acgan",
    "semisupervised",
    "superres",
    "inpaint",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--configs", nargs="+", default=RECIPES, help="names in configs/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the runs of each config")
    parser.add_argument("--at_once", type=int, default=2, help="runs at a time, each in one thread")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of the runs; whole ones stay")


def measure(settings: argparse.Namespace) -> None:
    runs = [(settings.out / f"{config}-{seed}", config, seed) for config in settings.configs for seed in settings.seeds]
    with ThreadPoolExecutor(settings.at_once) as pool:
        scores = dict(zip(runs, pool.map(train_recipe, *zip(*runs, strict=True)), strict=True))
    print(f"recipes   seeds {', '.join(map(str, settings.seeds))}; ", end="")
    print(f"{settings.at_once} runs at a time, each in one thread\n")
    of_configs = {config: [score for run, score in scores.items() if run[1] == config] for config in settings.configs}
    columns = [name for name in COLUMNS if any(name in score for score in scores.values())]
    print(f"| config | {' | '.join(COLUMNS[name][0] for name in columns)} |\n{'|---' * (1 + len(columns))}|")
    for config, of_config in of_configs.items():
        cells = [mean_and_range([score[name] for score in of_config if name in score], name) for name in columns]
        print(f"| `{config}.yaml` | {' | '.join(cells)} |")


COLUMNS = {  # a score, what it is called, and how it is written; one that no config has gets no column
    "fid": ("FID", "{:.2f}"),
    "kid": ("KID x 1000", "{:.2f}"),
    "recall": ("recall", "{:.3f}"),
    "coverage": ("coverage", "{:.3f}"),
    "fid_within_classes": ("FID within the classes", "{:.2f}"),
    "class_accuracy": ("of the class asked for", "{:.4f}"),
    "accuracy_score": ("accuracy score", "{:.3f}"),
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "fid_of_source": ("FID of the source", "{:.2f}"),
    "psnr_of_source": ("its PSNR, dB", "{:.2f}"),
    "ssim_of_source": ("its SSIM", "{:.4f}"),
    "seconds": ("seconds of one core", "{:.0f}"),
}


def train_recipe(run_dir: Path, config: str, seed: int) -> dict[str, float]:
    """The scores of a run of the real command, and the seconds of one core that it took; kept in its folder."""
    return scored(run_dir, "--config", CONFIGS / f"{config}.yaml", "--seed_everything", seed)


def mean_and_range(values: list[float], name: str) -> str:
    """The mean of a score, and its range; nothing where there is none."""
    form = COLUMNS[name][1]
    return f"{form} ({form} to {form})".format(mean(values), min(values), max(values)) if values else ""
