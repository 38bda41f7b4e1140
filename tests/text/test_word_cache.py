"""That words' ids are those of the whole text is in test_tokenizer.py."""

import array

from trainer.features import ID_TYPE
from trainer.text.word_cache import LONGEST_WORD_KEPT, IdsOfWords, added_texts, splits_at_spaces


def test_plain_words_take_the_short_way_to_the_same_ids(tokenizer):
    short, whole = IdsOfWords(tokenizer.backend, True), IdsOfWords(tokenizer.backend, None)
    for word in ("Unaffable", "x", "1234567", "naïve", "!", ""):
        assert short[word] == whole[word]
    assert array.array(ID_TYPE, short["hello"]).tolist() == tokenizer.encode("hello")
    assert short["a" * (LONGEST_WORD_KEPT + 1)] and "a" * (LONGEST_WORD_KEPT + 1) not in short


def test_when_texts_may_be_cut_into_words(tokenizer):
    added = added_texts(tokenizer.backend)
    assert "[MASK]" in added and splits_at_spaces(tokenizer.backend, added)
    assert not splits_at_spaces(tokenizer.backend, [*added, "new york"])
