"""Frozen dataclasses that are JAX pytrees: the only kind of object coopt passes around.

A field is a *leaf* (a number or an array) unless it is declared `static` (part of the structure: changing it
compiles anew) or `label` (words for people: changing it compiles nothing, and two trees that differ in labels
alone have equal structure).
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


class _Words(tuple):
    """The labels of a struct; all of them are equal, so that a name never causes a second compilation."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Words)

    def __hash__(self) -> int:
        return 0


def static(default: Any = dataclasses.MISSING) -> Any:
    """A field that is structure: it selects code, and a new value compiles anew."""
    return dataclasses.field(default=default, metadata={"role": "static"})


def label(default: Any = "") -> Any:
    """A field that is words for people: carried along, never compared, never compiled."""
    return dataclasses.field(default=default, metadata={"role": "label"})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(static, label))
def struct(cls: type[T]) -> type[T]:
    """Makes a class a frozen, keyword-only dataclass and registers it as a pytree.

    >>> @struct
    ... class Wire:
    ...     name: str = label("")
    ...     rate: float = 0.0
    >>> jax.tree.leaves(Wire(name="copper", rate=4.5e11))
    [450000000000.0]
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    leaves = tuple(f.name for f in fields if "role" not in f.metadata)
    statics = tuple(f.name for f in fields if f.metadata.get("role") == "static")
    labels = tuple(f.name for f in fields if f.metadata.get("role") == "label")

    def flatten_with_keys(tree):
        children = tuple((jax.tree_util.GetAttrKey(n), getattr(tree, n)) for n in leaves)
        return children, (tuple(getattr(tree, n) for n in statics), _Words(getattr(tree, n) for n in labels))

    def flatten(tree):
        aux = (tuple(getattr(tree, n) for n in statics), _Words(getattr(tree, n) for n in labels))
        return tuple(getattr(tree, n) for n in leaves), aux

    def unflatten(aux, children):
        # Around the constructor: transformations put non-arrays into trees, and a constructor may check.
        tree = object.__new__(cls)
        for name, value in zip(leaves, children, strict=True):
            object.__setattr__(tree, name, value)
        for name, value in (*zip(statics, aux[0], strict=True), *zip(labels, aux[1], strict=True)):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def replace(tree: T, **changes: Any) -> T:
    """The same struct with some fields changed."""
    return dataclasses.replace(tree, **changes)  # type: ignore[type-var]
