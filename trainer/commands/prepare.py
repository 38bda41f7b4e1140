"""prepare: rows → examples → records."""

import logging

from trainer import files
from trainer.cli import Options
from trainer.data.google_records import write_google_records
from trainer.data.records import Manifest
from trainer.errors import UserError
from trainer.preparation import freshness, learning, splits
from trainer.preparation.sinks import Sink
from trainer.run import experiment
from trainer.run.experiment import Experiment
from trainer.run.tokenizer import find_tokenizer
from trainer.tasks import pretraining, task_module

log = logging.getLogger(__name__)


def run(options: Options) -> None:
    """Prepares the records of a config, unless they are up to date."""
    asked = experiment.load(options.config, options.set)
    workdir = options.workdir or asked.data.records_dir
    if workdir is None:
        raise UserError("prepare needs --workdir, or data.records_dir in the config: where do the records go?")
    asked.data.require_rows()
    resolved = learning.learned(asked)
    tokenizer = find_tokenizer(resolved)
    manifest = splits.ensure_records(resolved, workdir, tokenizer, _corpus_sink(options, resolved))
    if options.google_records:
        for path in _write_google_records(options.google_records, resolved, manifest):
            print(f"google-research/bert's records: {path}")
    print(f"records: {freshness.records_dir(resolved, workdir)}")
    print(f"rejected rows: {files.join(freshness.records_dir(resolved, workdir), splits.REJECTED_FILE)}")


def _corpus_sink(options: Options, resolved: Experiment) -> Sink | None:
    if options.runner == "local":
        if options.beam_flags:
            raise UserError("--beam_flags goes with --runner=beam")
        return None
    if not task_module(resolved.task.name).Task.is_corpus:
        raise UserError(f"--runner=beam prepares corpora (task.name=pretraining), not rows of task.name={resolved.task.name}")
    from trainer.preparation.beam import beam_sink

    return beam_sink(options.beam_flags)


def _write_google_records(folder: str, resolved: Experiment, manifest: Manifest) -> list[str]:
    if not isinstance(resolved.task, pretraining.Config) or not resolved.task.static_masks:
        raise UserError("--google_records: these are records of task.name=pretraining with task.static_masks=true")
    length = resolved.data.max_seq_length
    shards = [path for split in manifest.splits for path in manifest.paths(split)]
    most = resolved.task.max_predictions or resolved.task.masking_recipe().predictions(length)
    print(f"google-research/bert's options: --max_seq_length={length} --max_predictions_per_seq={most}")
    return write_google_records(shards, folder, length, most)
