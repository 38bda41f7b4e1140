"""Entity scores from spans, as seqeval and conlleval define them: an entity counts if its tokens and its type are right."""

from collections import Counter
from collections.abc import Iterable, Sequence

from trainer.text.tag_schemes import Span


class EntityCounts:
    """Counts entities and tokens, sentence by sentence; memory grows with the number of types only.

    With spans from `tag_schemes.spans_of`, the scores are those of seqeval's default mode and of conlleval; with spans from
    `tag_schemes.strict_spans_of`, those of seqeval's mode="strict".

    >>> counts = EntityCounts()
    >>> counts.add([Span(0, 2, "PER"), Span(3, 4, "LOC")], [Span(0, 2, "PER")])
    >>> counts.scores()["recall"]
    0.5
    """

    def __init__(self) -> None:
        self._hits: Counter[str] = Counter()
        self._true: Counter[str] = Counter()
        self._predicted: Counter[str] = Counter()
        self._tokens = self._token_hits = 0

    def add(self, true_spans: Iterable[Span], predicted_spans: Iterable[Span]) -> None:
        """Adds the entities of one sentence."""
        true, predicted = set(true_spans), set(predicted_spans)
        self._true.update(span.type for span in true)
        self._predicted.update(span.type for span in predicted)
        self._hits.update(span.type for span in true & predicted)

    def add_tags(self, true_tags: Sequence[str], predicted_tags: Sequence[str]) -> None:
        """Adds the tags of one sentence, for the accuracy over tokens.

        Raises:
          ValueError: the two have different lengths.
        """
        self._tokens += len(true_tags)
        self._token_hits += sum(true == predicted for true, predicted in zip(true_tags, predicted_tags, strict=True))

    def scores(self) -> dict:
        """Returns every score, JSON-able; 0 where undefined.

        Returns:
          {"precision", "recall", "f1": over all entities (micro), "entities", "predicted_entities": how many there are,
          "macro": {"precision", "recall", "f1"}: mean over the types that are true or predicted somewhere, "weighted": mean
          weighted by true entities, "per_type": {type: {"precision", "recall", "f1", "entities"}}}, and "token_accuracy" once
          tags were added.
        """
        types = sorted(self._true.keys() | self._predicted.keys())
        per_type = {name: _scores(self._hits[name], self._true[name], self._predicted[name]) for name in types}
        entities, predicted = self._true.total(), self._predicted.total()
        scores = _scores(self._hits.total(), entities, predicted) | {
            "entities": entities,
            "predicted_entities": predicted,
            "macro": _averaged(per_type, dict.fromkeys(types, 1)),
            "weighted": _averaged(per_type, self._true),
            "per_type": {name: scores | {"entities": self._true[name]} for name, scores in per_type.items()},
        }
        return scores | ({"token_accuracy": self._token_hits / self._tokens} if self._tokens else {})


def _scores(hits: int, true: int, predicted: int) -> dict:
    precision, recall = hits / predicted if predicted else 0.0, hits / true if true else 0.0
    # 2PR / (P + R) in whole numbers
    return {"precision": precision, "recall": recall, "f1": 2 * hits / (true + predicted) if hits else 0.0}


def _averaged(per_type: dict[str, dict], weights: dict[str, int]) -> dict[str, float]:
    total = sum(weights.values()) or 1
    return {
        score: sum(weights[name] * scores[score] for name, scores in per_type.items()) / total
        for score in ("precision", "recall", "f1")
    }
