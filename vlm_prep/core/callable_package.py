"""Packages that are functions, too: `vlm_prep.tokenize` is the folder of a step and, called, the step."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package of a step; `call` names the function in it that does the step."""

    call: tuple[str, str]
    """(module, function)."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    @property
    def function(self) -> Any:
        """The function."""
        module, name = self.call
        return getattr(importlib.import_module(f"{self.__name__}.{module}"), name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)


def make_callable(package: str, module: str, name: str) -> None:
    """Have a package, imported right now, stand for one of its functions when it is called."""
    made = sys.modules[package]
    made.__class__ = CallablePackage
    made.call = (module, name)  # type: ignore[attr-defined]
