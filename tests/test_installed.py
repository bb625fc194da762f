"""The package on other machines: in a locale that is not UTF-8, installed from a wheel, and under another name."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from gan.metrics import fingerprint, load_features

GAN = ["-m", "gan.cli"]

# What Python 3.11 can be told instead of UTF-8; of itself it takes UTF-8 where the locale is C.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}

MINE = """
from conftest import SmallMNIST

class Größe(SmallMNIST):
    extractor = "mnist_cnn"

    def __init__(self, name: str, batch_size: int = 8, seed: int = 42):
        super().__init__(batch_size=batch_size, validation_size=250, seed=seed)
        self.name = name
"""

CONFIG = """
# Zwölf 中文 ×
data: {class_path: mine.Größe, init_args: {name: "Füße, 数字"}}
model:
  generator: {class_path: gan.networks.MLPGenerator, init_args: {latent_dim: 8}}
  discriminator: {class_path: gan.networks.MLPDiscriminator}
trainer: {max_steps: 2, log_every_n_steps: 1, accelerator: cpu}
"""


def run(*words, python=sys.executable, cwd=None, **env) -> subprocess.CompletedProcess:
    """`python WORDS` in a process of its own."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | env
    words = [str(word) for word in (python, *words)]
    return subprocess.run(words, capture_output=True, env=env, cwd=cwd, encoding="utf-8")


def ran(*words, **settings) -> str:
    """What it prints, when all goes well."""
    done = run(*words, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------- another locale


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a config and a data module in letters that ASCII has not."""
    folder = tmp_path / "Üben"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("mine.py").write_text(MINE, encoding="utf-8")
    for name in ("mine.yaml", "größe.yaml"):
        Path(name).write_text(CONFIG, encoding="utf-8")
    return folder


def fast(config: str) -> list:
    return [*GAN, "fit", "--config", ROOT / "configs" / "debug" / "fast.yaml", "--config", config]


def test_locale_c(here):
    """Python knows that it says nothing about letters."""
    assert "Läufe/checkpoints/last.ckpt" in ran(*fast("größe.yaml"), "--run_dir", "Läufe", LC_ALL="C")


@pytest.mark.slow
def test_texts_are_utf_8_in_any_locale(here):
    own = ["--trust", "mine"]
    assert "Gr\\xf6\\xdfe 1x28x28" in ran(*fast("mine.yaml"), "--run_dir", "run", **ASCII)
    config = yaml.safe_load(Path("run/config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["name"] == "Füße, 数字"
    ran(*GAN, "fit", "--run_dir", "run", "--resume", "auto", "--trainer.max_steps", "3", *own, **ASCII)
    assert "Scores of 500 images" in ran(*GAN, "validate", "--ckpt_path", "run", *own, **ASCII)


@pytest.mark.slow
def test_words_are_utf_8_in_any_locale(here):
    folder = Path("Läufe", "第一")
    assert ascii(str(folder))[1:-1] in ran(*fast("größe.yaml"), "--run_dir", folder, **ASCII)
    ran(*GAN, "sample", "--ckpt", folder, "--num", 2, "--out", "Bilder/ä.png", **ASCII)
    ran(*GAN, "export", "--ckpt", folder, "--out", "Bilder/ö.pt2", **ASCII)
    assert sorted(path.name for path in Path("Bilder").iterdir()) == ["ä.png", "ö.pt2"]


@pytest.mark.slow
def test_the_lab_in_another_locale(here):
    """Its mathematics has letters that ASCII has not."""
    output = ran(*GAN, "lab", "loss_curves", "--out", "Übung", **ASCII)
    assert "\\u2212" in output  # a minus
    assert "−" in Path("Übung", "loss_curves", "index.html").read_text(encoding="utf-8")


FROM_PYTHON = """
from pathlib import Path
import lightning as L
from gan import GAN
from gan.callbacks import ImageLogger, RunCheckpoint, RunProgress
from gan.loggers import MetricsTable
from gan.networks import MLPDiscriminator, MLPGenerator
from mine import Größe

data = Größe("é")
callbacks = [ImageLogger(), RunCheckpoint(), RunProgress()]
settings = dict(max_steps=2, accelerator="cpu", enable_model_summary=False, log_every_n_steps=1)
logger = MetricsTable(Path("run"))
trainer = L.Trainer(default_root_dir="run", callbacks=callbacks, logger=logger, **settings)
trainer.fit(GAN(MLPGenerator(data.image_shape), MLPDiscriminator(data.image_shape)), data)
"""


@pytest.mark.slow
def test_from_python_in_another_locale(here):
    """Where nobody has told the output what to do with letters that it has not."""
    Path("train.py").write_text(FROM_PYTHON, encoding="utf-8")
    output = ran("train.py", **ASCII)
    assert "Gr\\xf6\\xdfe 1x28x28" in output
    assert Path("run", "checkpoints", "last.ckpt").is_file()


def test_a_word_of_no_encoding_is_a_line(here):
    done = run(*GAN, "fit", "--run_dir", b"\xff\xfc".decode("utf-8", "surrogateescape"), **ASCII)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --run_dir '\\udcff\\udcfc' cannot be read in this locale")


# ---------------------------------------------------------------------- another name, and a wheel


@pytest.fixture
def copy(tmp_path) -> Path:
    """A repository with all that is in this checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: what lies here is not all ours")
    folder = tmp_path / "copy"
    folder.mkdir()
    list_them = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    for name in subprocess.run(
        list_them, cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for words in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.mark.slow
def test_under_another_name(copy, tmp_path):
    """By the line of the docs; nothing that remains may ask for the old name, in strings and data neither."""
    (line,) = re.findall("^git mv .*", (ROOT / "docs" / "runs.md").read_text(encoding="utf-8"), re.MULTILINE)
    subprocess.run(line, shell=True, cwd=copy, check=True)
    old, new = line.split()[2:4]
    (tmp_path / f"{old}.py").write_text("raise ImportError('the old name')", encoding="utf-8")
    python = {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, copy, copy / "tests")))}
    door, folder = ["-m", f"{new}.cli"], tmp_path / "run"
    words = ["--config", copy / "configs" / "debug" / "fast.yaml", "--data", "commands.Digits", "--run_dir", folder]
    output = ran(*door, "fit", *words, "--data.validation_size", 16, "--trainer.max_steps", 3, **python)
    assert f"by mnist_cnn {fingerprint(load_features('mnist_cnn'))}" in output
    assert old not in re.findall(r"\w+", (folder / "config.yaml").read_text(encoding="utf-8"))
    ran(*door, "validate", "--ckpt_path", folder, "--trust", "commands", **python)
    ran(*door, "sample", "--ckpt", folder, "--out", folder / "digits.png", **python)
    assert "[project.scripts]\n" + f'{new} = "{new}.cli:main"' in (copy / "pyproject.toml").read_text(encoding="utf-8")


