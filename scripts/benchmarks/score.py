"""The scores of a checkpoint, as JSON in the last line."""

import argparse
import json
from pathlib import Path

from lightning import Callback, Trainer

from gan import GAN
from gan.run import run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path)


def measure(settings: argparse.Namespace) -> None:
    scores = Scores()
    run(["validate", "--ckpt_path", str(settings.checkpoint), "--verbose", "false"], callbacks=[scores])
    by_metric = {name.removeprefix("scores/").partition("/")[0]: value for name, value in scores.scores.items()}
    print(json.dumps(by_metric | {"kid": 1000 * by_metric["kid"]}))


class Scores(Callback):
    """Keeps what `validate` has measured."""

    def on_validation_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
