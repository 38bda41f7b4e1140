"""Words as NLTK splits them: golden values of nltk.word_tokenize 3.10.4 with its English model."""

import pytest

from trainer.metrics.nltk_words import words


@pytest.mark.parametrize(
    "run, expected",
    # What nltk.word_tokenize of NLTK 3.10.4 gives, one space between words.
    [
        ("don't can't it's they'll we've", "do n't ca n't it 's they 'll we 've"),
        ("cannot gonna gotta gimme lemme", "can not gon na got ta gim me lem me"),
        ("wanna go wanna", "wan na go wan na"),
        ("d'ye more'n 'tis 'twas", "d 'ye more 'n ' tis ' twas"),
        ("gonna'tis", "gon na 't is"),
        ("3,400.50 2.5km, 1,b ,,c", "3,400.50 2.5km , 1 , b , ,c"),
        ("a.b.c. (d)", "a.b.c . ( d )"),
        ("he said \"yes\" ('no').", "he said `` yes '' ( ' no ' ) ."),
        ("rock 'n' roll ''x''", "rock 'n ' roll `` x ''"),
        ("the dogs' «bone»‘x", "the dogs ' « bone » ‘ x"),
        ("wait... what?! 50%—$5 a&b #1 @me", "wait ... what ? ! 50 % — $ 5 a & b # 1 @ me"),
        ("one. two. mr. x lives in st. louis.", "one . two . mr. x lives in st. louis ."),
        ("no. 3. place; j. smith (etc.) end.", "no . 3. place ; j. smith ( etc . ) end ."),
        ("", ""),
    ],
)
def test_words_are_nltks(run, expected):
    assert words(run) == expected.split()
