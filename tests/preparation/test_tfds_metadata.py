"""That `tfds.builder_from_directory` opens a records folder is in tests/commands/test_prepare.py."""

import json

from trainer.data.records import Manifest
from trainer.features import ROW_ID, TOKENS
from trainer.preparation.tfds_metadata import write_tfds_metadata


def test_the_files_by_hand(tmp_path):
    split = {"shards": [{"file": "a", "examples": 3, "bytes": 70}, {"file": "b", "examples": 2, "bytes": 30}]}
    spec = {"input_ids": TOKENS["input_ids"], **ROW_ID}
    write_tfds_metadata(Manifest(str(tmp_path), spec, {}, {"train": split}, {}))
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["splits"][0]["shardLengths"] == ["3", "2"] and info["splits"][0]["numBytes"] == "100"
    features = json.loads((tmp_path / "features.json").read_text())["featuresDict"]["features"]
    assert features["input_ids"]["tensor"]["shape"] == {"dimensions": ["-1"]} and features["row_id"]["tensor"]["shape"] == {}
