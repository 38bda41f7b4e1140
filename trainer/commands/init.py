"""init: looks at a file of rows and writes a commented config for it."""

import collections
import dataclasses
import itertools
import json
import math
import statistics

from trainer import files
from trainer.cli import Options
from trainer.data.sources import Rejected, Row, SourceFormat, format_of, read_rows
from trainer.data.text_lines import read_lines
from trainer.errors import UserError
from trainer.tasks.classification import label_text

ROWS_LOOKED_AT = 50_000
DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LABEL_NAMES = ("label", "labels", "class", "category", "intent", "target", "sentiment", "y", "topic", "polarity")
TEXT_NAMES = ("text", "sentence", "review", "content", "comment", "message", "title", "body", "question", "tweet")
MAX_LABEL_SHARE = 0.2  # a column with more distinct values than this share of the rows holds no classes
CHARACTERS_PER_TOKEN = {"cjk": 1.0, "other": 4.0}  # rough: enough to choose a length that cuts hardly any text
MAX_UNREADABLE = 0.1  # of the rows: with more, classes would be missed
LENGTHS = (32, 64, 128, 256, 512)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a file seems to hold.

    Attributes:
      text_columns, label_column: the columns' names.
      classes: {class: rows}.
      rows, rejected: how many were looked at, and how many could not be read.
      token_lengths: estimated tokens of each row, sorted.
      delimiter: between columns, where it is not the format's usual one; else "".
      encoding: of the file, where it was named; else "auto".
    """

    text_columns: tuple[str, ...]
    label_column: str
    classes: dict[str, int]
    rows: int
    rejected: list[Rejected]
    token_lengths: list[int]
    delimiter: str
    encoding: str = "auto"

    @property
    def unlabelled(self) -> int:
        """How many of the rows have no label."""
        return self.rows - sum(self.classes.values())


def run(options: Options) -> None:
    """Writes the config to --output (default: bert.yaml) and says what was seen."""
    source, target = options.required("source"), options.output or "bert.yaml"
    if target.endswith("/") or files.is_dir(target):
        target = files.join(target, "bert.yaml")
    if files.exists(target):
        raise UserError(f"--output: {target} is already there; remove it or choose another name")
    finding = look_at(source, options.encoding)
    files.write_text(target, config_text(finding, source, options.encoder or DEFAULT_ENCODER))
    print("\n".join(summary(finding, source)))
    print(f"\nwrote {target}; look it over, then:\n  bert-trainer train --config={target} --workdir=run1")


def look_at(source: str, encoding: str = "auto") -> Finding:
    """Reads the first rows of a source and guesses its columns.

    Args:
      source: a file, a glob or a TensorFlow dataset.
      encoding: of text files, where it is not UTF-8.

    Raises:
      UserError: no rows, or no column that looks like text, or like a label.
    """
    delimiter = _delimiter(source, encoding)
    source_format = SourceFormat(delimiter=delimiter, encoding=encoding)
    found = list(itertools.islice(read_rows(source, "--from", source_format), ROWS_LOOKED_AT))
    rows = [row.values for row in found if isinstance(row, Row)]
    rejected = [row for row in found if isinstance(row, Rejected)]
    if not rows:
        why = f": {rejected[0].reason} (line {rejected[0].line})" if rejected else ""
        raise UserError(f"--from: {source} has no rows that can be read{why}")
    if len(rejected) > MAX_UNREADABLE * len(found):
        raise UserError(
            f"--from: {len(rejected)} of the first {len(found)} rows of {source} cannot be read; line {rejected[0].line}: "
            f"{rejected[0].reason}".replace("data.encoding=", "--encoding=")
        )
    columns = list(dict.fromkeys(column for row in rows for column in row))
    label = _label_column(rows, columns)
    texts = _text_columns(rows, [column for column in columns if column != label])
    labels = (label_text(row.get(label)) for row in rows)
    classes = collections.Counter(name for name in labels if name is not None)
    lengths = sorted(sum(_token_estimate(str(row.get(column) or "")) for column in texts) for row in rows)
    return Finding(texts, label, dict(classes.most_common()), len(rows), rejected, lengths, delimiter, encoding)


def _delimiter(source: str, encoding: str) -> str:
    """Returns ";" for a csv file whose header has semicolons and no comma, as spreadsheets write it in many countries."""
    if source.startswith("tfds:") or format_of(source) != "csv":
        return ""
    header = next(read_lines(files.expand(source, "--from")[0], encoding), "")
    if header.lower().lstrip('"').startswith("sep="):
        return ""  # Excel's line, which the reader follows
    return ";" if ";" in header and "," not in header else ""


def _label_column(rows: list[dict], columns: list[str]) -> str:
    """The column with a label's name, else the one with the fewest values that repeat."""
    distinct = {column: {label_text(row.get(column)) for row in rows} - {None} for column in columns}
    limit = max(MAX_LABEL_SHARE * len(rows), 2)
    few = [column for column in columns if 2 <= len(distinct[column]) <= limit]
    named = [column for column in few if column.lower() in LABEL_NAMES]
    if named or few:
        return (named or sorted(few, key=lambda column: len(distinct[column])))[0]
    counts = ", ".join(f"{column!r} has {len(values)}" for column, values in distinct.items())
    raise UserError(
        f"--from: no column looks like a label (2 to {limit:.0f} different values in {len(rows)} rows): {counts}. "
        "If the file has no header line, add one"
    )


