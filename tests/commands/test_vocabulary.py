import json

from trainer.text.tokenizer import load_tokenizer

SAMPLE = "configs/tiny/sotu/train.txt"


def test_a_vocabulary_from_raw_text(cli, tmp_path):
    status, out, _ = cli("vocabulary", f"--from={SAMPLE}", f"--output={tmp_path}/tokenizer", "--size=1000", "--unused=10")
    assert status == 0 and "1,024 tokens, lower-cased, 10 of them unused slots" in out
    assert "on 1 held-out document(s):" in out and f"--set encoder.vocabulary_path={tmp_path}/tokenizer" in out
    tokenizer = load_tokenizer(f"{tmp_path}/tokenizer")
    assert tokenizer.vocabulary_size == 1024 and tokenizer.lowercase
    assert tokenizer.unk_id not in tokenizer.encode("The Congress of the United States!")
    figures = json.loads((tmp_path / "tokenizer/coverage.json").read_text())
    assert figures["documents"] == 1 and figures["words"] > 1000


def test_the_samples_own_vocabulary_is_what_the_command_makes(cli, tmp_path):
    cli("vocabulary", f"--from={SAMPLE}", f"--output={tmp_path}/tokenizer", "--size=2048")
    with open("configs/tiny/sotu/vocab.txt", encoding="utf8") as file:
        assert (tmp_path / "tokenizer/vocab.txt").read_text(encoding="utf8") == file.read()


def test_extending_an_encoders_vocabulary(cli, tmp_path, minilm):
    rows = [{"body": "The myocarditis patients had tachyarrhythmia. " * 20}] * 3
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = (f"--from={tmp_path}/notes.jsonl", "--column=body", f"--output={tmp_path}/more", f"--extend={minilm}")
    status, _, log = cli("vocabulary", *given, "--size=31000")
    assert status == 0 and "30,522 tokens of" in log and "keep their ids" in log
    before, after = load_tokenizer(str(minilm)), load_tokenizer(f"{tmp_path}/more")
    assert after.tokens()[:30522] == before.tokens()
    assert len(after.encode("tachyarrhythmia")) < len(before.encode("tachyarrhythmia"))
    status, _, error = cli("vocabulary", *given, "--size=30000")
    assert status == 1 and "--size: " in error and "has 30,522 tokens already; ask for more than that" in error


def test_no_text_in_the_column(cli, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "some text"}\n')
    status, _, error = cli("vocabulary", f"--from={tmp_path}/x.jsonl", f"--output={tmp_path}/t")
    assert status == 1 and "has no text in column 'text'; name the column with --column" in error
