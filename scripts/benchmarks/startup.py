"""What a command takes from typing to its end, against importing torch and lightning alone, in turn."""

import argparse
import subprocess
import sys
import tempfile
import time

from benchmarks.report import ratios, spread
from gan.settings import CONFIGS

IMPORTS = "import torch and lightning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=12, help="turns to measure, after one to warm up")


def measure(settings: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        gan = ["-m", "gan.cli"]
        fit = [*gan, "fit", "--config", str(CONFIGS / "debug" / "fast.yaml"), "--trainer.max_steps", "1"]
        commands = {
            IMPORTS: ["-c", "import torch, lightning"],
            "gan.cli --help": [*gan, "--help"],
            "gan.cli fit --help": [*gan, "fit", "--help"],
            "a run of one batch": [*fit, "--run_dir"],  # and a folder of its own
        }
        seconds = {what: [] for what in commands}
        for turn in range(settings.rounds + 1):
            for what, words in commands.items():
                words = [*words, f"{folder}/{turn}"] if words[-1] == "--run_dir" else words
                start = time.perf_counter()
                subprocess.run([sys.executable, *words], check=True, capture_output=True)
                seconds[what].append(time.perf_counter() - start)
    for what, of_turns in seconds.items():
        against = spread(ratios(of_turns[1:], seconds[IMPORTS][1:]))
        print(f"startup   {what:26} {spread(of_turns[1:], '{:.2f}')} s, {against} of the imports")
