"""Entity scores: seqeval's and conlleval's figures, recorded and (where seqeval is installed) live, and values by hand."""

import random

import pytest

from trainer.metrics.tagging import EntityCounts
from trainer.text.tag_schemes import Span, spans_of, strict_spans_of

LETTERS = {"IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU"}
SCORES = ("precision", "recall", "f1")

# seqeval 1.2.2, precision_recall_fscore_support(..., zero_division=0): precision, recall and F1
# {(scheme, mode): ({average: of random_sequences(scheme, seed=7)}, {type: the same and true entities})}
SEQEVAL = {
    ("IOB2", "default"): (
        {
            "micro": [0.697247706422, 0.752475247525, 0.72380952381],
            "macro": [0.697524052066, 0.751361771364, 0.722517625743],
            "weighted": [0.699035956227, 0.752475247525, 0.723896565481],
        },
        {
            "LOC": [0.725, 0.763157894737, 0.74358974359, 38],
            "PER": [0.657894736842, 0.78125, 0.714285714286, 32],
            "creative-work": [0.709677419355, 0.709677419355, 0.709677419355, 31],
        },
    ),
    ("BIOES", "default"): (
        {
            "micro": [0.785185185185, 0.809160305344, 0.796992481203],
            "macro": [0.787105751391, 0.809943639291, 0.798077819927],
            "weighted": [0.786758770128, 0.809160305344, 0.797511528115],
        },
        {
            "LOC": [0.840909090909, 0.822222222222, 0.831460674157, 45],
            "PER": [0.734693877551, 0.782608695652, 0.757894736842, 46],
            "creative-work": [0.785714285714, 0.825, 0.80487804878, 40],
        },
    ),
    ("IOB2", "strict"): (
        {
            "micro": [0.693548387097, 0.704918032787, 0.69918699187],
            "macro": [0.697435897436, 0.70126705653, 0.69664160401],
            "weighted": [0.697793190416, 0.704918032787, 0.698760014791],
        },
        {
            "LOC": [0.692307692308, 0.75, 0.72, 24],
            "PER": [0.65, 0.722222222222, 0.684210526316, 18],
            "creative-work": [0.75, 0.631578947368, 0.685714285714, 19],
        },
    ),
    ("BIOES", "strict"): (
        {
            "micro": [0.682926829268, 0.756756756757, 0.717948717949],
            "macro": [0.68315018315, 0.756854256854, 0.717032967033],
            "weighted": [0.688446688447, 0.756756756757, 0.719854469854],
        },
        {
            "LOC": [0.571428571429, 0.666666666667, 0.615384615385, 12],
            "PER": [0.692307692308, 0.818181818182, 0.75, 11],
            "creative-work": [0.785714285714, 0.785714285714, 0.785714285714, 14],
        },
    ),
    ("BILOU", "strict"): (
        {
            "micro": [0.682926829268, 0.756756756757, 0.717948717949],
            "macro": [0.68315018315, 0.756854256854, 0.717032967033],
            "weighted": [0.688446688447, 0.756756756757, 0.719854469854],
        },
        {
            "LOC": [0.571428571429, 0.666666666667, 0.615384615385, 12],
            "PER": [0.692307692308, 0.818181818182, 0.75, 11],
            "creative-work": [0.785714285714, 0.785714285714, 0.785714285714, 14],
        },
    ),
}

# conlleval.pl of 2004-01-26, in percent, of random_sequences("IOB2", seed=7): accuracy, precision, recall, FB1; then per type
CONLLEVAL = (
    [77.98, 69.72, 75.25, 72.38],
    {"LOC": [72.5, 76.32, 74.36], "PER": [65.79, 78.12, 71.43], "creative-work": [70.97, 70.97, 70.97]},
)


def random_sequences(scheme, seed):
    """Returns true and predicted tags of 30 sentences; many of them break the scheme."""
    generator = random.Random(seed)

    def pick(items):
        return items[int(generator.random() * len(items))]  # choice() differs between versions of Python

    known = ["O", "O", *(f"{letter}-{name}" for letter in LETTERS[scheme] for name in ("LOC", "PER", "creative-work"))]
    true = [[pick(known) for _ in range(pick(range(1, 12)))] for _ in range(30)]
    return true, [[tag if generator.random() < 0.7 else pick(known) for tag in tags] for tags in true]


def scored(true, predicted, scheme, read=spans_of):
    counts = EntityCounts()
    for true_tags, predicted_tags in zip(true, predicted, strict=True):
        counts.add(read(true_tags, scheme), read(predicted_tags, scheme))
        counts.add_tags(true_tags, predicted_tags)
    return counts.scores()


