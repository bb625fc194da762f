"""A race to a fixed FID: seconds of training of the default, the speed run, a plain loop and two published scripts.

The clock is that of `timed`. Start-up is given beside it, and so is what the scores took. FID is of 10,000 images
against the test images, by the averaged generator where a competitor has one; KID and coverage are measured at the end.

A rate that falls does so over all of `--seconds`: a row is one run, and what it has reached before its end it has
reached with a rate that is still high. The best after 20 seconds is told by `--seconds 20`.

A seed that a competitor has run is kept in `--out`, for these seconds, and not run again: each state of the code
wants a folder of its own.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.bare_loop import bare_loop
from benchmarks.published import MLP, Upsampling, dropping_out, mlp_discriminator, published_loop
from benchmarks.recipes import RECIPES
from benchmarks.report import spread, table
from benchmarks.timed import Clock, Judge, Make, Scores, by_config, keep
from gan.callbacks.non_finite_guard import NonFiniteGradient
from gan.cli import keep_memory
from gan.data import MNISTDataModule
from gan.metrics.feature_cache import CHUNK
from gan.networks import DCGANDiscriminator, DCGANGenerator
from gan.networks.modes import evaluating
from gan.noise import keyed

Result = dict[str, Any]

SHAPE = MNISTDataModule.image_shape
BORDER = 2  # pixels of black around a digit, for networks of 32 x 32: resized, digits would be blurred
TIMES = (1, 2, 3, 5, 8, 13, 20, 35, 60, 120, 300, 600)  # seconds of training after which images are scored
FIRST, SECOND = "mnist_cnn", "second"
CLASSIC = "dcgan"  # whose quality is the target
TARGET_SECONDS = 120  # after which it has it
OUT_OF_IT = ("superres", "inpaint")  # told images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    configs = [config for config in RECIPES if config not in OUT_OF_IT]
    parser.add_argument(
        "--competitors", nargs="+", default=[*COMPETITORS], choices=[*dict.fromkeys([*COMPETITORS, *configs])]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="of the runs of each")
    parser.add_argument("--seconds", type=float, default=120, help="of training in a run")
    parser.add_argument(
        "--target", type=float, help=f"FID to reach; {CLASSIC}'s after {TARGET_SECONDS} s, or at its end, if not given"
    )
    parser.add_argument("--second-extractor", type=Path, help="file of `train_features`, whose scores stand beside")
    parser.add_argument("--out", type=Path, default=Path("runs/race"), help="folder of what is measured")


def measure(settings: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    keep_memory()
    settings.out.mkdir(parents=True, exist_ok=True)
    judges = {FIRST: Judge(FIRST)}
    if settings.second_extractor is not None:
        judges[SECOND] = Judge(settings.second_extractor)
    results: dict[str, list[Result]] = {competitor: [] for competitor in settings.competitors}
    for seed in settings.seeds:  # all competitors before the next seed: what is stopped has something to compare
        for competitor in settings.competitors:
            results[competitor].append(raced(settings, competitor, seed, judges))
    for line in report(settings, results, {name: judge.id for name, judge in judges.items()}):
        print(line)


def times_until(seconds: float) -> list[float]:
    """When a run of so many seconds is scored."""
    return [*(each for each in TIMES if each < seconds), seconds]


def judged(judges: dict[str, Judge], make: Make, last: bool) -> Scores:
    """The scores of all judges, those of the second by names of their own."""
    of_judges = {name: judge.scores(make, last) for name, judge in judges.items()}
    second = {f"{name} by {SECOND}": value for name, value in of_judges.get(SECOND, {}).items()}
    return of_judges[FIRST] | second


# ---------------------------------------------------------------------- competitors


Network = tuple[nn.Module, Iterator[Tensor]]  # a generator, and the loop that trains it


def by_hand(make_loop: Callable[[int], Network], seed: int, clock: Clock) -> None:
    """Trains by a loop."""
    torch.manual_seed(seed)
    generator, loop = make_loop(seed)

    @torch.no_grad()
    def make(number: int) -> Tensor:
        latents = torch.randn(CHUNK, cast(int, generator.latent_dim), generator=keyed(seed, "race", number))
        with evaluating(generator):
            images = generator(latents)
        border = (images.shape[-1] - SHAPE[-1]) // 2
        return images[..., border : border + SHAPE[-2], border : border + SHAPE[-1]]

    clock.begin()
    while clock.tick(len(next(loop)), make):
        pass


def batches(batch_size: int, seed: int, border: int = 0) -> Iterator[Tensor]:
    """Training images (N, 1, 28, 28), again and again, with a border of black pixels around them."""
    data = MNISTDataModule(batch_size, seed=seed)
    data.setup()  # here, and not in the generator, whose first `next` is on the clock
    return (pad(images, [border] * 4, value=-1) for _ in count() for images, _ in data.train_dataloader())


def bare(seed: int) -> Network:
    """The default's networks, penalty and optimizer, without average and schedule."""
    data = MNISTDataModule(64, seed=seed)
    data.setup()
    generator, discriminator = DCGANGenerator(SHAPE, 16, modulation=64), DCGANDiscriminator(SHAPE, 16)
    return generator, bare_loop(generator, discriminator, data, one_pass=True, lr=0.004, betas=(0.0, 0.9))


def mlp(seed: int) -> Network:
    """The MLP GAN of Lightning's example."""
    generator = MLP(SHAPE)
    return generator, published_loop(generator, mlp_discriminator(SHAPE), batches(256, seed))


