"""The files that make a records folder a TensorFlow dataset: `tfds.builder_from_directory` reads them."""

from trainer import files
from trainer.data.records import Manifest

TFDS_TEMPLATE = "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}"  # the name that shards.shard_name gives
TFDS_FEATURES = "tensorflow_datasets.core.features"


def write_tfds_metadata(manifest: Manifest) -> None:
    """Writes features.json and dataset_info.json, as `tfds.folder_dataset.write_metadata` would."""
    features = {}
    for name, feature in sorted(manifest.spec.items()):
        shape = {"dimensions": ["-1"]} if feature.per == "token" else {}
        tensor = {"shape": shape, "dtype": "int64" if feature.dtype == "int32" else "float32", "encoding": "none"}
        features[name] = {"pythonClassName": f"{TFDS_FEATURES}.tensor_feature.Tensor", "tensor": tensor}
    class_name = f"{TFDS_FEATURES}.features_dict.FeaturesDict"
    path = files.join(manifest.folder, "features.json")
    files.write_json(path, {"pythonClassName": class_name, "featuresDict": {"features": features}})
    splits = [
        {
            "name": split,
            "shardLengths": [str(shard["examples"]) for shard in summary["shards"]],
            "numBytes": str(sum(shard["bytes"] for shard in summary["shards"])),
            "filepathTemplate": TFDS_TEMPLATE,
        }
        for split, summary in manifest.splits.items()
    ]
    info = {"fileFormat": "tfrecord", "version": "1.0.0", "splits": splits}
    files.write_json(files.join(manifest.folder, "dataset_info.json"), info)
