"""This project as a side of `benchmarks/preparation.py`: SOURCE ENCODER FOLDER WORKERS MAX_LENGTH."""

import json
import os
import sys
import time
from pathlib import Path


def main(source, encoder, folder, workers, max_length):
    # Imported here, as the command line does: worker processes import this file again, and need no TensorFlow.
    sys.path.insert(0, str(Path(__file__).parents[2]))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from trainer.preparation import learning
    from trainer.preparation import splits as preparation
    from trainer.run import experiment
    from trainer.run.tokenizer import find_tokenizer

    settings = [
        f"data.train={source}",
        f"encoder.init_from={encoder}",
        f"data.workers={workers}",
        f"data.max_seq_length={max_length}",
    ]
    begun = time.perf_counter()
    resolved = learning.learned(experiment.load(None, tuple(settings), None))
    manifest = preparation.ensure_records(resolved, folder, find_tokenizer(resolved))
    seconds = time.perf_counter() - begun
    split = manifest.splits["train"]
    print(json.dumps({"work": seconds, "tokens": split["tokens"], "bytes": sum(shard["bytes"] for shard in split["shards"])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
