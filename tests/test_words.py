"""A command's words: one place for one path, what they give, and what would do nothing."""

from pathlib import Path

import pytest

from gan.errors import GANError
from gan.words import check_given, given_by, overridden, plain_paths


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", "/disk")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["--config", "-c", "--run_dir", "--resume", "--ckpt_path"])
def test_paths_are_spelled_out(home, name):
    assert plain_paths([f"{name}=~/x", name, "$DISK/y", "--data.root", "~/z"]) == [
        *[f"{name}={home}/x", name, "/disk/y"],
        *["--data.root", "~/z"],  # of a class of the user's, which may know what it wants
    ]
    assert plain_paths([name, "--help"]) == [name, "--help"]
    with pytest.raises(GANError, match=f"{name} s3://b/x is a URL"):
        plain_paths([f"{name}=s3://b/x"])


def test_words_that_are_no_paths():
    words = ["--resume", "auto", "--resume=never", "--model.loss", "Hinge", "word"]
    assert plain_paths(words) == words


def test_what_words_and_configs_give():
    Path("a.yaml").write_text("run_dir: a\ndata: {class_path: own.Data, init_args: {size: 3}}\ntrust: [one]\n", "utf-8")
    words = ["--config", "a.yaml", "--resume=auto", "--model.loss", "other.Loss", "--model.penalties=[]"]
    given = given_by([*words, "--model.generator.init_args.latent_dim", "3", "--trust", "two"])
    assert (given.run_dir, given.resume, given.ckpt_path, given.configs) == ("a", "auto", None, ["a.yaml"])
    assert given.names == {
        *["run_dir", "trust", "data", "data.size"],
        *["model.loss", "model.penalties", "model.generator.latent_dim"],
    }
    assert {"one", "two"} <= given.trust
    assert given_by([]).resume == "never"


@pytest.mark.parametrize("word", ["--config", "-c"])
@pytest.mark.parametrize(("name", "value"), [("resume", "auto"), ("ckpt_path", "a/b.ckpt"), ("run_dir", "there")])
def test_a_config_is_read_by_either_of_its_names(word, name, value):
    Path("a.yaml").write_text(f"{name}: {value}\ndata: {{class_path: own.Data}}\n", "utf-8")
    given = given_by([word, "a.yaml"])
    assert getattr(given, name) == value
    assert given.configs == ["a.yaml"]
    assert given.names == {name, "data"}


IDLE = {
    "data.seed": ["--data.seed", "7"],
    "data.seed, in full": ["--data.init_args.seed=7"],
    "data.seed, within": ["--data", "{class_path: conftest.SmallMNIST, init_args: {seed: 7}}"],
    "model.seed": ["--model.seed", "7"],
    "model.generator.image_shape": ["--model.generator.image_shape", "[1, 8, 8]"],
    "model.discriminator.image_shape": ["--model.discriminator={class_path: X, init_args: {image_shape: [1, 8, 8]}}"],
    "trainer.default_root_dir": ["--trainer.default_root_dir", "there"],
}


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize("case", IDLE)
def test_what_would_do_nothing(case, command):
    name = case.partition(",")[0]
    with pytest.raises(GANError, match=f"--{name} would do nothing: .*Leave it out"):
        check_given(given_by(IDLE[case]).names, command)


@pytest.mark.parametrize(
    "text",
    [
        "data: {init_args: {seed: 7}}",
        "model: {generator: {init_args: {image_shape: [1, 8, 8]}}}",
        "trainer: {default_root_dir: there}",
    ],
)
def test_what_would_do_nothing_in_a_config(text):
    Path("a.yaml").write_text(text, "utf-8")
    with pytest.raises(GANError, match="would do nothing"):
        check_given(given_by(["--config", "a.yaml"]).names, "fit")


def test_what_does_something():
    Path("a.yaml").write_text("seed_everything: 7\ntrainer: {default_root_dir: null}\ndata: {class_path: X}\n", "utf-8")
    check_given(given_by(["--config", "a.yaml", "--model.generator.seed", "3"]).names, "fit")


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["--trainer.max_steps", "7", "--config", "a.yaml"], "--trainer.max_steps"),
        (["--trainer.max_steps=7", "--config=a.yaml"], "--trainer.max_steps"),
        (["--data", "other.Data", "--config", "a.yaml"], "--data"),
        (["--data.init_args.size", "3", "--config", "a.yaml"], "--data.init_args.size"),
        (["--trainer.callbacks+=Timer", "--config", "a.yaml"], "--trainer.callbacks+"),
        (["--config", "a.yaml", "--trainer.max_steps", "7"], None),
        (["--model.n_critic", "7", "--config", "a.yaml"], None),
        (["--data.size", "3", "--config", "b.yaml"], None),
        (["--trainer.callbacks+=Timer", "--config", "b.yaml"], None),
        (["--trainer.max_steps", "7", "--config", "nowhere.yaml"], None),
    ],
)
def test_what_a_later_config_sets_anew(words, idle):
    """The parser takes what comes last."""
    Path("a.yaml").write_text(
        "data: {class_path: own.Data, init_args: {size: 3}}\ntrainer: {max_steps: 3, callbacks: []}\n", "utf-8"
    )
    Path("b.yaml").write_text("trainer: {callbacks+: []}\n", "utf-8")
    line = f"{idle} does nothing before --config a.yaml, which sets it too: put it behind"
    assert [*overridden(words)] == ([line] if idle else [])
    short = [word.replace("--config", "-c") for word in words]
    assert [*overridden(short)] == ([line.replace("--config", "-c")] if idle else [])
