"""Strings to the encoder's inputs by one C++ operation, for exports with native kernels."""

import tensorflow as tf

from trainer.models.kernels.native_library import library
from trainer.serving.text_inputs import INPUTS, PIECE_TOKENS
from trainer.text.character_tables import PagedTable, read_tables
from trainer.text.graph_limits import pieces, special_tokens
from trainer.text.tokenizer import Tokenizer


class NativeInputs(tf.Module):
    """Does what `GraphInputs` does by one C++ operation (`trainer/native/wordpiece.h`), except for the rows' length.

    A row is as long as what is computed at a time: the native encoder removes padding, so it needs no rows of similar length.
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_length: int):
        super().__init__(name="text_inputs")
        tables = read_tables(tokenizer)
        none = PagedTable(*[tf.zeros([0], tf.int32).numpy()] * 2)
        marks = (tables.marks.starters, tables.marks.order) if tables.marks else (none, none)
        replacement = (*_pages(tables.replacement.entry), tables.replacement.values, tables.replacement.starts)
        paged = [array for table in (tables.kind, *marks) for array in _pages(table)]
        self._tables = [pieces(tokenizer), *replacement, *paged]
        specials = special_tokens(tokenizer)
        self._attributes = {
            "max_seq_length": max_seq_length,
            "row_tokens": PIECE_TOKENS,
            "cls_id": tokenizer.cls_id,
            "sep_id": tokenizer.sep_id,
            "unk_id": tokenizer.unk_id,
            "suffix_indicator": tokenizer.piece_prefix,
            "special_tokens": [token for token, _ in specials],
            "special_ids": [number for _, number in specials],
        }

    def __call__(self, *texts: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        tables = [tf.constant(table) for table in self._tables]
        *packed, places = library("inference").operations.bert_inputs(list(texts), *tables, **self._attributes)
        return dict(zip(INPUTS, packed, strict=True)), places


def _pages(table: PagedTable):
    return table.page_of, table.pages
