"""Terms of both players' losses: values against the papers' formulas, and what reaches whom."""

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax

from gan.networks import AuxiliaryDCGANDiscriminator, given
from gan.terms import Classification, Term, Terms

SHAPE = (1, 8, 8)


@pytest.fixture
def discriminator() -> AuxiliaryDCGANDiscriminator:
    torch.manual_seed(0)
    return AuxiliaryDCGANDiscriminator(SHAPE, num_classes=3, base_channels=4).double()


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    real, fake = (torch.rand(5, *SHAPE, dtype=torch.float64) * 2 - 1 for _ in range(2))
    return real, fake, torch.tensor([0, 2, 1, 1, 2])


def log_probabilities(discriminator, images, labels):
    return log_softmax(discriminator.classify(images), 1)[torch.arange(len(labels)), labels]


def test_classification_is_the_papers(discriminator, images):
    """L_C = E log P(c | real) + E log P(c | fake); D raises it, G the second part (Odena et al., equation 3)."""
    real, fake, labels = images
    (judge,) = given(labels, discriminator)
    of_real, of_fake = (log_probabilities(discriminator, batch, labels) for batch in (real, fake))
    torch.testing.assert_close(Classification().discriminator(judge, real, fake), -of_real - of_fake)
    torch.testing.assert_close(Classification().generator(judge, real, fake), -of_fake)


def test_terms_are_weighted_in_the_loss_and_not_on_the_dashboard(discriminator, images):
    real, fake, labels = images
    (judge,) = given(labels, discriminator)
    terms, loss = Terms(Classification(0.25), None, Classification(0)), torch.tensor(3.0, dtype=torch.float64)
    for player, suffix in (("discriminator", ""), ("generator", "_generator")):
        scalars = {}
        total = getattr(terms, player)(loss, judge, real, fake, scalars)
        mean = getattr(Classification(), player)(judge, real, fake).mean()
        torch.testing.assert_close(total, 3 + 0.25 * mean)
        assert list(scalars) == [f"loss/classification{suffix}"]
        torch.testing.assert_close(scalars[f"loss/classification{suffix}"], mean.detach())
        assert not scalars[f"loss/classification{suffix}"].requires_grad


def test_a_term_of_one_player_leaves_the_other_alone(discriminator, images):
    class Brightness(Term):
        name = "brightness"

        def generator(self, judge, real, fake):
            return fake.flatten(1).mean(1)

    real, fake, labels = images
    (judge,) = given(labels, discriminator)
    terms, scalars = Terms(Brightness(2.0)), {}
    assert terms.discriminator(torch.tensor(1.0), judge, real, fake, scalars) == 1
    assert scalars == {}
    torch.testing.assert_close(
        terms.generator(torch.tensor(1.0), judge, real, fake, scalars), 1 + 2 * fake.mean(), check_dtype=False
    )
    assert list(scalars) == ["loss/brightness_generator"]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_bad_weights(weight):
    with pytest.raises(ValueError, match=r"Classification: weight must be a finite number >= 0"):
        Classification(weight)


def test_what_cannot_be_classified_is_named(discriminator, images):
    real, fake, labels = images
    for network, condition, message in (
        (nn.Linear(2, 1), labels, "model.classification: discriminator Linear has no method classify"),
        (discriminator, None, "AuxiliaryDCGANDiscriminator has no labels beside its images"),
    ):
        (judge,) = given(condition, network)
        with pytest.raises(ValueError, match=message):
            Classification().generator(judge, real, fake)
