"""The house rules that a program can check: imports go down only; every module has its mirror test."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "trainer"
# Lowest first; a module may import from its own layer or a lower one. Matched by the longest prefix.
LAYERS = [
    ["errors", "config", "features", "files"],
    ["text", "data", "metrics"],
    ["models", "serving", "runtime", "compress"],
    ["tasks"],
    ["run", "preparation"],
    ["commands"],
    ["cli", "__main__", "loading"],  # the Python API stands beside the command line: both call the commands
]
EXCEPTIONS = {("commands", "cli")}  # a command is typed by what the command line hands it
NO_TENSORFLOW = ["errors", "config", "features", "files", "metrics", "tasks", "preparation", "run.schema", "run.experiment",
                 "run.tokenizer", "models.encoder_folders", "cli", "__main__"]  # fmt: skip
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def layer_of(name: str) -> int:
    part = name.split(".")[0]
    return next(number for number, names in enumerate(LAYERS) if part in names)


def imported(tree: ast.AST) -> set[str]:
    """Returns what a module imports from this package: "data.records"."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trainer"):
            base = node.module.removeprefix("trainer").lstrip(".")
            found |= {base} if base else {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("trainer.") for alias in node.names if alias.name.startswith("trainer.")}
    return found


def type_checking_imports(tree: ast.Module) -> set[str]:
    """Returns the imports under `if TYPE_CHECKING:`, which never run."""
    blocks = [node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    return set().union(*[imported(block) for block in blocks]) if blocks else set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    tree = ast.parse(path.read_text())
    for other in imported(tree) - type_checking_imports(tree):
        if (name.split(".")[0], other) in EXCEPTIONS:
            continue
        assert layer_of(other) <= layer_of(name), f"{name} imports {other}, which lies above it"


def test_native_kernels_can_be_deleted():
    """They are known to their own files, to the chooser and to what serves with them; nothing else imports them."""
    kernels = ("native", "native_library", "native_inference", "native_decoder")
    own = {*(f"models.kernels.{name}" for name in kernels), "serving.native_inputs"}
    for path in MODULES:
        name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        if name not in own:
            assert not imported(ast.parse(path.read_text())) & own or name == "run.kernels", name


def test_runtime_and_compress_know_no_bert():
    for path in (PACKAGE / "runtime").glob("*.py"):
        names = imported(ast.parse(path.read_text()))
        assert not {name for name in names if name.split(".")[0] in ("models", "tasks", "text")}, path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tensorflow_is_not_imported_at_the_top_where_starting_must_be_fast(path):
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    if not any(name == part or name.startswith(f"{part}.") for part in NO_TENSORFLOW):
        return
    for node in ast.parse(path.read_text()).body:
        modules = [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for heavy in ("tensorflow", "tf_keras", "transformers", "tensorflow_datasets"):
            assert not any(module.split(".")[0] == heavy for module in modules), f"{name} imports {heavy} at the top"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_its_mirror_test(path):
    relative = path.relative_to(PACKAGE)
    name = "test_main.py" if path.name == "__main__.py" else f"test_{path.name}"
    mirror = ROOT / "tests" / relative.parent / name
    assert mirror.exists(), f"{relative} has no {mirror.relative_to(ROOT)}"
    assert "def test_" in mirror.read_text() or "Contract" in mirror.read_text()


def test_every_public_function_says_what_it_does():
    # What overrides a method is told where that is declared.
    (task,) = [node for node in ast.parse((PACKAGE / "tasks/base.py").read_text()).body if getattr(node, "name", "") == "Task"]
    (kernels,) = [
        node for node in ast.parse((PACKAGE / "models/kernels/base.py").read_text()).body if getattr(node, "name", "") == "EncoderKernels"
    ]  # fmt: skip
    overrides = {"call", "build", "get_config", "find_spec", "find_class", "persistent_load"}
    overrides |= {node.name for node in kernels.body if isinstance(node, ast.FunctionDef)}
    for path in MODULES:
        if path.parent.name == "tasks" and path.name != "base.py":
            overrides |= {node.name for node in task.body if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(ast.parse(path.read_text())):
            is_public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if not is_public or node.name in overrides or len(node.body) < 3:
                continue
            nested = node.col_offset > 4 or (node.col_offset == 4 and not _is_method(path, node))
            assert nested or ast.get_docstring(node), f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has no docstring"


def test_every_public_function_is_annotated():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.col_offset > 0:
                continue
            arguments = [*node.args.args, *node.args.kwonlyargs]
            untyped = [argument.arg for argument in arguments if argument.annotation is None]
            assert not untyped and node.returns is not None, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {untyped}"


def _is_method(path: Path, function: ast.AST) -> bool:
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return any(node.lineno == function.lineno for owner in classes for node in owner.body)
