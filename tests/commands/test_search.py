import io
import json

import pytest

TEXTS = ["a cat on a mat", "the stock market fell", "a dog in a basket", "bread and butter"]


@pytest.fixture
def index(cli, tmp_path, tiny_encoder):
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(TEXTS)))
    flags = (f"--encoder={tiny_encoder}", f"--input={tmp_path}/texts.jsonl", f"--output={tmp_path}/index/")
    assert cli("embed", *flags)[0] == 0
    return tmp_path / "index"


def test_queries_of_a_file(cli, index, tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"query": text}) + "\n" for text in [*TEXTS[1:3], ""]))
    flags = (f"--index={index}", f"--input={tmp_path}/q.jsonl", "--top=2")
    status, out, _ = cli("search", *flags)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [line["found"][0]["id"] for line in lines[:2]] == [1, 2] and len(lines[0]["found"]) == 2
    assert lines[0]["found"][0]["text"] == TEXTS[1] and lines[0]["found"][0]["similarity"] > 0.999
    assert lines[2]["error"] == "the text in column 'query' is empty" and lines[2]["line"] == 3
    assert cli("search", *flags, f"--output={tmp_path}/found.jsonl")[0] == 0
    assert [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()] == lines


def test_queries_that_are_typed(cli, index, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TEXTS[3]}\n\n"))
    status, out, _ = cli("search", f"--index={index}", "--top=1")
    assert status == 0 and [json.loads(line)["found"][0]["id"] for line in out.splitlines()] == [3]


def test_hard_negatives(cli, tmp_path, tiny_encoder, index):
    pairs = [("who sat?", TEXTS[0]), ("who sat?", TEXTS[2]), ("what fell?", TEXTS[1]), ("what is for breakfast?", TEXTS[3])]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in [*pairs, ("none", "")]))
    flags = (f"--input={path}", "--columns=q,a", "--negatives=2", "--margin=0")
    status, out, error = cli("search", f"--encoder={tiny_encoder}", *flags)
    assert status == 0 and "4 pairs, " in error and "1 rows were left out; the first" in error
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["q"], line["a"]) for line in lines] == pairs
    for line in lines:
        answers = {a for q, a in pairs if q == line["q"]}
        assert len(line["negatives"]) <= 2 and not answers & set(line["negatives"]) and line["q"] not in line["negatives"]
    assert any(line["negatives"] for line in lines)
    both = (f"--encoder={tiny_encoder}", f"--input={path}", "--column=a", f"--output={tmp_path}/answers/")
    assert cli("embed", *both)[0] == 0
    of_answers = json.loads(cli("search", f"--index={tmp_path}/answers", *flags)[1].splitlines()[0])
    assert set(of_answers["negatives"]) <= set(TEXTS), "of the column whose vectors they are"
    mined = json.loads(cli("search", f"--index={index}", *flags)[1].splitlines()[0])
    assert set(mined["negatives"]) <= set(TEXTS)
    none = [json.loads(line)["negatives"] for line in cli("search", f"--index={index}", *flags, "--margin=3")[1].splitlines()]
    assert none == [[]] * 4, "nothing is so much less similar"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--index=/nowhere"], "--index: /nowhere holds no index.json"),
        ([], "--index is needed"),
        (["--negatives=2", "--columns=a", "--encoder={tiny}"], "--columns=a: two columns with a comma between"),
        (["--negatives=2", "--columns=query,query"], "name one encoder"),
        (["--negatives=2", "--encoder={tiny}", "--columns=x,y"], "has no pair in x and y; the first, "),
    ],
)
def test_calls_that_cannot_be(cli, tmp_path, tiny_encoder, flags, message):
    (tmp_path / "q.jsonl").write_text('{"query": "a"}\n')
    given = [flag.format(tiny=tiny_encoder) for flag in flags]
    status, _, error = cli("search", f"--input={tmp_path}/q.jsonl", *given)
    assert status == 1 and message in error, error
