"""Importing torch's companions without what preparing data never uses.

Half the CPU time that loading a processor took went into modules that nothing here calls (measured, transformers 5.23,
torchvision 0.28): torchvision's detection models and datasets, torch's compiler behind them and sympy behind that
(1.2 s), and transformers' model base class with scipy.optimize, accelerate and torch's distributed tensors (0.9 s),
which its processors import for one `isinstance`; and transformers reads the source of all its models, twice, for the
names that it exports (0.7 s). In vlm-prep's own processes, the command line and its workers, such a
module is put in place unread, and read when anything but what its importers ask for is taken from it. Whatever code
does use it gets all of it, a moment later; nothing of torch or transformers is left out or replaced.

A program that imports vlm_prep as a library keeps Python's usual imports: `install` is called by none of the library.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_lock = threading.RLock()


class _AsClass(type):
    """The metaclass of a class that stands for one of an unread module in `isinstance` and `issubclass`."""

    real: tuple[str, str]

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _taken(*cls.real))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _taken(*cls.real))


class _AsMapping(Mapping[str, Any]):
    """Stands for a mapping of an unread module."""

    def __init__(self, module: str, name: str) -> None:
        self._real = module, name

    def __getitem__(self, key: str) -> Any:
        return _taken(*self._real)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(_taken(*self._real))

    def __len__(self) -> int:
        return len(_taken(*self._real))


def _stand_ins(module: str) -> dict[str, Any]:
    """Return what an unread module gives to those that import it and use it rarely."""
    if module == "transformers.modeling_utils":
        # processors: is an audio tokenizer one?
        name = "PreTrainedAudioTokenizerBase"
        return {name: _AsClass(name, (), {"real": (module, name)})}
    if module == "transformers.activations":
        # type_validators: is this the name of an activation?
        return {"ACT2FN": _AsMapping(module, "ACT2FN")}
    return {}


UNREAD = frozenset(
    {
        "torchvision.models",
        "torchvision.datasets",
        "torchvision.ops",
        "transformers.modeling_utils",
        "transformers.activations",
    }
)
"""The modules that are put in place unread."""


_IMPORT_UTILS = "transformers.utils.import_utils"


class _Unread(ModuleType):
    """A module that is read when something is taken from it that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        # whoever walks all modules (inspect does) asks for names such as __wrapped__: that is no use of this one
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        stand_ins: dict[str, Any] = self.__dict__["_stand_ins"]
        if name in stand_ins:
            return stand_ins[name]
        read(self)
        return getattr(self, name)


def read(module: ModuleType) -> None:
    """Read a module that was put in place unread; nothing happens to another."""
    with _lock:
        if type(module) is not _Unread:
            return
        module.__class__ = ModuleType  # type: ignore[assignment]
        loader, spec = module.__dict__.pop("_loader"), module.__spec__
        del module.__dict__["_stand_ins"]
        if spec is not None:
            spec.loader = loader
        module.__loader__ = loader
        try:
            loader.exec_module(module)
        except BaseException:
            sys.modules.pop(module.__name__, None)  # as Python does: the next import tries again
            raise


def _taken(module: str, name: str) -> Any:
    """Return a name of a module, which is read for it."""
    found = importlib.import_module(module)
    read(found)
    return getattr(found, name)


class _PutUnread(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unread(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(_loader=self._loader, _stand_ins=_stand_ins(module.__name__))


class _ReadOnce(Loader):
    """Loads transformers' `import_utils`, and has it look for exported names once and near the end of each file.

    Its own cache holds 128 folders and there are 500, so that it forgets them; and it cuts whole files into lines to
    find one that begins with `__all__`.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        names = vars(module)
        structure = getattr(names.get("create_import_structure_from_path"), "__wrapped__", None)
        if structure is not None:
            names["create_import_structure_from_path"] = functools.cache(structure)
        if (exported := names.get("fetch__all__")) is not None:
            names["fetch__all__"] = functools.partial(_exported, exported)


def _exported(exported: Callable[[str], list[str]], content: str) -> list[str]:
    """The last line that begins with `__all__` counts, so what stands before it need not be read."""
    last = content.rfind("\n__all__")
    return exported(content[last + 1 :] if last >= 0 else content)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in UNREAD and name != _IMPORT_UTILS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = (_PutUnread if name in UNREAD else _ReadOnce)(spec.loader)
        return spec


def install() -> None:
    """Have the modules of `UNREAD` put in place unread from now on, in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Import what marks functions as not for torch's compiler, without importing the compiler (0.9 s) to do so.

    Only where `install` was called: such a process compiles nothing.
    """
    import torch

    if not any(isinstance(finder, _Finder) for finder in sys.meta_path) or "torch._dynamo" in sys.modules:
        yield
        return
    before = torch.compiler.disable
    torch.compiler.disable = _unmarked
    try:
        yield
    finally:
        torch.compiler.disable = before


def _unmarked(fn: Any = None, *arguments: Any, **settings: Any) -> Any:
    return fn if fn is not None else lambda marked: marked


class _Away(MetaPathFinder):
    """Finds no pandas."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("no pandas is wanted here", name=name)


def no_pandas() -> None:
    """Have pyarrow do without pandas in this process: it imports it (0.4 s) at its first conversion of a list, to know
    pandas' own arrays, of which there are none here. Whoever imports pandas still gets it."""
    if "pandas" in sys.modules:
        return
    away = _Away()
    sys.meta_path.insert(0, away)
    try:
        importlib.import_module("pyarrow").array([""])
    finally:
        sys.meta_path.remove(away)


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Keep the garbage collector from walking what is being loaded, again and again: half the time of loading.

    A vocabulary is half a million objects, and none of them is garbage.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
