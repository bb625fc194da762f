"""Disks that fill just before a run writes something, for each kind of file that it writes, and have room again later.

A run goes on with a warning, or ends with a line; and when it has gone on to its end, it left what it would have left.
"""

import os
import random
import re
import shutil
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path

import pytest
from commands import load
from test_resume import age, check_same

from torture.conftest import count
from torture.runs import at_each_write, go_to_the_end, start, status, words_of, writes_of

OUTAGES = 3  # of each kind of file


def kind_of(name: str) -> str:
    """`run/checkpoints/step.ckpt.partial` for that of any batch: a name without numbers and letters of chance."""
    name = re.sub(r"tfevents\..*", "tfevents", name)
    return re.sub(r"_?\d+|[0-9a-f]{16,}", "", name)


@pytest.mark.slow
def test_full_for_a_while(disk, tmp_path, monkeypatch, figure):
    """At a first, at a last, and at some write between; for the next few writes, or for the rest of this command."""
    folder, full = disk
    monkeypatch.chdir(tmp_path)
    words, whole = words_of("default"), tmp_path / "whole" / "run"
    whole.parent.mkdir()
    go_to_the_end(whole.parent / "first", words)
    writes = writes_of(whole, words, GAN_CACHE=str(whole.parent / "cache"))
    kinds = {}
    for number, (event, name) in enumerate(writes):
        if event == "open":
            kinds.setdefault(kind_of(name), []).append(number)
    rng, told = random.Random(0), []
    with figure(f"full disks, {type(full).__name__}, {len(kinds)} kinds of files") as counted:
        for kind, numbers in kinds.items():
            for begin in [numbers[0], numbers[-1], rng.choice(numbers)][: count(OUTAGES)]:
                end = begin + rng.choice([3, 10, 30, 10_000])
                own = folder / str(counted.right + len(counted.wrong))
                own.mkdir()
                with counted.case(f"{kind}, from write {begin} to {end}"):
                    told.append(go_through(own, full, begin, end, words))
                    check_same(whole, own / "run")
                shutil.rmtree(own)
    assert sum(told) > len(told) / 2  # some bytes fit into the block that a file has: nothing is to be said then


def go_through(own: Path, full, begin: int, end: int, words: list[str]) -> bool:
    """A run, and one that goes on with it where its end was not done. Returns whether it said that it cannot write."""
    done, was = [], []
    ours, theirs = os.pipe()  # which nothing fills
    fcntl(theirs, F_SETPIPE_SZ, 2**20)

    def one_more(*what) -> None:
        done.append(what)
        if len(done) == begin + 1:
            was.append(full.__enter__())
        elif len(done) == end + 1:
            was.append(full.__exit__())

    def prepare() -> None:
        os.environ["GAN_CACHE"] = str(own / "cache")
        at_each_write(own, one_more)

    ended = status(start(own / "run", words, prepare, log=theirs))
    os.close(theirs)
    with os.fdopen(ours) as file:
        text = file.read()
    if (own.parent / "filler").exists():
        full.__exit__()
    assert "Traceback" not in text, text
    assert ended in (0, 2), text
    if ended == 2:
        assert len(re.findall("^error: ", text, re.MULTILINE)) == 1, text
    assert not list(own.rglob("*.partial")), text
    last = own / "run" / "checkpoints" / "last.ckpt"
    if not last.exists() or "ended" not in load(last):
        age(own / "run")
        go_to_the_end(own / "run", words)
    return "cannot" in text
