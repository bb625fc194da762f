"""Networks with a slip: that they have the one that they are said to have."""

import torch

from gan.lab.own_networks import DeafGenerator, PlainAverage, RoundedGenerator, SigmoidDiscriminator
from gan.module import GAN
from gan.networks import MLPDiscriminator, MLPGenerator

SHAPE = (3, 8, 8)


def test_probabilities():
    values = SigmoidDiscriminator(SHAPE)(9 * torch.randn(16, *SHAPE))
    assert values.shape == (16,)
    assert ((values > 0) & (values < 1)).all()


def test_pixels_are_levels_of_a_file_and_pass_nothing_on():
    generator = RoundedGenerator(SHAPE)
    images = generator(torch.randn(4, 64))
    assert images.shape == (4, *SHAPE)
    levels = 127.5 * images + 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    images.sum().backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in generator.parameters())


def test_latents_are_not_heard():
    generator, labels = DeafGenerator(SHAPE), torch.arange(10)
    one, two = (generator(torch.randn(10, 64), labels) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_an_average_of_a_decay():
    gan, average = GAN(MLPGenerator(SHAPE, 4), MLPDiscriminator(SHAPE)), PlainAverage(decay=0.75)
    average.setup(None, gan, "fit")
    before = gan.generator_ema.output.weight.clone()
    with torch.no_grad():
        gan.generator.output.weight.add_(1)
    average.on_train_batch_end(None, gan, None, None, 0)
    torch.testing.assert_close(gan.generator_ema.output.weight, before + 0.25)
