"""What the text recipe comes to: n-gram divergences at the start and the end of runs, and their floor."""

import argparse
import json
from pathlib import Path
from statistics import mean

from benchmarks.runs import gan
from gan.run import CONFIGS

START, END = "ngram/1", "ngram_of_end/1"  # the second by more texts, as are the floors beside it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the runs")
    parser.add_argument("--out", type=Path, default=Path("runs/text"), help="folder of the runs; whole ones stay")


def measure(settings: argparse.Namespace) -> None:
    runs = [train(settings.out / f"text-{seed}", seed) for seed in settings.seeds]
    print(f"text      seeds {', '.join(map(str, settings.seeds))}; each in one thread, ", end="")
    print(f"{mean(run['seconds'] for run in runs):.0f} seconds of one core\n")
    print("| characters | start | end | times lower | floor | end over floor |\n|---|---|---|---|---|---|")
    for n in (1, 2, 3, 4):
        start, end, floor = ([run[f"{what}/{n}"] for run in runs] for what in ("start", "end", "floor"))
        ratios = [f"{mean(one) / mean(other):.1f}" for one, other in ((start, end), (end, floor))]
        cells = f"{mean(end):.4f} ({min(end):.4f} to {max(end):.4f}) | {ratios[0]} | {mean(floor):.4f} | {ratios[1]}"
        print(f"| {n} | {mean(start):.3f} | {cells} |")


def train(run_dir: Path, seed: int) -> dict[str, float]:
    """The scores of a run before its first batch and at its end, and the seconds of one core that it took."""
    kept = run_dir / "scores.json"
    if not kept.exists():
        words = ["--config", CONFIGS / "text.yaml", "--run_dir", run_dir, "--resume", "auto", "--seed_everything", seed]
        scores = {"seconds": gan("fit", *words)}
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()]
        first, last = (next(row for row in some if name in row) for some, name in ((rows, START), (rows[::-1], END)))
        for n in (1, 2, 3, 4):
            scores |= {f"start/{n}": first[f"ngram/{n}"], f"end/{n}": last[f"ngram_of_end/{n}"]}
            scores[f"floor/{n}"] = last[f"ngram_floor_of_end/{n}"]
        kept.write_text(json.dumps(scores), encoding="utf-8")
    return json.loads(kept.read_text("utf-8"))
