"""The guard on one process: what it says, what a step that is skipped leaves behind, and the way back."""

import copy
import warnings
from functools import partial

import pytest
import torch
from commands import equal, fit, load, resume, table
from conftest import SmallMNIST, same_weights
from lightning import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR

from gan import GAN
from gan.callbacks import GeneratorEMA, GradientClipping, NonFiniteGuard, RunCheckpoint
from gan.gradients.clip import Auto
from gan.losses import Loss, NonSaturating
from gan.networks import DCGANDiscriminator, DCGANGenerator
from gan.optim import WarmupCosine
from gan.penalties import R1

NAN = float("nan")
SHAPE = (1, 28, 28)
NAMES = {
    "image": "real image 3 of the batch",
    "weight": "generator.up1.weight",
    "activation": "the output of discriminator.down2, in the forward pass",
    "gradient": "the gradient of discriminator.down2.weight, in the backward pass",
}


class Inject(Callback):
    """Puts a value that is not finite somewhere, in some batches, counted from 0."""

    def __init__(self, where: str, *batches: int, value: float = NAN):
        self.where, self.batches, self.value = where, batches, value

    def on_train_start(self, trainer, pl_module):
        def hook(module, inputs, output):
            if self.where == "activation" and module.training and self.batch in self.batches:
                output = output.clone()
                output[2, 1] = self.value
            return output

        self.batch = -1
        pl_module.discriminator.get_submodule("down2").register_forward_hook(hook)

    @torch.no_grad()
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = trainer.global_step
        if self.batch in self.batches:
            if self.where == "image":
                batch[0][3, 0, 5, 5] = self.value
            if self.where == "weight":
                pl_module.generator.up1.weight[2, 1, 0, 0] = self.value

    def on_after_backward(self, trainer, pl_module):
        of_discriminator = pl_module.discriminator.output.weight.requires_grad
        if self.where == "gradient" and self.batch in self.batches and of_discriminator:
            (weight,) = (parameter for parameter in pl_module.discriminator.down2.parameters() if parameter.ndim > 1)
            weight.grad[1, 2, 0, 0] = self.value


