"""YAML files of a person, safe-loaded, with errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import InvalidInput

_MERGE = "tag:yaml.org,2002:merge"
_NAMES, _LISTS = ("name", "group"), ("aliases", "classes", "default_tasks")
"""Fields of a suite that hold names; the second ones are lists of them."""
_MOST_BYTES, _MOST_VALUES = 4_000_000, 100_000


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds a mapping; `InvalidInput` naming the file and the line otherwise."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
            raise OSError("it is no regular file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise OSError(f"it is larger than {_MOST_BYTES:,} bytes")
        content = _Loader(data.decode("utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the {what} file '{path}' cannot be read: {error}.") from error
    # ValueError: a date like 2024-13-45, a number of 5,000 digits.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(
            f"the {what} file '{path}' is not valid YAML: {' '.join(why.split())}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidInput(
            f"the {what} file '{path}' must hold a mapping of fields, not {content!r:.80}."
        )
    return content


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is given twice, and aliases that expand to
    more values than a person would write.
    """

    def get_single_node(self) -> yaml.Node | None:
        """The document's root."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases expand to more than {_MOST_VALUES:,} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; `ConstructorError` with the line of a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != _MERGE:
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key_node.value}' is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        _take_names(node)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The values of a node with every alias expanded; `known`: those of nodes seen before."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # while it is counted: a node inside itself is endless
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        nodes = [n for item in inner for n in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(one, known) for one in nodes)
    return known[id(node)]


def _take_names(node: yaml.MappingNode) -> None:
    """Names are texts as they are written: else `no` is a truth value and 007 the number 7."""
    for key, value in node.value:
        names: list[Any] = [value] if key.value in _NAMES else []
        if key.value in _LISTS and isinstance(value, yaml.SequenceNode):
            names = value.value
        elif key.value == "tasks" and isinstance(value, yaml.MappingNode):
            names = [name for name, _ in value.value]
        for name in names:
            if isinstance(name, yaml.ScalarNode) and name.style is None and name.tag != _MERGE:
                name.tag = "tag:yaml.org,2002:str"
