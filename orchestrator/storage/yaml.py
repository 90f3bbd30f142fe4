"""YAML files of a person, safe-loaded, with errors that name the file and the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import InvalidInput
from orchestrator.storage.files import read_file, reason, whole_number

_MERGE, _NULL = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:null"
_NAMES = ("name", "group", "suite", "backbone", "device", "address", "tracking_uri", "out")
"""Fields of a suite or configuration that hold a name: text, as it is written."""
_LISTS = ("aliases", "classes", "default_tasks")
"""Fields that hold lists of names."""
_MOST_BYTES, _MOST_VALUES = 1_000_000, 100_000


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds a mapping; `InvalidInput` naming the file and the line otherwise."""
    try:
        text = read_file(path, _MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the {what} file '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"the {what} file '{path!s:.200}' cannot be read: {reason(error)}."
        ) from error
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise InvalidInput(f"the {what} file '{path}' is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidInput(
            f"the {what} file '{path}' must hold a mapping of fields, not {content!r:.80}."
        )
    return content


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; `ValueError` in one line, with the place, for what is none."""
    try:
        return _Loader(text).get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        why = str(error).replace('in "<unicode string>", ', "at ")
        raise ValueError(" ".join(why.split())) from error


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is given twice, aliases that expand to more
    values than a person would write, and what no text or number can hold.

    1e-3, without a point, is a number as in YAML 1.2; in YAML 1.1 it is text.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node; `YAMLError` early in a text of many, which takes minutes to read."""
        self._nodes = getattr(self, "_nodes", 0) + 1
        if self._nodes > _MOST_VALUES:
            raise yaml.YAMLError(f"it has more than {_MOST_VALUES:,} values")
        return super().compose_node(parent, index)

    def get_single_node(self) -> yaml.Node | None:
        """The document's root."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases expand to more than {_MOST_VALUES:,} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; `ConstructorError` with the line of a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != _MERGE:
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key_node.value}' is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        if isinstance(node, yaml.MappingNode):
            _take_names(node)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; `ConstructorError` with the line of one that cannot be made."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # 2024-13-45, `!!bool x`
            why = f"{str(node.value)!r:.60} is no {node.tag.rpartition(':')[2]} ({error})"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark) from error

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number of a length that a float can hold."""
        return whole_number(node.value, lambda _: super(_Loader, self).construct_yaml_int(node))

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """Text; `ConstructorError` for a null byte or half a character, made by an escape."""
        text = super().construct_yaml_str(node)
        if found := re.search("[\0\ud800-\udfff]", text):
            why = f"{text!r:.60} holds {found[0]!r}, which no name or path can have"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark)
        return text


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$", re.ASCII),
    list("-+.0123456789"),
)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The values of a node with every alias expanded; `known`: those of nodes seen before."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # while it is counted: a node inside itself is endless
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        nodes = [n for item in inner for n in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(one, known) for one in nodes)
    return known[id(node)]


def _take_names(node: yaml.MappingNode) -> None:
    """Names are texts as they are written: else `no` is a truth value, 1e-3 and 007 are numbers."""
    for key, value in node.value:
        names: list[Any] = [value] if key.value in _NAMES and value.tag != _NULL else []
        if key.value in _LISTS and isinstance(value, yaml.SequenceNode):
            names = value.value
        elif key.value == "tasks" and isinstance(value, yaml.MappingNode):
            names = [name for name, _ in value.value]
        for name in names:
            if isinstance(name, yaml.ScalarNode) and name.style is None and name.tag != _MERGE:
                name.tag = "tag:yaml.org,2002:str"