class Keep(Callback):
    """Keeps all that training changes, before each batch and after each optimizer's turn."""

    def __init__(self):
        self.before, self.kept = {}, {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before[trainer.global_step] = everything(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.kept[trainer.global_step] = everything(trainer, pl_module)


def everything(trainer, gan) -> dict:
    parts = {"weights": gan.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers]}
    parts["schedulers"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    return copy.deepcopy(parts)


def convolutions(norm: str = "batch", **settings) -> GAN:
    torch.manual_seed(0)
    return GAN(DCGANGenerator(SHAPE, 8, 4, "batch"), DCGANDiscriminator(SHAPE, 4, norm), **settings)


def run(make_trainer, gan, callbacks, **settings):
    """Returns the trainer, how the run ended, and the lines that the guard said."""
    trainer = make_trainer(callbacks=callbacks, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(gan, SmallMNIST(batch_size=16, validation_size=0))
            ending = "done"
        except ValueError as error:
            ending = str(error)
    return trainer, ending, [str(warning.message) for warning in caught if "is not finite" in str(warning.message)]


def finite(gan) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in (*gan.parameters(), *gan.buffers()))


def test_training_is_the_same_with_and_without(make_gan, make_trainer, data):
    """With dropout, penalties and several passes, under each policy."""

    def make():
        gan = make_gan(penalties=[R1(1.0, every=2)], accumulate=2, n_critic=2)
        gan.discriminator.hidden2 = nn.Sequential(gan.discriminator.hidden2, nn.Dropout(0.3))
        return gan

    plain = make()
    make_trainer(max_steps=6).fit(plain, data)
    for policy in ("raise", "skip", "rollback"):
        gan = make()
        make_trainer(max_steps=6, callbacks=[NonFiniteGuard(policy, every=2)]).fit(gan, data)
        assert same_weights(plain, gan)


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_raise(make_trainer, where, value, norm):
    gan, guard, keep = convolutions(norm), NonFiniteGuard(), Keep()
    trainer, ending, _ = run(make_trainer, gan, [Inject(where, 4, value=value), guard, keep])
    assert "\n" not in ending
    name = NAMES[where]
    if norm == "spectral":
        name = name.replace("down2.weight", "down2.parametrizations.weight.original")
    assert ending.startswith(f"batch 5: the gradient of the discriminator is not finite; first to go bad: {name}. ")
    assert trainer.global_step == 4
    assert guard.counts == {"discriminator": 1, "generator": 0}
    if where != "weight":
        for key, parameter in gan.named_parameters():  # nothing reached the weights
            assert torch.equal(parameter, keep.kept[4]["weights"][key])


@pytest.mark.parametrize("where", ["image", "activation", "gradient"])
@pytest.mark.parametrize("fused", [False, True])
def test_skip(make_trainer, where, fused):
    """The discriminator's step leaves its weights and its optimizer as they were; the generator's is taken."""
    make = partial(Adam, lr=1e-3, betas=(0.5, 0.9), weight_decay=0.1, fused=fused)
    gan, keep = convolutions(generator_optimizer=make, discriminator_optimizer=make), Keep()
    guard = NonFiniteGuard("skip")
    callbacks = [GeneratorEMA(), Inject(where, 4), guard, keep]
    trainer, ending, said = run(make_trainer, gan, callbacks)
    assert ending == "done"
    assert trainer.global_step == 8
    assert finite(gan)  # running averages too
    both = where == "activation"  # which the generator meets as well
    assert guard.counts == {"discriminator": 1, "generator": int(both)}
    assert len(said) == 1 + both
    assert all(NAMES[where] in line and line.endswith("; the step is skipped") for line in said)
    before, after = keep.kept[4], keep.kept[5]
    assert equal(before["optimizers"][0], after["optimizers"][0])
    assert equal(before["optimizers"][1], after["optimizers"][1]) == both
    for key, _ in gan.named_parameters():
        same = torch.equal(before["weights"][key], after["weights"][key])
        assert same == (key.startswith("discriminator.") or both) or key.startswith("generator_ema.")
    assert not equal(keep.kept[5]["optimizers"][0], keep.kept[6]["optimizers"][0])


def test_skip_cannot_heal_weights(make_trainer):
    _, ending, said = run(make_trainer, convolutions(), [Inject("weight", 4), NonFiniteGuard("skip")])
    assert "first to go bad: generator.up1.weight. No skipped step heals weights" in ending
    assert said == []


@pytest.mark.parametrize("where", NAMES)
def test_rollback(make_trainer, where):
    """Weights, the average, buffers, both optimizers and schedules are those of the last state, to the bit."""
    # Torch's own goes on from the optimizer's present rate.
    schedule = partial(WarmupCosine, warmup=3) if where == "image" else partial(ExponentialLR, gamma=0.9)
    gan, keep = convolutions(generator_scheduler=schedule, discriminator_scheduler=schedule), Keep()
    seen = {}

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 5 and optimizer is trainer.optimizers[0]:
                seen.update(everything(trainer, pl_module))

    guard = NonFiniteGuard("rollback", every=4)
    trainer, ending, said = run(make_trainer, gan, [GeneratorEMA(), Inject(where, 5), guard, keep, Look()])
    assert ending == "done"
    assert trainer.global_step == 8
    assert finite(gan)
    assert equal(seen, keep.kept[4])
    assert not equal(seen["weights"], keep.kept[5]["weights"])
    assert NAMES[where] in said[0]
    assert said[0].endswith("; back to the state after batch 4 (try 1 of 3)")


def test_training_is_the_same_with_and_without_a_condition(told, make_trainer):
    settings = {"penalties": [R1(1.0, every=2)], "accumulate": 2, "n_critic": 2}
    plain, data = told("batch", **settings)
    make_trainer(max_steps=6).fit(plain, data)
    for policy in ("skip", "rollback"):
        gan, data = told("batch", **settings)
        make_trainer(max_steps=6, callbacks=[NonFiniteGuard(policy, every=2)]).fit(gan, data)
        assert same_weights(plain, gan)


class Spoil(Callback):
    """Puts NaN into batch 5, counted from 0: into an image, a source, or what the discriminator's last layer makes."""

    def __init__(self, where: str):
        self.where, self.now = where, False

    def on_train_start(self, trainer, pl_module):
        pl_module.discriminator.output.register_forward_hook(
            lambda layer, inputs, output: output * NAN if self.now and self.where == "output" else None
        )

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now = trainer.global_step == 5
        if self.now and self.where != "output":
            batch[self.where == "source"][3, 0, 5, 5] = NAN

    def on_train_batch_end(self, *args):
        self.now = False


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("image", "real image 3 of the batch"),
        ("source", "source image 3 of the batch"),
        ("output", "the output of discriminator.output, in the forward pass"),
    ],
)
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_diagnosis_and_the_way_back_with_a_condition(told, make_trainer, where, what, policy):
    """The replay tells the networks what the batch was of; weights are the bits of the last state, or of before."""
    gan, data = told("batch")
    if where == "source" and gan.condition_shape is None:
        pytest.skip("labels are whole numbers")
    keep, seen = Keep(), {}

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 5 and optimizer is trainer.optimizers[0]:
                seen.update(everything(trainer, pl_module))

    guard = NonFiniteGuard(policy, every=4)
    trainer = make_trainer(callbacks=[GeneratorEMA(), Spoil(where), guard, keep, Look()])
    with pytest.warns(UserWarning, match=what) as said:
        trainer.fit(gan, data)
    lines = [str(one.message) for one in said if "is not finite" in str(one.message)]
    assert all(what in line for line in lines)
    assert "back to the state after batch 4" in lines[0] if policy == "rollback" else "skipped" in lines[0]
    expected = (keep.kept[4] if policy == "rollback" else keep.before[5])["weights"]
    names = [*expected] if policy == "rollback" else [name for name, _ in gan.named_parameters()]  # good passes count
    assert all(equal(seen["weights"][name], expected[name]) for name in names)
    assert trainer.global_step == 8
    assert finite(gan)


