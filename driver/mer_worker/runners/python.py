"""The `python` runner: a package with an entry point that makes the handler (Carton's contract, docs/models.md).

The entry point, `entrypoint_package` and `entrypoint_fn` of the options, is called once with the other options by name
(Carton writes some as `model.NAME`), and with `weights` and the placement's `device` if it has parameters of these names.
What it returns is called with a dict of inputs, or has `infer_with_tensors`, which is; either returns a dict of outputs, or
yields several. One that has a parameter `context` gets it (mer_worker.context). What has a method `seal` stages inputs that
are to be run later.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping

from mer_worker.failures import Failure
from mer_worker.weights import Weights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mer_worker.context import Context

PACKAGE = "entrypoint_package"
FUNCTION = "entrypoint_fn"
ARRAYS = ("numpy", "buffer", "torch")

_CO_ASYNC = 0x80 | 0x200
"""inspect.CO_COROUTINE and CO_ASYNC_GENERATOR, without importing inspect."""


class PythonRunner:
    """A handler in this process."""

    ended = False

    def __init__(
        self, handler: Callable[..., Any], arrays: str, seal: Callable[[dict[str, Any]], Any] | None = None
    ) -> None:
        self.arrays = arrays
        self._handler = handler
        self._seal = seal
        self._takes_context = _takes(handler, "context")
        self.plain = None if self._takes_context else handler
        """The handler, where it takes the inputs alone; what it gives is still to be checked."""
        self.is_async = is_async_function(handler)
        """Whether the handler is to be awaited, or gives parts that are."""

    def call(self, inputs: Any, context: Any) -> Any:
        """Call the handler, whatever it takes and gives: one of each, lists of them, or something to be awaited."""
        return self._handler(inputs, context=context) if self._takes_context else self._handler(inputs)

    def infer(self, inputs: dict[str, Any], context: Context) -> Mapping[str, Any]:
        """Call the handler."""
        outputs = self._handler(inputs, context=context) if self._takes_context else self._handler(inputs)
        return outputs if type(outputs) is dict else self.checked(outputs)

    def begin(self, inputs: Any, context: Context) -> Any:
        """Call the handler, and return its outputs, or the iterator of parts that it gave: a generator, as a rule."""
        outputs = self.call(inputs, context)
        return outputs if hasattr(type(outputs), "__next__") else self.checked(outputs)

    def seal(self, inputs: dict[str, Any]) -> Any:
        """Have the handler stage inputs, if it has a method `seal` (which may be `async def` if it is); else keep them."""
        return inputs if self._seal is None else self._seal(inputs)

    def checked(self, outputs: Any) -> Mapping[str, Any]:
        """Return what a handler has given, if it is a dict. Raises: Failure."""
        if type(outputs) is not dict and not isinstance(outputs, Mapping):
            if hasattr(type(outputs), "__anext__"):
                if self.is_async:
                    raise _in_parts()
                raise Failure(
                    "output", "output-invalid", "a handler that yields from an async generator is itself `async def`"
                )
            if hasattr(type(outputs), "__next__"):
                if hasattr(outputs, "close"):
                    outputs.close()
                if self.is_async:
                    raise Failure(
                        "output", "output-invalid", "an `async def` yields itself, or gives an async generator"
                    )
                raise _in_parts()
            raise Failure(
                "output", "output-invalid", f"a handler returns a dict of outputs, not {type(outputs).__name__}"
            )
        return outputs

    def close(self) -> None:
        """Let the handler go."""
        del self._handler, self._seal, self.plain


def load(fields: Mapping[str, Any]) -> PythonRunner:
    """Import the package, call its entry point and return the handler.

    Raises:
        Failure: the package has no such entry point, or what it returned cannot be called.
        BaseException: whatever the author's code raises.
    """
    folder, options, arrays = fields.get("folder"), fields.get("options", {}), fields.get("arrays", "numpy")
    if not isinstance(folder, str) or not isinstance(options, dict) or arrays not in ARRAYS:
        raise Failure("protocol", "bad-load", "a python model has a folder, options and arrays")
    if arrays == "torch":
        _import_torch()
    elif arrays == "numpy" and fields.get("numbers") is True:
        _import_numpy()
    package, function = options.get(PACKAGE), options.get(FUNCTION)
    if not isinstance(package, str) or not isinstance(function, str):
        raise Failure("load", "no-entry-point", f"the options {PACKAGE} and {FUNCTION} name the entry point")
    if not os.path.isdir(folder):
        raise Failure("load", "no-package", f"there is no folder {folder}")
    sys.path.insert(0, folder)
    entry = _entry_point(package, function, folder)
    given = {
        name[6:] if name.startswith("model.") else name: value
        for name, value in options.items()
        if name not in (PACKAGE, FUNCTION)
    }
    weights = fields.get("weights")
    if weights is not None and _takes(entry, "weights"):
        given["weights"] = Weights(weights, arrays)
    device = fields.get("device")
    if device is not None and _takes(entry, "device"):
        given["device"] = device
    made = entry(**given)
    seal = getattr(made, "seal", None)
    runner = PythonRunner(_handler(made, f"{package}:{function}"), arrays, seal if callable(seal) else None)
    if callable(seal) and is_async_function(seal) and not runner.is_async:
        raise Failure(
            "load", "async-seal", "a method `seal` that is `async def` needs a handler that is: nothing awaits it"
        )
    return runner


def _import_numpy() -> None:
    """Have numpy now: within a request its import would count as the request's, and a cancel would have to wait for it."""
    try:
        importlib.import_module("numpy")
    except ModuleNotFoundError as error:  # a handler of texts does without
        if error.name != "numpy":
            raise


