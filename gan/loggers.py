"""Scalars of a run: as a table, and in charts that belong together."""

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

# TensorBoard's Custom Scalars: each chart shows the scalars whose names match, and those that a run has not are absent.
CHARTS = {
    "run": {
        "losses": ["Multiline", ["loss/.*"]],
        "FID, and its floor": ["Multiline", ["fid/.*", "fid_floor/.*"]],
        "gradients": ["Multiline", ["grad_norm/.*"]],
        "throughput": ["Multiline", ["images_per_second"]],
    }
}


class RunTensorBoard(TensorBoardLogger):
    """TensorBoardLogger with the charts that one looks at first, under Custom Scalars."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        new = self._experiment is None
        writer = super().experiment
        if new:
            writer.add_custom_scalars(CHARTS)
        return writer


class MetricsTable(Logger):
    """Appends every log entry to `metrics.csv`, a row of step and scalars, and goes on with a file that exists.

    Lightning's CSVLogger deletes the rows of a run that is resumed.

    Args:
        folder: Where `metrics.csv` is, or will be.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.path = Path(folder, "metrics.csv")
        self.columns: list[str] = []  # none before the first row
        self.row: dict[str, Any] = {}  # of the latest step: several log entries can belong to it
        self.pending, self.written = False, False  # whether some of that row is not in the file, whether some is

    @property
    def name(self) -> None:
        """None: the folder is the run's."""

    @property
    def version(self) -> None:
        """None, likewise."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.row and self.row["step"] != step:
            self.save()
            self.row, self.written = {}, False
        self.row |= {**metrics, "step": step}
        self.pending = True

    @rank_zero_only
    def save(self) -> None:
        """Writes the latest row."""
        if not self.pending:
            return
        if not self.columns or self.written:
            self._go_on()
        new = sorted(set(self.row) - set(self.columns), key=lambda name: (name != "step", name))
        if new:
            self._widen(new)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(self.row)
        self.pending, self.written = False, True

    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass  # config.yaml holds them

    def _go_on(self) -> None:
        """Takes up a file that exists, up to the step of the row to come.

        A run that was killed has rows of later steps than the checkpoint it is resumed from: they will come again.
        """
        self.columns, rows = self._read()
        earlier = [row for row in rows if int(row["step"]) < self.row["step"]]
        if len(earlier) < len(rows):
            self._write(earlier)

    def _widen(self, new: list[str]) -> None:
        _, rows = self._read()
        self.columns = [*self.columns, *new]
        self._write(rows)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """The columns and the rows of the file; none if there is no file."""
        if not self.path.is_file():
            return [], []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if (row.get("step") or "").isdigit()]  # a killed run may leave half a row
            return list(reader.fieldnames or []), rows

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Rewrites the table, beside it first so that nothing is lost on the way."""
        partial = self.path.with_name("metrics.csv.partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)
