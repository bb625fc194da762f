"""Checkpoints that are damaged, or made to do harm: refused in a line, or read as they were written; no code runs.

A run beside whose last checkpoint an older one lies goes on from that.
"""

import json
import os
import pickle
import pickletools
import random
import resource
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
import test_checkpoints
import test_trust
import torch
from commands import equal, load
from test_archive import CONTENT, OTHERWISE, around_records
from test_checkpoints import Virus, damage
from test_pickles import GREEDY
from test_resume import child
from test_trust import SETTINGS, WAYS

from gan import GAN
from gan.archive import seal
from gan.checkpoints import check_checkpoint, newest_whole
from torture.conftest import count
from torture.runs import status

EACH = 100  # of five kinds
checkpoint, mark = test_checkpoints.checkpoint, test_trust.mark  # fixtures


@pytest.fixture(scope="module")
def plain(checkpoint) -> bytes:
    """The same one as torch writes it, without a digest."""
    file = BytesIO()
    torch.save(load(checkpoint), file)
    return file.getvalue()


def check(folder: Path, good: Path, mark: Path, must: bool) -> None:
    """Looks at `last.ckpt` of a folder, as each door does, and as a run that goes on."""
    path = folder / "last.ckpt"
    says = refusal(check_checkpoint, path)
    if says:
        assert str(path) in says
        assert "\n" not in says
        with pytest.raises(ValueError, match="ckpt"):
            GAN.load_from_checkpoint(path, map_location="cpu")
        os.link(good, folder / "step_000003.ckpt")
        found, _, damaged = newest_whole(folder)
        assert found.name == "step_000003.ckpt"
        assert damaged == [path]
    else:
        assert not must, "it is taken"
        assert equal(load(path), load(good))
    assert not mark.exists(), "code has run"


def refusal(door: Callable[[Path], object], path: Path) -> str:
    """The words of what refuses a file; none if it is taken."""
    try:
        door(path)
    except ValueError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------------- damage


def flips(rng, content: bytes, plain: bytes, number: int) -> tuple[bytes, bool]:
    """Of one bit or some, of a sealed one, where each must be seen, and of one without a digest."""
    copy = bytearray(plain if number % 2 else content)
    for place in rng.sample(range(len(copy)), rng.choice([1, 1, 1, 2, 30])):
        copy[place] ^= 1 << rng.randrange(8)
    return bytes(copy), not number % 2


def flips_around_records(rng, content: bytes, plain: bytes, number: int) -> tuple[bytes, bool]:
    """Names, sizes, sums, places: what two readers may differ in."""
    copy, places = bytearray(plain), around_records(plain)
    for place in rng.sample(places, rng.choice([1, 1, 2, 3])):
        copy[place] ^= 1 << rng.randrange(8)
    return bytes(copy), False


def truncations(rng, content: bytes, plain: bytes, number: int) -> tuple[bytes, bool]:
    """At any byte, or one of the last, where the digest and the ends are."""
    whole = plain if number % 2 else content
    return whole[: len(whole) - rng.choice([rng.randrange(1, 200), rng.randrange(1, len(whole) + 1)])], True


def blows(rng, content: bytes, plain: bytes, number: int) -> tuple[bytes, bool]:
    """Zeros, a hole, a doubled part, two that changed places, something behind it."""
    damaged = damage(rng, content)
    return damaged, damaged != content


DAMAGE = {"flips": (flips, flips_around_records), "truncations": (truncations, blows)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged(kind, checkpoint, plain, tmp_path, mark, figure):
    content = checkpoint.read_bytes()
    with figure(f"checkpoints, {kind}") as counted:
        for number in range(count(EACH)):
            way = DAMAGE[kind][number % 2]
            damaged, must = way(random.Random(number), content, plain, number // 2)
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "last.ckpt").write_bytes(damaged)
            with counted.case(f"{way.__name__} {number}"):
                check(folder, checkpoint, mark, must)


# ---------------------------------------------------------------------- what readers differ in


@pytest.mark.slow
def test_tricks_of_archives(checkpoint, tmp_path, mark, figure):
    """Each alone, then with a digest that is right, then two of them."""
    file, names = BytesIO(), list(OTHERWISE)
    torch.save(CONTENT, file)
    with figure("checkpoints, ZIP tricks") as counted:
        for number in range(count(EACH)):
            turn, name = number // len(names), names[number % len(names)]
            tricked = OTHERWISE[name](file.getvalue())
            if turn == 2:
                name = f"{name}, in zeros"
                tricked += bytes(random.Random(number).randrange(1, 3000))
            if turn == 1 and tricked[-2:] == b"\0\0":
                sealed = BytesIO(tricked)
                seal(sealed)
                tricked = sealed.getvalue()
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "last.ckpt").write_bytes(tricked)
            with counted.case(name):
                check(folder, checkpoint, mark, must=True)


