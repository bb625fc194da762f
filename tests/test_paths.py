"""A path that a user gives is one place, however it is spelled; and what is no path is no folder."""

from pathlib import Path

import pytest

from gan.errors import GANError
from gan.paths import as_word, local_path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/x", "x"),
        ("~", ""),
        ("$DISK/x", "disk/x"),
        ("${DISK}/x", "disk/x"),
        (Path("~/x"), "x"),
    ],
)
def test_one_place(home, text, path):
    assert local_path(text, "--run_dir") == home / path


@pytest.mark.parametrize("text", ["x", "a/~/b", "x~", "~nobody-of-this-name/x", "5$", "a:b", "C:/x"])
def test_what_a_shell_would_leave_as_it_is(text):
    assert local_path(text, "--run_dir") == Path(text)


def test_a_folder_of_that_name_changes_nothing(home):
    """As one may be left of a program that does not know it."""
    Path("./~").mkdir()
    assert local_path("~/x", "--out") == home / "x"


def test_a_file_whose_name_has_a_dollar():
    Path("$NOTHING").touch()
    assert local_path("$NOTHING", "--out") == Path("$NOTHING")


@pytest.mark.parametrize(
    "text", ["s3://bucket/x", "gs://b/x", "hf://o/r/last.ckpt", "HTTPS://x.org/a.ckpt", "file:///x"]
)
def test_a_url_is_no_path(text):
    with pytest.raises(GANError, match=r"--ckpt \S+ is a URL, .*give its path"):
        local_path(text, "--ckpt")


@pytest.mark.parametrize("text", ["$NOTHING/x", "a/${NOTHING}"])
def test_a_variable_that_is_not_set(text):
    with pytest.raises(GANError, match="the variable NOTHING is not set"):
        local_path(text, "--run_dir")


def test_a_path_that_looks_like_an_option():
    assert as_word(Path("runs/a")) == "runs/a"
    assert as_word(Path("-runs/a")) == str(Path.cwd() / "-runs/a")
