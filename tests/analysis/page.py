"""Reads a page as a strict browser would: tags must close, texts and tables come out as words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

INLINE = {"b", "code", "i", "tspan"}
"""Tags that do not part words; a span may, by its style."""
VOID = {"meta", "br", "link", "img", "input", "hr", "source", "col", "wbr"}


@dataclass
class Element:
    """A tag with its attributes and children (elements and texts)."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        """This element and all below it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str) -> list[Element]:
        """Every element of that tag."""
        return [element for element in self.walk() if element.tag == tag]

    @property
    def text(self) -> str:
        """All words, spaces collapsed."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            elif child.tag in INLINE:
                yield from child._texts()
            else:
                yield f" {child.text} "

    def cells(self) -> list[list[str]]:
        """A table's rows of texts."""
        return [
            [cell.text for cell in row.walk() if cell.tag in ("th", "td")] for row in self.all("tr")
        ]

    def find(self, identifier: str) -> Element:
        """The element of that id."""
        (found,) = [e for e in self.walk() if e.attributes.get("id") == identifier]
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(page: str) -> Element:
    """The page's tree; AssertionError if a tag is left open or closes another one."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is never closed"
    return reader.open[0]


def check(page: str) -> Element:
    """The tree of a well-formed page that loads nothing and whose references all lead somewhere."""
    tree = read(page)
    ids = [e.attributes["id"] for e in tree.walk() if "id" in e.attributes]
    assert len(ids) == len(set(ids)), "an id is used twice"
    assert not {e.tag for e in tree.walk()} & {"script", "link", "iframe", "object", "base"}
    for element in tree.walk():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"{name} would run a script"
            if (element.tag, name) == ("img", "src"):
                assert value.startswith("data:image/png;base64,"), f"<img> loads {value}"
                assert element.attributes["alt"]
                continue
            if name in ("href", "xlink:href", "src", "srcset", "data", "action", "poster"):
                assert value.startswith("#"), f"<{element.tag}> loads {value}"
                assert value[1:] in ids, f"{value} leads nowhere"
            for target in re.findall(r"url\(([^)]*)\)", value):
                assert target.startswith("#") and target[1:] in ids, f"{target} leads nowhere"
    for style in tree.all("style"):
        assert "@import" not in style.text and "url(" not in style.text
    return tree
