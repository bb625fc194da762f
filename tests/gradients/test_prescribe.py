"""What is told: what is wrong anyway first, what the command takes only, and no more than can be tried."""

from gan.gradients.patient import Part
from gan.gradients.prescribe import MOST, Prescription, once, prescribe, unrepeated
from gan.gradients.rules import Finding
from gradients.patients import OWN, adam, loss, patient, penalty
from gradients.records import changed, good

COLLAPSE = Finding("mode collapse", "why", "reference", network="generator")
OURS = {
    name: Part({"class_path": f"gan.networks.DCGAN{name.capitalize()}", "init_args": {}}, ours=True)
    for name in ("generator", "discriminator")
}


def told(finding=COLLAPSE, record=None, accepts=lambda words: True, **run) -> list[tuple[str, ...]]:
    return [each.settings for each in prescribe(finding, record or good(), patient(**run), accepts)]


def test_what_is_absurd_comes_first_and_whole():
    run = {"parts": OURS, "discriminator_optimizer": adam(3.0), "penalties": [penalty("R1", 1e6)]}
    first, *others = told(**run)
    assert first == (
        *("--model.discriminator_optimizer.lr", "0.002"),
        *("--model.penalties", "[{class_path: gan.penalties.R1, init_args: {weight: 1, every: 1}}]"),
    )
    # Without them, nothing else can help.
    assert all("--model.discriminator_optimizer" in " ".join(words) for words in others)


def test_remedies_come_first_where_nothing_is_absurd():
    first, *_ = told(parts=OURS, generator_optimizer=adam(betas=(0.5, 0.9)))
    assert first == ("--model.generator_optimizer.betas", "[0.0, 0.9]")


def test_the_usual_training_is_among_the_first_and_shipped_networks_where_they_are_ones_own():
    run = {"loss": loss("LeastSquares"), "generator_optimizer": adam(betas=(0.5, 0.9))}
    assert "gan.losses.NonSaturating" in str(told(parts=OURS, **run)[1])
    assert not [words for words in told(parts=OURS, **run) if "DCGANGenerator" in str(words)]
    own = told(**run)
    assert "gan.networks.repair.Normalized" in str(own[1])
    assert "gan.networks.DCGANDiscriminator" in str(own[2])


def test_what_the_command_refuses_is_not_told():
    run = {"generator_optimizer": adam(betas=(0.5, 0.9))}
    every = told(**run)
    asked = []
    assert told(accepts=lambda words: asked.append(tuple(words)), **run) == []
    assert set(every) <= set(asked)
    assert told(accepts=lambda words: "R1" in str(words), **run) == [words for words in every if "R1" in str(words)]


def test_each_is_told_once_and_no_more_than_can_be_tried():
    words = told(generator_optimizer=adam(betas=(0.5, 0.9)), loss=loss("LeastSquares"))
    assert len(words) == len(set(words)) == MOST


def test_ends_are_mended_whatever_else_is_tried():
    record = changed(good(), discriminator__ends="sigmoid")
    for words in told(record=record):
        assert "gan.networks.repair.Logit" in str(words) or "gan.networks.DCGANDiscriminator" in str(words)


def test_what_no_setting_heals_is_told_in_words():
    finding = Finding("constant data", "why", "reference")
    (prescription,) = prescribe(finding, good(), patient(parts=OWN), lambda words: True)
    assert prescription.settings == ()
    assert "samples/real.png" in prescription.text


def test_what_is_refused_does_not_take_all_else_with_it():
    """A batch size is no setting of a data module in a Rescaled; a network made in a function has no wrapper."""
    run = {"parts": OURS, "batch_size": 4, "discriminator_optimizer": adam(3.0)}
    first, *_ = told(accepts=lambda words: "--data.batch_size" not in words, **run)
    assert first == ("--model.discriminator_optimizer.lr", "0.002")
    record = changed(good(), discriminator__ends="sigmoid")
    words = told(record=record, accepts=lambda words: "repair.Logit" not in str(words))
    assert ("--model.penalties", "[{class_path: gan.penalties.R1, init_args: {weight: 10.0, every: 1}}]") in words


def test_a_repair_that_the_command_refuses_is_told_in_words():
    record = changed(good(), discriminator__ends="sigmoid")
    finding = Finding("probabilities for logits", "why", "reference")
    found = prescribe(finding, record, patient(), lambda words: "repair" not in str(words))
    (by_hand, *_) = [each for each in found if not each.settings]
    assert by_hand.text.endswith("return what goes into its sigmoid")


def test_many_changes_are_told_in_brief():
    record = changed(good(), discriminator__ends="sigmoid")
    run = patient(loss=loss("LeastSquares"), penalties=[])
    first, usual, elsewhere, *_ = (each.text for each in prescribe(COLLAPSE, record, run, lambda words: True))
    assert "D (mine.py, line 3) ends in a sigmoid" in first
    wanted = (
        "what trains most networks: NonSaturating, R1, Adam, Normalized around D, Normalized around G, Logit around D"
    )
    assert usual == wanted
    shipped = "DCGANGenerator in the place of G, DCGANDiscriminator in the place of D, NonSaturating, R1, Adam"
    assert sorted(elsewhere.partition(":")[0].split(", ")) == sorted(shipped.split(", "))
    assert elsewhere.endswith(": if that trains, the fault is in your networks")


def test_where_a_class_stands_is_told_once():
    text = "D (nets.py, line 3) ends in a sigmoid; see D (nets.py, line 3) and G (nets.py, line 7)"
    assert once(text) == "D (nets.py, line 3) ends in a sigmoid; see D and G (nets.py, line 7)"


def test_words_that_a_prescription_has_told_are_not_repeated():
    first, words = Prescription(("--a", "1"), "scale them, or leave that to Rescaled"), Prescription((), "scale them")
    other = Prescription((), "look at them")
    assert unrepeated([first, words, other]) == [first, other]
    assert unrepeated([words, first]) == [words, first]
