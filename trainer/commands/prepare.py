"""prepare: rows → examples → records."""

import logging

from trainer import experiment, files, preparation
from trainer.cli import Options
from trainer.errors import UserError
from trainer.run_tokenizer import find_tokenizer

log = logging.getLogger(__name__)


def run(options: Options) -> None:
    """Prepares the records of a config, unless they are up to date."""
    asked = experiment.load(options.config, options.set)
    workdir = options.workdir or asked.data.records_dir
    if workdir is None:
        raise UserError("prepare needs --workdir, or data.records_dir in the config: where do the records go?")
    resolved = preparation.learned(asked)
    tokenizer = find_tokenizer(resolved)
    preparation.ensure_records(resolved, workdir, tokenizer)
    print(f"records: {preparation.records_dir(resolved, workdir)}")
    print(f"rejected rows: {files.join(preparation.records_dir(resolved, workdir), preparation.REJECTED_FILE)}")
