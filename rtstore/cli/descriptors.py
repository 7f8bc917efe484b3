"""The option `--descriptors MODULE:NAME`: the stores of a runtime, for a command."""

from __future__ import annotations

import importlib
import sys
import traceback
from contextlib import redirect_stdout
from inspect import Parameter, signature
from operator import attrgetter
from typing import Annotated, Any

import typer

from rtstore.errors import InvalidRequestError
from rtstore.model.arguments import is_coroutine_function
from rtstore.model.descriptors import Registry

_OPTION = "--descriptors"

Descriptors = Annotated[
    str | None,
    typer.Option(
        _OPTION,
        metavar="MODULE:NAME",
        help="The stores of the runtime: a list of Descriptor in a Python module, or a function "
        "that returns one. The module is looked for in the current directory too.",
    ),
]


def load_descriptors(name: str | None) -> Registry | None:
    """Import the descriptors that a name like `my_runtime.stores:DESCRIPTORS` stands for.

    NAME is a list, tuple or other iterable of `Descriptor`, a `Registry`, or a function without
    parameters that returns one. What the module prints goes to standard error. Raises
    `InvalidRequestError` for whatever is wrong with it, an exception of its code among that.
    """
    if name is None:
        return None
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute or not all(part.isidentifier() for part in name_parts(name)):
        raise _refused(f"{name!r} is not MODULE:NAME, as in my_runtime.stores:DESCRIPTORS")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current directory, as with `python -m`
    with redirect_stdout(sys.stderr):  # standard output may be one JSON document
        found = _attribute(_imported(module_name), name, attribute)
        if is_coroutine_function(found):
            raise _refused(f"{name} is a coroutine function; a plain one is called")
        if callable(found):
            _check_needs_nothing(found, name)
            found = _called(found, name)
        return _registry(found, name)


def name_parts(name: str) -> list[str]:
    """Return the identifiers of `my_runtime.stores:DESCRIPTORS`."""
    return name.replace(":", ".", 1).split(".")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            where = "looked for in the current directory, and where Python has its packages"
            raise _refused(f"there is no module {error.name!r} ({where})") from error
        raise _refused(_raised(f"module {module} cannot be imported", error)) from error
    except (Exception, SystemExit) as error:
        raise _refused(_raised(f"module {module} cannot be imported", error)) from error


def _attribute(module: Any, name: str, attribute: str) -> Any:
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        raise _refused(f"module {module.__name__} has no {attribute}") from error
    except (Exception, SystemExit) as error:
        raise _refused(_raised(f"{name} cannot be had", error)) from error


def _check_needs_nothing(function: Any, name: str) -> None:
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):  # it has none, as some of C: calling it says more
        return
    optional = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = [
        each.name
        for each in parameters
        if each.default is Parameter.empty and each.kind not in optional
    ]
    if needed:
        problem = f"{name} is called without arguments, and needs {', '.join(needed)}"
        raise _refused(f"{problem}: name a list, or a function without parameters")


def _called(function: Any, name: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise _refused(_raised(f"{name} is called without arguments, and failed", error)) from error


def _registry(found: Any, name: str) -> Registry:
    try:
        registry = found if isinstance(found, Registry) else Registry(found)
    except InvalidRequestError as error:
        raise InvalidRequestError(_OPTION, f"{name}: {error.problem}", store=error.store) from None
    except (Exception, SystemExit) as error:
        raise _refused(_raised(f"{name} cannot be listed", error)) from error
    if not registry.names:
        raise _refused(f"{name} is empty: it names no store")
    return registry


def _raised(what: str, error: BaseException) -> str:
    """Return in words what code of the runtime raised, and where."""
    text = " ".join(str(error).split())[:300]
    kind = type(error).__name__
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({step.filename}, line {step.lineno})" for step in last)
    return f"{what}: {kind}: {text}{where}" if text else f"{what}: {kind}{where}"


def _refused(problem: str) -> InvalidRequestError:
    return InvalidRequestError(_OPTION, problem)
