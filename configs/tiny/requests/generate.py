"""Writes the tiny samples of several tasks: from templates, made up here.

    python configs/tiny/requests/generate.py configs/tiny/requests

They show that a task runs, in seconds; they are too regular to say how well it does.
"""

import csv
import json
import random
import sys
from pathlib import Path

CITIES = [
    "Rome", "Oslo", "Lima", "Cairo", "Kyoto", "Dakar", "Quito", "Riga", "Porto", "Bern", "Tunis", "Hanoi", "Sucre", "Accra",
    "Malmo", "Turin", "New York", "San Marino", "Cape Town", "Buenos Aires", "Hong Kong", "Santa Fe",
]  # fmt: skip
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "next week", "tomorrow", "on the first of May"]
AIRLINES = ["Blue Air", "Nordwind", "Condor", "Pacific Wings", "Star Line"]
NAMES = ["Ada", "Grace", "Alan", "Emmy", "Niels", "Lise", "Srinivasa", "Sofia", "Carl", "Hypatia"]
FIELDS = ["mathematics", "physics", "chemistry", "astronomy", "engineering", "botany"]
REQUESTS = [
    "book a flight from {from_city} to {to_city} {day}",
    "is there a seat to {to_city} {day} with {airline} ?",
    "I need to be in {to_city} {day} .",
    "show me {airline} flights leaving {from_city}",
    "what does {airline} charge to {to_city} ?",
    "cancel my ticket from {from_city} , please",
]
WISHES = {
    "price": ["it must be cheap", "I can not spend much", "what does it cost?"],
    "time": ["I am in a hurry", "it has to be early in the morning", "how long does it take?"],
    "comfort": ["I want a window seat", "with a hot meal, please", "there must be room for my legs"],
}
ENDINGS = {  # what somebody at a place does next
    "library": ["opened the book", "looked for a quiet seat", "returned three novels", "asked for an older newspaper"],
    "kitchen": ["washed the pan", "cut the onions", "put the bread into the oven", "tasted the soup"],
    "station": ["waited for the train", "bought a ticket", "asked which platform it was", "ran to catch the carriage"],
    "garden": ["watered the roses", "pulled out the weeds", "planted a small tree", "raked the leaves"],
    "stadium": ["cheered for the team", "watched the race", "booed the referee", "sang with the other fans"],
}
STORIES = ["{name} went to the {place}.", "{name} had spent all day at the {place}.", "At the {place}, {name} met a friend."]
EVENTS = [
    ("opened the first museum of clocks", "opened a museum of clocks"),
    ("won the chess tournament with a black rook", "won at chess with a rook"),
    ("found a comet that nobody had seen before", "found a new comet"),
    ("sold the oldest ferry of the harbour", "sold an old ferry"),
    ("signed a treaty on clean water", "signed a treaty on water"),
]
SIZES = {"train": 240, "validation": 60}