OWN_DATA = """
from gan.data import MNISTDataModule

class Folder(MNISTDataModule):
    def load(self, train):
        return tuple(part[:512] for part in super().load(train))
"""


@pytest.mark.slow
def test_from_a_wheel(copy, tmp_path, monkeypatch):
    """Installed in an environment of its own, by the console script and by `python -m`, from an empty folder."""
    pytest.importorskip("hatchling")
    ran("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=copy)
    (wheel,) = (tmp_path / "dist").iterdir()
    ran("-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    ran("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, python=python)
    (site,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")  # all but what is editable there

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("mine.py").write_text(OWN_DATA, encoding="utf-8")
    alone = {"python": python, "PYTHONPATH": ""}
    assert str(site) in ran("-c", "import gan; print(gan.__file__)", **alone)
    gan = [python.with_name("gan")]
    assert "train_features" in ran(*gan, "--help", **alone)
    assert "FashionMNIST" in ran(*gan, "train_features", "--help", **alone)
    few = ["--data", "mine.Folder", "--data.validation_size", "16", "--trainer.max_steps", "5"]
    few += ["--trainer.callbacks+=gan.callbacks.FIDTracker", "--trainer.callbacks.final_samples=100"]
    output = ran(*gan, "fit", "--config", "wgan_gp", "--config", "debug/fast", *few, "--run_dir", "run", **alone)
    assert "Folder 1x28x28" in output
    assert yaml.safe_load(Path("run/config.yaml").read_text(encoding="utf-8"))["model"]["n_critic"] == 5
    assert "1 image of" in ran(*gan, "sample", "--ckpt", "run", "--num", "1", "--out", "one.png", **alone)
    output = ran(*GAN, "fit", "--config", "wgan_gp", "--data", "mine.Folder", "--print_config", **alone)
    assert yaml.safe_load(output)["data"]["class_path"] == "mine.Folder"


DOOR = """
import sys
sys.path[:] = [path for path in sys.path if path]  # a console script has its own folder there
sys.argv[1:] = ["fit", "--data", "mine.Folder", "--print_config"]
from gan.cli import main
main()
"""


@pytest.mark.slow
def test_the_console_script_keeps_its_folder_to_itself(tmp_path, monkeypatch):
    """Where Python is told to, as `python -m` does."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OWN_DATA, encoding="utf-8")
    assert "class_path: mine.Folder" in ran("-c", DOOR)
    assert run("-P", "-c", DOOR).returncode == 2
