"""The files of sentence-transformers beside an encoder's: how its tokens become one vector.

A folder's modules.json lists a Transformer, a Pooling and, mostly, a Normalize. Source: sentence-transformers 5,
`models/Pooling.py`, `SentenceTransformer.py`.
"""

import dataclasses
from typing import Any

from trainer import files
from trainer.errors import UserError
from trainer.models.pooling import Pooling

MODULES, PROMPTS, LENGTH = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
MODES: dict[str, Pooling] = {
    # Pooling's flags → ours
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
}
OTHER_MODES = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_lasttoken")
QUERY_NAMES, DOCUMENT_NAMES = ("query",), ("document", "passage", "corpus")


@dataclasses.dataclass(frozen=True)
class SentenceRecipe:
    """How texts become vectors.

    Attributes:
      pooling: what becomes of the tokens.
      normalize: whether vectors have length 1.
      max_seq_length: tokens of a text; None where the files do not tell.
      query_prompt, document_prompt: put before queries and other texts.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    max_seq_length: int | None = None
    query_prompt: str = ""
    document_prompt: str = ""


def read_recipe(folder: str) -> SentenceRecipe | None:
    """Reads the files of an encoder's folder; None where it has none of them.

    Raises:
      UserError: a module or a kind of pooling that is not supported, or files that are none.
    """
    path = files.join(folder, MODULES)
    if not files.exists(path):
        return None
    modules = files.read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{path}: no list of modules")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise UserError(f"{path}: the modules are {', '.join(kinds)}; supported are Transformer, Pooling and Normalize")
    if modules[0].get("path"):
        raise UserError(f"{path}: the encoder is in the folder {modules[0]['path']!r} of it; name that folder")
    name = str(modules[1].get("path", ""))
    if "/" in name or "\\" in name or ".." in name:
        raise UserError(f"{path}: the path {name!r} leaves the folder")
    prompts = _optional(folder, PROMPTS).get("prompts") or {}
    return SentenceRecipe(
        pooling=_pooling(files.join(folder, name, "config.json")),
        normalize="Normalize" in kinds,
        max_seq_length=_optional(folder, LENGTH).get("max_seq_length"),
        query_prompt=_prompt(prompts, QUERY_NAMES),
        document_prompt=_prompt(prompts, DOCUMENT_NAMES),
    )


def _pooling(path: str) -> Pooling:
    stored = files.read_json_object(path)
    modes = [mode for mode in (*MODES, *OTHER_MODES) if stored.get(mode)]
    if len(modes) != 1 or modes[0] not in MODES:
        raise UserError(f"{path}: the pooling is {', '.join(modes) or 'none'}; supported is one of {', '.join(MODES)}")
    if stored.get("include_prompt") is False:
        raise UserError(f"{path}: include_prompt=false, which leaves the prompt's tokens out of the vector, is not supported")
    return MODES[modes[0]]


def _optional(folder: str, name: str) -> dict[str, Any]:
    path = files.join(folder, name)
    return files.read_json_object(path) if files.exists(path) else {}


def _prompt(prompts: dict[str, str], names: tuple[str, ...]) -> str:
    return next((str(prompts[name]) for name in names if prompts.get(name)), "")


def recipe_files(recipe: SentenceRecipe, dimensions: int) -> dict[str, Any]:
    """Returns {path: JSON} of the files that sentence-transformers reads beside an encoder's.

    Args:
      recipe: with a pooling that it has, too: all but "pooler".
      dimensions: of a vector.
    """
    modules = ["Transformer", "Pooling", *(["Normalize"] if recipe.normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(modules, paths, strict=False))
    ]
    flags = {mode: recipe.pooling == ours for mode, ours in MODES.items()} | dict.fromkeys(OTHER_MODES, False)
    prompts = {"query": recipe.query_prompt, "document": recipe.document_prompt}
    return {
        MODULES: listed,
        "1_Pooling/config.json": {"word_embedding_dimension": dimensions, **flags, "include_prompt": True},
        LENGTH: {"max_seq_length": recipe.max_seq_length, "do_lower_case": False},
        PROMPTS: {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    }
