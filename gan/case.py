"""A run that something is wrong with: what its doctor prescribes, and the short runs that try it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from gan.checkpoints import steps
from gan.config import config_in, is_own
from gan.errors import GANError
from gan.folder import RunFolder
from gan.gradients.change import brief, wraps
from gan.optim import OPTIMIZER_ORDER
from gan.trials import FINDINGS, Outcome, Trial, fids_in, findings_in, rows_of, told_at
from gan.trust import PACKAGE, check_names, named_in, packages, resolve
from gan.words import given_by, read

BUDGET = 1000  # batches of a trial, if not given and the run has more
MEASUREMENTS = 12  # that a trial takes at least
SCORES = 4  # likewise
HEALED = 0.5  # of the FID as it was
BUT = "But "  # in a report, before what a run that is over its conditions suffers from


@dataclass
class Treatment:
    """What may heal a run.

    Args:
        settings: Words to append to its command.
        names: The conditions that they are prescribed for.
    """

    settings: tuple[str, ...]
    names: set[str] = field(default_factory=set)

    @property
    def parts(self) -> dict[tuple[str, ...], list[str]]:
        """Its words by what they set: the name of the setting, as the command line has it, and the value."""
        chunks: list[list[str]] = []
        for word in self.settings:
            if word.startswith("--") or not chunks:
                chunks.append([])
            chunks[-1].append(word)
        found = {}
        for first, *rest in chunks:
            name, sign, value = first.removeprefix("--").partition("=")
            found[name.replace(".init_args", ""), *([value] if sign else []), *rest] = [first, *rest]
        return found

    @property
    def values(self) -> Iterator[tuple[str, Any]]:
        """What it sets, by name as typed, and to which value."""
        for (_, *value), (first, *_) in self.parts.items():
            yield first.removeprefix("--").partition("=")[0], read(" ".join(value))

    @property
    def brief(self) -> list[str]:
        """What each of its settings does, in short, to be read and not to be typed."""
        return [f"{name.removeprefix('model.')} {brief(value)}" for name, value in self.values]

    def replaces(self, config: Mapping[str, Any]) -> list[str]:
        """The classes of a config's networks that it puts others in the place of."""
        found = []
        for name, new in self.values:
            network = name.removeprefix("model.")
            now = config["model"].get(network)
            if network in OPTIMIZER_ORDER and isinstance(new, dict) and isinstance(now, dict) and not wraps(new):
                found += [now["class_path"].rpartition(".")[2]] if new.get("class_path") != now["class_path"] else []
        return found

    @property
    def options(self) -> set[str]:
        """The settings that it gives a value."""
        return {name for name, *_ in self.parts}

    def with_other(self, other: "Treatment") -> "Treatment | None":
        """Both, what they share once; None if they give one setting two values, or one of them is all of the other."""
        here, there = (
            {part for part in each.parts if part not in but.parts} for each, but in ((self, other), (other, self))
        )
        names = [{name.rstrip("+") for name, *_ in parts} for parts in (here, there)]
        clash = any(
            one == two or one.startswith(f"{two}.") or two.startswith(f"{one}.") for one in names[0] for two in names[1]
        )
        if clash or not here or not there:
            return None
        more = [word for part, words in other.parts.items() if part in there for word in words]
        return Treatment((*self.settings, *more), self.names | other.names)


@dataclass
class Case:
    """A run that something may be wrong with.

    Args:
        folder: Of the run.
        config: All of its settings.
        trust: Packages that these may import.
        findings: What its doctor has told of.
        targets: Those findings that are to be healed.
        late: Why they are, though they are over; nothing where they are not.
    """

    folder: Path
    config: dict[str, Any]
    trust: list[str]
    findings: list[dict[str, Any]]
    targets: list[dict[str, Any]] = field(default_factory=list)
    late: str = ""

    @property
    def names(self) -> list[str]:
        """The conditions that are to be healed."""
        return list(dict.fromkeys(found["name"] for found in self.targets))

    @property
    def treatments(self) -> list[Treatment]:
        """The prescriptions that are settings, each once, the first to try first."""
        found: dict[tuple[str, ...], Treatment] = {}
        for target in self.targets:
            for each in target["prescriptions"]:
                if each["settings"]:
                    words = tuple(each["settings"])
                    found.setdefault(words, Treatment(words)).names.add(target["name"])
        return list(found.values())


