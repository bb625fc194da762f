"""What the text recipe comes to: n-gram divergences at the start and the end of runs, and their floor."""

import argparse
import json
from pathlib import Path
from statistics import mean

from benchmarks.runs import gan
from gan.run import CONFIGS


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
    """The scores of a run, by those of its first and of its last batch, and the seconds of one core that it took."""
    kept = run_dir / "scores.json"
    if not kept.exists():
        words = ["--config", CONFIGS / "text.yaml", "--run_dir", run_dir, "--resume", "auto", "--seed_everything", seed]
        scores = {"seconds": gan("fit", *words)}
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()]
        rows = [row for row in rows if "ngram/1" in row]
        for n in (1, 2, 3, 4):
            scores |= {f"start/{n}": rows[0][f"ngram/{n}"], f"end/{n}": rows[-1][f"ngram/{n}"]}
            scores[f"floor/{n}"] = rows[-1][f"ngram_floor/{n}"]
        kept.write_text(json.dumps(scores), encoding="utf-8")
    return json.loads(kept.read_text("utf-8"))
