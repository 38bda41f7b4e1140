"""Which words are masked, what comes in their place, and which models can say it."""

import random

import numpy as np
import pytest

from trainer.errors import UserError
from trainer.models.encoder import BertEncoder
from trainer.models.families import FAMILIES
from trainer.run import masked_words
from trainer.run.masked_words import MaskedWords
from trainer.serving.hugging_face import write_hugging_face
from trainer.tasks import pretraining


class Model:
    """Stands for the predictor: always has the same words for a mask."""

    def __init__(self, *words):
        self.words, self.texts = words, []

    def predict(self, rows):
        self.texts += [row.values["text"] for row in rows]
        entries = [{"token": word, "probability": 1 / (number + 1)} for number, word in enumerate(self.words)]
        return [{"masks": [entries] * row.values["text"].count("[MASK]")} for row in rows]


def replacer(*words, has_inner=True):
    made = object.__new__(MaskedWords)
    made._predictor, made._mask, made._has_inner = Model(*words), "[MASK]", has_inner
    return made


def replaced(made, texts, prob):
    return list(made.replaced(texts, prob, [random.Random(number) for number in range(len(texts))]))


def test_words_are_masked_and_the_rest_stays():
    made = replacer("fine")
    (text,) = replaced(made, ["It's  Good: 3 days,\n好吃!"], 1.0)
    assert made._predictor.texts == ["[MASK]'[MASK]  [MASK]: 3 [MASK],\n[MASK][MASK]!"]
    assert text == "Fine'fine  Fine: 3 fine,\nfinefine!"


def test_one_word_is_masked_at_least():
    made = replacer("fine")
    found = replaced(made, ["one two three", "", "1 2 !"], 0.0)
    assert found[0].split().count("fine") == 1 and found[1:] == ["", "1 2 !"]


def test_what_is_no_other_word_is_left_out():
    assert replaced(replacer("good", "##ing", ".", "[UNK]", "great"), ["Good"], 1.0) == ["Great"]
    assert replaced(replacer("good", "##ing"), ["good"], 1.0) == ["good"]
    assert replaced(replacer("ing", "Ġgreat", has_inner=False), ["good"], 1.0) == ["great"]


def test_words_come_as_often_as_they_are_probable():
    found = replaced(replacer("great", "fine"), ["good"] * 3000, 1.0)
    assert abs(found.count("great") / len(found) - 2 / 3) < 0.05
    assert found == replaced(replacer("great", "fine"), ["good"] * 3000, 1.0), "a function of the draws"


def test_a_text_with_a_mask_of_its_own_stays():
    assert replaced(replacer("fine"), ["a [MASK] day"], 1.0) == ["a [MASK] day"]


@pytest.fixture(scope="module")
def with_head(tmp_path_factory, tokenizer):
    """A folder with random weights and a masked-language-model head."""
    config = FAMILIES["bert"].config_class(
        vocab_size=tokenizer.vocabulary_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    task = pretraining.Task(pretraining.Config(sentence_objective="none"), tokenizer, 32)
    encoder = BertEncoder(config)
    model = task.build_model(encoder)
    folder = tmp_path_factory.mktemp("masked") / "encoder"
    write_hugging_face(str(folder), encoder, tokenizer, *task.hugging_face_head(model), ())
    return folder


def test_a_model_with_its_head(with_head, monkeypatch):
    monkeypatch.setattr(masked_words, "TEXTS_AT_A_TIME", 3)
    texts = ["the battery died after two days"] * 7
    made = MaskedWords(str(with_head), 32)
    found = replaced(made, texts, 0.5)
    assert len(found) == 7 and found == replaced(made, texts, 0.5)
    assert any(a != b for a, b in zip(found, texts, strict=True)) and all(len(text.split()) == 6 for text in found)
    assert np.mean([a == b for one in found for a, b in zip(one.split(), texts[0].split(), strict=True)]) > 0.2


def test_an_encoder_without_the_head(tiny_encoder):
    with pytest.raises(UserError, match=r"has an encoder but no masked-language-model head \(cls/.* is not there\)"):
        MaskedWords(str(tiny_encoder), 32)


def test_no_such_folder():
    with pytest.raises(UserError, match="--masked_lm: no folder /nowhere"):
        MaskedWords("/nowhere", 32)


def test_a_run_of_another_task(finished_run):
    with pytest.raises(UserError, match="is a run of classification; name one of pretraining"):
        MaskedWords(str(finished_run), 32)
