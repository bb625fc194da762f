"""The README's commands are the ones that work."""

import re
import shlex
import sys

import pytest
from commands import FEW_SCORES, process
from conftest import ROOT

from gan.cli import main
from gan.lab import EXPERIMENTS
from gan.metrics import CNNFeatures, save_features


def bash_lines(text: str) -> list[str]:
    """The lines of a page's ```bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", ".github/README.zh-CN.md")}
README, CHINESE = PAGES.values()
LINES = bash_lines(README)


def test_the_two_lines_of_the_quick_start():
    assert "pip install -e . && python -m gan.cli fit" in LINES
    assert 'pip install -e ".[test]" && pytest' in LINES


def test_ci_runs_the_test_line_of_the_readme():
    ci = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '(.*)' README.md", ci).group(1)
    assert [line for line in README.splitlines() if re.search(pattern, line)] == ['pip install -e ".[test]" && pytest']
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run that the README's commands can use."""
    folder = tmp_path_factory.mktemp("readme") / "run"
    main(["fit", "--config", str(ROOT / "configs/debug/fast.yaml"), "--run_dir", str(folder)])
    return folder


OURS = [line.split("#")[0].strip() for line in LINES if line.startswith("python -m gan.cli")]
OURS += [line for line in re.findall(r"\| `(python -m gan\.cli [^`]*)`", README) if line != "python -m gan.cli fit"]


@pytest.mark.parametrize("line", dict.fromkeys(OURS))
def test_command(line, run, tmp_path, monkeypatch):
    """Each `python -m gan.cli` line of the README, cut short where it trains."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    save_features(CNNFeatures((3, 32, 32)), "flowers.safetensors")
    line = line.replace("RUN", str(run)).replace(
        "my_package.Flowers", "commands.ColourDigits --data.validation_size 16"
    )
    words = shlex.split(line)[3:]
    if words[0] == "fit" and "--resume" not in words:
        words += ["--trainer.max_steps", "3", *FEW_SCORES]
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
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            main(words)
    else:
        main(words)


def test_an_experiment_with_another_ingredient(tmp_path):
    (line,) = [line for line in LINES if line.startswith("python -c")]
    done = process([sys.executable, *shlex.split(line)[1:]], cwd=tmp_path)
    output, errors = done.communicate()
    assert (done.returncode, errors) == (0, "")
    assert output.count("Check(what=") == 5
    assert (tmp_path / "try.png").stat().st_size > 10_000


def test_the_chinese_readme_has_no_commands_of_its_own():
    def words(text):
        return [shlex.split(line, comments=True) for line in bash_lines(text)]

    assert len(words(CHINESE)) > 5
    assert [line for line in words(CHINESE) if line not in words(README)] == []


LINKS = [
    (page, path)
    for page, text in PAGES.items()
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
]


@pytest.mark.parametrize(("page", "path"), LINKS)
def test_link_leads_somewhere(page, path):
    assert (ROOT / page).parent.joinpath(path).exists()


@pytest.mark.parametrize("page", PAGES)
def test_gallery_shows_every_experiment_of_the_lab_in_its_order(page):
    shown = re.findall(r'<img src="[./a-z]*lab/(\w+)\.png" alt="[^"]+"><br><code>(\w+)</code>', PAGES[page])
    assert shown == [(name, name) for name in EXPERIMENTS]


def test_gallery_has_no_picture_of_an_experiment_that_is_gone():
    assert sorted(path.stem for path in (ROOT / ".github" / "lab").iterdir()) == sorted(EXPERIMENTS)
