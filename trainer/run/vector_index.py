"""A folder of texts and their vectors, in which queries find the most similar ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trainer import files
from trainer.errors import UserError
from trainer.metrics.retrieval import top_k
from trainer.run.embedding import Asked, Embedder, folder_of, is_same, probe
from trainer.run.vector_files import NumpyFile, Values

VECTORS, ROWS, DESCRIPTION, GRAPH = "embeddings.npy", "rows.jsonl", "index.json", "hnsw.faiss"
TEXT_NAMES = ("text", "query", "question", "sentence")
NEIGHBOURS, SEARCHED = 32, 128  # of faiss' graph (Malkov and Yashunin 2016): links of a text, texts looked at


def text_column(values: Values, asked: str) -> str:
    """Returns the column of a row's text: the one that is asked for, or the only one that can be meant."""
    if asked in values or asked != "text":
        return asked
    textual = [name for name, value in values.items() if isinstance(value, str)]
    named = [name for name in TEXT_NAMES if name in textual]
    return named[0] if named else textual[0] if len(textual) == 1 else asked


class IndexWriter:
    """Writes an index; search finds it once it is whole.

    Args:
      folder: of the index.
      encoder: as the embedder was given it.
      embedder: makes the vectors.
      column: of the rows' texts, as `text_column` takes it.
    """

    def __init__(self, folder: str, encoder: str, embedder: Embedder, column: str = "text"):
        self._folder, self._count = folder.rstrip("/"), 0
        description = {
            "encoder": folder_of(encoder),
            "settings": embedder.settings,
            "asked": dataclasses.asdict(embedder.asked),
        }
        self._description = {**description, "column": column, "dimensions": embedder.dimensions, "probe": probe(embedder)}
        for name in (DESCRIPTION, GRAPH):
            if files.exists(files.join(self._folder, name)):
                files.remove_tree(files.join(self._folder, name))
        self._vectors = NumpyFile(files.join(self._folder, VECTORS), embedder.dimensions)
        self._rows = files.open_binary(files.join(self._folder, ROWS), "wb")

    def __enter__(self) -> IndexWriter:
        return self

    def write(self, rows: Sequence[Values | None], vectors: np.ndarray) -> None:
        """Adds rows, but for those that are None, with their vectors: float32 [rows, dimensions]."""
        kept = [number for number, row in enumerate(rows) if row is not None]
        self._vectors.write([rows[number] for number in kept], vectors[kept])
        for number in kept:
            self._rows.write((json.dumps(rows[number], ensure_ascii=False) + "\n").encode())
        self._count += len(kept)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self._rows.close()
        self._vectors.__exit__(kind, error, trace)
        if kind is None:
            files.write_sealed(files.join(self._folder, DESCRIPTION), {**self._description, "rows": self._count})


@dataclasses.dataclass(frozen=True)
class VectorIndex:
    """An index that was written.

    Attributes:
      folder: of the index.
      description: what made it.
      vectors: float32 [rows, dimensions].
      rows: the texts with their other columns.
    """

    folder: str
    description: dict[str, Any]
    vectors: np.ndarray
    rows: list[dict[str, Any]]

    @classmethod
    def open(cls, folder: str) -> VectorIndex:
        """Reads an index.

        Raises:
          UserError: the index is missing or damaged.
        """
        path = files.join(folder, DESCRIPTION)
        if not files.exists(path):
            raise UserError(f"--index: {folder} holds no {DESCRIPTION}; write one with embed --output={folder.rstrip('/')}/")
        description = files.read_sealed(path)
        with files.open_binary(files.join(folder, VECTORS)) as file:
            vectors = np.load(file, allow_pickle=False)
        with files.open_binary(files.join(folder, ROWS)) as file:
            rows = [json.loads(line) for line in file]
        if not len(vectors) == len(rows) == description["rows"]:
            raise UserError(f"--index: {folder} is damaged: {len(vectors)} vectors for {len(rows)} rows; write it again")
        return cls(folder, description, vectors, rows)

    def texts(self) -> list[str]:
        """Returns the texts whose vectors these are."""
        return [row[text_column(row, self.description["column"])] for row in self.rows]

    def embedder(self) -> Embedder:
        """Returns what made the vectors.

        Raises:
          UserError: the encoder is gone, or gives other vectors today, as a run that was trained on.
        """
        found = Embedder(self.description["encoder"], Asked(**self.description["asked"]), self.description["settings"])
        if not is_same(found, self.description["probe"]):
            raise UserError(
                f"--index: {self.description['encoder']} gives other vectors than those of {self.folder}: it was trained on, "
                "or replaced; write the index again"
            )
        return found

    def search(self, queries: np.ndarray, k: int, engine: str = "numpy") -> Iterator[list[tuple[int, float]]]:
        """Yields for each query the most similar rows: (the row's number, the similarity), the most similar first.

        Args:
          queries: float32 [queries, dimensions].
          k: rows of each.
          engine: numpy looks at all rows; faiss, of the extra search, at a graph of them, which it makes the first time.

        Raises:
          UserError: faiss is not installed.
        """
        if engine == "faiss":
            similar, places = self._graph().search(np.ascontiguousarray(queries, np.float32), min(k, len(self.rows)))
        else:
            places, similar = top_k(queries, self.vectors, k)
        for row, values in zip(places.tolist(), similar.tolist(), strict=True):
            yield [(number, value) for number, value in zip(row, values, strict=True) if number >= 0]

    def _graph(self) -> Any:
        try:
            import faiss
        except ImportError:
            raise UserError(
                "--engine=faiss needs faiss: pip install 'tf-bert-trainer[search]', or use --engine=numpy"
            ) from None
        path = files.join(self.folder, GRAPH)
        found: Any
        if files.exists(path) and not files.is_remote(path):
            found = faiss.read_index(path)
        else:
            found = faiss.IndexHNSWFlat(self.vectors.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            found.add(np.ascontiguousarray(self.vectors, np.float32))
            if not files.is_remote(path):
                faiss.write_index(found, path)
        found.hnsw.efSearch = SEARCHED
        return found
