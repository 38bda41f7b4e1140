"""The typed config engine: frozen dataclasses are the schema, YAML files the values, `--set` the changes.

Keys are `section.field`. YAML's scalars reach their field as the text the user wrote and are read by the field's own
type, so YAML 1.1's surprises (`1e-5` a string, `no` False, `12:30` the number 750) cannot happen.
"""

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence

import yaml

from trainer.errors import UserError, suggestion

Section = typing.Any  # an instance of one of the schema's dataclasses
Schema = Mapping[str, type]  # section name → dataclass


class ConfigError(UserError):
    """A config that cannot be used; the message names the dotted key and where it was given."""


class FieldError(ValueError):
    """A field's value that its dataclass refuses; `build` puts the section and the place before it."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


def check(condition: bool, field: str, message: str) -> None:
    """Raises FieldError(field, message) unless the condition holds; for use in `__post_init__`."""
    if not condition:
        raise FieldError(field, message)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One value as the user wrote it, and where: "configs/x.yaml:7" or "--set"."""

    node: yaml.Node
    place: str


def read_leaves(text: str, origin: str) -> dict[str, Leaf]:
    """Returns {dotted key: leaf} of a YAML text of sections.

    Raises:
      ConfigError: YAML that does not parse, a key given twice, a section that is not a mapping.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{origin}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {error}") from None
    if root is None:
        return {}
    leaves = {}
    for section, section_node, _ in _items(root, origin, "the file"):
        if _is_null(section_node):
            continue
        for field, node, line in _items(section_node, origin, f"section {section!r}"):
            leaves[f"{section}.{field}"] = Leaf(node, f"{origin}:{line}")
    return leaves


def _items(node: yaml.Node, origin: str, what: str) -> Iterator[tuple[str, yaml.Node, int]]:
    """Yields (key, value node, line) of a mapping node."""
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise ConfigError(f"{origin}:{line}: {what} must be a mapping of 'key: value' lines, got {_shown(node)}")
    seen = set()
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(f"{origin}:{line}: key {key!r} is given twice")
        seen.add(key)
        yield key, value_node, line


def read_overrides(assignments: Sequence[str]) -> dict[str, Leaf]:
    """Returns the leaves of `--set key=value` assignments; of the same key given twice, the last counts."""
    leaves = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or "." not in key:
            raise ConfigError(f"--set={assignment}: expected key=value with a dotted key, as train.learning_rate=3e-5")
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            node = yaml.ScalarNode("tag:yaml.org,2002:str", text, style=None)
        # A lone "|" or ">" opens a block of text in YAML; here it is the value itself.
        if node is None or (isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")):
            node = yaml.ScalarNode("tag:yaml.org,2002:str", text.strip(), style=None)
        leaves[key.strip()] = Leaf(node, "--set")
    return leaves


def build(schema: Schema, leaves: Mapping[str, Leaf], renamed: Mapping[str, str] | None = None) -> dict[str, Section]:
    """Returns {section: dataclass instance}, defaults filled in.

    Args:
      schema: the sections.
      leaves: the values, by dotted key.
      renamed: {key of an earlier version: its name today}, for the message that refuses it.

    Raises:
      ConfigError: an unknown key, a missing required one, or a value that its type or dataclass refuses.
    """
    known = [f"{name}.{field}" for name, section in schema.items() for field in fields_of(section)]
    for key, leaf in leaves.items():
        if key not in known and renamed and key in renamed:
            raise ConfigError(f"{_at(leaf)}config key {key!r} was renamed: write {renamed[key]!r}")
        if key not in known:
            raise ConfigError(f"{_at(leaf)}unknown config key {key!r}{_key_suggestion(key, known)}")
    return {name: _build_section(name, section, leaves) for name, section in schema.items()}


def _key_suggestion(key: str, known: list[str]) -> str:
    """Suggests the nearest key, or the same field in another section, or says where the list is."""
    field = key.rpartition(".")[2]
    same_field = [name for name in known if name.rpartition(".")[2] == field]
    if same_field:
        return f"; did you mean {same_field[0]!r}?"
    return suggestion(key, known) or "; `bert-trainer describe` lists every key"


def _build_section(name: str, section: type, leaves: Mapping[str, Leaf]) -> Section:
    values = {}
    for field, annotation in fields_of(section).items():
        key = f"{name}.{field}"
        if key in leaves:
            values[field] = convert(leaves[key].node, annotation, f"{_at(leaves[key])}{key}")
    for field in dataclasses.fields(section):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise ConfigError(f"config key '{name}.{field.name}' is required: {documentation(section)[field.name]}")
    try:
        return section(**values)
    except FieldError as error:
        key = f"{name}.{error.field}"
        raise ConfigError(f"{_at(leaves.get(key))}{key}: {error}") from None


def _at(leaf: Leaf | None) -> str:
    return f"{leaf.place}: " if leaf and leaf.place != "--set" else ""


def fields_of(section: type) -> dict[str, typing.Any]:
    """Returns {field name: annotation} of a schema dataclass, in order."""
    hints = typing.get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def convert(node: yaml.Node, annotation: typing.Any, where: str) -> typing.Any:
    """Returns the node's value as the annotated type.

    Handles bool, int, float, str, Literal, `X | None`, tuple[X, ...] and dict[str, X].

    Raises:
      ConfigError: a value of another type; the message opens with `where`.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if _is_null(node):
            return None
        return convert(node, next(a for a in arguments if a is not types.NoneType), where)
    if origin is tuple:
        if not isinstance(node, yaml.SequenceNode):
            raise ConfigError(f"{where}: expected a list, as [a, b], got {_shown(node)}")
        return tuple(convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(node.value))
    if origin is dict:
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{where}: expected a mapping, as {{a: 1}}, got {_shown(node)}")
        return {key: convert(value, arguments[1], f"{where}.{key}") for key, value, _ in _items(node, where, "it")}
    if origin is typing.Literal:
        return _convert_literal(node, arguments, where)
    return _convert_scalar(node, annotation, where)


