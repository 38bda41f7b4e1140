"""Words of a run of English or another script with spaces, as `nltk.word_tokenize` of NLTK 3.10 splits them.

The official script of CMRC 2018 splits with NLTK what stands between Chinese characters; NLTK is not a dependency of this
project. Within a sentence, the rules give NLTK's words for every run in lower case without the characters that the script
removes first (colons, hyphens, backquotes and curly double quotes among them).

One step is approximate. NLTK cuts a period off a word only at a sentence's end, and finds these ends with a trained model
(Punkt). Here, a period before white space, a bracket or a quote ends a sentence unless its word is one letter, one of
`_ABBREVIATION`'s, or a number before a lower-case word. A double quote right after `?` or `!` may go to the other sentence.
Measured against NLTK with its English model: 1 of the 4,658 distinct runs in CMRC 2018's dev and trial sets differs ("s.g.
tallentyre"), and 11 of 1,676 English paragraphs of SQuAD.

The patterns of words are those of NLTK's `NLTKWordTokenizer` (Apache-2.0), written anew for what can occur here.
"""

import itertools
import re

# A period, quotes and brackets that close after it, and white space; or the period only, if a word follows its bracket or quote
_PERIOD = re.compile(r"(?<=[^.\s])\.(?:[\"')\]}‘«»]+(?=\s|$)|(?=[\s\"')\]}({\[;@‘«»]))\s*")
_BEFORE_WORD = re.compile(r"[\s\")\]}({\[;@‘«»?!]|(?=')")
_NUMBER = re.compile(r"[.,]?\d[\d,.]*")
_ABBREVIATION = re.compile(
    r"mrs?|ms|[djs]r|prof|st|gen|col|lt|sen|rep|vs|inc|co|corp|ltd|bros|ft|jan|feb|aug|sept?|oct|nov|dec|u\.[ks]|[ap]\.m|a\.d|ph\.d"
)

# The changes to a sentence, in NLTK's order; the words are what white space separates then. A double quote becomes `` where
# it opens and '' where it closes, so that the two differ, as in NLTK.
_WORD_RULES = (
    # Quotes that open
    (re.compile("[«‘„]"), r" \g<0> "),
    (re.compile('^"'), " `` "),
    (re.compile(r"([ (\[{<])(?:\"|'')"), r"\1 `` "),
    (re.compile(r"(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)", re.IGNORECASE), "' "),
    # Punctuation; a comma between digits stays, and a period only ends a sentence
    (re.compile(r"(?<=[^.])\.([\])}>\"'» ]*)\s*$"), r" . \1 "),
    (re.compile(r",(\D)"), r" , \1"),
    (re.compile(",$"), " , "),
    (re.compile(r"\.{2,}|[;@#$%&?!\u2012-\u2015]"), r" \g<0> "),
    (re.compile("([^'])' "), r"\1 ' "),
    (re.compile(r"[][(){}<>]"), r" \g<0> "),
    # Quotes that close, and what they shorten
    (re.compile("^|$"), " "),
    (re.compile("»"), r" \g<0> "),
    (re.compile("''|\""), " '' "),
    (re.compile(r"\s+"), " "),
    (re.compile("([^' ])('[smd]|') "), r"\1 \2 "),
    (re.compile("([^' ])('ll|'re|'ve|n't) "), r"\1 \2 "),
    # Two words written as one
    (re.compile(r"\b(can)(not)\b|\b(d)('ye)\b|\b(gim|lem)(me)\b", re.IGNORECASE), r" \1\3\5 \2\4\6 "),
    (re.compile(r"\b(gon)(na)\b|\b(got)(ta)\b|\b(more)('n)\b|\b(wan)(na)(?=\s)", re.IGNORECASE), r" \1\3\5\7 \2\4\6\8 "),
    (re.compile(r" ('t)(is|was)\b", re.IGNORECASE), r" \1 \2 "),
)


def words(run: str) -> list[str]:
    """Returns a run's words.

    >>> words("don't pay $3,400.50 (u.s.) today. thanks.")
    ['do', "n't", 'pay', '$', '3,400.50', '(', 'u.s.', ')', 'today', '.', 'thanks', '.']
    """
    return [word for sentence in _sentences(run) for word in _words_of_sentence(sentence)]


def _sentences(run: str) -> list[str]:
    """Cuts a run after the periods that end a sentence, as well as this can be done without a trained model."""
    starts = [0]
    for period in _PERIOD.finditer(run):
        word = _BEFORE_WORD.split(run[starts[-1] : period.start()])[-1].lstrip("&#,")
        following = run[period.end() : period.end() + 1]
        is_initial = len(word) == 1 and word.isalpha()
        is_ordinal = _NUMBER.fullmatch(word) and (following.islower() or following in ";,.!?")
        if not (_ABBREVIATION.fullmatch(word) or is_initial or is_ordinal):
            starts.append(period.end())
    return [run[start:end] for start, end in itertools.pairwise([*starts, len(run)])]


def _words_of_sentence(sentence: str) -> list[str]:
    for pattern, replacement in _WORD_RULES:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()
