"""score: how alike candidates and references are in meaning, by the vectors of their tokens (BERTScore)."""

import logging
import random
from collections.abc import Sequence

from trainer import files
from trainer.cli import Options
from trainer.commands.embed import encoder_of, pairs_of
from trainer.errors import UserError
from trainer.metrics.bert_score import Embedded, InverseFrequency, Score, bert_score, mean_score, rescaled
from trainer.models.encoder_folders import find_encoder
from trainer.models.initialization import read_bert_config
from trainer.run.embedding import TokenEmbedder

log = logging.getLogger(__name__)
TEXTS_AT_A_TIME = 256
UNRELATED_PAIRS = 10_000  # of which the baseline is the mean, at most


def run(options: Options) -> int:
    """Prints the mean scores; --output gets a JSON line for each row.

    Returns:
      The exit status: 1 where not one row could be used.
    """
    encoder = encoder_of(options)
    read = pairs_of(options, "candidate,reference")
    if read.refused:
        log.warning("%d row(s) were left out%s", len(read.refused), read.first_reason)
    layer = options.layer or usual_layer(read_bert_config(find_encoder(encoder)).num_hidden_layers)
    embedder = TokenEmbedder(encoder, [layer], options.set)
    candidates, references = (
        _embedded(embedder, texts) for texts in zip(*((pair.first, pair.second) for pair in read.pairs), strict=True)
    )
    frequency = InverseFrequency.of(text.tokens for text in references) if options.idf else None
    scores = [bert_score(*both, frequency) for both in zip(candidates, references, strict=True)]
    baseline = _baseline(options.baseline, candidates, references, frequency)
    if baseline is not None:
        log.info("baseline: precision %.4f  recall %.4f  f1 %.4f", *baseline)
        scores = [rescaled(score, baseline) for score in scores]
    if options.output:
        of_pairs = iter(scores)
        files.write_json_lines(
            options.output, [one if isinstance(one, dict) else next(of_pairs)._asdict() for one in read.rows]
        )
    mean = mean_score(scores)
    print(f"rows: {len(scores)}\nprecision: {mean.precision:.4f}\nrecall: {mean.recall:.4f}\nf1: {mean.f1:.4f}")
    print(
        f"layer {layer}, {'weighted by rarity' if options.idf else 'unweighted'}, {'rescaled' if baseline else 'not rescaled'}"
    )
    return 0


def usual_layer(layers: int) -> int:
    """Returns the layer that is read where none is named: three quarters up, as those that bert-score found best.

    >>> usual_layer(12), usual_layer(24), usual_layer(6)
    (9, 18, 5)
    """
    return max((3 * layers + 3) // 4, 1)


def _embedded(embedder: TokenEmbedder, texts: Sequence[str]) -> list[Embedded]:
    found: list[Embedded] = []
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        embedded = embedder.tokens(texts[start : start + TEXTS_AT_A_TIME])
        found += [Embedded(tokens, vectors[:, 0]) for tokens, vectors in embedded]
    return found


def _baseline(
    asked: str | None, candidates: Sequence[Embedded], references: Sequence[Embedded], frequency: InverseFrequency | None
) -> Score | None:
    """Returns what --baseline says: three numbers, or the scores of candidates with others' references; None for none."""
    if asked is None:
        return None
    if asked != "auto":
        try:
            precision, recall, f1 = map(float, asked.split(","))
        except ValueError:
            raise UserError(
                f"--baseline={asked}: auto, or three numbers, of precision, recall and F1, as 0.3,0.3,0.3"
            ) from None
        return Score(precision, recall, f1)
    if len(candidates) < 2:
        raise UserError("--baseline=auto: one pair alone has no unrelated text; give three numbers")
    draw = random.Random(1)
    places = range(min(UNRELATED_PAIRS, len(candidates)))
    shift = [draw.randrange(1, len(candidates)) for _ in places]
    others = [(candidates[place], references[(place + by) % len(references)]) for place, by in zip(places, shift, strict=True)]
    return mean_score([bert_score(*both, frequency) for both in others])
