"""describe: every config key with its type, default and meaning; with --config, the resolved values; the recipes."""

import dataclasses
import json

from trainer import config
from trainer.cli import Options
from trainer.errors import UserError, suggestion
from trainer.run import experiment
from trainer.run.schema import schema
from trainer.tasks import task_names


def run(options: Options) -> None:
    """Prints the schema or one section of it, a config resolved, or the list of recipes."""
    if options.markdown:
        print("\n".join(page_lines()))
    elif options.recipes:
        print("\n".join(recipe_lines()))
    elif options.config or options.set:
        print(config.dump(experiment.load(options.config, options.set).sections()), end="")
    else:
        print("\n".join(section_lines(options.section)))


def section_lines(wanted: str | None = None) -> list[str]:
    """Returns the keys of all sections, or of one: "train", or a task's name.

    Raises:
      UserError: no such section.
    """
    sections = all_sections()
    known = list(dict.fromkeys([*sections, *(name for name, _, _ in sections.values())]))
    if wanted is not None and wanted not in known:
        raise UserError(f"no section {wanted!r}{suggestion(wanted, known)}; sections are {', '.join(known)}")
    found = [about for name, about in sections.items() if wanted in (None, name, about[0])]
    return [line for about in found for line in describe_section(*about)]


def all_sections() -> dict[str, tuple[str, type, str]]:
    """Returns {what `describe` calls it: (section name, dataclass, note)}: the tasks' sections first."""
    sections = {name: (name, section, "") for name, section in schema(task_names()[0]).items() if name != "task"}
    return {name: ("task", schema(name)["task"], f"task.name={name}") for name in task_names()} | sections


def page_lines() -> list[str]:
    """Returns all keys as a page in Markdown."""
    lines = [
        "# Config keys",
        "",
        "A config is a YAML file with these sections; `--set section.key=value` on the command line overrides it.",
        "`bert-trainer describe train` prints one section, `bert-trainer describe --config=my.yaml` the values of a config.",
        "This page is the output of `bert-trainer describe --markdown`; a test compares the two.",
    ]
    for name, section, note in all_sections().values():
        meaning = config.documentation(section)
        lines += [
            "",
            f"## `{name}`{f' with `{note}`' if note else ''}",
            "",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
        ]
        for field, type_name, default in section_fields(section):
            cells = (f"`{name}.{field}`", type_name, f"`{default}`", " ".join(meaning[field].split()))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def describe_section(name: str, section: type, note: str = "") -> list[str]:
    """Returns a section's keys, two lines each."""
    meaning = config.documentation(section)
    lines = [f"{name}{f'  ({note})' if note else ''}"]
    for field, type_name, default in section_fields(section):
        lines += [f"  {name}.{field}: {type_name} = {default}", f"      {meaning[field]}"]
    return [*lines, ""]


def section_fields(section: type) -> list[tuple[str, str, str]]:
    """Returns (name, type, default as JSON) of a section's fields."""
    annotations, found = config.fields_of(section), []
    for field in dataclasses.fields(section):
        has_factory = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if has_factory else getattr(section, field.name, None)  # type: ignore[misc, operator]
        found.append((field.name, config.type_name(annotations[field.name]), json.dumps(config.plain(default))))
    return found


def recipe_lines() -> list[str]:
    """Returns the recipes, each with the first line of its file."""
    lines = []
    for name, path in experiment.recipes().items():
        with open(path, encoding="utf8") as file:
            lines.append(f"{name:<36} {file.readline().lstrip('# ').rstrip()}")
    return lines
