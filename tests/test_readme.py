"""The README's commands are the ones that work."""

import re
import shlex
import sys

import pytest
from commands import FEW_SCORES, process
from conftest import ROOT

from gan.cli import main
from gan.metrics import CNNFeatures, save_features

README = (ROOT / "README.md").read_text()
LINES = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]


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


@pytest.mark.parametrize("line", OURS)
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


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_link_leads_somewhere(path):
    assert (ROOT / path).exists()