def read_case(folder: Path, trust: Sequence[str]) -> Case:
    """Reads the folder of a run. Imports nothing that is neither listed, nor trusted, nor of a run of one's own.

    Raises:
        GANError: If it is not the folder of a run that has ended, with a doctor, or what it names must not or cannot be
            imported.
    """
    config = read_config(folder)
    RunFolder(str(folder)).close()  # which a run that is going on has
    own = named_in(config) if is_own(config) else set()
    trusted = sorted({*packages(trust), *own})
    check_names(config, trusted, str(folder / "config.yaml"), folder)
    case = Case(folder, config, trusted, read_findings(folder, config))
    open_ones = [found for found in case.findings if found["until"] is None]
    if not open_ones and case.findings:
        case.late = bad_end(folder)
    last = max((found["since"] for found in case.findings), default=0)
    told_last = [found for found in case.findings if found["since"] == last]
    case.targets = open_ones or (told_last if case.late else [])
    for each in case.treatments:
        check_words(each.settings, trusted, folder / FINDINGS)
    return case


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a run, from its folder.

    Raises:
        GANError: If there is none that could be one.
    """
    path = folder / "config.yaml"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise GANError(f"--run_dir {folder} {what}: give the folder of a run")
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise GANError(f"--run_dir {folder} is no run's folder: it has no config.yaml") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no YAML in UTF-8"
        raise GANError(f"{path} cannot be read: {reason}") from error
    if not isinstance(config, dict) or not all(
        isinstance(config.get(key), dict) for key in ("data", "model", "trainer")
    ):
        raise GANError(f"{path} is not as a run writes it: it must give data, model and trainer")
    config = config_in({"config": config}, str(path)) or {}
    if "seed_everything" not in config:
        raise GANError(f"{path} is not as a run writes it: it must give seed_everything, by which trials are alike")
    return config


def read_findings(folder: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the doctor of a run has found.

    Raises:
        GANError: If it has none, or has written nothing down.
    """
    findings = findings_in(folder)
    if findings is not None:
        return findings
    if any(name_of(callback) == "GradientDoctor" for callback in callbacks(config)):
        raise GANError(f"{folder} has no {FINDINGS}: the run ended before its doctor could tell. Train it for longer")
    raise GANError(
        f"{folder} has no {FINDINGS}: the run had no GradientDoctor. Train it with one: `fit --config "
        f"{folder / 'config.yaml'} --trainer.callbacks+=GradientMonitor --trainer.callbacks+=GradientDoctor`"
    )


def bad_end(folder: Path) -> str:
    """Why a run has ended badly though its gradients are well, as its report says; nothing if it has not."""
    said = [line for line in report_of(folder) if line.startswith(BUT)]
    return said[0].removeprefix(BUT).rstrip(".") if said else ""


def report_of(folder: Path) -> list[str]:
    """The lines of what the doctor of a run says at the head of its report; none where there is no report."""
    try:
        return (folder / "report.md").read_text("utf-8").splitlines()[:5]
    except (OSError, UnicodeDecodeError):
        return []


def check_words(words: Sequence[str], trust: Sequence[str], source: Path) -> None:
    """Refuses words of a prescription that are no settings, or that name what must not be imported.

    Raises:
        GANError: If there are such.
    """
    given = given_by(words)
    sections = {name.partition(".")[0] for name in Treatment(tuple(words)).options}
    if given.rest != [*words] or not words[0].startswith("--") or not sections <= {"data", "model", "trainer"}:
        raise GANError(f"{source} prescribes {shlex.join(words)}, which are not settings of data, model and trainer")
    values = [word.partition("=")[2] if word.startswith("--") else word for word in words]
    check_names({"prescriptions": values}, trust, str(source))


