"""Words of a text replaced by those that a masked language model puts there."""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trainer import files
from trainer.data.sources import Row
from trainer.errors import UserError
from trainer.models.encoder_folders import checkpoint_of, find_encoder
from trainer.models.initialization import load_encoder_weights
from trainer.run import assembly, experiment, kernels
from trainer.run.inference import Predictor
from trainer.tasks import pretraining
from trainer.text.tokenizer import SPACE_SIGNS
from trainer.text.words import IDEOGRAPHS

CANDIDATES = 10  # words of each mask that one is drawn from
TEXTS_AT_A_TIME = 256
_IDEOGRAPH = "".join(f"{chr(first)}-{chr(last)}" for first, last in IDEOGRAPHS)
WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W\d_{_IDEOGRAPH}]+")


class Masked(NamedTuple):
    """A text with masks.

    Attributes:
      text: with the mask token in the place of some words.
      parts: the text, cut before and behind each word that is masked: words have odd places.
    """

    text: str
    parts: list[str]


class MaskedWords:
    """Replaces words.

    Args:
      source: a workdir of `pretraining`; or a folder, a checkpoint or a Hub id with a masked-language-model head.
      max_seq_length: tokens of a text that are read; words behind them stay.

    Raises:
      UserError: none of these; a run of another task; no such head.
    """

    def __init__(self, source: str, max_seq_length: int):
        restored = _restored(source, max_seq_length)
        self._predictor = Predictor(restored)
        self._mask = restored.tokenizer.special_tokens["mask"]
        self._has_inner = bool(restored.tokenizer.piece_prefix)

    def replaced(self, texts: Sequence[str], prob: float, draws: Sequence[random.Random]) -> Iterator[str]:
        """Yields each text with other words in the place of some; as it is where none can be replaced.

        Args:
          texts: any.
          prob: of each word, that it is masked; one is, at least.
          draws: choose the words of each text and what stands there.
        """
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            end = start + TEXTS_AT_A_TIME
            part, chosen = texts[start:end], draws[start:end]
            masked = [self._masked(text, prob, draw) for text, draw in zip(part, chosen, strict=True)]
            rows = [Row({"text": one.text}, "", number) for number, one in enumerate(masked)]
            for one, draw, found in zip(masked, chosen, self._predictor.predict(rows), strict=True):
                yield self._filled(one.parts, found.get("masks", []), draw)

    def _masked(self, text: str, prob: float, draw: random.Random) -> Masked:
        words = [] if self._mask in text else list(WORD.finditer(text))
        chosen = [word for word in words if draw.random() < prob] or (draw.sample(words, 1) if words else [])
        ends = [0, *[place for word in chosen[: pretraining.MASKS_PREDICTED] for place in word.span()], len(text)]
        parts = [text[start:end] for start, end in zip(ends, ends[1:], strict=False)]
        return Masked("".join(self._mask if place % 2 else part for place, part in enumerate(parts)), parts)

    def _filled(self, parts: list[str], masks: Iterable[Sequence[Mapping[str, Any]]], draw: random.Random) -> str:
        """Returns the text; of masks behind `max_seq_length` nothing is said, and their words stay."""
        filled = list(parts)
        for place, mask in zip(range(1, len(parts), 2), masks, strict=False):
            words = {self._word_of(entry["token"]): entry["probability"] for entry in mask}
            usable = {word: share for word, share in words.items() if word and word.lower() != parts[place].lower()}
            if usable:
                (word,) = draw.choices(list(usable), list(usable.values()))
                filled[place] = word[0].upper() + word[1:] if parts[place][0].isupper() else word
        return "".join(filled)

    def _word_of(self, token: str) -> str | None:
        """Returns the word that a token is; None where it is none, or a piece of one."""
        word = token.lstrip(SPACE_SIGNS)
        begins = self._has_inner or len(word) < len(token)
        return word if begins and WORD.fullmatch(word) else None


def _restored(source: str, max_seq_length: int) -> assembly.Restored:
    changes = (f"task.predicted_tokens={CANDIDATES}", f"data.max_seq_length={max_seq_length}")
    if files.exists(files.join(source, "config.yaml")):
        task = experiment.load_workdir(source).task
        if not isinstance(task, pretraining.Config):
            raise UserError(
                f"--masked_lm: {source} is a run of {task.name}; name one of pretraining, or an encoder with its head"
            )
        return assembly.restore(source, changes[:1])
    folder = find_encoder(source, key="--masked_lm")
    keys = ("task.name=pretraining", "task.sentence_objective=none", f"encoder.init_from={source}", "train.precision=float32")
    asked = experiment.load(None, (*keys, *changes))
    tokenizer, bert_config = assembly.asked_encoder(asked)
    assembled = assembly.build(asked, tokenizer, bert_config, kernels.for_inference(asked.train, bert_config))
    head = assembled.head_variables()
    report = load_encoder_weights(assembled.encoder, folder, head=head, checkpoint=checkpoint_of(source))
    if report.missing:
        raise UserError(
            f"--masked_lm: {source} has an encoder but no masked-language-model head ({report.missing[0]} is not there); name "
            "a model that was saved with it, as bert-base-uncased, or the workdir of a pretraining run"
        )
    return assembly.Restored(asked, tokenizer, assembled, 0)
