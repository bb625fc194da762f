"""Terms of both players' losses: values against the papers' formulas, and what reaches whom."""

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax, softmax, softplus

from gan.errors import GANError
from gan.networks import AuxiliaryDCGANDiscriminator, ClassifierDCGANDiscriminator, given
from gan.terms import Classification, FeatureMatching, Reconstruction, SemiSupervised, Term, Terms

SHAPE = (1, 8, 8)
JUDGE = AuxiliaryDCGANDiscriminator(SHAPE, num_classes=3, base_channels=4)


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


def test_semi_supervised_is_the_papers(images):
    """Cross-entropy of K + 1 classes: of the labelled their own, of all real ones not the last, of fake ones that."""
    torch.manual_seed(0)
    classifier = ClassifierDCGANDiscriminator(SHAPE, num_classes=3, base_channels=4).double()
    real, fake, labels = images
    labels = torch.where(torch.tensor([True, False, True, False, False]), labels, -1)
    (judge,) = given(labels, classifier)
    term = SemiSupervised()
    value = term.discriminator(judge, real, fake)
    of_classes = softmax(classifier.classify(real[[0, 2]]), 1)
    torch.testing.assert_close(value, -torch.stack([of_classes[0, 0], of_classes[1, 1]]).log())
    assert term.generator(judge, real, fake) is None
    # The whole of it, with the class "generated" as a fourth logit of 0.
    four = softmax(torch.cat([classifier.classify(torch.cat([real, fake])), torch.zeros(10, 1).double()], 1), 1)
    game = -(1 - four[:5, 3]).log() - four[5:, 3].log()
    torch.testing.assert_close(softplus(-judge(real)) + softplus(judge(fake)), game)


def test_a_pass_without_a_label_has_a_term_of_nothing(images):
    """One image is looked at for it, so that each process gathers weights, draws and logs as often as any other."""
    real, fake, _ = images
    torch.manual_seed(0)
    classifier, seen = ClassifierDCGANDiscriminator(SHAPE, 3, 4).double(), []
    classifier.output.register_forward_hook(lambda *inputs: seen.append(len(inputs[2])))
    (judge,) = given(torch.full((5,), -1), classifier)
    scalars = {}
    loss = Terms(SemiSupervised()).discriminator(torch.tensor(1.0), judge, real, fake, scalars)
    assert seen == [1]
    assert scalars == {"loss/classification": 0}
    assert loss == 1
    loss.backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3, -1, 1, 2], "has labels from -1 to 3, and discriminator ClassifierDCGANDiscriminator tells 3 classes"),
        ([0, 1, -2, 1, 2], "has labels from -2 to 2, and discriminator ClassifierDCGANDiscriminator tells 3 classes"),
    ],
)
def test_labels_that_the_classifier_has_not_are_a_line(images, labels, message):
    """Without the check: an index error of torch, or on a GPU an assertion that ends the process."""
    (judge,) = given(torch.tensor(labels), ClassifierDCGANDiscriminator(SHAPE, 3, 4).double())
    with pytest.raises(GANError, match=message):
        SemiSupervised().discriminator(judge, *images[:2])


def test_a_classifier_of_no_classes_is_a_line(images):
    (judge,) = given(images[2], NotByRow(SHAPE, num_classes=3, base_channels=4).double())
    with pytest.raises(GANError, match=r"NotByRow.classify must give logits of shape \(5, K\), .* got \(3,\)"):
        SemiSupervised().discriminator(judge, *images[:2])


@pytest.mark.parametrize("labels", [None, torch.zeros(5), torch.zeros(5, 3, dtype=torch.int64)])
def test_what_are_no_labels_is_a_line(images, labels):
    (judge,) = given(labels, ClassifierDCGANDiscriminator(SHAPE, 3, 4).double())
    with pytest.raises(GANError, match=r"SemiSupervised needs int64 labels \(N,\), -1 of an image without one, got"):
        SemiSupervised().discriminator(judge, *images[:2])


def test_feature_matching_is_the_papers(discriminator, images):
    """The squared distance of the means, and nothing of the adversarial loss but for its part."""
    real, fake, _ = images
    fake = fake.clone().requires_grad_()
    (judge,) = given(None, discriminator)
    difference = discriminator.features(fake).mean(0) - discriminator.features(real).mean(0)
    expected = (difference**2).mean()
    adversarial = softplus(-judge(fake)).mean()
    for part in (0.0, 0.5):
        scalars = {}
        total = Terms(FeatureMatching(3.0, part)).generator(adversarial, judge, real, fake, scalars)
        torch.testing.assert_close(total, part * adversarial + 3 * expected)
        slopes = [torch.autograd.grad(loss, fake, retain_graph=True)[0] for loss in (total, adversarial, expected)]
        torch.testing.assert_close(slopes[0], part * slopes[1] + 3 * slopes[2])
        torch.testing.assert_close(scalars, {"loss/feature_matching_generator": expected.detach()})
    assert FeatureMatching().discriminator(judge, real, fake) is None
    assert Terms(FeatureMatching(0.0)).generator(adversarial, judge, real, fake, {}) is adversarial


