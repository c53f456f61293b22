"""A page taken apart: its elements, and the texts inside and outside of scripts."""

from __future__ import annotations

from html.parser import HTMLParser


class Elements(HTMLParser):
    """What a page holds.

    Attributes:
        tags: every element that opens, with its attributes.
        attributes: of all elements one after the other, ``(tag, name, value)``; an empty name for the element itself.
        scripts, text: what stands inside scripts, and what can be read; styles are left out.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.attributes += [(tag, name, value) for name, value in [("", None), *attrs]]
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data
