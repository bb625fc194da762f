"""What the processes of test_parallel_texts.py do: `python written.py FOLDER` starts one, two and three of them."""

import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from conftest import TableLogger
from texts import make_data, make_gan

from gan.callbacks import NgramTracker, TextLogger
from gan.parallel import DDP, replace_lightnings
from parallel import sharded
from parallel.sharded import make_trainer

TEXTS = 730  # two chunks, the last one short, which three processes cannot share evenly


def write(folder: Path) -> None:
    """A run of a few batches that is scored at its start and at its end."""
    processes = sharded.PROCESSES
    own = folder / f"{processes}-{sharded.RANK}"
    own.mkdir()
    data = make_data(own, batch_size=12 // processes)
    gan, table = make_gan(data).double(), TableLogger()
    callbacks = [NgramTracker(every=9, num_samples=TEXTS, final_samples=TEXTS), TextLogger()]
    strategy = "auto" if processes == 1 else DDP(patience=120)
    settings = {"strategy": strategy, "precision": "64-true", "logger": table, "max_steps": 3}
    make_trainer(folder, processes, callbacks, **settings).fit(gan, data)
    scores = {step: row for step, row in table.rows if "ngram/1" in row}
    torch.save([gan.generator.state_dict(), scores], own / "result.pt")


one, two, three = partial(write), partial(write), partial(write)
for job, name in ((one, "one"), (two, "two"), (three, "three")):
    job.__name__ = name

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    replace_lightnings()
    for job, number in ((one, 1), (two, 2), (three, 3)):
        sharded.run(job, number, Path(sys.argv[1]))