def test_feature_matching_of_a_bad_factor():
    with pytest.raises(ValueError, match="FeatureMatching: adversarial must be a finite number >= 0, got -1"):
        FeatureMatching(adversarial=-1)


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


@pytest.mark.parametrize(
    ("term", "discriminator", "told", "message"),
    [
        (
            Classification(),
            nn.Linear(2, 1),
            (3, None),
            r"model.classification: discriminator Linear has no method classify: give it .* returns logits \(N, K\)",
        ),
        (Classification(), JUDGE, (None, None), "model.classification: the generator is told no class"),
        (Classification(), JUDGE, (None, SHAPE), "model.classification: the generator is told no class"),
        (
            Reconstruction(),
            JUDGE,
            (3, None),
            "model.reconstruction .* the generator is told a class: take one that is told",
        ),
        (Reconstruction(), JUDGE, (None, None), "model.reconstruction .* the generator is told nothing"),
        (
            SemiSupervised(),
            nn.Linear(2, 1),
            (None, None),
            r"classify: give it .* \(N, K\) .* their logsumexp\(1\); or take",
        ),
        (SemiSupervised(), JUDGE, (3, None), "model.classification: SemiSupervised is for a generator that is told n"),
        (
            FeatureMatching(),
            nn.Linear(2, 1),
            (None, None),
            r"model.feature_matching: .* Linear has no method features: give it",
        ),
    ],
)
def test_networks_that_a_term_says_nothing_of_are_named(term, discriminator, told, message):
    with pytest.raises(ValueError, match=message):
        Terms(term).check(discriminator, *told)
    Terms(type(term)(weight=0)).check(discriminator, *told)  # which is off


def test_which_terms_may_need_labels():
    assert not Terms(None, FeatureMatching(), Reconstruction()).need_labels
    assert Terms(SemiSupervised(), FeatureMatching()).need_labels
    assert not Terms(SemiSupervised(0)).need_labels


def test_networks_that_a_term_is_of():
    Terms(Classification()).check(JUDGE, 3, None)
    Terms(Reconstruction()).check(nn.Linear(2, 1), None, SHAPE)
    Terms(SemiSupervised(), FeatureMatching()).check(JUDGE, None, None)


@pytest.mark.parametrize(
    ("norm", "formula"),
    [("l1", lambda real, fake: abs(fake - real)), ("l2", lambda real, fake: (fake - real) ** 2)],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_reconstruction_is_the_mean_distance_of_each_image(images, norm, formula, dtype):
    """Value by value; and what moves the generator is the derivative of that, of the discriminator nothing."""
    real, fake = (batch.to(dtype) for batch in images[:2])
    fake.requires_grad_()
    (judge,) = given(real, nn.Identity())
    term = Reconstruction(norm=norm)
    distances = term.generator(judge, real, fake)
    pairs = zip(real.flatten(1).tolist(), fake.flatten(1).tolist(), strict=True)
    by_hand = [sum(formula(r, f) for r, f in zip(*pair, strict=True)) / len(pair[0]) for pair in pairs]
    assert distances.tolist() == pytest.approx(by_hand, rel=1e-6)
    assert distances.dtype == torch.promote_types(dtype, torch.float32)
    (slope,) = torch.autograd.grad(distances.sum(), fake)
    difference = fake.detach() - real
    expected = (difference.sign() if norm == "l1" else 2 * difference) / 64
    torch.testing.assert_close(slope, expected)
    assert term.discriminator(judge, real, fake.detach()) is None


def test_reconstruction_is_in_the_generators_loss_alone(images):
    real, fake, _ = images
    (judge,) = given(real, nn.Identity())
    terms, scalars = Terms(Classification(0), Reconstruction(10.0)), {}
    assert terms.discriminator(torch.tensor(1.0), judge, real, fake, scalars) == 1
    assert scalars == {}
    total = terms.generator(torch.tensor(1.0, dtype=torch.float64), judge, real, fake, scalars)
    torch.testing.assert_close(total, 1 + 10 * (fake - real).abs().mean())
    assert list(scalars) == ["loss/reconstruction_generator"]


def test_reconstruction_of_another_norm():
    with pytest.raises(ValueError, match="Reconstruction: norm must be one of l1, l2, got 'l3'"):
        Reconstruction(norm="l3")


class TooFew(AuxiliaryDCGANDiscriminator):
    def classify(self, images):
        return super().classify(images)[:, :2]


class NotByRow(AuxiliaryDCGANDiscriminator):
    def classify(self, images):
        return super().classify(images).mean(0)


@pytest.mark.parametrize(("network", "got"), [(TooFew, r"\(4, 2\)"), (NotByRow, r"\(3,\)")])
def test_a_classifier_of_other_classes_is_named(network, got):
    """Without the check: an index error of torch, or on a GPU an assertion that ends the process."""
    judge, term = network(SHAPE, num_classes=3, base_channels=4), Classification()
    term.check(judge, 3, None)
    (judge,) = given(torch.tensor([0, 1, 2, 0]), judge)
    with pytest.raises(GANError, match=rf"{network.__name__}.classify must give logits \(4, 3\), .* got {got}"):
        term.generator(judge, torch.zeros(4, *SHAPE), torch.zeros(4, *SHAPE))
