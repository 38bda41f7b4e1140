import pytest

from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.errors import UserError
from trainer.tasks import task_module, task_names
from trainer.tasks.base import TaskConfig
from trainer.tasks.classification import Config, Task


def test_tasks_are_found_by_their_files_name():
    assert "classification" in task_names() and "base" not in task_names()
    assert task_module("classification").Task is Task
    with pytest.raises(UserError, match="task.name: 'classificaton' is not one of .*; did you mean 'classification'"):
        task_module("classificaton")
    with pytest.raises(FieldError, match="a task's name is needed"):
        TaskConfig(name="")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b": "x"}, "no column 'a'; the row has 'b'"),
        ({}, "no column 'a'; the row has nothing"),
        ({"a": 3}, "column 'a' holds a int where text belongs"),
        ({"a": None}, "column 'a' holds a NoneType where text belongs"),
        ({"a": " \n"}, "the text in column 'a' is empty"),
    ],
)
def test_texts_that_cannot_be_used(tokenizer, values, message):
    task = Task(Config(class_names=("x", "y"), text_columns=("a",)), tokenizer, 16)
    with pytest.raises(RowError) as caught:
        task.texts(Row(values, "f", 1))
    assert str(caught.value) == message
