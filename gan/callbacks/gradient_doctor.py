"""Says what a run suffers from, why, and which setting cures it."""

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import nn

from gan.callbacks.fid_tracker import FIDTracker, active_trackers
from gan.callbacks.gradient_monitor import GradientMonitor
from gan.callbacks.non_finite_guard import NonFiniteGradient, NonFiniteGuard
from gan.callbacks.run_progress import say
from gan.errors import GANError, counted
from gan.gradients import GradientStats
from gan.gradients.causes import non_finite_gradients
from gan.gradients.diagnose import can_be_over, diagnose
from gan.gradients.patient import PENALTIES, REPAIRS, TWICE, Patient, part
from gan.gradients.prescribe import Prescription, prescribe, unrepeated
from gan.gradients.rules import WINDOW, Finding, Record, Score, Thresholds
from gan.gradients.symptoms import NO_PROGRESS, SYMPTOM_NAMES, ended_badly
from gan.loggers import log_text
from gan.module import GAN
from gan.networks import is_conditional
from gan.networks.repair import Normalized, Unmixed, adds
from gan.optim import OPTIMIZER_ORDER
from gan.order import callbacks_of
from gan.outbox import outbox
from gan.parallel import is_sharded
from gan.paths import as_word
from gan.spec import FROM_DATA, is_compiled, uncompiled
from gan.text import noun, said_of

NOTHING = "nothing wrong with the gradients"
TOO_LITTLE = "too little to tell"
FEW, SHORT = 3, 20  # measurements that are few, and the batches from which on there could be more


