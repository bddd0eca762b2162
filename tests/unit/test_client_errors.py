"""The tree of exceptions."""

from __future__ import annotations

import inspect
import pickle

import pytest

import bert_serving.client
from bert_serving.client import errors
from bert_serving.client.errors import ServerError, server_error
from bert_serving.client.protocol import ERROR_TYPES

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]


def test_all_classes_are_exported_and_documented() -> None:
    names = {kind.__name__ for kind in CLASSES}
    assert names == set(errors.__all__)
    assert names <= set(bert_serving.client.__all__)
    assert all(name in (errors.__doc__ or "") for name in names)


def test_common_base_class() -> None:
    assert all(issubclass(kind, errors.BertServingError) for kind in CLASSES)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InputTypeError, TypeError),
        (errors.InputValueError, ValueError),
        (errors.OptionError, AttributeError),
        (errors.ServerUnreachableError, ConnectionError),
        (errors.ServerUnreachableError, TimeoutError),
        (errors.RequestTimeoutError, TimeoutError),
        (errors.VersionMismatchError, AttributeError),
        (errors.ClientClosedError, RuntimeError),
        (errors.ForbiddenError, PermissionError),
        (errors.InvalidRequestError, ValueError),
    ],
)
def test_builtin_base_classes_of_1_10(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("name", [*ERROR_TYPES, "from_the_future"])
def test_server_errors(name: str) -> None:
    error = server_error(name, "what happened", 7)
    assert (type(error) is ServerError) == (name not in ERROR_TYPES)
    copy = pickle.loads(pickle.dumps(error))
    for each in (error, copy):
        assert (each.type, each.message, each.request_id) == (name, "what happened", 7)
        assert str(each).startswith(f"request 7: the server replied with {name!r}: what happened")


@pytest.mark.parametrize("details", [{"divisible": True}, {"divisible": False}, {}])
@pytest.mark.parametrize("message", ["9 texts; the limit is 8: send them in several requests", "too many bytes"])
def test_texts_that_exceed_a_limit_together(details: dict[str, bool], message: str) -> None:
    """Servers of earlier versions say by the message whether several requests are accepted."""
    error = server_error("too_large", message, 7, details)
    assert isinstance(error, errors.TooLargeError)
    expected = details.get("divisible", message.endswith("several requests"))
    for each in (error, error.renumbered(8), error.with_message("x"), pickle.loads(pickle.dumps(error))):
        assert isinstance(each, errors.TooLargeError)
        assert each.is_divisible is expected
    assert (error.renumbered(8).request_id, error.with_message("x").message) == (8, "x")


def test_overload_error_names_the_remedy() -> None:
    assert "send it again" in str(server_error("overloaded", "queue is full", 1))
