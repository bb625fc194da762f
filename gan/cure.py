"""Tries what the doctor of a run prescribes: `python -m gan.cli cure --run_dir RUN`.

One short run for each prescription that is settings, then one of the best two together, each watched and scored as the
run was, and held against the run as it was. Status 0 if one heals, or if nothing is wrong; 1 if none does.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gan.callbacks.gradient_doctor import TOO_LITTLE
from gan.case import (
    BUDGET,
    HEALED,
    Case,
    Treatment,
    bad_end,
    default_budget,
    plan,
    read_case,
    report_of,
    run_itself,
    well_checkpoints,
    whole,
)
from gan.config import as_text
from gan.errors import GANError, counted
from gan.folder import RunFolder
from gan.paths import as_word, local_path
from gan.suggestions import Parser
from gan.trials import (
    OUTPUT,
    Outcome,
    Trial,
    folder_of,
    is_over,
    side_by_side,
)

FOLDER = "cure"  # in that of the run
AS_IT_WAS = "as it was"


def cure(words: list[str]) -> None:
    """Runs the command.

    Args:
        words: Those after `cure`.

    Raises:
        GANError: If the run cannot be read, or another process is at work on it.
        SystemExit: If nothing heals, with status 1.
    """
    parser = Parser(prog="gan cure", description="Tries what the doctor of a run prescribes.", exit_on_error=False)
    parser.add_argument("--run_dir", required=True, help="folder of the run, which has ended")
    text = f"batches of each trial; if not given those of the run, at most {BUDGET:,} or twice what its doctor needed"
    parser.add_argument("--budget", type=int, help=text)
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time, which share the cores")
    text = "a package whose classes the run's config may import, besides this one's and torch's"
    parser.add_argument("--trust", action="append", help=text)
    args = parser.parse_args(words)
    for name, number, what in (("budget", args.budget, "training batch"), ("jobs", args.jobs, "trial at a time")):
        if number is not None and not number >= 1:
            raise GANError(f"--{name} must be at least 1 {what}, got {number}")
    console = Console(highlight=False, soft_wrap=True)
    case = read_case(Path(as_word(local_path(args.run_dir, "--run_dir"))), args.trust or [])
    if not case.targets and (little := too_little(case.folder)):
        raise GANError(
            f"{case.folder}: {little}, so that it cannot be said whether it is well: train it with a measurement more "
            "often, --trainer.callbacks+=GradientMonitor --trainer.callbacks.every=25"
        )
    if not case.targets:
        over = f"; {counted(len(case.findings), 'condition')} came and went" if case.findings else ""
        bad = bad_end(case.folder)
        well = f"shows nothing that could be cured, but {bad}: its doctor found" if bad else "is well:"
        console.print(f"{case.folder} {well} nothing wrong with the gradients{over}", markup=False)
        return
    if not case.treatments:
        no_cure(case, console, "none of the prescriptions is a setting")
    with held(case.folder / FOLDER) as folder:
        try:
            treat(case, folder, args.budget, args.jobs, console)
        except KeyboardInterrupt:
            console.print("taken up       is what has been trained, by the same command", markup=False)
            raise


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """The folder of the trials, which another process must not have.

    Raises:
        GANError: If one has.
    """
    try:
        own = RunFolder(str(folder))
    except GANError as error:
        raise GANError(f"another `cure` of this run is at work: {error}") from error
    own.began = True
    with closing(own):
        yield folder


# ---------------------------------------------------------------------- the trials


def treat(case: Case, folder: Path, budget: int | None, jobs: int, console: Console) -> None:
    """Tries the prescriptions of a run and says which heals.

    Raises:
        SystemExit: If nothing heals, with status 1.
    """
    budget = budget or default_budget(case)
    plans = [(each, plan(case, each.settings, budget)) for each in case.treatments]
    begins = {trial.begin for _, trial in plans}
    bases = {begin: run_itself(case, begin, begin + budget) for begin in begins}
    console.print(first_line(case, budget, len(plans), None in bases.values(), begins, jobs), markup=False)
    if case.late:
        console.print(
            f"over           all conditions are, but {case.late}: what was told last is treated", markup=False
        )
    ward = Ward(case, folder, jobs, console)
    untold = [plan(case, (), budget, begin) for begin, base in sorted(bases.items()) if base is None]
    outcomes = ward.run([*untold, *(trial for _, trial in plans)])
    bases |= {trial.begin: outcome for trial, outcome in zip(untold, outcomes, strict=False)}
    rows = [
        Row(each, outcome, bases[trial.begin])
        for (each, trial), outcome in zip(plans, outcomes[len(untold) :], strict=True)
    ]
    if both := best_two(rows):
        trial = plan(case, both.settings, budget)
        rows.append(Row(both, ward.run([trial])[0], bases[trial.begin]))
    conclude(case, folder, rows, [base for _, base in sorted(bases.items()) if base is not None], console)


def first_line(case: Case, budget: int, number: int, untold: bool, begins: set[int], jobs: int) -> str:
    """What is about to be done."""
    begin = " or ".join("its start" if begin == 0 else f"batch {begin:,}" for begin in sorted(begins))
    side = f", {jobs} at a time" if jobs > 1 else ""
    too = ", and the run as it was" if untold else ""
    batches = counted(budget, "batch", "batches")
    tried = f"tries {counted(number, 'prescription')}{too}, {batches} each from {begin}"
    seed = f"seed {case.config['seed_everything']}"
    return f"cure           {case.folder}: {', '.join(case.names)}; {tried}, {seed}{side}"


class Ward:
    """Runs trials under a progress bar over all of them, a line as each ends.

    Args:
        case: The run.
        folder: That of the trials.
        jobs: Trials at a time.
        console: Of the command.
    """

    def __init__(self, case: Case, folder: Path, jobs: int, console: Console):
        self.case, self.folder, self.jobs, self.console = case, folder, jobs, console

    def run(self, trials: Sequence[Trial]) -> list[Outcome]:
        """The outcomes of trials; what has ended before is taken up."""
        folders = [folder_of(trial, self.folder) for trial in trials]
        ended = sum(map(is_over, folders))
        if ended:
            self.say(f"taken up       {ended} of {counted(len(trials), 'trial')} ended before")
        found: dict[Path, Outcome] = {}
        total = sum(trial.batches for trial in trials)
        with self.bar(len(trials), total) as move:

            def look(done: int) -> None:
                move(
                    len(found),
                    done + sum(trial.batches for trial, path in zip(trials, folders, strict=True) if path in found),
                )

            pairs = [*zip(trials, folders, strict=True)]
            for outcome in side_by_side(pairs, self.jobs, self.case.trust, look, self.say):
                found[outcome.folder] = outcome
                self.say(f"{len(found)}/{len(trials):<12} {title(outcome)}: {in_short(outcome)}")
        return [found[folder] for folder in folders]

    def say(self, text: str) -> None:
        """Shows a line, above the bar."""
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, trials: int, batches: int) -> Iterator[Callable[[int, int], None]]:
        """What moves a bar of so many trials with so many batches; where the output is no terminal, there is none."""
        bar = Progress(
            TextColumn("{task.fields[ended]}/{task.fields[of]} trials  batch {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=10),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        task = bar.add_task("", total=batches, ended=0, of=trials)
        with bar:
            yield lambda ended, done: bar.update(task, completed=done, ended=ended)


# ---------------------------------------------------------------------- what came of it


@dataclass
class Row:
    """A prescription that was tried.

    Args:
        treatment: Which.
        outcome: What came of it.
        base: What came of the run as it was, in as many batches.
    """

    treatment: Treatment
    outcome: Outcome
    base: Outcome | None

    @property
    def healed(self) -> bool:
        """Whether the conditions are gone, and the FID is at most half of what it was, where there is one."""
        if self.outcome.failure or self.treatment.names & {*self.outcome.says}:
            return False
        before = None if self.base is None else self.base.fid
        if self.outcome.fid is None:
            return before is None
        return before is None or self.outcome.fid <= HEALED * before

    @property
    def rank(self) -> tuple[bool, bool, float, int]:
        """The better, the less."""
        fid = float("inf") if self.outcome.fid is None else self.outcome.fid
        return not self.healed, self.outcome.failure is not None, fid, len(self.outcome.says)


def best_two(rows: Sequence[Row]) -> Treatment | None:
    """The best two prescriptions that can be followed together, as one; None if there are no two."""
    tried = sorted((row for row in rows if not row.outcome.failure), key=lambda row: row.rank)
    both = (one.treatment.with_other(other.treatment) for one, other in combinations(tried, 2))
    return next((treatment for treatment in both if treatment is not None), None)


def conclude(case: Case, folder: Path, rows: list[Row], bases: list[Outcome], console: Console) -> None:
    """Shows the table, and writes it and the config that healed best.

    Raises:
        SystemExit: If nothing heals, with status 1.
    """
    caption = rule(rows, bases, case)
    console.print(table_of(rows, bases), caption, sep="\n", markup=False)
    write(folder / "table.md", markdown(rows, bases, caption))
    healed = sorted((row for row in rows if row.healed), key=lambda row: row.rank)
    cured = folder / "cured.yaml"
    if not healed:
        cured.unlink(missing_ok=True)  # of other trials
        nearest = min(rows, key=lambda row: row.rank).outcome
        if nearest.failure:
            no_cure(case, console, f"no prescription came to its end ({nearest.folder / OUTPUT})")
        no_cure(case, console, f"the nearest: {title(nearest)}: {in_short(nearest)}")
    best = healed[0]
    write(cured, as_text(whole(case.config, best.treatment, best.outcome)))
    console.print(f"healed         {title(best.outcome)}: {in_short(best.outcome)}", markup=False)
    if replaced := best.treatment.replaces(case.config):
        keeps = next((row for row in healed if not row.treatment.replaces(case.config)), None)
        kept = "nothing that keeps it heals" if keeps is None else f"what keeps it: {title(keeps.outcome)}"
        kept = kept.replace("keeps it", "keeps them") if len(replaced) > 1 else kept
        short = "" if keeps is None else f": {in_short(keeps.outcome)}"
        console.print(f"replaced       {' and '.join(replaced)}; {kept}{short}", markup=False)
    console.print(f"table          {folder / 'table.md'}", markup=False)
    console.print(f"config         {cured}", markup=False)
    console.print(f"train on       {command_for(case, best, cured)}", markup=False)


def no_cure(case: Case, console: Console, why: str) -> None:
    """Says that nothing heals, and what is left to do.

    Raises:
        SystemExit: If called, with status 1.
    """
    console.print(f"nothing heals  {', '.join(case.names)}; {why}", markup=False)
    texts = [each["text"] for found in case.targets for each in found["prescriptions"] if not each["settings"]]
    for text in dict.fromkeys(texts):
        console.print(f"to change      {text}", markup=False)
    if not texts:
        console.print(f"figures        {case.folder / 'report.md'}", markup=False)
    sys.exit(1)


def write(path: Path, text: str) -> None:
    """Writes a file, whole or not at all.

    Raises:
        GANError: If the disk does not take it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise GANError(f"cannot write {path}: {error.strerror}") from error