class GradientDoctor(Callback):
    """Diagnoses a run by what GradientMonitor measures and FIDTracker scores: `gan.gradients.diagnose` has the rules.

    A condition is told once, when it begins: on the terminal, as a text by the run's loggers, and in the run's folder
    in `report.md` and, for programs, in `findings.json`; with the figures and with what cures it, settings that are
    computed from this run's own (`gan.gradients.prescribe`). One that comes back is told again.

    Attributes:
        accepts: Whether the command line takes words after those of the run; set by it. Without one, as in Python, all
            that the classes at hand take is told.

    Args:
        patience: Measurements in a row that show a condition before it is told, and that do not before it is over.
            What cannot be but wrong, as data in another range, is told at once.
        thresholds: Where each condition begins; those of `gan.gradients.rules.Thresholds` if not given.

    Raises:
        ValueError: If `patience` is below 1, or there is no GradientMonitor before it among the callbacks.
    """

    def __init__(self, patience: int = 2, thresholds: Thresholds | None = None):
        if not patience >= 1:
            raise GANError(f"GradientDoctor's patience must be at least 1 measurement, got {patience}")
        self.patience = patience
        self.thresholds = thresholds or Thresholds()
        self.stats: list[GradientStats] = []  # the latest, without histograms
        self.scores: list[Score] = []  # the first, the best and the latest
        self.measured = 0
        self.non_finite = 0  # gradients, up to the latest measurement
        self.seen: dict[str, int] = {}  # by condition: measurements in a row that show it, or below 0 that do not
        self.told: list[dict[str, Any]] = []  # findings, each with the batches `since` and, if it is over, `until`
        self.batch_size = 0  # images, over all processes
        self.repairs: dict[str, frozenset[str]] = {}  # that can be around each network; tried when first asked for
        self.accepts: Callable[[Sequence[str]], bool] = are_importable
        self.kind = "image"  # what samples are called

    @property
    def present(self) -> dict[str, dict[str, Any]]:
        """The conditions told of that are not over, by name."""
        return {told["name"]: told for told in self.told if told["until"] is None}

    # ------------------------------------------------------------------ Lightning's hooks

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        monitors = callbacks_of(trainer, GradientMonitor)
        if not monitors:
            raise GANError(
                "GradientDoctor reads what GradientMonitor measures: put a GradientMonitor before it in "
                "trainer.callbacks, or leave the doctor out"
            )
        self.monitor = monitors[-1]
        self.tracker = next(iter(active_trackers(trainer)), None)
        self.guards = callbacks_of(trainer, NonFiniteGuard)
        self.kind = noun(pl_module.generator)

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.tracker is not None:
            self.take(self.tracker)
        stats = self.monitor.stats
        if stats is None or stats.step != trainer.global_step:
            return
        self.measured += 1
        self.batch_size = len(batch[0]) * trainer.world_size
        self.stats = [*self.stats, without_histograms(stats)][-WINDOW:]
        conditional = (pl_module.num_classes or 0) > 1
        record = Record(self.stats, self.scores[-WINDOW:], conditional, images=batch[0].ndim == 4)
        self.note(trainer, pl_module, record, diagnose(record, self.thresholds) + self.found_by_guards())

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if not self.measured:
            say(trainer, "doctor         took no measurement, so nothing can be told of the gradients")
            return
        self.write(trainer, ended=True)
        # A trial keeps nothing. pyright does not see what Lightning's connectors give a trainer.
        trial = trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue]
        report = "" if trial else f": {Path(trainer.default_root_dir, 'report.md')}"
        past = sum(told["until"] is not None for told in self.told)
        past = f"; {counted(past, 'condition')} came and went" if past else ""
        say(trainer, f"doctor         {self.verdict}{past}, in {self.basis}{report}")
        words = ["python", "-m", "gan.cli", "cure", "--run_dir", as_word(Path(trainer.default_root_dir))]
        curable = any(each["settings"] for told in self.present.values() for each in told["prescriptions"])
        tries = f"`{shlex.join(words)}` tries what " if self.has_command(trainer) else ""
        if self.ended_badly:
            way = f": {tries}was told last" if tries and self.told else ""
            say(trainer, f"               but {self.ended_badly}{way}")
        elif tries and curable:
            say(trainer, f"               {tries}is prescribed, in short runs")
        if self.measured < FEW and trainer.global_step >= SHORT:
            every = f"--trainer.callbacks+=GradientMonitor --trainer.callbacks.every={trainer.global_step // 10}"
            say(trainer, f"               measured too seldom for so short a run: {every}")
        log_text(trainer, "doctor/report", self.report(ended=True))

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:
        why = str(exception) if isinstance(exception, NonFiniteGradient) else ""  # else something came after a skip
        if hasattr(self, "guards") and (found := self.found_by_guards(why)):
            self.tell(trainer, pl_module, found[0])

    def state_dict(self) -> dict[str, Any]:
        return {
            "stats": [asdict(stats) for stats in self.stats],
            "scores": [asdict(score) for score in self.scores],
            **{name: getattr(self, name) for name in ("measured", "non_finite", "seen", "told")},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stats = [GradientStats.from_dict(stats) for stats in state_dict["stats"]]
        self.scores = [Score(**score) for score in state_dict["scores"]]
        for name in ("measured", "non_finite", "seen", "told"):
            setattr(self, name, state_dict[name])

    # ------------------------------------------------------------------ findings

    def take(self, tracker: FIDTracker) -> None:
        """Takes down the latest score."""
        latest = tracker.latest
        if latest and (not self.scores or latest["step"] > self.scores[-1].step):
            assert tracker.evaluator is not None  # it has scored
            covered = int(latest["modes_covered"]) if "modes_covered" in latest else None
            classes = tracker.evaluator.num_classes
            largest = tracker.evaluator.largest_class
            values = latest["fid"], latest["fid_floor"], covered, classes, largest, tracker.evaluator.variance
            self.scores = kept([*self.scores, Score(int(latest["step"]), *values)])

    def found_by_guards(self, why: str = "") -> list[Finding]:
        """What a NonFiniteGuard has met since the measurement before."""
        count = sum(sum(guard.counts.values()) for guard in self.guards)
        new, self.non_finite = count - self.non_finite, count
        if new <= 0:
            return []
        times = "once" if new == 1 else f"{new:,} times"
        why = why or f"a gradient was infinite or NaN, {times} since the measurement before, and NonFiniteGuard acted"
        return [non_finite_gradients(why)]

    def note(self, trainer: Trainer, pl_module: GAN, record: Record, findings: list[Finding]) -> None:
        """Tells of conditions that begin, and closes those that are over."""
        by_name = {finding.name: finding for finding in findings}
        hidden = {symptom for finding in findings for symptom in finding.symptoms}  # hold, and are listed there
        hidden |= set(SYMPTOM_NAMES) if by_name.keys() - set(SYMPTOM_NAMES) else set()
        for name in by_name.keys() | self.seen.keys():
            streak = self.seen.get(name, 0)
            if name in by_name:
                self.seen[name] = max(streak, 0) + 1
            elif name not in hidden and can_be_over(name, record, self.thresholds):
                self.seen[name] = min(streak, 0) - 1
        for finding in findings:
            if finding.name == NO_PROGRESS and self.present:
                continue  # what is there may be why
            if finding.name not in self.present and (finding.certain or self.seen[finding.name] >= self.patience):
                self.tell(trainer, pl_module, finding)
        for name, told in self.present.items():
            # Scores are few: what has been told of them at once is also over at once.
            if self.seen.get(name, 0) <= (-1 if name == NO_PROGRESS and told["certain"] else -self.patience):
                told["until"] = trainer.global_step
                say(trainer, f"doctor         batch {trainer.global_step:,}: {said_of(self.kind, name)} is over")
                self.write(trainer)

    def tell(self, trainer: Trainer, pl_module: GAN, finding: Finding) -> None:
        """Tells of a condition that begins: on the terminal, in the report and by the loggers."""
        step, prescriptions = trainer.global_step, []
        if trainer.is_global_zero:  # the others tell nothing
            record = Record(self.stats, self.scores[-WINDOW:])
            prescriptions = prescribe(finding, record, self.patient(trainer, pl_module), self.accepts)
        finding = replace(finding, why=said_of(self.kind, finding.why))
        prescriptions = [replace(each, text=said_of(self.kind, each.text)) for each in prescriptions]
        whole = {**asdict(finding), "prescriptions": [asdict(each) for each in prescriptions]}
        self.told.append({**whole, "since": step, "until": None})
        say(trainer, f"doctor         batch {step:,}: {said_of(self.kind, finding.name)}. {sentence(finding.why)}")
        if finding.symptoms:
            symptoms = said_of(self.kind, ", ".join(finding.symptoms))
            say(trainer, f"               and what follows from it: {symptoms}")
        of_told = [(told["since"], each) for told in self.told[:-1] for each in told["prescriptions"]]
        before = {tuple(each["settings"]): since for since, each in reversed(of_told) if each["settings"]}
        prescribed = unrepeated(prescriptions)
        typed = [each.settings for each in prescribed if each.settings]
        if typed and all(settings in before for settings in typed):
            say(trainer, f"               cure: as told at batch {before[typed[0]]:,}")
            prescribed = []
        for number, each in enumerate(prescribed):
            since = before.get(each.settings)
            again = "" if since is None else f", as told at batch {since:,}"
            say(trainer, f"               {'or' if number else 'cure:'} {each.text}{again}")
            if each.settings and since is None:
                say(trainer, f"                   {self.command(trainer, each)}")
        self.write(trainer)
        log_text(trainer, "doctor", said_of(self.kind, "\n".join(paragraph(self.told[-1]))))

    def patient(self, trainer: Trainer, pl_module: GAN) -> Patient:
        """The run, as prescriptions are computed from."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # what Lightning's connectors give it
        config = pl_module.run_config or {"model": dict(pl_module.hparams), "data": None, "trainer": {}}
        specs = [dict(pl_module.hparams.get(name) or {}).get("init_args") or {} for name in OPTIMIZER_ORDER]
        stated = {name: [getattr(data, name, None), *(spec.get(name) for spec in specs)] for name in FROM_DATA}
        shapes = {name: next((value for value in values if value is not None), None) for name, values in stated.items()}
        parts = {}
        for name in OPTIMIZER_ORDER:
            network = getattr(pl_module, name)
            told = "classes" if pl_module.num_classes else "images"
            if not is_conditional(network):
                told = "classifies" if hasattr(network, "classify") else ""
            known = part(network, config["model"].get(name), shapes, told)
            if name not in self.repairs:
                self.repairs[name] = repairs_of(network, shapes)
            parts[name] = replace(known, repairs=self.repairs[name])
        if data is not None:
            parts["data"] = part(data, config["data"], {})
        batches = int(min(trainer.estimated_stepping_batches, 10**9))
        of_images = self.batch_size, shapes["image_shape"], pl_module.latent_dim
        return Patient(config, parts, batches, *of_images, refused(trainer, pl_module))

    def command(self, trainer: Trainer, prescription: Prescription) -> str:
        """What to type."""
        path = Path(trainer.default_root_dir, "config.yaml")
        words = ["python", "-m", "gan.cli", "fit", "--config", as_word(path), *prescription.settings]
        return shlex.join(words if self.has_command(trainer) else prescription.settings)

    @staticmethod
    def has_command(trainer: Trainer) -> bool:
        """Whether there is a folder to name in a command: a trial keeps none, and in Python there is no command."""
        trial = trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue] # what Lightning's connectors give it
        return trainer.lightning_module.run_config is not None and not trial  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, trainer: Trainer, ended: bool = False) -> None:
        """Writes `report.md` and `findings.json` anew."""
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            outbox(trainer).write(folder / "report.md", self.report(ended).encode())
            outbox(trainer).write(folder / "findings.json", self.findings().encode())

    def findings(self) -> str:
        """What has been told, for programs."""
        names = ("name", "since", "until", "why", "symptoms", "prescriptions")
        return json.dumps([{name: told[name] for name in names} for told in self.told], indent=1) + "\n"

    # ------------------------------------------------------------------ words

    @property
    def verdict(self) -> str:
        """What the run is in, in a few words."""
        if self.present:
            return said_of(self.kind, ", ".join(self.present))
        if begun := [name for name, streak in self.seen.items() if streak > 0]:
            return f"{TOO_LITTLE}: the latest shows {said_of(self.kind, ', '.join(begun))}"
        return NOTHING if self.measured > 1 else TOO_LITTLE

    @property
    def ended_badly(self) -> str:
        """Why a run whose conditions are over is not well all the same; nothing if it is."""
        return "" if self.present else ended_badly(self.scores)

    @property
    def basis(self) -> str:
        """How much that rests on."""
        return counted(self.measured, "measurement")

    def report(self, ended: bool) -> str:
        """What was found, and the latest figures, as Markdown in the run's folder."""
        step = self.stats[-1].step if self.stats else 0
        lines = ["# What the gradients say", ""]
        lines += [f"{self.basis} up to batch {step:,}: {self.verdict}.", ""]
        lines += [sentence(f"but {self.ended_badly}"), ""] if self.ended_badly else []
        for told in self.told:
            until = "now" if told["until"] is None else f"batch {told['until']:,}"
            lines += [f"## {told['name'].capitalize()}: batch {told['since']:,} to {until}", "", *paragraph(told), ""]
        if self.stats:
            lines += ["## The latest figures", "", *figures(self.stats[-1], self.scores), ""]
            if ended:  # the monitor has drawn them, though the disk may not have taken them yet
                lines += ["Layer by layer, over the run:", ""]
                lines += [f"![{name}](gradients/heatmap_{name}.png)" for name in OPTIMIZER_ORDER[::-1]]
        return said_of(self.kind, "\n".join(lines) + "\n")


def kept(scores: Sequence[Score]) -> list[Score]:
    """The first of some scores, the best, and the latest that rules look at."""
    best = min(scores, key=lambda score: score.fid)
    return [score for score in scores if score in (scores[0], best) or score in scores[-WINDOW:]]


def are_importable(words: Sequence[str]) -> bool:
    """Whether words name no class that is made within a function, or in a script that another process would be."""
    return not any("<locals>" in word or "class_path: __main__." in word for word in words)


def repairs_of(network: nn.Module, shapes: Mapping[str, Any]) -> frozenset[str]:
    """The repairs that can be around a network: it is tried, on a copy."""
    if is_sharded(network):
        return frozenset(REPAIRS)  # a part of a network cannot be tried by one process
    able = {"Logit", "Tanh"}
    of_images = {name: shapes[name] for name in ("image_shape", "num_classes", "condition_shape")}
    for repair, given in ((Normalized, of_images), (Unmixed, {})):
        try:
            repaired = repair(deepcopy(uncompiled(network)).cpu().float(), **given)
            able.add(repair.__name__)
            if isinstance(repaired, Normalized) and adds(repaired.network, repaired.random_inputs(torch.Generator())):
                able.add("ScaledResiduals")
        except Exception:  # of a network of anyone's
            continue
    return frozenset(able)


def refused(trainer: Trainer, pl_module: GAN) -> frozenset[str]:
    """What the run would refuse when it starts, as `gan.lifecycle` does and `gan.parallel`."""
    found, discriminator = set(), pl_module.discriminator
    if trainer.precision in ("16-true", "bf16-true"):
        found.add(PENALTIES)
    if is_compiled(discriminator) or is_sharded(discriminator):
        found.add(TWICE)
    makes_none = hasattr(pl_module.generator, "sample_shape")  # images
    if makes_none or (pl_module.condition_shape is not None and is_conditional(discriminator)):
        found |= {"DiffAugment", "AdaptiveAugment"}
    if pl_module.loss.border is None:
        found.add("AdaptiveAugment")
    return frozenset(found)


def without_histograms(stats: GradientStats) -> GradientStats:
    """Stats without the histograms, which are most of them and which no rule reads."""
    return replace(stats, **{name: replace(network, histograms={}) for name, network in stats.networks.items()})


def sentence(why: str) -> str:
    """A capital in front, a full stop behind."""
    return f"{why[:1].upper()}{why[1:].rstrip('.')}."


def paragraph(told: dict[str, Any]) -> list[str]:
    """A finding in Markdown."""
    lines = [sentence(told["why"]), ""]
    if told["symptoms"]:
        lines += [f"What follows from it: {', '.join(told['symptoms'])}.", ""]
    lines += ["What cures it, the first to try first:", ""]
    for each in unrepeated([Prescription(**each) for each in told["prescriptions"]]):
        settings = f": `{shlex.join(each.settings)}`" if each.settings else ""
        lines.append(f"- {sentence(each.text).rstrip('.')}{settings}")
    return [*lines, "", f"See {told['reference']}."]


def of_the_way(stats: GradientStats) -> str:
    """How far the logits of held-out images are on the way to generated ones', where these are told from real ones."""
    part = stats.by_heart
    known = part is not None and math.isfinite(part)
    return f", {part:.0%} of the way from training images to generated ones" if known else ""


def figures(stats: GradientStats, scores: list[Score]) -> list[str]:
    """The latest figures, as a table."""
    rows = [
        ("gradient that reaches the generated images", f"{stats.image_gradient:.2g}"),
        ("slope of the discriminator at generated images", f"{stats.slope_fake:.2g}"),
        ("its steepest slope", f"{stats.lipschitz:.2g}"),
        ("logit of real, of generated images", f"{stats.logit_real:.2g}, {stats.logit_fake:.2g}"),
        ("distance between generated over between real images", f"{stats.spread:.2g}"),
        (
            "logit of real images held out",
            "not measured: the data holds none out"
            if stats.logit_held_out is None
            else f"{stats.logit_held_out:.2g}{of_the_way(stats)}",
        ),
    ]
    for name, network in stats.networks.items():
        rows.append((f"{name}: gradient at the first layer over the last", f"{network.first_to_last:.2g}"))
        if network.update_ratio is not None:
            rows.append((f"{name}: change of the weights in a batch", f"{network.update_ratio:.2g}"))
    if scores:
        rows.append((f"FID of batch {scores[-1].step:,}", f"{scores[-1].fid:.3g}"))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