def callbacks(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The callbacks of a config."""
    found = config["trainer"].get("callbacks") or []
    return [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict)]


def name_of(callback: Mapping[str, Any]) -> str:
    """The name of a callback's class, without its package; of one's own, of the one here that it derives from."""
    path = str(callback.get("class_path"))
    try:
        bases = resolve(path, path).__mro__  # what may be imported has been looked at
    except (AttributeError, GANError, ImportError):
        bases = ()
    here = [base.__name__ for base in bases if base.__module__.startswith(f"{PACKAGE}.callbacks.")]
    return [*here, path.rpartition(".")[2]][0]


# ---------------------------------------------------------------------- short runs


def default_budget(case: Case) -> int:
    """The batches of a trial: so many as the run has or, of many, enough for its doctor to tell."""
    whole = case.config["trainer"].get("max_steps") or -1
    if whole < 1:
        whole = max(rows_of(case.folder), default=0) or BUDGET
    since = min(found["since"] for found in case.targets)
    return min(whole, max(BUDGET, 2 * since))


def plan(case: Case, settings: tuple[str, ...], budget: int, begin: int | None = None) -> Trial:
    """The trial of some settings, from the last checkpoint at which the run was still well, where they can begin there.

    Args:
        case: The run.
        settings: What to do otherwise.
        budget: Batches.
        begin: The batch to begin after; as the settings allow if not given.
    """
    wells = {} if begin == 0 or (begin is None and changes_what_is_saved(settings)) else well_checkpoints(case)
    begin = max(wells, default=0) if begin is None else begin
    return Trial(settings, cut(case.config, begin, begin + budget), begin, begin + budget, wells.get(begin))


def changes_what_is_saved(settings: Sequence[str]) -> bool:
    """Whether settings change networks or data, to which the weights of a checkpoint would not fit."""
    names = {name.rstrip("+") for name in Treatment(tuple(settings)).options}
    return any(
        name == part or name.startswith(f"{part}.")
        for name in names
        for part in ("data", "model.generator", "model.discriminator", "model.classification")
    )


def well_checkpoints(case: Case) -> dict[int, Path]:
    """The checkpoints from before anything was wrong, by batch."""
    monitors = [callback for callback in callbacks(case.config) if name_of(callback) == "GradientMonitor"]
    doctors = [callback for callback in callbacks(case.config) if name_of(callback) == "GradientDoctor"]
    between = max(((each.get("init_args") or {}).get("every") or 1 for each in monitors), default=1)
    patience = max(((each.get("init_args") or {}).get("patience") or 1 for each in doctors), default=1)
    first = min(found["since"] for found in case.findings) - between * patience  # it showed before it was told
    return {step: path for step, path in steps(case.folder / "checkpoints").items() if 0 < step <= first}


def cut(config: Mapping[str, Any], begin: int, end: int) -> dict[str, Any]:
    """The config of a short run, which is measured and scored often enough to tell."""
    short = {**deepcopy(dict(config))}
    short["trainer"] |= dict.fromkeys(("max_epochs", "min_steps", "min_epochs", "max_time"))
    short["trainer"] |= {"max_steps": end, "logger": True}  # no run of its own on a server of the user's
    for schedule in schedules_of(short):
        if schedule.get("batches"):
            schedule["batches"] = min(schedule["batches"], end)  # a longer one would be refused
    for callback in callbacks(short):
        callback["init_args"] = often(name_of(callback), dict(callback.get("init_args") or {}), end - begin)
    return short


def schedules_of(value: Any) -> Iterator[dict[str, Any]]:
    """The settings of numbers that follow a schedule, wherever in a config they stand."""
    if isinstance(value, Mapping):
        if {"start", "end", "kind"} <= value.keys():
            yield cast(dict[str, Any], value)
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        yield from schedules_of(item)


def often(name: str, settings: dict[str, Any], batches: int) -> dict[str, Any]:
    """The settings of a callback in a run of so many batches."""
    if name == "GradientMonitor":
        settings["every"] = min(settings.get("every") or batches, max(1, batches // MEASUREMENTS))
    if name == "FIDTracker":
        every = settings.get("every") if settings.get("unit", "batches") == "batches" else None
        settings |= {"every": min(every or batches, max(1, batches // SCORES)), "unit": "batches"}
        if "num_samples" in settings:
            settings["final_samples"] = settings["num_samples"]  # trials are compared by their last scores
    return settings


def run_itself(case: Case, begin: int, end: int) -> Outcome | None:
    """The run as it was, up to a batch; None if it tells nothing of that."""
    model, fids = case.config["model"], fids_in(case.folder)
    schedules = any(model.get(f"{network}_scheduler") for network in ("generator", "discriminator"))
    schedules = schedules or any(True for _ in schedules_of(case.config))
    if end not in fids or (schedules and case.config["trainer"].get("max_steps") != end):
        return None
    return Outcome(case.folder, (), begin, end - begin, fids[end], told_at(case.findings, end))


def whole(config: Mapping[str, Any], treatment: Treatment, outcome: Outcome) -> dict[str, Any]:
    """The config of the run with a prescription: that of the trial, with the run's own length and callbacks again."""
    trial = read_config(outcome.folder)
    short = cut(config, outcome.begin, outcome.begin + outcome.batches)
    given = treatment.options
    for name, value in short["trainer"].items():
        if name != "callbacks" and value != config["trainer"].get(name) and f"trainer.{name}" not in given:
            trial["trainer"][name] = config["trainer"].get(name)
    before = [*zip(callbacks(short), callbacks(config), strict=True)]
    for changed, own in zip(schedules_of(short), schedules_of(config), strict=True):
        for schedule in schedules_of(trial["model"]):
            if schedule == changed:
                schedule |= own
    trial["trainer"]["callbacks"] = [
        next((own for changed, own in before if changed == callback), callback) for callback in callbacks(trial)
    ]
    return trial