# ---------------------------------------------------------------------- pickles

CALLS: list[tuple[str, str, Callable[[Path], tuple]]] = [
    ("os", "system", lambda mark: (f"touch {mark}",)),
    ("posix", "system", lambda mark: (f"touch {mark}",)),
    ("os", "popen", lambda mark: (f"touch {mark}",)),
    ("subprocess", "call", lambda mark: (["touch", str(mark)],)),
    ("subprocess", "Popen", lambda mark: (["touch", str(mark)],)),
    ("builtins", "exec", lambda mark: (f"open({str(mark)!r}, 'w')",)),
    ("builtins", "eval", lambda mark: (f"open({str(mark)!r}, 'w')",)),
    ("builtins", "open", lambda mark: (str(mark), "w")),
    ("io", "open", lambda mark: (str(mark), "w")),
    ("builtins", "__import__", lambda mark: ("evil",)),
    ("importlib", "import_module", lambda mark: ("evil",)),
    ("evil", "Net", lambda mark: ()),
    ("runpy", "run_path", lambda mark: (str(mark.parent / "evil.py"),)),
    ("pathlib", "Path.touch", lambda mark: (mark,)),
    ("os", "mkdir", lambda mark: (str(mark),)),
    ("torch.serialization", "load", lambda mark: (str(mark),)),
    ("torch.hub", "load", lambda mark: (str(mark.parent), "x")),
    ("torch.fx.graph_module", "reduce_graph_module", lambda mark: ({"_code": f"open({str(mark)!r}, 'w')"}, "")),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", lambda mark: (None, "float32", "cpu", False)),
    ("operator", "attrgetter", lambda mark: ("__class__",)),
    ("functools", "partial", lambda mark: (print,)),
]


