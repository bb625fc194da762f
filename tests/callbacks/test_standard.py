"""The callbacks that one call gives are those of the command line."""

from pydoc import locate

import pytest
import yaml
from conftest import SmallMNIST

from gan.callbacks import FIDTracker, GradientMonitor, ImageLogger, RunCheckpoint, standard
from gan.cli import main


def settings(callback) -> dict:
    """What a callback keeps of its arguments, and begins with."""
    kinds = int | float | str | bool | None | tuple | list | dict
    return {name: value for name, value in vars(callback).items() if isinstance(value, kinds)}


def test_they_are_those_of_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    theirs = [locate(each["class_path"])(**each.get("init_args", {})) for each in config]
    ours = standard()
    assert [type(callback) for callback in ours] == [type(callback) for callback in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert settings(one) == settings(two), type(one)
        assert settings(one)


def test_how_often_each_is_due():
    found = {type(callback): callback for callback in standard(pictures=1, checkpoints=2, scores=3, measurements=4)}
    kinds = (ImageLogger, RunCheckpoint, FIDTracker, GradientMonitor)
    assert [getattr(found[kind], "every", None) for kind in kinds] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["pictures", "checkpoints", "scores", "measurements"])
def test_refusals(name):
    with pytest.raises(ValueError, match="at least 1"):
        standard(**{name: 0})


def test_a_run_from_python_is_watched(make_trainer, make_gan, tmp_path, capsys):
    data = SmallMNIST(batch_size=16, validation_size=16)
    make_trainer(max_steps=4, callbacks=standard(measurements=2), enable_progress_bar=True).fit(make_gan(), data)
    assert {"checkpoints", "samples", "report.md", "gradients"} <= {path.name for path in tmp_path.iterdir()}
    assert "doctor  " in capsys.readouterr().out
