import json

import numpy as np
import pytest

from trainer.errors import UserError
from trainer.run.embedding import Asked, Embedder
from trainer.run.vector_index import IndexWriter, VectorIndex

TEXTS = ["a cat on a mat", "the stock market fell", "a dog in a basket", "bread and butter"]


@pytest.fixture
def folder(tiny_encoder, tmp_path):
    embedder = Embedder(str(tiny_encoder), Asked("cls"))
    with IndexWriter(f"{tmp_path}/index/", str(tiny_encoder), embedder) as index:
        index.write([{"text": TEXTS[0]}, None, {"text": TEXTS[1]}], embedder.vectors([TEXTS[0], "lost", TEXTS[1]]))
        index.write([{"text": text} for text in TEXTS[2:]], embedder.vectors(TEXTS[2:]))
    return tmp_path / "index"


def test_texts_find_themselves(folder):
    index = VectorIndex.open(str(folder))
    assert [row["text"] for row in index.rows] == TEXTS, "without the refused row"
    embedder = index.embedder()
    assert embedder.asked == Asked("cls")
    queries = embedder.vectors(TEXTS)
    found = list(index.search(queries, 2))
    assert [row[0][0] for row in found] == [0, 1, 2, 3] and found[0][0][1] == pytest.approx(1, abs=1e-5)
    pytest.importorskip("faiss")
    for _ in range(2):  # built, then read
        again = list(index.search(queries, 2, "faiss"))
        assert [[n for n, _ in row] for row in again] == [[n for n, _ in row] for row in found]
        assert np.allclose([v for row in again for _, v in row], [v for row in found for _, v in row], atol=1e-5)
    assert (folder / "hnsw.faiss").exists()


def test_an_index_of_another_encoder_or_none(folder, tmp_path):
    with pytest.raises(UserError, match=r"--index: .* holds no index.json; write one with embed --output=/nowhere/"):
        VectorIndex.open("/nowhere")
    description = json.loads((folder / "index.json").read_text())
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match="is damaged: 4 vectors for 1 rows; write it again"):
        VectorIndex.open(str(folder))
    index = VectorIndex(str(folder), {**description, "probe": [9.0] * 8}, np.zeros([1, 32]), [{}])
    with pytest.raises(UserError, match="gives other vectors than those of .*: it was trained on, or replaced"):
        index.embedder()


def test_faiss_is_an_extra(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'tf-bert-trainer\[search\]', or use --engine=numpy"):
        list(VectorIndex.open(str(folder)).search(np.zeros([1, 32], np.float32), 1, "faiss"))


def test_an_interrupted_index_is_none(tiny_encoder, tmp_path):
    embedder = Embedder(str(tiny_encoder))
    with pytest.raises(KeyboardInterrupt), IndexWriter(f"{tmp_path}/index/", str(tiny_encoder), embedder) as index:
        index.write([{"text": "a"}], embedder.vectors(["a"]))
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="holds no index.json"):
        VectorIndex.open(f"{tmp_path}/index")
