"""What the README and the pages beside it say works: their commands, their Python, their links, the tree."""

import contextlib
import re
import shlex
import sys

import pytest
import shards
import torch
from commands import FEW_SCORES, FEW_TEXTS, PAIRS, TRANSLATION, fit, process
from conftest import ROOT
from lightning import LightningDataModule, Trainer
from pictures import fill, fill_classes, zipped
from PIL import Image
from texts import TEXT, small_text

from gan import GAN
from gan.cli import main
from gan.lab import EXPERIMENTS
from gan.metrics import CNNFeatures, ImageFeatures, save_features
from gan.networks import MLPDiscriminator, MLPGenerator


def bash_lines(text: str) -> list[str]:
    """The lines of a page's ```bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").glob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in PATHS}
CHINESE = {name: text for name, text in PAGES.items() if name.endswith(".zh-CN.md")}
ENGLISH = {name: text for name, text in PAGES.items() if name not in CHINESE}
README = PAGES["README.md"]
LINES = [line for text in ENGLISH.values() for line in bash_lines(text)]


def test_the_readme_is_short():
    """It is within 1,000 words beside its tree, comes to that within 120 lines, and leads to all of docs."""
    tree = re.search(r"```\ngan/\n.*?```", README, re.S).group(0)
    assert len(README.split()) - len(tree.split()) <= 1000
    assert max(len(line.split()) for line in tree.splitlines()) <= 10
    assert README[: README.index("gan/\n  cli.py")].count("\n") < 120
    assert {name for name in ENGLISH if name.startswith("docs/")} <= set(links(README))


def test_the_two_lines_of_the_quick_start():
    assert "pip install -e . && python -m gan.cli fit" in bash_lines(README)
    assert 'pip install -e ".[test]" && pytest' in bash_lines(README)


def test_ci_runs_the_test_line_of_the_readme():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -E '(.*)' README.md", ci).group(1)
    assert [line for line in README.splitlines() if re.search(pattern, line)] == ['pip install -e ".[test]" && pytest']
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run that the README's commands can use."""
    folder = tmp_path_factory.mktemp("readme") / "run"
    main(["fit", "--config", str(ROOT / "configs/debug/fast.yaml"), "--run_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    """A short run on digits in another range, which the doctor knows at once."""
    folder = tmp_path_factory.mktemp("readme") / "ill"
    words = ["--data", "gan.lab.unscaled.UnscaledMNIST", "--trainer.max_steps", "2", *FEW_SCORES]
    main(["fit", "--config", str(ROOT / "configs/debug/fast.yaml"), *words, "--run_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A short run of a generator of texts."""
    folder = tmp_path_factory.mktemp("readme")
    small_text(folder)
    with contextlib.chdir(folder):
        main(["fit", *TEXT, "--trainer.max_steps", "2", "--run_dir", "run"])
    return folder / "run"


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A short run of a generator that is told images of 7x7."""
    return fit(tmp_path_factory.mktemp("readme") / "translator", *PAIRS, "gan.data.Downsample", *TRANSLATION)


OURS = [
    line.split("#")[0].strip()
    for line in LINES
    if line.startswith("python -m gan.cli") and "train_features" not in line
]
OURS += [
    line
    for text in ENGLISH.values()
    for line in re.findall(r"\| `(python -m gan\.cli [^`]*)`", text)
    if line != "python -m gan.cli fit"
]


@pytest.mark.parametrize("line", dict.fromkeys(OURS))
def test_command(line, request, tmp_path, monkeypatch):
    """Each `python -m gan.cli` line of the pages, cut short where it trains."""
    words = shlex.split(line)
    needed = "writer" if ".txt" in line else {"translate": "translator", "cure": "ill"}.get(words[3], "run")
    run = request.getfixturevalue(needed)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for folder, size in (("sources", 7), ("edges", 16), ("shoes", 16)):
        (tmp_path / folder).mkdir()
        for number in range(100):
            Image.new("L", (size, size), number).save(tmp_path / folder / f"{number}.png")
    save_features(CNNFeatures((3, 32, 32)), "flowers.safetensors")
    save_features(ImageFeatures((3, 64, 64)), "photos.safetensors")
    if "my.txt" in line:
        small_text(tmp_path).rename(tmp_path / "my.txt")
    if "photos" in line:
        photos = fill(tmp_path / "photos", 160)
        zipped(tmp_path / "photos.zip", {file.name: file.read_bytes() for file in photos.iterdir()})
    if "animals" in line:
        fill_classes(tmp_path / "animals", {"cats": 80, "dogs": 80})
    if "shards/" in line:
        pytest.importorskip("litdata", reason="data in shards needs LitData: pip install gan[stream]")
        for name in ("train", "test"):
            shards.write(tmp_path / "shards" / name, shards.samples(160, classes=9), each=40)
    line = line.replace("RUN", str(run)).replace(
        "my_package.Flowers", "commands.ColourDigits --data.validation_size 16"
    )
    words = shlex.split(line)[3:]
    if words[0] == "fit" and "--resume" not in words:
        words += ["--trainer.max_steps", "3", *(FEW_TEXTS if "text" in words else FEW_SCORES)]
        for network in ("generator", "discriminator"):
            words += [f"--model.{network}_scheduler", "null"]
    if "--resume" in words:
        words += ["--trainer.max_steps", "22"]
    if words[0] == "fit" and "--trainer.devices" in words:
        words += ["--trainer.accelerator", "cpu", "--run_dir", "run"]
        started = process([sys.executable, "-m", "gan.cli", *words])
        _, errors = started.communicate()
        assert (started.returncode, errors) == (0, "")
        return
    if "--help" in words or words[0] == "cure":
        with pytest.raises(SystemExit, match="1" if words[0] == "cure" else "0"):  # two batches heal nothing
            main(words)
    else:
        main(words)


@pytest.mark.slow
def test_an_experiment_with_another_ingredient(tmp_path):
    (line,) = [line for line in LINES if line.startswith("python -c")]
    done = process([sys.executable, *shlex.split(line)[1:]], cwd=tmp_path)
    output, errors = done.communicate()
    assert (done.returncode, errors) == (0, "")
    assert output.count("Check(what=") == 5
    assert (tmp_path / "try.png").stat().st_size > 10_000


ELSEWHERE = {  # the kinds of lines that other tests run
    'pip install "gan[stream]"': "tests/data/test_stream.py needs it",
    "pip install -e": "test_ci_runs_the_test_line_of_the_readme, and .ci/run",
    "tensorboard --logdir": "tests/test_loggers.py reads the events",
    "python scripts/benchmark.py": "tests/test_benchmarks.py",
    "python -m gan.cli train_features": "tests/test_train_features.py",
    "python -c": "test_an_experiment_with_another_ingredient",
    "pytest": "tests name themselves",
    "git mv": "tests/test_installed.py",
    "ruff": ".ci/run",
    ".ci/": ".ci/run",
}


def test_no_line_is_left_untested():
    untested = [
        line for line in LINES if line.split("#")[0].strip() not in OURS and not line.startswith(tuple(ELSEWHERE))
    ]
    assert untested == []


SETTINGS = {
    words
    for text in PAGES.values()
    # Not those of the table of failures, which are for these: tests/test_failures.py holds them.
    for words in re.findall(r"`(--(?:data|model|trainer)[ .][^`]+)`", re.sub(r"(?m)^\| `\w+\.yaml`.*$", "", text))
    if not re.search(r"\.\.\.|NAME|FILE", words)
}


@pytest.mark.parametrize("words", sorted(SETTINGS))
def test_settings_within_the_text_exist(words, capsys):
    words = words.replace("my_package.MyGenerator", "commands.OwnGenerator").replace(
        "my_package.Flowers", "commands.Colour"
    )
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *shlex.split(words), "--print_config"])
    assert "class_path" in capsys.readouterr().out


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """What the pages' Python reads, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 64, 64), generator=rng, dtype=torch.uint8)
    for name in ("train.pt", "test.pt"):
        torch.save({"images": images, "labels": torch.arange(32) % 5}, name)


TRIED_WHOLE = {  # blocks that need each other, or a file
    "docs/own-step.md": "test_own_step.py",
    "docs/scores.md": "test_own_features.py",
}
BLOCKS = [
    (page, number)
    for page, text in PAGES.items()
    if page not in TRIED_WHOLE
    for number, block in enumerate(python_blocks(text))
    if "litdata" not in block  # tests/data/test_stream.py writes shards by it
]


@pytest.mark.parametrize(("page", "number"), BLOCKS)
def test_python_runs(page, number, flowers):
    """Each block of Python, cut short where it trains; a data module of it trains too."""
    block = re.sub(
        r"max_steps=\d+",
        "max_steps=2, accelerator='cpu'",
        python_blocks(PAGES[page])[number],
    )
    names = {"__name__": "block"}
    exec(compile(block, page, "exec"), names)
    for found in list(names.values()):
        if isinstance(found, type) and found.__module__ == "block" and issubclass(found, LightningDataModule):
            data = found(batch_size=8, validation_size=8)
            model = GAN(MLPGenerator(data.image_shape), MLPDiscriminator(data.image_shape))
            trainer = Trainer(
                max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
            )
            trainer.fit(model, data)
            names["trainer"] = trainer
    assert names["trainer"].global_step == 2


@pytest.mark.parametrize("page", CHINESE)
def test_chinese_pages_have_no_commands_of_their_own(page):
    def words(lines):
        return [shlex.split(line, comments=True) for line in lines]

    assert [line for line in words(bash_lines(CHINESE[page])) if line not in words(LINES)] == []


def test_chinese_pages_have_commands():
    assert sum(len(bash_lines(text)) for text in CHINESE.values()) > 5


def links(text: str) -> list[str]:
    """The files that a page links to or shows, with the `#heading` in them."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return re.findall(r"\]\((?!http)([^)]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)


def headings(text: str) -> set[str]:
    """What GitHub calls a page's headings in a link."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "link"), [(page, link) for page, text in PAGES.items() for link in links(text)])
def test_link_leads_somewhere(page, link):
    path, _, heading = link.partition("#")
    target = (ROOT / page).parent.joinpath(path) if path else ROOT / page
    assert target.exists()
    assert not heading or heading in headings(target.read_text("utf-8"))


def recipes(text: str) -> dict[str, str]:
    """The FID of each config in a page's table."""
    return dict(re.findall(r"^\| \[`(\w+\.yaml)`\][^|]*\|[^|]*\|[^|]*\| ([\d.]+)", text, re.M))


def test_the_pages_agree_on_the_recipes():
    measured = recipes(PAGES["docs/measured.md"])
    assert set(measured) == {path.name for path in (ROOT / "configs").glob("*.yaml")} - {"text.yaml"}  # has no FID
    assert recipes(README) == recipes(PAGES[".github/README.zh-CN.md"]) == measured


def tree(text: str) -> dict[str, str]:
    """The files and folders of a page's tree, folders with a slash at their end, and what is said of each."""
    (block,) = re.findall(r"```\n(gan/\n.*?)```", text, re.S)
    found, folders = {}, []
    for line in block.splitlines():
        indent, name, what = re.fullmatch(r"( *)(\S+) *(.*)", line).groups()
        folders = folders[: len(indent) // 2]
        found["".join([*folders, name])] = what
        if name.endswith("/"):
            folders.append(name)
    return found


PACKAGE = {str(path.relative_to(ROOT)) for path in (ROOT / "gan").rglob("*.py") if path.name != "__init__.py"}


def test_the_tree_of_the_readme_is_that_of_the_package():
    listed = tree(README)
    assert {path for path in listed if path.endswith(".py")} == PACKAGE
    for path, what in listed.items():
        assert (ROOT / path).exists()
        assert path.endswith("/") or 2 <= len(what.split()) <= 8, path
    top = {path.split("/")[0] for path in PACKAGE} | {"configs", "scripts", "tests", "docs"}
    assert {path.split("/")[0] for path in listed} == top


def test_the_tree_of_the_chinese_readme_has_the_folders():
    folders = {f"{path.rsplit('/', 1)[0]}/" for path in PACKAGE}
    listed = tree(PAGES[".github/README.zh-CN.md"])
    assert {path for path in listed if path.startswith("gan/")} == folders
    assert all((ROOT / path).is_dir() for path in listed)


@pytest.mark.parametrize("page", ["docs/lab.md", "docs/lab.zh-CN.md"])
def test_gallery_shows_every_experiment_of_the_lab_in_its_order(page):
    shown = re.findall(r'<img src="[./a-z]*lab/(\w+)\.png" alt="[^"]+"><br><code>(\w+)</code>', PAGES[page])
    assert shown == [(name, name) for name in EXPERIMENTS]


def test_gallery_has_no_picture_of_an_experiment_that_is_gone():
    assert sorted(path.stem for path in (ROOT / ".github" / "lab").iterdir()) == sorted(EXPERIMENTS)