def dcgan(seed: int) -> Network:
    """The classic DCGAN script."""
    generator = Upsampling()
    return generator, published_loop(generator, dropping_out(), batches(64, seed, BORDER))


BY_HAND = {"bare": bare, "mlp": mlp, CLASSIC: dcgan}
COMPETITORS = ("default", "speedrun", *BY_HAND)


def raced(settings: argparse.Namespace, competitor: str, seed: int, judges: dict[str, Judge]) -> Result:
    """What a competitor has come to with a seed; kept in the folder."""
    kept = settings.out / f"{competitor}-{settings.seconds:g}-{seed}.json"
    if not kept.exists():
        clock = Clock(times_until(settings.seconds), lambda make, last: judged(judges, make, last))
        if competitor in BY_HAND:
            by_hand(BY_HAND[competitor], seed, clock)
        else:
            with tempfile.TemporaryDirectory() as folder, suppress(NonFiniteGradient):  # one that dies has missed
                by_config(competitor, seed, clock, Path(folder, "run"))
        seconds = clock.seconds if len(clock.rows) < len(clock.times) else clock.rows[-1]["at"]
        dead = [{"after": each, "at": each, "fid": math.inf} for each in clock.times[len(clock.rows) :]]
        result = {"rows": clock.rows + dead, "start_up": clock.start_up, "scoring": clock.scoring}
        result["images_per_second"] = clock.images / seconds
        keep(kept, result)
    return json.loads(kept.read_text("utf-8"))


# ---------------------------------------------------------------------- the table


def report(settings: argparse.Namespace, results: dict[str, list[Result]], ids: dict[str, str]) -> Iterator[str]:
    """The lines of both tables, or of three."""
    target, there = settings.target, min(TARGET_SECONDS, settings.seconds)
    if target is None and CLASSIC not in results:
        sys.exit(f"race: without {CLASSIC} among the competitors, give the FID to reach by --target")
    if target is None:
        target = median(after(result, there)["fid"] for result in results[CLASSIC])
    times = {name: [time_to(result["rows"], target) for result in of_one] for name, of_one in results.items()}
    yield f"race      seeds {', '.join(map(str, settings.seeds))}; {settings.seconds:g} s of training of one core"
    yield f"race      FID of 10,000 images by {', '.join(f'{name} {id_}' for name, id_ in ids.items())}"
    yield ""
    yield from table(
        [
            "competitor",
            f"seconds to FID {target:.2f}",
            f"of {there:g} s, times as fast",
            "missed",
            "images/s",
            "KID x 1000",
            "coverage",
            "start-up, s",
            "scoring, s",
        ],
        (overview(name, of_one, times[name], there) for name, of_one in results.items()),
    )
    for score in ("fid", f"fid by {SECOND}"):
        measured = {name: with_score(of_one, score) for name, of_one in results.items()}
        if any(measured.values()):
            ends = [row["after"] for row in next(iter(results.values()))[0]["rows"]]
            yield ""
            yield from table(
                [score.replace("fid", "FID"), *(f"{end:g} s" for end in ends)],
                ([name, *by_time(of_one, score, ends)] for name, of_one in measured.items()),
            )


def overview(name: str, results: list[Result], times: list[float], there: float) -> list[str]:
    """A competitor's row: medians over the seeds, and the least and the most of them.

    Args:
        name: Its name.
        results: Of its seeds.
        times: Seconds of training until each has come to the target.
        there: Seconds after which the classic script has, by definition: its FID falls and rises, so that a seed may
            have been there before, and another never.
    """
    last = [result["rows"][-1] for result in results]
    return [
        name,
        spread(times, "{:.1f}"),
        f"{there / median(times):.1f}",
        f"{missed(times):.0%}",
        spread((result["images_per_second"] for result in results), "{:,.0f}"),
        spread((1000 * row.get("kid", math.nan) for row in last), "{:.1f}"),
        spread((row.get("coverage", math.nan) for row in last), "{:.3f}"),
        spread((result["start_up"] for result in results), "{:.1f}"),
        spread((result["scoring"] for result in results), "{:.0f}"),
    ]


def by_time(results: list[Result], score: str, ends: Sequence[float]) -> list[str]:
    """A competitor's scores after each time, as in `overview`; nothing where none was taken."""
    return [spread((after(result, end)[score] for result in results), "{:.2f}") if results else "" for end in ends]


def with_score(results: list[Result], score: str) -> list[Result]:
    """Those that have it."""
    return [result for result in results if all(score in row for row in result["rows"])]


def after(result: Result, seconds: float) -> Scores:
    """The scores after so many seconds."""
    return next(row for row in result["rows"] if row["after"] == seconds)


def missed(times: Sequence[float]) -> float:
    """The share of runs that have not come to the target."""
    return sum(map(math.isinf, times)) / len(times)


def time_to(rows: Sequence[Scores], target: float) -> float:
    """Seconds until FID is down at the target, infinite if it does not come there.

    Between two scores by a straight line through the logarithms of both time and FID. At the first score, or after one
    that is infinite, by when it was taken, which is later.
    """
    for before, row in zip([None, *rows], rows, strict=False):
        if row["fid"] <= target:
            if before is None or math.isinf(before["fid"]):
                return row["at"]
            share = math.log(before["fid"] / target) / math.log(before["fid"] / row["fid"])
            return before["at"] * (row["at"] / before["at"]) ** share
    return math.inf