def command_for(case: Case, row: Row, cured: Path) -> str:
    """The command that trains on with what has healed."""
    new = next(
        path
        for number in range(1, 10**6)
        if not (path := Path(f"{case.folder}-cured{'' if number == 1 else f'-{number}'}")).exists()
    )
    words = ["python", "-m", "gan.cli", "fit", "--config", str(cured), "--run_dir", str(new)]
    if row.outcome.begin:
        words += ["--resume", str(well_checkpoints(case)[row.outcome.begin])]
    return shlex.join(words)


# ---------------------------------------------------------------------- words


def title(outcome: Outcome, between: str = ", ") -> str:
    """What a trial did otherwise, in short; its command is in `output.txt`."""
    return between.join(Treatment(outcome.settings).brief) if outcome.settings else AS_IT_WAS


def too_little(folder: Path) -> str:
    """What the report of a run says, where that is too little to tell; "" where it says more, or there is none."""
    said = [line for line in report_of(folder) if f": {TOO_LITTLE}" in line]
    return said[0].rstrip(".") if said else ""


def in_short(outcome: Outcome) -> str:
    """What came of a trial, in a line."""
    if outcome.failure:
        return f"failed: {outcome.failure}"
    fid = "" if outcome.fid is None else f", FID {outcome.fid:.3g}"
    return f"{says(outcome)}{fid}"


