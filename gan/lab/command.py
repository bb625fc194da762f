"""`python -m gan.cli lab`: lists the experiments, or runs one, several or all, and writes their page."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gan.errors import GANError, counted, or_meant
from gan.lab import EXPERIMENTS
from gan.lab.experiment import Check, load, title_of
from gan.lab.page import page
from gan.lab.report import Report, write
from gan.outbox import Outbox
from gan.paths import local_path


def lab(args: list[str]) -> None:
    """Runs the command.

    Args:
        args: The words after `lab`.

    Raises:
        ValueError: If there is no such experiment, or the folder cannot be written.
        SystemExit: If a check failed, with status 1; if Ctrl-C was pressed, with 130.
    """
    from gan.suggestions import Parser

    parser = Parser(prog="gan lab", description="The vanishing-gradient lab.", exit_on_error=False)
    parser.add_argument("name", nargs="*", help=f"experiments, or `all`; none lists them: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--out", default="runs/lab", help="folder to write to, one folder in it for each experiment")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random, 0 or more")
    options = parser.parse_args(args)
    console = Console(highlight=False)
    if not options.name:
        show_list(console)
        return
    unknown = [name for name in options.name if name not in (*EXPERIMENTS, "all")]
    if unknown:
        meant = or_meant(unknown[0], EXPERIMENTS)
        raise GANError(f"lab has no experiment {unknown[0]!r}; it has {', '.join(EXPERIMENTS)}, and all{meant}")
    if not 0 <= options.seed < 2**63:
        raise GANError(f"--seed must be from 0 to 2^63 - 1, got {options.seed}")
    out = local_path(options.out, "--out")
    several = len(options.name) > 1 or "all" in options.name
    names = list(EXPERIMENTS) if "all" in options.name else list(dict.fromkeys(options.name))
    with writing(out):  # before anything is computed
        for name in names:
            (out / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out / name):
                pass
    outbox = Outbox("The lab")
    try:
        if several:
            reports, index = run_all(names, out, options.seed, console, outbox), out / "index.html"
        else:
            reports, index = [run_one(names[0], out, options.seed, console, outbox)], out / names[0] / "index.html"
            show(reports[0], console)
        deliver(outbox, out)  # the page takes the figures from there
        outbox.write(index, page(reports, out).encode())
        deliver(outbox, out)
    except KeyboardInterrupt:
        print(f"stopped; experiments that were finished are in {out}", file=sys.stderr)
        sys.exit(130)
    console.print(f"\npage   {index}\nfiles  {out if several else out / names[0]}", soft_wrap=True)
    failed = [f"{report.experiment.name}: {line(check)}" for report in reports for check in report.result.failed]
    if failed:
        print("failed  " + "\n        ".join(failed), file=sys.stderr)
        sys.exit(1)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """What goes wrong within is about `--out`."""
    try:
        yield
    except OSError as error:
        raise GANError(f"cannot write --out {out}: {error}") from error


def show_list(console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, seconds in EXPERIMENTS.items():
        table.add_row(name, f"{seconds} s", title_of(name))
    console.print(table)
    console.print("\nlab NAME       what one sees, why, the mathematics, what to try; and a page of it", soft_wrap=True)
    console.print("lab NAME NAME  one page of several", soft_wrap=True)
    console.print(f"lab all        {sum(EXPERIMENTS.values())} s on one core, and one page of all", soft_wrap=True)


def deliver(outbox: Outbox, out: Path) -> None:
    """Sees to it that all is written.

    Raises:
        ValueError: If it cannot be.
    """
    outbox.send()
    for path, error in outbox.errors.items():
        raise GANError(f"cannot write --out {out}: {path.name}: {error}")


def run_one(name: str, out: Path, seed: int, console: Console, outbox: Outbox) -> Report:
    """Runs an experiment under a progress bar and writes its files."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=1.0)
        experiment = load(name)  # brings torch along, which takes seconds
        start = time.perf_counter()
        result = experiment.run(seed=seed, progress=lambda fraction: bar.update(task, completed=fraction))
        seconds = time.perf_counter() - start
        report = Report(experiment, result, seed, seconds)
        write(report, out / name, outbox)
    return report


def run_all(names: list[str], out: Path, seed: int, console: Console, outbox: Outbox) -> list[Report]:
    """Runs the experiments one after the other, a line for each."""
    reports = []
    for name in names:
        report = run_one(name, out, seed, console, outbox)
        count, failed = len(report.result.checks), len(report.result.failed)
        verdict = f"{failed} of {counted(count, 'check')} failed" if failed else f"{counted(count, 'check')} passed"
        console.print(f"{name:{max(map(len, names))}}  {report.seconds:5.1f} s  {verdict}")
        reports.append(report)
    return reports


def show(report: Report, console: Console) -> None:
    """What the figure shows, why, the mathematics, what to try, and the verdict."""
    experiment = report.experiment
    console.print(f"{experiment.title}\n", style="bold", markup=False)
    for paragraph in experiment.explanation:
        if paragraph.startswith("Try."):
            console.print(f"{experiment.mathematics}\n", markup=False, soft_wrap=True)
        console.print(f"{paragraph}\n", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("check")
    table.add_column("asked", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column()
    for check in report.result.checks:
        mark = "[green]pass[/]" if check.passed else "[bold red]fail[/]"
        table.add_row(escape(check.what), check.asked, f"{check.value:.4g}", mark)
    console.print(table)


def line(check: Check) -> str:
    return f"{check.what} is {check.value:.4g}, asked {check.asked}"