def main(folder: str) -> None:
    """Writes <split>.conll, <split>.json, <split>.jsonl, <split>.csv, <split>.tsv and <split>.reports.jsonl."""
    draw = random.Random(7)
    for split, size in SIZES.items():
        Path(folder, f"{split}.conll").write_text("\n".join(_tagged(draw) for _ in range(size)), encoding="utf8")
        paragraphs = [_paragraph(draw, f"{split}-{number}") for number in range(size // 3)]
        nested = {"version": "1.1", "data": [{"title": "people", "paragraphs": paragraphs}]}
        Path(folder, f"{split}.json").write_text(json.dumps(nested, indent=1) + "\n", encoding="utf8")
        rows = (json.dumps(_wish(draw)) for _ in range(size))
        Path(folder, f"{split}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf8")
    for split, size in SIZES.items():
        with open(Path(folder, f"{split}.csv"), "w", encoding="utf8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["context", "ending0", "ending1", "ending2", "ending3", "label"])
            writer.writerows(_story(draw) for _ in range(size))
    for split, size in SIZES.items():
        with open(Path(folder, f"{split}.tsv"), "w", encoding="utf8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["query", "positive"])
            writer.writerows(_asked(draw) for _ in range(size))
    for split, size in SIZES.items():
        reports = (json.dumps(_report(draw)) for _ in range(size))
        Path(folder, f"{split}.reports.jsonl").write_text("".join(f"{report}\n" for report in reports), encoding="utf8")


def _tagged(draw: random.Random) -> str:
    """Returns a request, a word and its tag a line."""
    from_city, to_city = draw.sample(CITIES, 2)
    slots = {"from_city": from_city, "to_city": to_city, "day": draw.choice(DAYS), "airline": draw.choice(AIRLINES)}
    lines = []
    for word in draw.choice(REQUESTS).split():
        if word.startswith("{"):
            name = word[1:-1]
            lines += [f"{part} {'I' if place else 'B'}-{name}" for place, part in enumerate(slots[name].split())]
        else:
            lines.append(f"{word} O")
    return "\n".join(lines) + "\n"


def _paragraph(draw: random.Random, number: str) -> dict:
    """Returns a paragraph on two people with three questions, as SQuAD nests them."""
    (one, other), (first, second) = draw.sample(NAMES, 2), draw.sample(CITIES, 2)
    field, year = draw.choice(FIELDS), str(draw.randrange(1700, 1950))
    context = f"{one} was born in {year} in {first}, where she studied {field}. Her friend {other} came from {second}."
    asked = {f"Where was {one} born?": first, f"What did {one} study?": field, f"Where did {other} come from?": second}
    qas = [
        {"id": f"{number}-{place}", "question": question, "answers": [{"text": answer, "answer_start": context.index(answer)}]}
        for place, (question, answer) in enumerate(asked.items())
    ]
    return {"context": context, "qas": qas}


def _story(draw: random.Random) -> list:
    """Returns the beginning of a story, four endings of which one belongs to its place, and which one."""
    place, *others = draw.sample(list(ENDINGS), 4)
    endings, label = [draw.choice(ENDINGS[other]) for other in others], draw.randrange(4)
    endings.insert(label, draw.choice(ENDINGS[place]))
    return [draw.choice(STORIES).format(name=draw.choice(NAMES), place=place), *endings, label]


def _asked(draw: random.Random) -> list:
    """Returns a question on somebody, and a paragraph that answers it."""
    paragraph = _paragraph(draw, "")
    born, field, home = (question["answers"][0]["text"] for question in paragraph["qas"])
    questions = [f"Who was born in {born} and went in for {field}?", f"Whose friend, from {home}, met a student of {field}?"]
    return [draw.choice(questions), paragraph["context"]]


def _report(draw: random.Random) -> dict:
    """Returns a report of five to eight sentences, of which one says what happened, and a summary in other words."""
    name, city, day = draw.choice(NAMES), draw.choice(CITIES), draw.choice(DAYS)
    what, short = draw.choice(EVENTS)
    sentences = [
        draw.choice(STORIES).format(name=draw.choice(NAMES), place=draw.choice(list(ENDINGS)))
        for _ in range(draw.randint(4, 7))
    ]
    sentences.insert(draw.randrange(len(sentences) + 1), f"In {city}, {name} {what} {day}.")
    return {"document": sentences, "summary": f"{name} {short} in {city}."}


def _wish(draw: random.Random) -> dict:
    """Returns a sentence with none to three labels."""
    labels = sorted(draw.sample(list(WISHES), draw.choice([0, 1, 1, 2, 3])))
    parts = [f"a flight to {draw.choice(CITIES)}, please", *(draw.choice(WISHES[label]) for label in labels)]
    draw.shuffle(parts)
    return {"text": "; ".join(parts), "labels": labels}


if __name__ == "__main__":
    main(*sys.argv[1:2])
