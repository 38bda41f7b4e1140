"""describe: every config key with its type, default and meaning; with --config, the resolved values."""

import dataclasses
import json

from trainer import config, experiment
from trainer.cli import Options
from trainer.tasks import task_names


def run(options: Options) -> None:
    """Prints the schema, or a config resolved."""
    if options.config or options.set:
        print(config.dump(experiment.load(options.config, options.set).sections()), end="")
        return
    for name in task_names():
        print("\n".join(describe_section("task", experiment.schema(name)["task"], f"task.name={name}")))
    for name, section in experiment.schema(task_names()[0]).items():
        if name != "task":
            print("\n".join(describe_section(name, section)))


def describe_section(name: str, section: type, note: str = "") -> list[str]:
    """Returns a section's keys, two lines each."""
    meaning = config.documentation(section)
    lines = [f"{name}{f'  ({note})' if note else ''}"]
    annotations = config.fields_of(section)
    for field in dataclasses.fields(section):
        default = (
            getattr(section, field.name, None) if field.default_factory is dataclasses.MISSING else field.default_factory()
        )
        shown = json.dumps(config.plain(default))
        lines.append(f"  {name}.{field.name}: {config.type_name(annotations[field.name])} = {shown}")
        lines.append(f"      {meaning[field.name]}")
    return [*lines, ""]