def close(expected):
    return pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize(("scheme", "mode"), SEQEVAL)
def test_seqevals_recorded_figures(scheme, mode):
    scores = scored(*random_sequences(scheme, seed=7), scheme, spans_of if mode == "default" else strict_spans_of)
    averages, per_type = SEQEVAL[scheme, mode]
    assert [scores[key] for key in SCORES] == close(averages["micro"])
    assert [scores["macro"][key] for key in SCORES] == close(averages["macro"])
    assert [scores["weighted"][key] for key in SCORES] == close(averages["weighted"])
    assert list(scores["per_type"]) == list(per_type)
    for name, expected in per_type.items():
        assert [scores["per_type"][name][key] for key in (*SCORES, "entities")] == close(expected)


def test_conllevals_recorded_figures():
    scores = scored(*random_sequences("IOB2", seed=7), "IOB2")
    overall, per_type = CONLLEVAL
    assert [round(100 * scores[key], 2) for key in ("token_accuracy", *SCORES)] == overall
    assert {name: [round(100 * of[key], 2) for key in SCORES] for name, of in scores["per_type"].items()} == per_type


@pytest.mark.parametrize(
    ("scheme", "reference", "mode"),
    [
        ("IOB2", "IOB2", "default"),
        ("BIOES", "IOBES", "default"),
        ("IOB2", "IOB2", "strict"),
        ("BIOES", "IOBES", "strict"),
        ("BILOU", "BILOU", "strict"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_seqeval_live(scheme, reference, mode):
    pytest.importorskip("seqeval")
    from seqeval import scheme as schemes
    from seqeval.metrics import classification_report, sequence_labeling, v1

    options = {"zero_division": 0} | ({"scheme": getattr(schemes, reference)} if mode == "strict" else {})
    reference_scores = (v1 if mode == "strict" else sequence_labeling).precision_recall_fscore_support
    for seed in range(40):
        true, predicted = random_sequences(scheme, seed)
        scores = scored(true, predicted, scheme, spans_of if mode == "default" else strict_spans_of)
        for average, found in (("micro", scores), ("macro", scores["macro"]), ("weighted", scores["weighted"])):
            expected = reference_scores(true, predicted, average=average, **options)
            assert [found[key] for key in SCORES] == close(expected[:3])
        report_options = options | {"mode": "strict" if mode == "strict" else None, "output_dict": True}
        report = classification_report(true, predicted, **report_options)
        for name, found in scores["per_type"].items():
            expected = [report[name][key] for key in ("precision", "recall", "f1-score", "support")]
            assert [found[key] for key in (*SCORES, "entities")] == close(expected)


def test_scores_by_hand():
    counts = EntityCounts()
    # One of two persons is found; the place is found one token too long; an organization is made up.
    counts.add([Span(0, 2, "PER"), Span(4, 5, "LOC")], [Span(0, 2, "PER"), Span(4, 6, "LOC")])
    counts.add([Span(0, 1, "PER")], [Span(0, 1, "ORG")])
    assert counts.scores() == {
        "precision": pytest.approx(1 / 3),
        "recall": pytest.approx(1 / 3),
        "f1": pytest.approx(1 / 3),
        "entities": 3,
        "predicted_entities": 3,
        "macro": {"precision": pytest.approx(1 / 3), "recall": pytest.approx(1 / 6), "f1": pytest.approx(2 / 9)},
        "weighted": {"precision": pytest.approx(2 / 3), "recall": pytest.approx(1 / 3), "f1": pytest.approx(4 / 9)},
        "per_type": {
            "LOC": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 1},
            "ORG": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 0},
            "PER": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "entities": 2},
        },
    }


def test_token_accuracy_counts_every_token():
    counts = EntityCounts()
    counts.add_tags(["O", "B-PER", "I-PER"], ["O", "B-PER", "O"])
    counts.add_tags(["O"], ["O"])
    assert counts.scores()["token_accuracy"] == 0.75
    with pytest.raises(ValueError, match="shorter"):
        counts.add_tags(["O", "O"], ["O"])


def test_sentences_add_up_in_any_order():
    true, predicted = random_sequences("IOB2", seed=3)
    assert scored(true, predicted, "IOB2") == scored(true[::-1], predicted[::-1], "IOB2")


def test_without_entities_every_score_is_zero():
    counts = EntityCounts()
    counts.add([], [])
    zeros = dict.fromkeys(SCORES, 0.0)
    expected = zeros | {"entities": 0, "predicted_entities": 0, "macro": zeros, "weighted": zeros, "per_type": {}}
    assert counts.scores() == expected
