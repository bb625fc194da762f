"""What a run logs: its table, its charts, and pictures, texts and histograms for any logger."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from lightning import Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from PIL import Image

from gan.outbox import Outbox

# TensorBoard's Custom Scalars: each chart shows the scalars whose names match, and those that a run has not are absent.
CHARTS = {
    "run": {
        "losses": ["Multiline", ["loss/.*"]],
        "FID, and its floor": ["Multiline", ["fid/.*", "scores/fid_floor/.*"]],
        "other scores": ["Multiline", ["scores/(precision|recall|density|coverage)/.*"]],
        "gradients": ["Multiline", ["grad_norm/.*"]],
        "gradient at the images": ["Multiline", ["gradients/(image_gradient|slope_fake|lipschitz)"]],
        "throughput": ["Multiline", ["images_per_second"]],
    }
}
CHARTS_PAGE = "Custom Scalars"  # where TensorBoard shows them


class RunTensorBoard(TensorBoardLogger):
    """TensorBoardLogger that survives a full disk, with the charts that one looks at first, under Custom Scalars."""

    @cached_property
    def outbox(self) -> Outbox:
        """What writes."""
        return Outbox()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:  # private
            from gan.events import EventWriter

            self._experiment = EventWriter(self.log_dir, outbox=self.outbox, **self._kwargs)  # private
            self._experiment.add_custom_scalars(CHARTS)
        return self._experiment

    @property
    def behind(self) -> OSError | None:
        """Why something that was logged is not on the disk; None if all is."""
        return next(iter(self.outbox.errors.values()), None)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scalars; FID, whose name is fixed, among the other scores too, for charts are grouped by their names."""
        scores = {f"scores/{name}": value for name, value in metrics.items() if name.startswith("fid/")}
        super().log_metrics({**metrics, **scores}, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs nothing of what Lightning gives, which is each argument of each class. See `log_settings`."""

    @rank_zero_only
    def log_settings(self, settings: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """Logs a row of TensorBoard's table of runs, HPARAMS.

        Args:
            settings: Its first columns, see `hyperparameters`.
            metrics: The scalars whose latest values are the others.
        """
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(settings), dict.fromkeys(metrics, 0.0)):
            self.experiment.file_writer.add_summary(summary)

    @rank_zero_only
    def save(self) -> None:
        """Writes what was logged. Lightning's own writes a file of settings too, which config.yaml holds."""
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        self.outbox.give_up()


def hyperparameters(config: Mapping[str, Any]) -> dict[str, str | int | float]:
    """The settings that people vary, by short names, of a run's config as plain data; those that it has not are absent.

    A class stands as `R1(weight=1, every=16)`, without what follows from other settings.
    """
    data, model = config["data"], config["model"]
    settings = {
        "data": words(data),
        "batch_size": (data.get("init_args") or {}).get("batch_size"),
        "generator": words(model["generator"]),
        "discriminator": words(model["discriminator"]),
        "loss": words(model["loss"]) or "NonSaturating",
        "penalties": ", ".join(map(words, model["penalties"] or ())) or "none",
        "augment": words(model.get("augment")) or "none",
        "n_critic": model["n_critic"],
        "seed": config["seed_everything"],
    }
    for network in ("generator", "discriminator"):
        optimizer = model[f"{network}_optimizer"] or {}
        settings[f"{network}_lr"] = (optimizer.get("init_args") or {}).get("lr")
    return {name: value for name, value in settings.items() if value is not None}


FOLLOWS = ("image_shape", "batch_size", "seed")  # from the data, or a column of its own


def words(spec: Mapping[str, Any] | None) -> str:
    """A class and its arguments, as one would write them; "" for none."""
    if spec is None:
        return ""
    arguments = {name: value for name, value in (spec.get("init_args") or {}).items() if name not in FOLLOWS}
    given = ", ".join(f"{name}={value}" for name, value in arguments.items() if value is not None)
    return spec["class_path"].rpartition(".")[2] + (f"({given})" if given else "")


class MetricsTable(Logger):
    """Writes a table, `metrics.csv`, with a row of scalars for each step.

    Log entries are lines of `metrics.jsonl`, which only grows: what was logged before a checkpoint is never lost. The
    table is made of it; it too grows by whole rows, and is replaced as a whole where an earlier row changes. A run that
    goes on adds a line that says from which step; the rows of later steps that stand before that line are of a run that
    was killed, and come again.

    Args:
        folder: Where both files are, or will be.
        resumed: The step that the run goes on from, if it does; that of the first entry if not given.
    """

    def __init__(self, folder: str | Path, resumed: int | None = None):
        super().__init__()
        self.path = Path(folder, "metrics.csv")
        self.log = Path(folder, "metrics.jsonl")
        self.resumed = resumed
        self.outbox = Outbox()
        self.columns = ["step"]
        self.lines: dict[int, tuple[int, str]] = {}  # of the table, by step, each with its number of columns
        self.row: dict[str, Any] = {}  # of the latest step: several log entries can belong to it
        self.begun = False
        self.new: set[int] = set()  # the steps of rows that the table has not, or not as they are now
        self.last, self.width = -1, 0  # the last step that it has, and its columns

    @property
    def name(self) -> None:
        """None: the folder is the run's."""

    @property
    def version(self) -> None:
        """None, likewise."""

    @property
    def behind(self) -> OSError | None:
        """Why something that was logged is not on the disk; None if all is."""
        return self.outbox.errors.get(self.log)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds to the row of a step; without one, to the latest."""
        if not self.begun:
            self._take_up(step)
        step = self.row.get("step", max(self.lines, default=0)) if step is None else int(step)
        if self.row.get("step") not in (None, step):
            self.save()  # that row is complete
        self._note({"step": step} | metrics | {"step": step})

    @rank_zero_only
    def save(self) -> None:
        self._close()
        grows = self.width == len(self.columns) and self.last < min(self.new, default=0)
        if self.new and grows and self.path.is_file() and self.path not in self.outbox.whole:
            self.outbox.append(self.path, self._rows(self.new))
        elif self.new:
            header = f"{csv_line(self.columns)}\r\n".encode()
            self.outbox.write(self.path, header + self._rows(self.lines))
        self.outbox.send()
        self.last, self.width = max(self.lines, default=-1), len(self.columns)
        self.new.clear()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
        self.outbox.give_up()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass  # config.yaml holds them

    # ------------------------------------------------------------------ the log

    def _note(self, entry: dict[str, Any]) -> None:
        """Adds a line to the log, and to the table what it says."""
        self._enter(entry)
        self.outbox.append(self.log, json.dumps(entry, default=float).encode() + b"\n")

    def _take_up(self, step: int | None) -> None:
        """Goes on with the files of a run that has logged before."""
        self.begun = True
        if self.log.is_file():
            content = self.log.read_bytes()
            for entry in entries(content):
                self._enter(entry)
            if not content.endswith(b"\n"):  # a killed run may leave half a line
                self.outbox.append(self.log, b"\n")
        elif self.path.is_file():  # of a run of an earlier version
            with self.path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if (row.get("step") or "").isdigit():  # a killed run may leave half a row
                        self._note({name: number(cell) for name, cell in row.items() if name and cell})
        resumed = step if self.resumed is None else self.resumed
        if (self.lines or self.row) and resumed is not None:
            self._note({"resumed": resumed})

    # ------------------------------------------------------------------ the table

    def _enter(self, entry: dict[str, Any]) -> None:
        """Adds an entry to the row of its step, or takes away rows that will come again."""
        if "step" not in entry:
            self._close()
            self.lines = {step: line for step, line in self.lines.items() if step <= entry["resumed"]}
            self.row, self.new = {}, self.new & self.lines.keys()
            return
        step = entry["step"]
        if step != self.row.get("step"):
            self._close()
            self.row = self._open(step)
        self.columns += sorted(entry.keys() - set(self.columns))
        self.row |= entry
        self.new.add(step)

    def _open(self, step: int) -> dict[str, Any]:
        """The row of a step, as far as it is known."""
        _, line = self.lines.get(step, (0, ""))
        (cells,) = csv.reader([line]) if line else [()]
        return {name: cell for name, cell in zip(self.columns, cells, strict=False) if cell} | {"step": step}

    def _close(self) -> None:
        """Turns the latest row into a line: those of a long run would take too much memory."""
        if self.row:
            cells = [self.row.get(name, "") for name in self.columns]
            self.lines[self.row["step"]] = len(self.columns), csv_line(cells)

    def _rows(self, steps: Iterable[int]) -> bytes:
        """Rows of the table. One from before a column came has nothing there."""
        rows = [self.lines[step] for step in sorted(steps)]
        return "".join(f"{line}{',' * (len(self.columns) - width)}\r\n" for width, line in rows).encode()


def entries(log: bytes) -> Iterator[dict[str, Any]]:
    """The entries of a log, without what a killed run has left half-written."""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.keys() & {"step", "resumed"}:
            yield entry


def number(cell: str) -> int | float | str:
    """The number in a cell, or its text if it is none."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def csv_line(cells: list[Any]) -> str:
    """Cells as a line of a table, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


# ---------------------------------------------------------------------- any logger


def with_own(given: Any, folder: str | Path, last: int) -> list[Logger]:
    """The loggers of a run: its table and its TensorBoard, and beside them those that are given.

    Args:
        given: True, or loggers, or one of them; no logger at all if False.
        folder: The run's.
        last: The step that the run goes on from; -1 for a new one.
    """
    if given is False:
        return []
    others = [] if given in (None, True) else list(given) if isinstance(given, Iterable) else [given]
    own = [
        RunTensorBoard(folder, name="", version="tensorboard", purge_step=last + 1),  # what is there of it comes again
        MetricsTable(folder, resumed=last),
    ]
    return [*(logger for logger in own if type(logger) not in map(type, others)), *others]


def number_by_batches(trainer: Trainer) -> None:
    """Lets each entry have the number of its batch, as all of ours have, in every logger.

    Lightning, and the callbacks that come with it, count the batches before the one at hand, and those of a validation
    anew.
    """
    for logger in trainer.loggers:
        vars(logger).pop("log_metrics", None)  # of an earlier run
        logger.log_metrics = partial(log_numbered, trainer, logger.log_metrics)


def log_numbered(trainer: Trainer, log: Any, metrics: dict[str, float], step: int | None = None) -> None:
    """Logs by `log` what has Lightning's number, or ours, by ours: the batches that are completed, or the one begun."""
    loop = trainer.fit_loop.epoch_loop
    if trainer.state.fn == "fit" and (trainer.validating or step == loop._batches_that_stepped):  # private
        begun: Any = loop.batch_progress.current
        step = trainer.global_step + begun.ready - begun.started
    log(metrics=metrics, step=step)


def log_image(trainer: Trainer, name: str, picture: Image.Image) -> None:
    """Logs a picture, numbered by the batches that are completed, by all loggers that take pictures.

    These are TensorBoard, W&B, MLflow, and whatever has the `log_image(key, images, step)` of Lightning's loggers.
    """
    step = trainer.global_step
    for logger in takers(trainer):
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(picture)
            logger.experiment.add_image(name, pixels, step, dataformats="HWC" if pixels.ndim == 3 else "HW")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, key=name, step=step)
        elif callable(log := getattr(logger, "log_image", None)):
            log(key=name, images=[picture], step=step)
        else:
            say_left_out(logger, "pictures", "they are in samples/ and gradients/ of the run's folder")


