"""How many test images a discriminator that is a classifier tells right, as it trains and in `validate`."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from torchmetrics.classification import MulticlassAccuracy

from gan.batch import as_pair
from gan.callbacks.run_progress import ends_with_epoch, say
from gan.errors import GANError, counted
from gan.module import GAN
from gan.networks import evaluating
from gan.noise import keyed, seed_all
from gan.spec import class_name
from gan.weights import share_buffers

ACCURACY = "accuracy/test"


class AccuracyTracker(Callback):
    """Measures the accuracy of a discriminator's `classify` on the test images, by the weights of the last batch.

    The scalar is `accuracy/test`, 0 to 1: every `every` batches and at the end of a run, where a line says it too, and
    in `validate` and `test`. In evaluation mode, and nothing here touches training.

    Args:
        every: Batches between two measurements.

    Raises:
        ValueError: If `every` is below 1, the discriminator has no `classify`, or there are no test images with labels.
    """

    def __init__(self, every: int = 500) -> None:
        if not every >= 1:
            raise GANError(f"AccuracyTracker's every is a number of batches of at least 1, and is {every}")
        self.every = every

    def setup(self, trainer: Trainer, pl_module: GAN, stage: str) -> None:
        discriminator = pl_module.discriminator
        if not hasattr(discriminator, "classify"):
            raise GANError(
                f"AccuracyTracker needs a discriminator that classifies, and {class_name(discriminator)} has no method "
                "classify: give it classify(images (N, C, H, W)) that returns logits (N, K) of the K classes, take "
                "ClassifierDCGANDiscriminator, or leave AccuracyTracker out"
            )
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        classes = getattr(data, "num_classes", 1)
        if classes < 2 or getattr(data, "condition_shape", None) is not None:
            raise GANError(
                f"AccuracyTracker measures how well classes are told apart, and {type(data).__name__} has none here: "
                "take data with classes, or train without a classifier and leave AccuracyTracker out"
            )
        self.num_classes, self.loader, self.measured_at = classes, None, -1

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        pl_module.scores = {*pl_module.scores, ACCURACY}

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.track(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if ends_with_epoch(trainer):
            self.track(trainer, pl_module)

    def track(self, trainer: Trainer, pl_module: GAN) -> None:
        """Measures the accuracy of this batch and logs it, unless that is done."""
        if self.measured_at != trainer.global_step:
            self.latest, self.measured_at = self.measure(trainer, pl_module), trainer.global_step
            pl_module.log_scores({ACCURACY: self.latest[0]})

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if self.measured_at != trainer.global_step:  # a run that goes on, and was over
            self.latest = self.measure(trainer, pl_module)
        accuracy, num = self.latest
        say(trainer, f"accuracy       {accuracy:.2%} of {counted(num, 'test image')}, by the discriminator")

    def on_validation_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if trainer.state.fn == "fit":
            return
        accuracy, num = self.measure(trainer, pl_module)
        console = Console(highlight=False, soft_wrap=True, quiet=not trainer.is_global_zero)
        console.print(f"Accuracy of the discriminator as a classifier: {accuracy:.2%} of {counted(num, 'test image')}")

    on_test_end = on_validation_end  # pyright: ignore[reportAssignmentType] # a GAN, see pyproject

    @torch.no_grad()
    def measure(self, trainer: Trainer, pl_module: GAN) -> tuple[float, int]:
        """The share of right answers, 0 to 1, over all processes, and the number of test images."""
        discriminator: Any = pl_module.discriminator
        accuracy = MulticlassAccuracy(self.num_classes, average="micro").to(pl_module.device)
        num = torch.zeros((), device=pl_module.device)
        share_buffers(pl_module, discriminator)
        with evaluating(discriminator), isolate_rng():  # loaders and data sets may draw from it
            seed_all(keyed(0, "test images"))
            for images, labels in self.test_batches(trainer):
                logits = discriminator.classify(images.to(pl_module.device, pl_module.dtype))  # (N, K)
                if logits.shape != (len(labels), self.num_classes):
                    raise GANError(
                        f"AccuracyTracker: {class_name(discriminator)}.classify must give logits "
                        f"{(len(labels), self.num_classes)}, one of each class of the data, got {tuple(logits.shape)}"
                    )
                accuracy.update(logits.float(), labels.to(pl_module.device))
                num += len(labels)
        return float(accuracy.compute()), int(trainer.strategy.reduce(num, reduce_op="sum"))

    def test_batches(self, trainer: Trainer) -> Iterable[Any]:
        """Each test image once over all processes, with its label."""
        if self.loader is None:
            data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
            data.setup("test")
            self.loader = data.test_dataloader()
        for batch in self.loader:
            images, labels = as_pair(batch)
            if not isinstance(labels, torch.Tensor):
                raise GANError("AccuracyTracker needs test images with their labels: leave it out")
            yield images, labels
