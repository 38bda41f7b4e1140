"""Training speed and memory of the family's encoders relative to a BERT of the same sizes; RoBERTa beside PyTorch.

    python benchmarks/encoders.py --peer_python=PEER/bin/python

All have all-MiniLM-L6-v2's sizes, 6 layers of 384, and its vocabulary, but RoBERTa, which has a tokenizer of its own. The
weights are random: speed does not depend on them. First `bert-trainer benchmark` on the quick start's sentences, in a process
for each encoder and BERT in turn: a ratio is taken within a round. Then, where --peer_python is given, RoBERTa's tagging of
SNIPS by the sides of `speed.py`. Results go to benchmarks/results/encoders.json and encoders.md.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import report
import speed
from accuracy import minilm_folder

sys.path.insert(0, str(report.ROOT))

SIZES = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
DISTANCES = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1},
    "distilbert": {},
    "electra": {"embedding_size": 128},
    "albert": {"embedding_size": 128},
    "deberta": DISTANCES,
    "deberta-v2": {**DISTANCES, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    # The published ratios: four heads in a bottleneck a quarter as wide, four feed-forward networks.
    "mobilebert": {"embedding_size": 128, "intra_bottleneck_size": 96, "num_attention_heads": 4, "intermediate_size": 384},
}
ROBERTA_SIDES = ("ours", "pytorch-f32-grouped", "pytorch-bf16-grouped")
KEYS = ["task.pooling=mean", "train.precision=float32"]
A_TEXT_A_ROW = ["data.max_examples_per_row=1", "data.length_buckets=true"]


def write_encoder(kind: str, folder: Path) -> None:
    """Writes an encoder with random weights as the Hub has it."""
    from trainer.models.encoder import BertEncoder
    from trainer.models.families import FAMILIES
    from trainer.serving.hugging_face import write_hugging_face
    from trainer.text.tokenizer import load_tokenizer

    config = FAMILIES[kind].config_class(**{**SIZES, **KINDS[kind]})
    write_hugging_face(str(folder), BertEncoder(config), load_tokenizer(str(minilm_folder())), "BertModel", {}, ())
    if kind == "roberta":  # its positions are counted from behind its own padding token
        for path in folder.iterdir():
            if path.name not in ("config.json", "model.safetensors"):
                path.unlink()
        byte_level_tokenizer().save_pretrained(str(folder))


def byte_level_tokenizer() -> Any:
    """Returns RoBERTa's kind of tokenizer, learned from the quick start's sentences."""
    import tokenizers
    import transformers

    learned = tokenizers.ByteLevelBPETokenizer()
    text = (report.ROOT / "configs/quickstart/train.csv").read_text(encoding="utf8").splitlines()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learned.train_from_iterator(text, vocab_size=8000, special_tokens=specials, show_progress=False)
    whole = tokenizers.Tokenizer.from_str(learned.to_str())
    whole.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return transformers.RobertaTokenizerFast(tokenizer_object=whole)


def measure(kind: str, encoder: Path, steps: int) -> dict[str, float]:
    """Returns {"tokens": useful ones a second; "bytes": the most memory; "parameters"} of one process."""
    from trainer.models.families import FAMILIES

    keys = [f"encoder.init_from={encoder}", *KEYS, *([] if FAMILIES[kind].packs else A_TEXT_A_ROW)]
    with tempfile.TemporaryDirectory() as workdir:
        flags = ["--config=configs/quickstart.yaml", f"--workdir={workdir}", f"--steps={steps}"]
        report.run_trainer(["benchmark", *flags, *[f"--set={key}" for key in keys]])
        figures = json.loads(Path(workdir, "benchmark.json").read_text())
    return {"tokens": figures["tokens_per_second"], "bytes": figures["peak_memory_bytes"]}


def markdown(rounds: list[dict[str, dict[str, float]]], sizes: dict[str, int], roberta: dict[str, Any] | None) -> str:
    """Returns the results as tables."""
    rows = []
    for kind in rounds[0]:
        found = [one[kind] for one in rounds]
        ratio = report.median_ratio([one["tokens"] for one in found], [one["bert"]["tokens"] for one in rounds])
        memory = report.median_ratio([one["bytes"] for one in found], [one["bert"]["bytes"] for one in rounds])
        rates, most = [one["tokens"] for one in found], statistics.median(one["bytes"] for one in found)
        rows.append(
            [
                kind,
                f"{sizes[kind] / 1e6:.0f} MB",
                report.spread(rates, 0),
                f"{ratio:.2f}",
                f"{most / 1e6:,.0f} MB",
                f"{memory:.2f}",
            ]
        )
    names = ["encoder", "weights", "useful tokens/s, median (range)", "BERT = 1", "memory at the most", "BERT = 1"]
    text = report.table(names, rows)
    return text if roberta is None else f"{text}\nRoBERTa:\n\n{speed.markdown({'snips-32': roberta})}"


def main() -> None:
    """Runs the encoders that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=KINDS, help="may be repeated; by default all; BERT always")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--data", default="../shared/data", help="the folder of the data sets, for RoBERTa beside PyTorch")
    parser.add_argument("--peer_python", help="python of an environment with peers/requirements.txt")
    options = parser.parse_args()
    kinds = dict.fromkeys(["bert", *(options.kind or KINDS)])
    with tempfile.TemporaryDirectory() as temporary:
        folders = {kind: Path(temporary, kind) for kind in [*kinds, "roberta"]}
        for kind, folder in folders.items():
            write_encoder(kind, folder)
        sizes = {kind: (folders[kind] / "model.safetensors").stat().st_size for kind in kinds}
        rounds = []
        for number in range(options.rounds):
            rounds.append({kind: measure(kind, folders[kind], options.steps) for kind in kinds})
            print(f"round {number + 1}: {rounds[-1]}", flush=True)
        roberta = None
        if options.peer_python:
            options.side, options.keras_python = list(ROBERTA_SIDES), None
            roberta = speed.run_case("snips-32", options, folders["roberta"])
    results = {"machine": report.machine(), "bytes_of_weights": sizes, "rounds": rounds, "roberta": roberta}
    report.keep("encoders", results, markdown(rounds, sizes, roberta))


if __name__ == "__main__":
    main()
