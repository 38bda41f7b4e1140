"""RoBERTa's and XLM-R's kinds of tokenizer, learned from the quick start's sentences."""

import functools

import tokenizers
import transformers

from tests.conftest import ROOT
from trainer.text.tokenizer import Tokenizer

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
NAMED |= {"unk_token": "<unk>", "mask_token": "<mask>"}


def corpus() -> list[str]:
    """Returns the text that tokenizers of tests learn from."""
    return (ROOT / "configs/quickstart/train.csv").read_text(encoding="utf8").splitlines()


def hugging_face() -> transformers.RobertaTokenizerFast:
    """Returns byte-level BPE as transformers has it, where the mask takes the spaces before it."""
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(corpus(), vocab_size=800, special_tokens=SPECIALS, show_progress=False)
    backend = tokenizers.Tokenizer.from_str(backend.to_str())
    backend.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return transformers.RobertaTokenizerFast(tokenizer_object=backend, **NAMED)


def hugging_face_unigram(tokenizer_class: type[transformers.PreTrainedTokenizerFast]) -> transformers.PreTrainedTokenizerFast:
    """Returns SentencePiece's unigram model, as transformers converts it."""
    backend = tokenizers.SentencePieceUnigramTokenizer()
    backend.train_from_iterator(corpus(), vocab_size=600, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    backend = tokenizers.Tokenizer.from_str(backend.to_str())
    pair = "<s> $A </s> </s> $B </s>"
    backend.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", pair, [("<s>", 0), ("</s>", 2)])
    return tokenizer_class(tokenizer_object=backend, **NAMED)


@functools.cache
def byte_pairs() -> Tokenizer:
    """Returns RoBERTa's as tasks have it."""
    return _as_tasks_have_it(hugging_face())


@functools.cache
def unigram() -> Tokenizer:
    """Returns XLM-R's as tasks have it."""
    return _as_tasks_have_it(hugging_face_unigram(transformers.XLMRobertaTokenizerFast))


def _as_tasks_have_it(theirs: transformers.PreTrainedTokenizerFast) -> Tokenizer:
    named = {name: getattr(theirs, f"{name}_token") for name in ("pad", "unk", "cls", "sep", "mask")}
    return Tokenizer(theirs.backend_tokenizer.to_str(), named)
