"""Texts of a run: right in every letter, at the right batches, and without effect on training."""

import pytest
from conftest import same_weights
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from texts import SENTENCE, make_data, make_gan

from gan.callbacks import GeneratorEMA, RunProgress, TextLogger
from gan.text import decoded


def test_training_is_bit_identical_with_and_without(make_trainer, tmp_path):
    data = make_data(tmp_path)
    one, two = make_gan(data), make_gan(data)
    make_trainer(callbacks=[TextLogger(every=2)]).fit(one, data)
    make_trainer().fit(two, data)
    assert same_weights(one, two)


def test_files_loggers_and_terminal(make_trainer, tmp_path, capsys):
    data = make_data(tmp_path)
    gan = make_gan(data)
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    callbacks = [GeneratorEMA(), TextLogger(every=3, lines=1), RunProgress()]
    make_trainer(max_steps=8, logger=logger, callbacks=callbacks, enable_progress_bar=True).fit(gan, data)
    samples = tmp_path / "samples"
    steps = (0, 3, 6, 8)
    names = [f"fixed_{step:06d}.txt" for step in steps]
    assert sorted(path.name for path in samples.iterdir()) == [*names, "real.txt"]
    lines = (samples / names[-1]).read_text(encoding="utf-8").splitlines()
    assert lines == decoded(gan(gan.fixed_latents), data.characters)
    assert len(lines) == 6
    real = (samples / "real.txt").read_text(encoding="utf-8").splitlines()
    assert len(real) == 6
    assert all(line in SENTENCE * 2 for line in real)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = events.Tensors("samples/fixed/text_summary")
    assert [each.step for each in logged] == [*steps]
    assert lines[0] in logged[-1].tensor_proto.string_val[0].decode()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("text ")]
    assert [line.split(":")[0].split()[-1] for line in said] == [str(step) for step in steps]
    assert said[-1].endswith(f"batch 8: {lines[0]}".rstrip())


def test_control_characters_do_not_steer_the_terminal(make_trainer, tmp_path, capsys, monkeypatch):
    data = make_data(tmp_path)
    monkeypatch.setattr("gan.callbacks.text_logger.decoded", lambda *_: ["red \x1b[31m"] * 6)
    callbacks = [TextLogger(lines=1), RunProgress()]
    make_trainer(max_steps=1, callbacks=callbacks, enable_progress_bar=True).fit(make_gan(data), data)
    assert r"batch 1: red \x1b[31m" in capsys.readouterr().out
    assert (tmp_path / "samples" / "real.txt").read_text(encoding="utf-8") == "red \x1b[31m\n" * 6


@pytest.mark.parametrize(("settings", "error"), [({"every": 0}, "every must be"), ({"lines": -1}, "lines must be")])
def test_bad_settings_are_one_line(settings, error):
    with pytest.raises(ValueError, match=f"TextLogger's {error}"):
        TextLogger(**settings)


def test_images_are_refused_with_the_way_out(make_trainer, make_gan, data):
    with pytest.raises(ValueError, match=r"^TextLogger is for texts, and MLPGenerator makes none: use ImageLogger$"):
        make_trainer(callbacks=[TextLogger()]).fit(make_gan(), data)
