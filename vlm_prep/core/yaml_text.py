"""YAML that somebody else wrote, as values: of few nodes, not deep, and every fault of it one kind of error.

A few lines of YAML can mean more than a memory holds, since an alias (`*name`) stands for all that it names, and itself
for one that never ends. So what a text becomes is counted before it is made.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

MOST_NODES: Final = 100_000
_DEEPEST: Final = 100


class YamlFault(Exception):
    """What is wrong with a text, in one line.

    Args:
        problem: as the reader says it.
        line: where, from 1; None where it is not known.
    """

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem, self.line = problem, line


def read_yaml(text: str) -> Any:
    """Return the value of a text.

    Raises:
        YamlFault: it is no YAML, or one of what cannot be: too deep, too large, a day that no month has.
    """
    return read_yaml_nodes(text)[1]


def read_yaml_nodes(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the nodes of a text, which know their lines, and its value; None of a text without any. Raises as
    `read_yaml`."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _size(node, {}, 0)
        return node, loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise YamlFault(problem, None if mark is None else mark.line + 1) from error
    except (ValueError, OverflowError, AttributeError, TypeError, LookupError) as error:
        # of a value that its form promises and Python cannot hold: 30 February, a number of 5,000 digits
        raise YamlFault(str(error).partition("\n")[0][:200] or type(error).__name__, None) from error
    except RecursionError as error:
        raise YamlFault("nested too deeply", None) from error
    finally:
        if loader is not None:
            loader.dispose()


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return how many nodes a node becomes, those of its aliases counted each time."""
    if not isinstance(node, yaml.CollectionNode):
        if "\0" in node.value:
            raise _refused(node, "a text with a NUL in it, which no path and no name has")
        return 1
    if (size := known.get(id(node))) is None:
        if depth == _DEEPEST:
            raise _refused(node, "nested too deeply")
        known[id(node)] = -1
        inner = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
        size = known[id(node)] = 1 + sum(_size(each, known, depth + 1) for each in inner)
    if size < 0:
        raise _refused(node, "a part of it holds itself")
    if size > MOST_NODES:
        raise _refused(node, f"with its aliases it has more than {MOST_NODES:,} values")
    return size


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