def _convert_literal(node: yaml.Node, allowed: tuple, where: str) -> str:
    value = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
    if value not in allowed:
        hint = suggestion(_literal_alias(value), allowed)
        raise ConfigError(f"{where}: {_shown(node)} is not one of {', '.join(allowed)}{hint}")
    return value


def _literal_alias(value: str) -> str:
    """The field's usual short names, for the suggestion only."""
    return {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}.get(value.lower(), value)


def _convert_scalar(node: yaml.Node, annotation: type, where: str) -> typing.Any:
    if not isinstance(node, yaml.ScalarNode) or (_is_null(node) and annotation is not str):
        raise ConfigError(f"{where}: expected {annotation.__name__}, got {_shown(node)}")
    text = node.value
    if annotation is str:
        return text
    if annotation is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ConfigError(f"{where}: expected true or false, got {_shown(node)}")
    try:
        return annotation(text.replace("_", "") if annotation is int else text)
    except ValueError:
        raise ConfigError(f"{where}: expected {annotation.__name__}, got {_shown(node)}") from None


def _is_null(node: yaml.Node) -> bool:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return plain and node.value in ("", "~", "null", "Null", "NULL")


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "nothing" if _is_null(node) else repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


@functools.cache
def documentation(section: type) -> dict[str, str]:
    """Returns {field name: the docstring under it} of a schema dataclass, base classes included."""
    found = {}
    for cls in reversed(section.__mro__[:-1]):
        if not dataclasses.is_dataclass(cls):
            continue
        definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(definition, ast.ClassDef)
        for statement, after in zip(definition.body, definition.body[1:], strict=False):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[statement.target.id] = " ".join(str(after.value.value).split())
    return found


def type_name(annotation: typing.Any) -> str:
    """Returns an annotation as users read it: "int", "a|b", "list of str", "float or null"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if a is types.NoneType else type_name(a) for a in arguments)
    if origin is typing.Literal:
        return "|".join(arguments)
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"mapping of str to {type_name(arguments[1])}"
    return annotation.__name__


def plain(value: typing.Any) -> typing.Any:
    """Returns a section or value as plain YAML and JSON types (tuples become lists)."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def dump(sections: Mapping[str, Section]) -> str:
    """Returns the YAML text that `read_leaves` and `build` turn back into equal sections."""
    return yaml.safe_dump(plain(sections), sort_keys=False, allow_unicode=True, width=100)


def differences(before: Mapping[str, Section], after: Mapping[str, Section]) -> dict[str, tuple]:
    """Returns {dotted key: (value before, value after)} for every key whose value differs."""
    old, new = _flat(before), _flat(after)
    keys = list(old) + [key for key in new if key not in old]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _flat(sections: Mapping[str, Section]) -> dict[str, typing.Any]:
    return {f"{name}.{field}": value for name, part in plain(sections).items() for field, value in part.items()}