class Infinite(NonSaturating):
    """A loss that is infinite and has a gradient all the same."""

    def generator(self, fake_logits, real_logits=None):
        return super().generator(fake_logits) + float("inf")


class Rebinding(DCGANDiscriminator):
    """Puts a new buffer into the place of one in each pass of training."""

    def __init__(self):
        super().__init__(SHAPE, 4, "batch")
        self.register_buffer("level", torch.ones(1))

    def forward(self, images):
        if self.training:
            self.level = 0.9 * self.level + 0.1 * images.detach().mean()
        return super().forward(images)


class ReplaceWeight(Callback):
    """Puts a new weight into the place of one, once, and tells the optimizer."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        layer, (group,) = pl_module.discriminator.get_submodule("down2"), trainer.optimizers[0].param_groups
        if trainer.global_step == self.batch:
            old, new = layer.weight, nn.Parameter(layer.weight.detach().clone())
            layer.weight = new
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
            trainer.optimizers[0].state[new] = trainer.optimizers[0].state.pop(old)


def rebinding() -> GAN:
    torch.manual_seed(0)
    return GAN(DCGANGenerator(SHAPE, 8, 4, "batch"), Rebinding())


@pytest.mark.parametrize("where", ["image", "gradient"])
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_tensors_in_the_place_of_others_are_healed(make_trainer, policy, where):
    """A buffer that each pass replaces, and a weight that was replaced since the last state."""
    seen = {}

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 6 and optimizer is trainer.optimizers[0]:
                seen.update(everything(trainer, pl_module))

    gan, keep, guard = rebinding(), Keep(), NonFiniteGuard(policy, every=4)
    callbacks = [GeneratorEMA(), ReplaceWeight(5), Inject(where, 6), guard, keep, Look()]
    trainer, ending, said = run(make_trainer, gan, callbacks, max_steps=10)
    assert ending == "done"
    assert len(said) == guard.counts["discriminator"] == 1
    assert finite(gan)
    level = "discriminator.level"
    if policy == "rollback":
        assert equal(seen, keep.kept[4])
    elif where == "image":
        assert torch.equal(seen["weights"][level], keep.before[6]["weights"][level])
    # The optimizer steps what the network has.
    weights = [*trainer.optimizers[0].param_groups[0]["params"]]
    assert all(one is other for one, other in zip(weights, gan.discriminator.parameters(), strict=True))
    for key, parameter in gan.discriminator.named_parameters():
        assert not torch.equal(parameter, keep.kept[8]["weights"][f"discriminator.{key}"])


def test_diagnosis_puts_back_what_a_pass_replaces(make_trainer):
    gan, states = rebinding(), []
    gan.loss = Infinite()

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            states.append({key: (id(buffer), buffer.clone()) for key, buffer in pl_module.named_buffers()})

    run(make_trainer, gan, [Look(), NonFiniteGuard("skip"), Look()], max_steps=1)
    assert len(states) == 4
    assert equal(states[2], states[3])  # of the generator's step, which is the one that is diagnosed


def test_gives_up(make_trainer):
    """After as many bad batches in a row as it may try; a good one between them ends the row."""
    for policy in ("skip", "rollback"):
        inject = Inject("gradient", 2, 3, 5, 6, 7)
        guard = NonFiniteGuard(policy, tries=2, every=1)
        trainer, ending, said = run(make_trainer, convolutions(), [inject, guard])
        assert "batch 8: " in ending
        assert "That makes 3 bad batches, tries=2" in ending
        assert len(said) == 4
        assert trainer.global_step == 7


def test_a_row_of_rollbacks_ends_with_as_many_good_batches_as_it_goes_back(make_trainer):
    inject, guard = Inject("gradient", 5, 7), NonFiniteGuard("rollback", tries=1, every=3)
    _, ending, said = run(make_trainer, convolutions(), [inject, guard])
    assert len(said) == 1
    assert "batch 8: " in ending
    inject, guard = Inject("gradient", 4, 8), NonFiniteGuard("rollback", tries=1, every=3)
    _, ending, said = run(make_trainer, convolutions(), [inject, guard], max_steps=10)
    assert ending == "done"
    assert len(said) == 2


def test_a_loss_counts_by_itself(make_gan, make_trainer, data):
    with pytest.raises(ValueError, match=r"batch 1: the gradient of the generator .* bad: the loss of the generator"):
        make_trainer(callbacks=[NonFiniteGuard()]).fit(make_gan(loss=Infinite()), data)


class Root(Loss):
    """A loss whose value is finite and whose gradient is not: the square root at 0."""

    def discriminator(self, real_logits, fake_logits):
        return (real_logits - real_logits.detach()).sqrt() + fake_logits

    def generator(self, fake_logits, real_logits=None):
        return fake_logits


def test_backward_begins_at_the_last_layer(make_gan, make_trainer, data):
    """Every gradient is bad: the backward pass met that of the output first."""
    message = r"bad: the gradient of discriminator\.output\.(weight|bias), in the backward pass"
    with pytest.raises(ValueError, match=message):
        make_trainer(callbacks=[NonFiniteGuard()]).fit(make_gan(loss=Root()), data)


def test_diagnosis_moves_nothing(make_trainer):
    """Neither running averages nor what is drawn."""
    gan, states = convolutions("spectral", loss=Infinite()), []
    gan.discriminator.norm2 = nn.Dropout(0.3)

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            buffers = {key: buffer.clone() for key, buffer in pl_module.named_buffers()}
            states.append((torch.get_rng_state(), buffers))

    run(make_trainer, gan, [Inject("gradient", 0), Look(), NonFiniteGuard("skip"), Look()], max_steps=1)
    assert equal(states[0], states[1])
    assert equal(states[2], states[3])


def test_clipping_sees_neither_bad_nor_skipped_steps(make_trainer):
    for order in (1, -1):
        clipping = GradientClipping(Auto(50), Auto(50))
        callbacks = [Inject("gradient", 3), *[NonFiniteGuard("skip"), clipping][::order]]
        run(make_trainer, convolutions(), callbacks)
        norms = clipping.state_dict()["clips"]["discriminator"]["norms"]
        assert len(norms) == 7
        assert all(norm < float("inf") for norm in norms)


# ---------------------------------------------------------------------- float16


def half(make_trainer, gan, callbacks, scale, **settings):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    return scaler, *run(make_trainer, gan, callbacks, plugins=[plugin], **settings)


OPTIMIZERS = [partial(SGD, lr=0.01), partial(Adam, lr=1e-3, fused=True)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "fused"])
def test_overflow_is_the_scalers_business(make_gan, make_trainer, optimizer):
    gan, guard = make_gan(generator_optimizer=optimizer, discriminator_optimizer=optimizer), NonFiniteGuard()
    scaler, _, ending, _ = half(make_trainer, gan, [guard], scale=2.0**30, max_steps=12)
    assert ending == "done"
    assert guard.counts == {"discriminator": 0, "generator": 0}
    assert scaler.get_scale() < 2**30  # it did overflow


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "fused"])
def test_overflow_without_end_is_a_failure(make_trainer, optimizer):
    """Each one halves the scale, until it is to blame no more."""
    gan = convolutions(generator_optimizer=optimizer, discriminator_optimizer=optimizer)
    inject = Inject("gradient", *range(100))
    scaler, trainer, ending, _ = half(make_trainer, gan, [inject, NonFiniteGuard()], scale=8.0, max_steps=100)
    assert "first to go bad: the gradient of discriminator.down2.weight" in ending
    assert trainer.global_step == 4  # at 8, 4, 2 and 1
    assert scaler.get_scale() == 0.5


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "fused"])
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_bad_image_in_float16(make_trainer, policy, optimizer):
    gan = convolutions(generator_optimizer=optimizer, discriminator_optimizer=optimizer)
    guard = NonFiniteGuard(policy)
    _, _, ending, said = half(make_trainer, gan, [Inject("image", 3), guard], scale=4.0, max_steps=6)
    assert ending == "done"
    assert finite(gan)
    assert guard.counts["discriminator"] == len(said) == 1


# ---------------------------------------------------------------------- checkpoints


def test_resumes_bit_for_bit(make_trainer, tmp_path):
    """The counts, and the state that a rollback goes back to: that of the checkpoint in either run."""
    runs = []
    for ends in ([14], [7, 14]):
        start, saving = None, Save(7, tmp_path / f"{len(ends)}.ckpt")
        for end in ends:
            gan, guard = convolutions(), NonFiniteGuard("rollback", every=100)
            inject = Inject("gradient", 2, 4, 10)
            trainer = make_trainer(max_steps=end, callbacks=[GeneratorEMA(), inject, guard, saving])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.fit(gan, SmallMNIST(16, 0), ckpt_path=start, weights_only=True)
            start = saving.path
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        runs.append(load(tmp_path / "end.ckpt"))
        assert guard.counts["discriminator"] == 3
    for part in ("state_dict", "optimizer_states", "callbacks"):
        assert equal(runs[0][part], runs[1][part])


class Save(Callback):
    def __init__(self, batch, path):
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.batch:
            trainer.save_checkpoint(self.path)


def test_bad_weights_are_never_saved(make_trainer, tmp_path):
    """Not even where they go bad after the last look: what is on the disk stays good."""

    class Spoil(Callback):
        @torch.no_grad()
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 4:
                pl_module.generator.up2.bias.fill_(NAN)

    gan = convolutions()
    callbacks = [Spoil(), NonFiniteGuard(), RunCheckpoint(every=2)]
    _, ending, said = run(make_trainer, gan, callbacks)
    assert said == ["no checkpoint of batch 4: generator.up2.bias is not finite. Training goes on"]
    assert "batch 5: " in ending
    assert "first to go bad: generator.up2.bias" in ending
    assert load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_bad_weights_at_the_start(make_trainer, data):
    gan = convolutions()
    with torch.no_grad():
        gan.discriminator.norm2.running_mean[0] = NAN
    with pytest.raises(ValueError, match=r"discriminator\.norm2\.running_mean is not finite at the start"):
        make_trainer(callbacks=[NonFiniteGuard()]).fit(gan, data)


# ---------------------------------------------------------------------- settings, logs, the command


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"policy": "ignore"}, "raise, skip, rollback"), ({"tries": 0}, "tries"), ({"every": 0}, "every")],
)
def test_bad_argument(settings, message):
    with pytest.raises(ValueError, match=message):
        NonFiniteGuard(**settings)


def test_command_line(tmp_path, capsys):
    """It is on by default; its error is one line, and what was saved is good. The count is in the table."""
    words = ["--trainer.max_steps", "4", "--trainer.callbacks+", "RunCheckpoint", "--trainer.callbacks.every", "1"]
    rows = table(fit(tmp_path / "run", *words).parents[1])
    assert rows[0]["non_finite/discriminator"] == rows[-1]["non_finite/generator"] == "0.0"
    capsys.readouterr()
    again = ["--trainer.max_steps", "9", "--trainer.callbacks+", "callbacks.test_non_finite_guard.BadImage"]
    with pytest.raises(SystemExit) as stop:
        resume(tmp_path / "run", *again)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: batch 7: the gradient of the discriminator is not finite; first to go bad: real image 0 of the batch. "
    )
    assert load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 6


class BadImage(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 6:
            batch[0][0, 0, 0, 0] = NAN
