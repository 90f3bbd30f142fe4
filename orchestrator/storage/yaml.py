"""YAML files of a person, safe-loaded, with errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import InvalidInput

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds a mapping; `InvalidInput` naming the file and the line otherwise."""
    try:
        content = _Unrepeated(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the {what} file '{path}' cannot be read: {error}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date like 2024-13-45
        raise InvalidInput(
            f"the {what} file '{path}' is not valid YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidInput(
            f"the {what} file '{path}' must hold a mapping of fields, not {content!r:.80}."
        )
    return content


class _Unrepeated(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is given twice."""

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
        return super().construct_mapping(node, deep)