def log_text(trainer: Trainer, name: str, text: str) -> None:
    """Logs a text in Markdown, numbered as pictures are, by TensorBoard, W&B and MLflow."""
    step = trainer.global_step
    for logger in takers(trainer):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, text, step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(key=name, columns=["text"], data=[[text]], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, f"{name}_{step:06d}.md")
        else:
            say_left_out(logger, "texts", "those of the doctor are in report.md of the run's folder")


def log_histogram(trainer: Trainer, name: str, counts: Sequence[int], edges: Sequence[float]) -> None:
    """Logs a histogram, numbered as pictures are, by TensorBoard and W&B.

    Args:
        trainer: Of the run.
        name: What it is called.
        counts: How many values lie in each bin; if none do, nothing is logged.
        edges: Of the bins, one more than there are bins.
    """
    if not any(counts):
        return
    step = trainer.global_step
    for logger in takers(trainer):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram_raw(name, **as_tensorboard_has_it(counts, edges), global_step=step)
        elif isinstance(logger, WandbLogger):
            import wandb  # pyright: ignore[reportMissingImports] # there, if its logger is

            histogram = wandb.Histogram(np_histogram=(np.asarray(counts), np.asarray(edges)))
            logger.log_metrics({name: histogram}, step)  # pyright: ignore[reportArgumentType] # W&B takes more
        else:
            say_left_out(logger, "histograms", "TensorBoard has them")


