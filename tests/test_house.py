"""The house: who imports whom, which file is tested where, what lies at the top, and how docstrings are written."""

import ast
import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from lightning import Callback

PACKAGE = ROOT / "gan"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up. What shares a floor imports nothing of each other: an import goes down, or stays in its room.
FLOORS = [
    {"errors"},
    {
        "archive",
        "batch",
        "folder",
        "images",
        "normalize",
        "outbox",
        "paths",
        "pickles",
        "repeat",
        "schedule",
        "spec",
        "text",
        "trust",
    },
    {"checkpoints", "events", "suggestions"},
    {"augment", "data", "games", "gradients", "losses", "metrics", "networks", "noise", "optim", "penalties", "terms"},
    {"config", "lab", "loader", "loggers", "muon", "order", "parallel", "rollback", "train_features"},
    {"lifecycle"},
    {"module", "transfer", "weights"},
    {"callbacks", "generate", "resume", "settings", "words"},
    {"run", "trials"},
    {"case"},
    {"cure"},
    {"cli"},
    {""},  # gan/__init__.py, which hands out GAN; who is inside asks gan.module for it
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Modules without a test file of their name, and why.
UNTESTED: dict[str, str] = {}

# Test files without a module of their name, and what they test.
WIDER = {
    "test_benchmarks": "scripts/benchmark.py and scripts/benchmarks/",
    "test_cli_scores": "the scores that the commands print",
    "test_configs": "configs/",
    "test_failures": "configs/failures/ and what the doctor makes of them",
    "test_house": "all files",
    "test_installed": "the package in another locale, as a wheel, and under another name",
    "test_lightning": "Lightning's own callbacks, loggers and schedules beside ours",
    "test_own_features": "docs/scores.md",
    "test_own_step": "docs/own-step.md",
    "test_numbers": "whatever takes a number, and NaN in its place",
    "test_prescriptions": "what the doctor prescribes for the failures that tests/sick.py makes",
    "test_private": "private names of other libraries",
    "test_race": "scripts/benchmarks/race.py, timed.py and published.py",
    "test_readme": "README.md",
    "test_slurm": "scripts/slurm.sh",
    "test_workflows": ".github/workflows/",
    "test_zoo": "scripts/benchmarks/zoo.py and configs/zoo/",
    "callbacks/test_standard": "the callbacks that gan.callbacks gives all at once",
    "lab/test_experiments": "what holds for every experiment of gan/lab",
    "networks/test_networks": "what holds for every network of gan/networks",
    "parallel/test_parallel_gradients": "the callbacks that clip and guard, on several processes",
    "parallel/test_parallel_monitor": "the callback that measures, on several processes",
    "parallel/test_parallel_scores": "the callback that scores, on several processes",
    "parallel/test_parallel_texts": "the data and the scores of texts, on several processes",
    "torture/test_disks": "disks that fill for a while at each kind of write",
    "torture/test_files": "checkpoints that are damaged or malicious, by hundreds",
    "torture/test_groups": "groups of processes that are killed",
    "torture/test_kills": "runs of the shipped configs that are killed",
    "torture/test_pairs": "runs that are started together",
}

TOP = {"gan", "configs", "scripts", "tests", "docs", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
SAYS_NOTHING = {"utils", "util", "core", "common", "helpers", "misc"}


def module_name(file: Path) -> str:
    """`gan.networks.mlp` of gan/networks/mlp.py, and `gan.networks` of its `__init__.py`."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in FILES}


def room(module: str) -> str:
    """What stands on a floor: a module at the root of the package, or a folder."""
    return [*module.split("."), ""][1]


@cache
def imports(module: str) -> dict[str, int]:
    """The modules of the package that `module` imports, in functions and for its types too, and in which line."""
    found = {}
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0):
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in MODULES else node.module for name in whole]
            case ast.ImportFrom():
                raise AssertionError(f"{module}, line {node.lineno}: a relative import says less than gan.x")
            case _:
                continue
        found |= {name: node.lineno for name in names if name.split(".")[0] == "gan"}
    return found


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} <= set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    here = room(module)
    for other, line in imports(module).items():
        assert other in MODULES, f"line {line}: there is no {other}"
        there = room(other)
        assert there == here or FLOOR[there] < FLOOR[here], f"line {line}: {here} must not know {there}"


def test_no_circle():
    graph = {module: set(imports(module)) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


# ---------------------------------------------------------------------- files and names


def modules_and_tests() -> tuple[set[str], set[str]]:
    """The modules, and the test files by the module that they are named after: `networks/mlp` for both of its."""
    modules = {str(file.relative_to(PACKAGE).with_suffix("")) for file in FILES if file.stem != "__init__"}
    files = (file.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("test_*.py"))
    return modules, {str(file.with_name(file.stem.removeprefix("test_"))) for file in files}


def test_every_module_has_its_tests():
    modules, tests = modules_and_tests()
    assert sorted(modules - tests) == sorted(UNTESTED)


def test_every_test_file_has_its_module():
    modules, tests = modules_and_tests()
    wider = {str(Path(name).with_name(Path(name).name.removeprefix("test_"))) for name in WIDER}
    assert sorted(tests - modules) == sorted(wider)


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("gan.callbacks.")])
def test_a_callback_has_the_name_of_its_file(module):
    classes = [value for _, value in own(importlib.import_module(module)) if inspect.isclass(value)]
    names = [value.__name__ for value in classes if issubclass(value, Callback)]
    assert [snake(name) for name in names] == [module.rpartition(".")[2]]


def snake(name: str) -> str:
    """`fid_tracker` of `FIDTracker`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def test_the_top_level_is_what_the_plan_lists():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: what lies here is not all ours")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
    top = {Path(file).parts[0] for file in files if (ROOT / file).exists()}
    assert {name for name in top if not name.startswith(".")} <= TOP


def test_no_name_says_nothing():
    paths = [path for top in ("gan", "configs", "scripts", "tests") for path in (ROOT / top).rglob("*")]
    assert not [str(path.relative_to(ROOT)) for path in paths if path.stem in SAYS_NOTHING]


def unencoded(call: ast.Call) -> bool:
    """Whether a call opens a text without saying that it is UTF-8. Ruff sees it only where it knows of a path."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    given = [value.value for value in (*call.args, *named.values()) if isinstance(value, ast.Constant)]
    of_bytes = ("os.open", "Image.open", "archive.open", "sources.open", "tarfile.open")
    if "encoding" in named or ast.unparse(call.func) in of_bytes:
        return False
    match name:
        case "read_text":
            return not call.args
        case "write_text":
            return len(call.args) < 2
        case "open":
            return not any(isinstance(mode, str) and "b" in mode for mode in given)
        case "run" | "Popen" | "check_output" | "dict":  # of subprocess
            return "text" in named
    return False


@pytest.mark.parametrize("top", ["gan", "scripts", "tests"])
def test_texts_are_utf_8(top):
    for path in sorted((ROOT / top).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        assert not [f"{path}:{call.lineno}" for call in calls if unencoded(call)]


# ---------------------------------------------------------------------- docstrings


def own(thing: ModuleType | type) -> Iterator[tuple[str, object]]:
    """The public functions and classes that are written in a module or a class, not imported or inherited."""
    for name, value in vars(thing).items():
        value = getattr(value, "fget", None) or getattr(value, "__func__", value)  # of a property, of a class method
        written_here = getattr(value, "__module__", None) == (getattr(thing, "__module__", None) or thing.__name__)
        if written_here and not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)):
            yield name, value


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("gan.lab.")])
def test_every_public_method_is_explained(module):
    """By its own docstring or, where it overrides another, by that one's: what `help` shows. Ruff does the rest."""
    for _, cls in own(importlib.import_module(module)):
        for name, _ in own(cls) if inspect.isclass(cls) else ():
            assert inspect.getdoc(inspect.getattr_static(cls, name)) or inspect.getdoc(getattr(cls, name)), (cls, name)


@pytest.mark.parametrize("module", MODULES)
def test_papers_and_errors_have_one_form(module):
    text = MODULES[module].read_text(encoding="utf-8")
    assert not re.findall(r"arXiv(?!:\d{4}\.\d{4,5}\b).{,12}", text, re.DOTALL)
    assert "``" not in text
    nodes = (ast.FunctionDef, ast.ClassDef, ast.Module)
    for node in ast.walk(ast.parse(text)):
        docstring = ast.get_docstring(node) if isinstance(node, nodes) else None
        for errors in re.findall(r"^Raises:\n((?: .*\n?)+)", docstring or "", re.MULTILINE):
            for error in re.findall(r"^    (\S.*)", errors, re.MULTILINE):
                assert re.match(r"\w+: If ", error), error
