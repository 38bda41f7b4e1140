import subprocess
import sys

import pytest

from trainer.errors import UserError
from trainer.run import experiment
from trainer.run.tokenizer import find_tokenizer


def load(*sets):
    return experiment.load(None, sets)


def test_random_needs_a_vocabulary(tiny_encoder):
    with pytest.raises(UserError, match="encoder.init_from=random needs encoder.vocabulary_path"):
        find_tokenizer(load("encoder.init_from=random", f"encoder.config_path={tiny_encoder}"))


def test_a_file_or_folder_of_ones_own(tmp_path, tiny_encoder, minilm):
    random = ("encoder.init_from=random", f"encoder.config_path={tiny_encoder}")
    vocabulary = (minilm / "vocab.txt").read_text(encoding="utf8").split("\n")
    (tmp_path / "mine.txt").write_text("\n".join([*vocabulary[:-1], "zebrafishes"]), encoding="utf8")
    assert find_tokenizer(load(*random, f"encoder.vocabulary_path={tmp_path}/mine.txt")).tokens()[-1] == "zebrafishes"
    assert find_tokenizer(load(*random, f"encoder.vocabulary_path={minilm}")).vocabulary_size == 30522
    with pytest.raises(UserError, match="encoder.vocabulary_path: no file or folder /no/such"):
        find_tokenizer(load(*random, "encoder.vocabulary_path=/no/such"))


def test_prepare_never_waits_for_tensorflow(config_file, tmp_path):
    """Preparing is over before TensorFlow would be imported: workers and the main process do without."""
    script = (
        "import sys; from trainer.cli import main;"
        f"status = main(['prepare', '--config={config_file}', '--workdir={tmp_path}/run']);"
        "print(status, sorted({'tensorflow', 'tensorflow_datasets', 'tf_keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
