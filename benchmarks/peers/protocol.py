"""What every side of a speed benchmark answers: one JSON line when it is ready, one for each block of steps it is asked for.

A side is a process with a Python of its own; while it waits for a line on standard input it takes no time from the others.
Standard library only: it runs in every side's environment.
"""

import json
import random
import sys
import time


def load_case(path):
    """Returns the case: {"examples": [[ids], ...], "labels": [...], "batch_size", "max_length", "classes", "head": ...}."""
    with open(path, encoding="utf8") as file:
        return json.load(file)


def drawn_batches(examples, size):
    """Yields lists of example numbers for ever, each epoch in an order of its own, the same for every side."""
    generator = random.Random(1)
    while True:
        order = list(range(len(examples)))
        generator.shuffle(order)
        yield from (order[i : i + size] for i in range(0, len(order), size))


def serve(first_loss, next_batch, step, evaluate=None):
    """Answers until standard input ends: a number of steps with what they took, "evaluate" with the accuracy.

    Args:
      first_loss: the loss of the case's first batch before training, without dropout, in float32.
      next_batch: returns (batch, useful tokens, examples, cells), endlessly.
      step: makes one training step and waits for its end.
      evaluate: returns the accuracy on the case's test examples; only for a case that has them.
    """
    answer = sys.stdout
    sys.stdout = sys.stderr  # a library that prints must not break the answers
    print(json.dumps({"loss": first_loss}), file=answer, flush=True)
    for line in sys.stdin:
        if json.loads(line) == "evaluate":
            print(json.dumps({"accuracy": evaluate()}), file=answer, flush=True)
            continue
        totals = {"tokens": 0, "examples": 0, "cells": 0}
        begun = time.perf_counter()
        for _ in range(int(line)):
            batch, tokens, examples, cells = next_batch()
            step(batch)
            totals = {
                "tokens": totals["tokens"] + tokens,
                "examples": totals["examples"] + examples,
                "cells": totals["cells"] + cells,
            }
        print(json.dumps({"seconds": time.perf_counter() - begun, **totals}), file=answer, flush=True)
