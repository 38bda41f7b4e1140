"""CoNLL files: every usual layout, and faults that cost one sentence."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.conll import read_conll
from trainer.data.sources import Rejected, Row
from trainer.errors import UserError
from trainer.text.tag_schemes import invalid_positions, recognize, spans_of

TEXT = "New B-LOC\nYork I-LOC\n\nHe O\nsleeps O\n"
VALUES = [
    {"tokens": ["New", "York"], "tags": ["B-LOC", "I-LOC"], "document": 0},
    {"tokens": ["He", "sleeps"], "tags": ["O", "O"], "document": 0},
]


@pytest.fixture
def read(tmp_path):
    """Writes a file and returns what is read of it."""

    def write_and_read(content, name="a.conll", **arguments):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_conll(str(path), **arguments))

    return write_and_read


def test_a_row_knows_where_its_sentence_begins(read, tmp_path):
    assert read(TEXT) == [Row(VALUES[0], str(tmp_path / "a.conll"), 1), Row(VALUES[1], str(tmp_path / "a.conll"), 4)]


@pytest.mark.parametrize(
    "content",
    [
        TEXT.replace("\n", "\r\n"),
        TEXT.replace(" ", "\t"),
        TEXT.replace(" ", "   "),
        TEXT.replace(" ", " \t "),
        TEXT.replace("\n\n", "\n\t\n"),
        TEXT.replace("\n\n", "\n  \n\n\n"),
        TEXT.replace("\n", " \n"),
        TEXT.removesuffix("\n"),
        "\n\n" + TEXT + "\n\n",
        "\ufeff" + TEXT,
        TEXT.encode("utf-16"),
    ],
)
def test_line_ends_spaces_and_marks_change_nothing(read, content):
    assert [row.values for row in read(content)] == VALUES


def test_a_packed_file(read):
    assert [row.values for row in read(gzip.compress(TEXT.encode()), name="a.conll.gz")] == VALUES


def test_any_column_order(read):
    conll2003 = "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"
    (row,) = read(conll2003)
    assert row.values["tags"] == ["B-ORG", "O"] and row.values["column 2"] == ["NNP", "VBZ"]
    (row,) = read(conll2003, column_names=["tokens", "_", "tags", "entities"])
    assert row.values == {"tokens": ["EU", "rejects"], "tags": ["B-NP", "B-VP"], "entities": ["B-ORG", "O"], "document": 0}
    reversed_order = read("B-ORG EU\nO rejects\n", column_names=["tags", "tokens"])
    assert reversed_order[0].values == {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"], "document": 0}


def test_one_column_has_no_tags(read):
    assert [row.values for row in read("New\nYork\n\nHe\n")] == [
        {"tokens": ["New", "York"], "document": 0},
        {"tokens": ["He"], "document": 0},
    ]


def test_another_number_of_columns_is_refused(read):
    with pytest.raises(
        UserError, match=r"a\.conll: the lines have 2 columns, and data.column_names names 3: a, b, c; name each"
    ):
        read(TEXT, column_names=["a", "b", "c"])


def test_documents_are_counted(read):
    content = "a O\n\n-DOCSTART- -X-\n\nb O\n\nc O\n-DOCSTART- O\nd O\n\n-DOCSTART-\n"
    rows = read(content)
    assert [(row.values["tokens"], row.values["document"], row.line) for row in rows] == [
        (["a"], 0, 1),
        (["b"], 1, 5),
        (["c"], 1, 7),
        (["d"], 2, 9),
    ]
    assert read("-DOCSTART-X O\n")[0].values["tokens"] == ["-DOCSTART-X"]


def test_comments_are_no_tokens(read):
    with_tabs = "# two words\n# sent_id = 1\nNew\tB-LOC\n#\tO\n#photo\tO\n\n# tweet\n#\tO\n"
    assert [row.values["tokens"] for row in read(with_tabs)] == [["New", "#", "#photo"], ["#"]]
    multiconer = "# id 7c3\tdomain=en\nNew _ _ B-LOC\n# _ _ O\n\n# id 8\tdomain=en\n# _ _ O\n"
    rows = read(multiconer)
    assert [row.values["tokens"] for row in rows] == [["New", "#"], ["#"]]
    assert [row.line for row in rows] == [2, 6]
    assert read("# O\n# O\n")[0].values == {"tokens": ["#", "#"], "tags": ["O", "O"], "document": 0}


def test_conll_u(read):
    content = (
        "# text = Am See\n"
        "1-2\tAm\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "1\tAn\tan\tADP\tAPPR\t_\t3\tcase\t_\t_\n"
        "2\tdem\tder\tDET\tART\t_\t3\tdet\t_\t_\n"
        "2.1\tist\tsein\tAUX\t_\t_\t_\t_\t_\t_\n"
        "3\tSee\tSee\tNOUN\tNN\t_\t0\troot\t_\t_\n\n"
    )
    (row,) = read(content)
    assert row.values["tokens"] == ["An", "dem", "See"] and row.values["tags"] == ["ADP", "DET", "NOUN"]
    assert row.values["lemmas"] == ["an", "der", "See"] and set(row.values) >= {"xpos", "features", "document"}


def test_tokens_with_other_spaces_stay_whole(read):
    (row,) = read("10\u00a0km O\n\u00a0 O\n\u2028 O\n")
    assert row.values["tokens"] == ["10\u00a0km", "\u00a0", "\u2028"]
    (row,) = read("New York\tB-LOC\nis\tO\n")
    assert row.values["tokens"] == ["New York", "is"]


@pytest.mark.parametrize(
    ("bad_line", "reason"),
    [
        ("York", "1 columns where 2 belong"),
        ("York NNP I-LOC", "3 columns where 2 belong"),
        ("# York NNP I-LOC", "4 columns where 2 belong"),
        ("\tI-LOC", "the column 'tokens' is empty"),
    ],
)
def test_a_bad_line_costs_its_sentence(read, tmp_path, bad_line, reason):
    rows = read(TEXT.replace("York I-LOC", f"{bad_line}\nCity I-LOC"))
    assert rows[0] == Rejected(str(tmp_path / "a.conll"), 2, reason, f"New B-LOC\n{bad_line}\nCity I-LOC")
    assert [row.values for row in rows[1:]] == VALUES[1:]


def test_a_bad_first_line_costs_its_sentence_only(read):
    rows = read("by John Smith\n\n" + TEXT)
    assert rows[0].line == 1 and rows[0].reason == "3 columns where 2 belong"
    assert [row.values for row in rows[1:]] == VALUES


def test_an_empty_tag_is_named(read):
    (row,) = read("a\t\tNN\nb\tO\tNN\n")
    assert (row.line, row.reason) == (1, "the column 'column 2' is empty")
    (row,) = read("a\t\tNN\nb\tO\tNN\n", column_names=["tokens", "_", "tags"])
    assert row.values["tags"] == ["NN", "NN"]


def test_a_byte_that_is_no_utf8_costs_its_sentence(read, tmp_path):
    rows = read(TEXT.replace("York", "Yörk").encode("latin-1"))
    assert rows[0].line == 2
    assert rows[0].reason.startswith("not UTF-8: byte 0xF6 at character 2; save the file as UTF-8")
    assert rows[0].content == "New B-LOC\nY\\xf6rk I-LOC"
    assert [row.values for row in rows[1:]] == VALUES[1:]
    (row, _) = read(TEXT.replace("York", "Yörk").encode("latin-1"), encoding="latin-1")
    assert row.values["tokens"] == ["New", "Yörk"]


def test_faults_after_the_first_lines_are_found(read):
    rows = read("a O\n\n" * 2000 + "b\n\na O")
    assert [row.line for row in rows if isinstance(row, Rejected)] == [4001]
    assert len(rows) == 2002


@pytest.mark.parametrize("content", ["", "\n\n", "-DOCSTART- O\n"])
def test_no_sentence_no_row(read, content):
    assert read(content) == []


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(st.sampled_from(["", "a O", "b\tO", "c", "# d", "# O", "-DOCSTART- O", "\t", "e O x", "\tO", "#"])))
def test_no_token_is_lost(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("conll") / "a.conll"
    path.write_text("\n".join(lines))
    kept = []
    for row in read_conll(str(path)):
        kept += row.content.split("\n") if isinstance(row, Rejected) else row.values["tokens"]
    words = [line.split()[0] for line in lines if line.strip() and line[0] != "#" and not line.startswith("-DOCSTART-")]
    assert [line.split()[0] for line in kept if line[0] != "#"] == words


@pytest.mark.parametrize(
    ("file", "scheme", "sentences", "tokens", "entities", "last_document"),
    [
        ("wnut17/dev.conll", "IOB2", 1009, 15733, 836, 0),
        ("wikigold/wikigold.conll", "IOB1", 1696, 39007, 3558, 144),
    ],
)
def test_real_files(shared_data, file, scheme, sentences, tokens, entities, last_document):
    rows = list(read_conll(str(shared_data / file)))
    tags = [row.values["tags"] for row in rows]
    assert recognize(tags) == scheme
    assert (len(rows), sum(map(len, tags)), rows[-1].values["document"]) == (sentences, tokens, last_document)
    assert sum(len(spans_of(row, scheme)) for row in tags) == entities
    assert not any(invalid_positions(row, scheme) for row in tags)