def _text_columns(rows: list[dict], columns: list[str]) -> tuple[str, ...]:
    """The column with a text's name, two that end in 1 and 2 (or a and b), else the longest."""
    textual = [column for column in columns if all(isinstance(row.get(column), str | None) for row in rows[:100])]
    textual = [column for column in textual if any(row.get(column) for row in rows)]
    if not textual:
        raise UserError(f"--from: no column of text besides the label; the columns are {', '.join(map(repr, columns))}")
    for first, second in itertools.permutations(textual, 2):
        if first[:-1] == second[:-1] and (first[-1:], second[-1:]) in (("1", "2"), ("a", "b"), ("A", "B")):
            return first, second
    pairs = (("premise", "hypothesis"), ("question", "sentence"), ("question", "answer"))
    for pair in pairs:
        if set(pair) <= set(textual):
            return pair
    named = [column for column in textual if column.lower() in TEXT_NAMES]
    longest = max(textual, key=lambda column: sum(len(row.get(column) or "") for row in rows[:1000]))
    return (named[0] if named else longest,)


def _token_estimate(text: str) -> int:
    cjk = sum("\u2e80" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7af" for character in text)
    others = len(text) - cjk
    return round(cjk / CHARACTERS_PER_TOKEN["cjk"] + others / CHARACTERS_PER_TOKEN["other"]) + 2


def _length_that_fits(finding: Finding) -> int:
    """The shortest usual length that cuts at most one row in a hundred."""
    wanted = finding.token_lengths[int(0.99 * (len(finding.token_lengths) - 1))]
    return next((length for length in LENGTHS if length >= wanted), LENGTHS[-1])


def summary(finding: Finding, source: str) -> list[str]:
    """Returns what was seen, for people."""
    lengths = finding.token_lengths
    lines = [
        f"{source}: {finding.rows:,} rows" + (f", {len(finding.rejected):,} unreadable" if finding.rejected else ""),
        f"  text: {', '.join(finding.text_columns)}; about {statistics.median(lengths):.0f} tokens by estimate "
        f"(longest {lengths[-1]})",
        f"  label: {finding.label_column}, {len(finding.classes)} classes",
    ]
    shown = list(finding.classes.items())[:8]
    lines += [f"    {name}: {count:,} ({count / finding.rows:.1%})" for name, count in shown]
    if len(finding.classes) > len(shown):
        lines.append(f"    and {len(finding.classes) - len(shown)} more")
    if finding.unlabelled:
        lines.append(f"    no label: {finding.unlabelled:,} rows, which are left out")
    lines += [f"  {row.path}:{row.line}: {row.reason}" for row in finding.rejected[:3]]
    return lines


def config_text(finding: Finding, source: str, encoder: str) -> str:
    """Returns the commented YAML."""
    # JSON strings are YAML strings; what cannot be printed is written as an escape.
    quote = lambda value: json.dumps(value, ensure_ascii=not value.isprintable())  # noqa: E731
    names = sorted(finding.classes)
    counts = finding.classes.values()
    is_unequal = max(counts) > 4 * min(counts)
    length = _length_that_fits(finding)
    over = sum(tokens > length for tokens in finding.token_lengths)
    listed = f"[{', '.join(map(quote, names))}]" if len(names) <= 100 else "[]  # learned from data.train"
    others = f"\n  delimiter: {quote(finding.delimiter)}" if finding.delimiter else ""
    others += f"\n  encoding: {finding.encoding}" if finding.encoding != "auto" else ""
    if finding.unlabelled > 0.005 * finding.rows:  # a split may have twice their share
        most = math.ceil(200 * finding.unlabelled / finding.rows) / 100
        others += f"\n  max_rejected_fraction: {min(most, 1.0):g}  # {finding.unlabelled} of {finding.rows} rows have no label"
    batch_size = 32 if finding.rows >= 500 else 8
    score = "\n  best_score: macro.f1  # accuracy hides the rare classes" if is_unequal else ""
    balance = (
        f"class_weights  # the largest class has {max(counts) / min(counts):.0f}× the rows of the smallest"
        if is_unequal
        else "none  # or class_weights, sampling"
    )
    return f"""\
# Written by `bert-trainer init --from {source}` after a look at {finding.rows:,} rows.
# Every key: bert-trainer describe. Any key for one run: --set key=value.
task:
  name: classification
  class_names: {listed}
  balance: {balance}

encoder:
  init_from: {quote(encoder)}  # a Hub id, a folder, a Google checkpoint or an earlier workdir

data:
  train: {quote(source)}
  # Rows that choose the best checkpoint: a file, or a share of the training rows (by a hash of the text, the same in each run)
  validation: {_validation_share(finding)}
  # test: test.csv  # rows for the final score
  text_columns: [{", ".join(map(quote, finding.text_columns))}]
  label_column: {quote(finding.label_column)}{others}
  max_seq_length: {length}  # by estimate {over} of {finding.rows:,} rows are longer, and cut

train:
  batch_size: {batch_size}
  epochs: {3 if finding.rows >= 2000 else 10 if finding.rows < 500 else 5}
  learning_rate: 1e-4  # large encoders (BERT-base and up) want 2e-5 to 5e-5
  precision: auto      # bfloat16 where it is faster: TPUs, GPUs from Ampere on, some CPUs; else float32{score}
"""


def _validation_share(finding: Finding) -> str:
    """Returns the smallest usual share of the rows that holds out rows of two classes at least."""
    counts = finding.classes.values()
    for percent in (10, 20, 30, 40):
        if sum(min(round(percent / 100 * count), count - 1) >= 1 for count in counts) >= 2:
            return f"{percent}%"
    return "null  # too few rows to hold some out"
