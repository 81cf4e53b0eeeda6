"""Bindings that only a replaced value referred to: a recipe's policy, say, in front of a file that names another."""

from collections.abc import Iterator, Mapping

import gin
from gin.config import ConfigurableReference

# Scope and selector, such as ("head", "trainer.stage") -> its bindings.
Bindings = Mapping[tuple[str, str], Mapping[str, object]]


def snapshot() -> Bindings:
    """All bindings as they are now."""
    return {key: dict(bound) for key, bound in gin.config._CONFIG.items()}


def excused(before: Bindings) -> set[tuple[str, str]]:
    """Scope/selector and parameter of the bindings that nothing needs any more since `before`.

    They were there before, and a value referred to them, directly or through others, which has been replaced by one
    that does not.
    """
    now, found = gin.config._CONFIG, set()
    for key, bound in before.items():
        for parameter, value in bound.items():
            if now[key][parameter] is not value:
                kept = {reference.config_key for reference in _references(now[key][parameter])}
                gone = [reference for reference in _references(value) if reference.config_key not in kept]
                for reference in gone:
                    _excuse(reference.config_key, before, found)
    return found


def _excuse(reference: tuple[str, str], before: Bindings, found: set[tuple[str, str]]) -> None:
    scope, selector = reference
    for (bound_scope, bound_selector), bound in before.items():
        applies = not bound_scope or scope == bound_scope or scope.startswith(f"{bound_scope}/")
        if bound_selector != selector or not applies:
            continue
        for parameter, value in bound.items():
            bound_again = gin.config._CONFIG[bound_scope, bound_selector][parameter] is not value
            if not bound_again and (f"{bound_scope}/{selector}", parameter) not in found:
                found.add((f"{bound_scope}/{selector}", parameter))
                for inner in _references(value):
                    _excuse(inner.config_key, before, found)


def _references(value: object) -> Iterator[ConfigurableReference]:
    if isinstance(value, ConfigurableReference):
        yield value
    elif isinstance(value, Mapping):
        for item in (*value.keys(), *value.values()):
            yield from _references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _references(item)
