"""The accuracy of a discriminator that classifies: right, in every log, and without effect on training."""

import pytest
import torch
from conftest import Halves, Pairs, mnist, same_weights
from lightning import Callback

from gan import GAN
from gan.callbacks import AccuracyTracker, accuracy_tracker
from gan.callbacks.accuracy_tracker import ACCURACY
from gan.errors import GANError
from gan.images import to_float
from gan.networks import ClassifierDCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from gan.terms import SemiSupervised

SHAPE = (1, 28, 28)


class Drops(ClassifierDCGANDiscriminator):
    """One whose training mode gives other logits."""

    def features(self, images):
        return torch.nn.functional.dropout(super().features(images), 0.9, self.training)


def few_labels() -> Halves:
    return Halves(batch_size=16, validation_size=16, labels=40)


def make() -> GAN:
    torch.manual_seed(0)
    return GAN(DCGANGenerator(SHAPE, 8, 4), Drops(SHAPE, 10, 4), classification=SemiSupervised())


class Rows(Callback):
    def __init__(self):
        self.rows = {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        if ACCURACY in trainer.callback_metrics:
            self.rows[trainer.global_step] = float(trainer.callback_metrics[ACCURACY])


def right(gan: GAN) -> float:
    """By hand, of the 256 test images."""
    images, labels = (part[256:] for part in mnist())
    discriminator = gan.discriminator.eval()
    with torch.no_grad():
        return float((discriminator.classify(to_float(images)).argmax(1) == labels).float().mean())


def test_is_the_share_of_right_answers_and_changes_nothing(make_trainer):
    plain, watched, rows = make(), make(), Rows()
    make_trainer(max_steps=8).fit(plain, few_labels())
    trainer = make_trainer(max_steps=8, callbacks=[AccuracyTracker(every=3), rows])
    trainer.fit(watched, few_labels())
    assert same_weights(plain, watched)
    assert min(rows.rows) == 3
    assert float(trainer.callback_metrics[ACCURACY]) == pytest.approx(right(watched), abs=1e-6)
    assert len(set(rows.rows.values())) > 1, "measured once alone"


def test_processes_judge_by_the_buffers_of_the_first(make_trainer, monkeypatch):
    """As a checkpoint has them; what `share_buffers` does is another test's."""
    shared, gan = [], make()
    monkeypatch.setattr(accuracy_tracker, "share_buffers", lambda *which: shared.append(which))
    make_trainer(callbacks=[AccuracyTracker()]).validate(gan, few_labels(), verbose=False)
    assert shared == [(gan, gan.discriminator)]


def test_validate_says_it(make_trainer, capsys):
    gan = make()
    make_trainer(callbacks=[AccuracyTracker()]).validate(gan, few_labels(), verbose=False)
    line = f"Accuracy of the discriminator as a classifier: {right(gan):.2%} of 256 test images"
    assert line in capsys.readouterr().out


def test_what_cannot_be_measured_is_a_line(make_trainer):
    with pytest.raises(GANError, match="every is a number of batches of at least 1, and is 0"):
        AccuracyTracker(every=0)
    other = GAN(MLPGenerator(SHAPE, 8), MLPDiscriminator(SHAPE))
    with pytest.raises(GANError, match=r"MLPDiscriminator has no method classify: give it classify\(images.* or leave"):
        make_trainer(callbacks=[AccuracyTracker()]).fit(other, few_labels())
    gan = GAN(DCGANGenerator(SHAPE, 8, 4), Drops(SHAPE, 10, 4))
    with pytest.raises(GANError, match=r"classes are told apart, and .* has none here: take data with classes"):
        make_trainer(callbacks=[AccuracyTracker()]).fit(gan, Pairs(16, 0))
    other = GAN(DCGANGenerator(SHAPE, 8, 4), ClassifierDCGANDiscriminator(SHAPE, 12, 4))
    with pytest.raises(GANError, match=r"must give logits \(256, 10\), one of each class of the data, got \(256, 12\)"):
        make_trainer(callbacks=[AccuracyTracker()]).validate(other, few_labels())
