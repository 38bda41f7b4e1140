"""init: looks at a file of rows, asks each task whether it recognizes it, and writes a commented config."""

import statistics

from trainer import files
from trainer.cli import Options
from trainer.data.sources import RowError
from trainer.data.table import Proposal, Table, UnrecognizedError, quoted, read_table
from trainer.errors import UserError
from trainer.tasks import task_module, task_names

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LENGTHS = (32, 64, 128, 256, 512)


def run(options: Options) -> None:
    """Writes the config to --output (default: bert.yaml) and says what was seen."""
    source, target = options.required("source"), options.output or "bert.yaml"
    if target.endswith("/") or files.is_dir(target):
        target = files.join(target, "bert.yaml")
    if files.exists(target):
        raise UserError(f"--output: {target} is already there; remove it or choose another name")
    table = read_table(source, options.encoding, options.format)
    name, proposal, others = choose(table, options.task)
    files.write_text(target, config_text(table, name, proposal, options.encoder or DEFAULT_ENCODER))
    print("\n".join(summary(table, name, proposal)))
    if others:
        print(f"  also readable as {', '.join(others)}: --task={others[0]}")
    print(f"\nwrote {target}; look it over, then:\n  bert-trainer train --config={target} --workdir=run1")


def choose(table: Table, wanted: str | None = None) -> tuple[str, Proposal, list[str]]:
    """Asks the tasks; returns the name of the one that is most certain, its proposal, and the others that take the table.

    Args:
      table: the rows.
      wanted: --task: the only one to ask.

    Raises:
      UserError: none recognizes the table, or two do equally.
    """
    found: dict[str, Proposal] = {}
    reasons: dict[str, str] = {}
    for name in [wanted] if wanted else task_names():
        try:
            found[name] = task_module(name).Task.recognize(table)
        except (UnrecognizedError, UserError, RowError) as reason:
            reasons[name] = str(reason)
    if not found:
        told = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
        raise UserError(f"--from: {table.source} is not recognized as rows of {wanted or 'any task'}:{told}")
    best, *others = sorted(found, key=lambda name: -found[name].certainty)
    ties = [name for name in others if found[name].certainty == found[best].certainty]
    if ties:
        names = " or ".join(f"--task={name}" for name in (best, *ties))
        raise UserError(f"--from: {table.source} can be rows of {best} or {', '.join(ties)}; say which: {names}")
    return best, found[best], others


def summary(table: Table, name: str, proposal: Proposal) -> list[str]:
    """Returns what was seen, for people."""
    lengths = proposal.token_lengths
    return [
        f"{table.source}: {len(table.rows):,} rows" + (f", {len(table.rejected):,} unreadable" if table.rejected else ""),
        f"  task: {name}",
        *(f"  {line}" for line in proposal.summary),
        f"  about {statistics.median(lengths):.0f} tokens by estimate (longest {lengths[-1]})",
        *(f"  {row.path}:{row.line}: {row.reason}" for row in table.rejected[:3]),
    ]


def config_text(table: Table, name: str, proposal: Proposal, encoder: str) -> str:
    """Returns the commented YAML."""
    rows, lengths = len(table.rows), proposal.token_lengths
    length = proposal.max_seq_length or length_that_fits(lengths)
    over = sum(tokens > length for tokens in lengths)
    then = "cut into windows" if proposal.max_seq_length else "cut"
    data = dict(proposal.data)
    data |= {"delimiter": quoted(table.delimiter)} if table.delimiter else {}
    data |= {"encoding": table.encoding} if table.encoding != "auto" else {}
    data |= {"format": table.format} if table.format != "auto" else {}
    epochs = 3 if rows >= 2000 else 10 if rows < 500 else 5
    return f"""\
# Written by `bert-trainer init --from {table.source}` after a look at {rows:,} rows.
# Every key: bert-trainer describe. Any key for one run: --set key=value.
task:
  name: {name}{_lines(proposal.task)}

encoder:
  init_from: {quoted(encoder)}  # a Hub id, a folder, a Google checkpoint or an earlier workdir

data:
  train: {quoted(table.source)}
  # Rows that choose the best checkpoint: a file, or a share of the training rows (by a hash of the text, the same in each run)
  validation: {proposal.validation}
  # test: test.csv  # rows for the final score{_lines(data)}
  max_seq_length: {length}  # by estimate {over} of {rows:,} rows are longer, and {then}

train:
  batch_size: {32 if rows >= 500 else 8}
  epochs: {epochs}
  learning_rate: 1e-4  # large encoders (BERT-base and up) want 2e-5 to 5e-5
  precision: auto      # bfloat16 where it is faster: TPUs, GPUs from Ampere on, some CPUs; else float32{_lines(proposal.train)}
"""


def _lines(values: dict[str, str]) -> str:
    return "".join(f"\n  {key}: {value}" for key, value in values.items())


def length_that_fits(token_lengths: list[int]) -> int:
    """Returns the shortest usual length that cuts at most one row in a hundred."""
    wanted = token_lengths[int(0.99 * (len(token_lengths) - 1))]
    return next((length for length in LENGTHS if length >= wanted), LENGTHS[-1])
