"""What sentence-transformers itself reads of our files is in benchmarks/README.md; here they are read back."""

import json

import pytest

from trainer.errors import UserError
from trainer.models.sentence_transformers import SentenceRecipe, read_recipe, recipe_files


def write(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(content))
    return str(folder)


def test_a_real_folder(minilm):
    assert read_recipe(str(minilm)) == SentenceRecipe("mean", True, 256)


@pytest.mark.parametrize(
    "recipe",
    [
        SentenceRecipe("cls", False, 64),
        SentenceRecipe("weighted_mean", True, 512, "query: ", "passage: "),
        SentenceRecipe("max", True, 128, "", "x"),
    ],
)
def test_what_is_written_is_read(tmp_path, recipe):
    assert read_recipe(write(tmp_path, recipe_files(recipe, 384))) == recipe


def test_a_plain_folder_says_nothing(tmp_path):
    assert read_recipe(str(tmp_path)) is None


def changed(**changes):
    files = recipe_files(SentenceRecipe(), 8)
    for path, change in changes.items():
        name = {"modules": "modules.json", "pooling": "1_Pooling/config.json"}[path]
        files[name] = change(files[name])
    return files


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (changed(modules=lambda _: {"a": 1}), "no list of modules"),
        (changed(modules=lambda modules: modules[:1]), "the modules are Transformer; supported are"),
        (changed(modules=lambda m: [*m, {"type": "sentence_transformers.models.Dense"}]), "Normalize, Dense; supported are"),
        (changed(modules=lambda m: [{**m[0], "path": "0_BERT"}, *m[1:]]), "the encoder is in the folder '0_BERT' of it"),
        (changed(modules=lambda m: [m[0], {**m[1], "path": "../../x"}, m[2]]), "the path '../../x' leaves the folder"),
        (
            changed(pooling=lambda p: {**p, "pooling_mode_cls_token": True}),
            "the pooling is pooling_mode_cls_token, pooling_mode_m",
        ),
        (changed(pooling=lambda _: {"pooling_mode_lasttoken": True}), "the pooling is pooling_mode_lasttoken; supported is"),
        (changed(pooling=lambda _: {}), "the pooling is none; supported is"),
        (changed(pooling=lambda p: {**p, "include_prompt": False}), "include_prompt=false, which leaves"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        read_recipe(write(tmp_path, files))