def _import_torch() -> None:
    """Have torch now: what it costs is the load's, and a worker without it says so at once."""
    try:
        importlib.import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        text = (
            f"arrays are torch's, and {sys.executable} has no torch: `{sys.executable} -m pip install torch` installs it"
            " (a distribution's own Python refuses that: then it needs a virtual environment)"
        )
        raise Failure("load", "no-framework", text) from None


def _entry_point(package: str, function: str, folder: str) -> Callable[..., Any]:
    where = f"entry point {package}:{function}"
    try:
        found: Any = importlib.import_module(package)
    except ModuleNotFoundError as error:
        # a module that the author's own code misses is his traceback; the entry point itself missing is a wrong package
        if error.name is None or not (package == error.name or package.startswith(error.name + ".")):
            raise
        raise Failure("load", "no-entry-point", f"{where}: no module {package!r} in {folder}") from None
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise Failure("load", "no-entry-point", f"{where}: module {package!r} has no callable {function!r}")
    entry: Callable[..., Any] = found
    return entry


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    plain = getattr(function, "__func__", function)
    code: Any = getattr(plain, "__code__", None) or getattr(type(plain).__call__, "__code__", None)
    if code is not None and not hasattr(plain, "__wrapped__"):
        return name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    import inspect  # costs a worker 1 MB: only for what is decorated, or written in C

    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def is_async_function(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to be awaited (`async def`, with `yield` or without, also as a method)."""
    plain = getattr(function, "__func__", function)
    code = getattr(plain, "__code__", None) or getattr(type(plain).__call__, "__code__", None)
    return code is not None and bool(code.co_flags & _CO_ASYNC)


def _in_parts() -> Failure:
    return Failure("input", "answers-in-parts", "the model answers in parts")


def _handler(made: Any, where: str) -> Callable[[dict[str, Any]], Any]:
    method = getattr(made, "infer_with_tensors", None)
    handler = method if callable(method) else made
    if not callable(handler):
        raise Failure(
            "load",
            "no-handler",
            f"{where} returned {type(made).__name__}: not callable, and without infer_with_tensors",
        )
    return handler  # type: ignore[no-any-return]