def as_tensorboard_has_it(counts: Sequence[int], edges: Sequence[float]) -> dict[str, Any]:
    """What TensorBoard wants to know of a histogram; of the values it is told the middles of their bins."""
    number, limits = np.asarray(counts), np.asarray(edges, dtype=np.float64)
    middles, (filled,) = (limits[1:] + limits[:-1]) / 2, number.nonzero()
    return {
        "min": float(limits[filled[0]]),
        "max": float(limits[filled[-1] + 1]),
        "num": int(number.sum()),
        "sum": float(number @ middles),
        "sum_squares": float(number @ middles**2),
        "bucket_limits": limits[1:].tolist(),
        "bucket_counts": number.tolist(),
    }


def takers(trainer: Trainer) -> list[Logger]:
    """The loggers that may take more than scalars; none in a trial, nor in other processes than the first."""
    # pyright does not see what Lightning's connectors give a trainer.
    if not trainer.is_global_zero or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
        return []
    return [logger for logger in trainer.loggers if not isinstance(logger, MetricsTable)]


def tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The TensorBoards of a trainer, on the first rank; none elsewhere."""
    return [logger for logger in takers(trainer) if isinstance(logger, TensorBoardLogger)]


LEFT_OUT: WeakKeyDictionary[Logger, set[str]] = WeakKeyDictionary()


def say_left_out(logger: Logger, what: str, elsewhere: str) -> None:
    """Says, once, what a logger does not get."""
    said = LEFT_OUT.setdefault(logger, set())
    if what not in said:
        said.add(what)
        rank_zero_warn(f"{type(logger).__name__} takes no {what}: {elsewhere}")