def named(module: str, name: str, args: tuple) -> bytes:
    """A pickle of `module.name(*args)`: nothing is imported to write it."""
    inside = pickle.dumps(args, protocol=2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + inside + b"R."


def in_place_of_the_data(content: bytes, data: bytes | Callable[[bytes], bytes]) -> bytes:
    """An archive with another pickle, whose sums and digest are right."""
    file = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as one, zipfile.ZipFile(file, "w") as two:
        for name in one.namelist():
            record = one.read(name)
            if name.endswith("data.pkl"):
                record = data(record) if callable(data) else data
            two.writestr(name, record)
    seal(file)
    return file.getvalue()


def within(data: bytes, call: bytes, rng) -> bytes:
    """A pickle that makes the call on its way, at the place of one of its instructions, and drops what comes of it."""
    places = [place for _, _, place in pickletools.genops(data) if place]
    at = rng.choice(places)
    return data[:at] + call[2:-1] + b"0" + data[at:]


def other_words(data: bytes, rng) -> bytes:
    """A pickle with other bytes somewhere, which may be other instructions, numbers or names."""
    copy = bytearray(data)
    for place in rng.sample(range(2, len(copy)), rng.choice([1, 1, 2, 5])):
        copy[place] = rng.randrange(256)
    return bytes(copy)


ENDLESS = b"\x80\x02]q\x00h\x00a."  # a list that holds itself
DEEP = b"\x80\x02" + b"](" * 100_000 + b"e" * 100_000 + b"."
MEMO = b"\x80\x02]r\xff\xff\xff\x7f."  # the place 2^31 in the list of what may be used again


def pickled(rng, content: bytes, mark: Path, number: int) -> tuple[str, bytes, bool]:
    """A name, the file, and whether it must be refused: else it may be harmless."""
    module, name, args = CALLS[number // 5 % len(CALLS)]
    call = named(module, name, args(mark))
    match number % 5:
        case 0:
            return f"{module}.{name}", in_place_of_the_data(content, call), True
        case 1:
            return f"{module}.{name} within", in_place_of_the_data(content, lambda data: within(data, call, rng)), True
        case 2:
            return "other bytes", in_place_of_the_data(content, lambda data: other_words(data, rng)), False
        case 3:
            file, which = BytesIO(), number // 5 % (len(GREEDY) + 3)
            if which >= len(GREEDY):
                raw = (ENDLESS, DEEP, MEMO)[which - len(GREEDY)]
                return f"raw {which}", in_place_of_the_data(content, raw), True
            whole = torch.load(BytesIO(content), weights_only=True)
            name, greedy = list(GREEDY.items())[which]
            torch.save(whole | {"callbacks": {"x": greedy()}}, file)
            return name, file.getvalue(), True
        case _:
            file, virus = BytesIO(), Virus(mark)
            form = number // 5 % 3
            if form == 0:
                torch.save({"state_dict": virus}, file, _use_new_zipfile_serialization=False)
            elif form == 1:
                pickle.dump(virus, file, protocol=number // 5 % 6)
            else:
                torch.save({"state_dict": {"generator.weight": virus}}, file)
            return f"form {form}", file.getvalue(), True


def harmless(folder: Path, mark: Path) -> None:
    """Whatever is read of it is data, and what does not fit is a line."""
    path = folder / "last.ckpt"
    assert "\n" not in refusal(check_checkpoint, path)
    # A checkpoint of plain data may be none of a GAN's: PyTorch has its own words for it.
    with suppress(ValueError, RuntimeError, TypeError, AttributeError, KeyError):
        GAN.load_from_checkpoint(path, map_location="cpu")
    assert not mark.exists(), "code has run"


@pytest.mark.slow
def test_pickles(checkpoint, plain, tmp_path, mark, figure):
    """Each in a process of its own, which may have 4 GB more memory than it has."""
    with figure("checkpoints, pickles") as counted:
        for number in range(count(EACH)):
            folder = tmp_path / str(number)
            folder.mkdir()
            name, content, must = pickled(random.Random(number), plain, mark, number)
            (folder / "last.ckpt").write_bytes(content)

            def look(folder=folder, must=must) -> None:
                pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 4 * 2**30,) * 2)
                resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
                try:
                    check(folder, checkpoint, mark, must) if must else harmless(folder, mark)
                except BaseException as error:
                    Path(f"{folder}.error").write_text(repr(error), encoding="utf-8")
                    raise

            with counted.case(f"{name}, {number}"):
                ended = status(child(look))
                said = Path(f"{folder}.error")
                assert ended == 0, said.read_text(encoding="utf-8") if said.exists() else ended
                assert not mark.exists(), "code has run"


# ---------------------------------------------------------------------- class paths


@pytest.mark.slow
def test_names_of_classes(checkpoint, tmp_path, mark, figure):
    """Each way to name code, in each setting in turn, with a digest that is right."""
    cases = [(way, key) for turn in range(len(SETTINGS)) for way, key in zip(WAYS, (SETTINGS * 9)[turn:], strict=False)]
    with figure("checkpoints, class paths") as counted:
        for number, (way, key) in enumerate(cases[: count(EACH)]):
            content = load(checkpoint)
            spec = WAYS[way][0](mark)
            content["hyper_parameters"][key] = [spec] if key == "penalties" else spec
            path = tmp_path / str(number) / "checkpoints" / "last.ckpt"
            path.parent.mkdir(parents=True)
            torch.save(content, path)
            with counted.case(f"{way}, {key}"):
                with pytest.raises(ValueError, match=f"{WAYS[way][1]}|is not a checkpoint") as refused:
                    GAN.load_from_checkpoint(path, weights_only=True, map_location="cpu")
                assert "\n" not in str(refused.value), json.dumps(str(refused.value))
                assert not mark.exists(), "code has run"
                assert "evil" not in sys.modules
