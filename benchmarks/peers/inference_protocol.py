"""What every side of `benchmarks/inference.py` answers: its first predictions, then the times of blocks of texts.

Standard library only: it runs in every side's environment.
"""

import json
import sys
import time


def serve(predict, texts, first):
    """Answers until standard input ends; a line says {"texts": how many, "batch_size": texts of a call}.

    Args:
      predict: takes a list of texts, returns the second class's probability of each.
      texts: all texts; blocks follow each other through them, in a circle.
      first: how many texts to predict once, for the comparison of the sides.
    """
    _say({"probabilities": [float(p) for p in predict(texts[:first])]})
    position = 0
    for line in sys.stdin:
        asked = json.loads(line)
        calls = []
        for _ in range(0, asked["texts"], asked["batch_size"]):
            chunk = [texts[(position + i) % len(texts)] for i in range(asked["batch_size"])]
            position = (position + asked["batch_size"]) % len(texts)
            begun = time.perf_counter()
            predict(chunk)
            calls.append(time.perf_counter() - begun)
        _say({"seconds": calls})


def _say(answer):
    print(json.dumps(answer), file=_ANSWERS, flush=True)


_ANSWERS, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix with the answers
