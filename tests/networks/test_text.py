"""The networks of text: what they make, and that no layer knows of the place in it."""

import pytest
import torch
from torch import nn

from gan.gradients.graph import ends
from gan.networks import DCGANGenerator, TextDiscriminator, TextGenerator
from gan.networks.text import leaky_softmax
from gan.penalties import GradientPenalty, mixes_batch

SHAPE, CHARACTERS = (5, 16), "abcd "


def pair(**settings) -> tuple[TextGenerator, TextDiscriminator]:
    torch.manual_seed(0)
    few = {"channels": 8, "blocks": 1, **settings}
    return TextGenerator(SHAPE, CHARACTERS, latents=2, **few), TextDiscriminator(SHAPE, **few)


def test_a_generator_makes_probabilities_and_a_critic_logits():
    generator, discriminator = pair()
    assert generator.latent_dim == 32
    texts = generator(100 * torch.randn(3, 32))
    assert texts.shape == (3, *SHAPE)
    assert texts.min() >= 0
    torch.testing.assert_close(texts.sum(1), torch.ones(3, 16))
    assert ends(texts) == "softmax"
    logits = discriminator(texts)
    assert logits.shape == (3,)
    assert ends(logits) != "softmax"
    assert not mixes_batch(discriminator)


def test_gradients_reach_every_parameter_twice_too():
    generator, discriminator = pair()
    texts = generator(torch.randn(4, 32))
    discriminator(texts).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in (*generator.parameters(), *discriminator.parameters()))
    discriminator.zero_grad()
    real = nn.functional.one_hot(torch.randint(5, (4, 16)), 5).transpose(1, 2).float()
    GradientPenalty()(discriminator, real, texts.detach(), torch.rand(4, 1, 1)).sum().backward()
    weights = [parameter for name, parameter in discriminator.named_parameters() if name.endswith("weight")]
    assert all(weight.grad.abs().max() > 0 for weight in weights)


def test_the_gradient_of_a_softmax_leaks_upwards_alone():
    """p (g - sum p g) of each logit; where that is an improvement, p counts as the leak at least."""
    logits = torch.tensor([0.0, 1, -30, -30, -300], dtype=torch.float64).view(1, 5, 1).requires_grad_()
    cost = torch.tensor([2.0, 1, -3, 4, 3], dtype=torch.float64).view(1, 5, 1)  # dearer than the mean are 0, 3 and 4
    made = leaky_softmax(logits, 1e-6)
    torch.testing.assert_close(made, logits.softmax(1), rtol=0, atol=0)
    (made * cost).sum().backward()
    p = logits.detach().softmax(1)
    better = cost - (p * cost).sum(1, keepdim=True)
    expected = p * better
    expected[0, 2] = 1e-6 * better[0, 2]  # better than what is made, and all but never made
    torch.testing.assert_close(logits.grad, expected, rtol=1e-9, atol=0)
    plain = logits.detach().clone().requires_grad_()
    (leaky_softmax(plain, 0) * cost).sum().backward()
    torch.testing.assert_close(plain.grad, p * better, rtol=1e-9, atol=0)
    assert torch.isfinite(logits.grad).all()


def test_the_leak_is_of_the_type_of_the_logits(monkeypatch):
    """Where autocast makes a softmax of 16 bits in float32, as CUDA's does."""
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda logits, dim: softmax(logits, dim, dtype=torch.float32))
    wide = torch.tensor([0.0, 1, -20]).view(1, 3, 1).requires_grad_()
    made = leaky_softmax(wide.bfloat16(), 1e-6)
    (made * torch.tensor([2.0, 1, -3]).view(1, 3, 1)).sum().backward()
    p = wide.detach().softmax(1)
    assert wide.grad[0, 2].item() == pytest.approx(1e-6 * (-3 - 2 * p[0, 0].item() - p[0, 1].item()), rel=0.02)


def test_what_is_made_of_a_position_does_not_depend_on_the_place():
    """Away from the ends of the text: latents moved by a position move the text by one."""
    generator, discriminator = pair()
    latents = torch.randn(1, 2, 16)
    one, moved = (generator(each.flatten(1)) for each in (latents, latents.roll(1, 2)))
    torch.testing.assert_close(one[..., 4:11], moved[..., 5:12])
    text = torch.zeros(2, *SHAPE)
    text[:, 0], text[0, :2, 6], text[1, :2, 9] = 1, torch.tensor([0.0, 1]), torch.tensor([0.0, 1])
    first, second = discriminator(text)
    torch.testing.assert_close(first, second)


def test_specs_are_plain_and_make_the_same_network():
    for network in pair(kernel=5):
        spec = network.spec
        again = type(network)(**spec["init_args"])
        again.load_state_dict(network.state_dict())
    assert pair()[0].spec["init_args"]["characters"] == CHARACTERS


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: TextGenerator(SHAPE, "abc"), "has 3 characters, and sample_shape=(5, 16) says 5"),
        (lambda: TextGenerator(SHAPE, CHARACTERS, latents=0), "latents must be at least 1 for each position, got 0"),
        (lambda: TextGenerator(SHAPE, CHARACTERS, leak=0.1), "leak is a small probability, from 0 to 0.001, got 0.1"),
        (lambda: TextGenerator(SHAPE, CHARACTERS, blocks=0), "TextGenerator's blocks must be at least 1, got 0"),
        (lambda: TextDiscriminator(SHAPE, channels=0), "TextDiscriminator's channels must be at least 1, got 0"),
        (lambda: TextDiscriminator(SHAPE, kernel=4), "kernel must be an odd number of positions, got 4"),
        (
            lambda: TextDiscriminator(None),
            "TextDiscriminator is for texts, sample_shape=(characters, positions), and the",
        ),
        (lambda: TextGenerator((1, 28, 28), "a"), "and the data has (1, 28, 28): take TextDataModule"),
        (
            lambda: DCGANGenerator(None),
            "data has other samples: for texts take TextGenerator and TextDiscriminator",
        ),
    ],
)
def test_bad_settings_are_one_line(make, error):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 # its text is compared below
        make()
    assert error in str(raised.value)