def says(outcome: Outcome) -> str:
    """What the doctor still says."""
    return ", ".join(outcome.says) or "nothing wrong"


def rule(rows: Sequence[Row], bases: Sequence[Outcome], case: Case) -> str:
    """What counts as healed, below the table."""
    gone = "the doctor no longer tells of what the prescription is for"
    if all(each.fid is None for each in (*bases, *(row.outcome for row in rows))):
        return f"Healed: {gone}. There is no FID, so it is judged by the doctor alone."
    text = f"Healed: {gone}, and the FID is at most half of that of the run as it was, in as many batches."
    silent = [base for base in bases if not base.failure and not {*case.names} & {*base.says}]
    if silent and not case.late:
        text += " As it was, the doctor does not tell of it within so few batches: a larger --budget would show more."
    return text


COLUMNS = ("run", "prescription", "the doctor says", "FID", "batches", "seconds", "healed")


def cells(outcome: Outcome, healed: str) -> tuple[str, ...]:
    """A row of the table."""
    number = "" if outcome.seconds is None else outcome.folder.name
    fid = "" if outcome.fid is None else f"{outcome.fid:.3g}"
    said = f"failed: {outcome.failure}" if outcome.failure else says(outcome)
    begun = f" from batch {outcome.begin:,}" if outcome.begin and not outcome.settings else ""
    seconds = "" if outcome.seconds is None else f"{outcome.seconds:.0f}"
    return number, title(outcome, ",\n") + begun, said, fid, f"{outcome.batches:,}", seconds, healed


def all_cells(rows: Sequence[Row], bases: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """The rows of the table."""
    return [
        *(cells(base, "") for base in bases),
        *(cells(row.outcome, "yes" if row.healed else "no") for row in rows),
    ]


def table_of(rows: Sequence[Row], bases: Sequence[Outcome]) -> Table:
    """The table for a terminal."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), collapse_padding=True, leading=1)
    for name in COLUMNS:
        is_number = name in ("FID", "batches", "seconds")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in all_cells(rows, bases):
        table.add_row(*map(escape, row))
    return table


def markdown(rows: Sequence[Row], bases: Sequence[Outcome], caption: str) -> str:
    """The table as Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    lines += [
        (number, f"`{shlex.join(outcome.settings)}`" if outcome.settings else shown, *rest)
        for outcome, (number, shown, *rest) in zip(
            (*bases, *(row.outcome for row in rows)), all_cells(rows, bases), strict=True
        )
    ]
    shown = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([*shown, "", caption, ""])
