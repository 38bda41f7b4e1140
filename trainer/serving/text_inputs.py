"""Strings to the encoder's inputs inside a graph: by TensorFlow's operations, which any server has, or by one of our own."""

import tensorflow as tf

from trainer.data.packing import pack_evenly
from trainer.features import ROW_ID, TOKENS
from trainer.models.encoder import PACKED_INPUTS
from trainer.runtime.native import kernels
from trainer.text.character_tables import PagedTable, read_tables
from trainer.text.in_graph_tokenizer import InGraphTokenizer, pieces, special_tokens
from trainer.text.tokenizer import Tokenizer

INPUTS = (*PACKED_INPUTS, "cls_positions")
ROW_WIDTH = 64  # tokens of a packed row, about; longer where a text is
PIECE_TOKENS = 8192  # of a request, computed at a time
_PACKED = {**TOKENS, **ROW_ID}


class GraphInputs(tf.Module):
    """Tokenizes, cuts and packs texts by TensorFlow's operations.

    Args:
      tokenizer: the run's.
      max_seq_length: longer inputs are cut to this, as in training.

    Call:
      texts: string [batch], or two of them for pairs.

    Returns:
      ({name: int32 [rows, length] for each of PACKED_INPUTS, "cls_positions": int32 [rows, K]}, int32 [batch], where each
      text's slot is, counted over rows · K).
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_length: int):
        super().__init__(name="text_inputs")
        self._tokenize = InGraphTokenizer(tokenizer)
        self._ids = (tokenizer.cls_id, tokenizer.sep_id)
        self._max_seq_length = max_seq_length

    def __call__(self, *texts: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        cls_id, sep_id = self._ids
        parts = [self._tokenize(text) for text in texts]
        if len(parts) == 1:
            parts = [parts[0][:, : self._max_seq_length - 2]]
        else:
            parts = cut_pairs(parts[0], parts[1], self._max_seq_length - 3)
        batch = tf.shape(texts[0])[0]
        sep = tf.fill([batch, 1], sep_id)
        ended = [tf.concat([part, sep], axis=1) for part in parts]
        first = tf.concat([tf.fill([batch, 1], cls_id), ended[0]], axis=1)
        rows = tf.concat([first, *ended[1:]], axis=1)
        types = tf.concat([tf.zeros_like(first), *[tf.ones_like(part) for part in ended[1:]]], axis=1)
        features = {"input_ids": rows, "token_type_ids": types, "row_id": tf.range(batch)}
        packed, places = pack_evenly(features, _PACKED, ROW_WIDTH)
        return {name: packed[name] for name in INPUTS}, places


class NativeInputs(tf.Module):
    """Does what `GraphInputs` does by one operation of our own (`trainer/native/wordpiece.h`), but for the rows' length.

    A row is as long as what is computed at a time, for the encoder that goes with it leaves padding out and needs no rows of
    like length.
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_length: int):
        super().__init__(name="text_inputs")
        tables = read_tables(tokenizer)
        none = PagedTable(*[tf.zeros([0], tf.int32).numpy()] * 2)
        paged = (tables.kind, tables.starters or none, tables.mark_order or none)
        replacement = (*_pages(tables.replacement), tables.replacement_values, tables.replacement_starts)
        self._tables = [pieces(tokenizer), *replacement, *(array for table in paged for array in _pages(table))]
        specials = special_tokens(tokenizer)
        self._attributes = {
            "max_seq_length": max_seq_length,
            "row_tokens": PIECE_TOKENS,
            "cls_id": tokenizer.cls_id,
            "sep_id": tokenizer.sep_id,
            "unk_id": tokenizer.unk_id,
            "suffix_indicator": tokenizer.backend.model.continuing_subword_prefix,
            "special_tokens": [token for token, _ in specials],
            "special_ids": [number for _, number in specials],
        }

    def __call__(self, *texts: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        tables = [tf.constant(table) for table in self._tables]
        *packed, places = kernels("inference").operations.bert_inputs(list(texts), *tables, **self._attributes)
        return dict(zip(INPUTS, packed, strict=True)), places


def _pages(table: PagedTable):
    return table.page_of, table.pages


def cut_pairs(first: tf.RaggedTensor, second: tf.RaggedTensor, budget: int) -> list[tf.RaggedTensor]:
    """Cuts pairs of token rows to `budget` together, as `text.sequences.pair_lengths` does: int32 [batch, (tokens)] each."""
    lengths = [tf.cast(part.row_lengths(), tf.int32) for part in (first, second)]
    short = tf.minimum(*lengths)
    long = tf.maximum(short, budget - short)
    is_both = short + long > budget
    short = tf.where(is_both, budget // 2, short)
    long = tf.where(is_both, budget // 2 + budget % 2, long)
    first_is_longer = lengths[0] > lengths[1]
    kept = [tf.where(first_is_longer, long, short), tf.where(first_is_longer, short, long)]
    fits = lengths[0] + lengths[1] <= budget
    return [
        _keep(part[:, :budget], tf.where(fits, length, keep))
        for part, length, keep in zip((first, second), lengths, kept, strict=True)
    ]


def _keep(rows: tf.RaggedTensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """Keeps the first tokens of each row."""
    position = tf.ragged.range(tf.cast(rows.row_lengths(), tf.int32))
    limit = tf.gather(lengths, position.value_rowids())
    return tf.ragged.boolean_mask(rows, position.with_values(position.flat_values < limit))
