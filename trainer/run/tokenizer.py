"""The tokenizer that a run's config names."""

from trainer import files
from trainer.errors import UserError
from trainer.models.encoder_folders import find_encoder, is_workdir
from trainer.run.experiment import Experiment
from trainer.text.tokenizer import Tokenizer, load_saved_tokenizer, load_tokenizer, load_vocabulary


def tokenizer_folder(workdir: str) -> str:
    """Returns where a run keeps its tokenizer."""
    return files.join(workdir, "tokenizer")


def encoder_folder(experiment: Experiment) -> str | None:
    """Returns the folder that `encoder.init_from` names, found; None for random weights."""
    if experiment.encoder.init_from == "random":
        return None
    return find_encoder(experiment.encoder.init_from, experiment.encoder.revision)


def find_tokenizer(experiment: Experiment) -> Tokenizer:
    """Loads the tokenizer that the config names: encoder.vocabulary_path, else the encoder's own.

    Raises:
      UserError: none is there, or it is no BERT tokenizer.
    """
    encoder = experiment.encoder
    path = encoder.vocabulary_path
    if path is not None and not files.is_dir(path):
        if not files.exists(path):
            raise UserError(f"encoder.vocabulary_path: no file or folder {path}")
        return load_vocabulary(path, encoder.lowercase)
    folder = path or encoder_folder(experiment)
    if folder is None:
        raise UserError("encoder.init_from=random needs encoder.vocabulary_path, the tokenizer's folder or vocab.txt")
    return tokenizer_of(folder, encoder.lowercase)


def tokenizer_of(folder: str, lowercase: bool | None) -> Tokenizer:
    """Loads the tokenizer of an encoder's folder, or of a workdir."""
    if not is_workdir(folder):
        return load_tokenizer(folder, lowercase)
    saved = load_saved_tokenizer(tokenizer_folder(folder))
    return saved if lowercase is None else saved.with_lowercase(lowercase)
