"""What mkdocs has no setting for: the navigation is the index, and links may leave docs/.

``docs/index.md`` is the one list of the pages, for those who read the repository and for the
site: its headings are the navigation's sections, the links that begin its items are the pages.
A file outside ``docs/`` that a page links to, and what that file links to in turn, is part of
the site, below ``tree/``.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

TREE = "tree"

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#\s]+)")
_SECTION_OR_ITEM = re.compile(r"^(?:## (?P<section>.+)|- \[(?P<title>[^]]+)\]\((?P<path>[^)#]+)\))")


def _outside(page: str, link: str) -> str | None:
    """Return the path from the root of the repository, of what is not below docs/."""
    path = posixpath.normpath(posixpath.join("docs", page, "..", link))
    if path.startswith("docs/"):
        return None
    return path


def _source(uri: str) -> str:
    """Return a page's path as its own links see it, from docs/."""
    return f"../{uri.removeprefix(TREE + '/')}" if uri.startswith(f"{TREE}/") else uri


def _uri(path: str) -> str:
    """Return where in the site a file of the repository is, by its path from docs/."""
    path = posixpath.normpath(posixpath.join("docs", path))
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{TREE}/{path}"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation of the index."""
    nav: list[Any] = [{"Start": "index.md"}]
    section = nav
    for line in Path(config.docs_dir, "index.md").read_text().splitlines():
        if found := _SECTION_OR_ITEM.match(line):
            if found["section"]:
                section = []
                nav.append({found["section"]: section})
            elif found["path"].endswith(".md"):
                section.append({found["title"]: _uri(found["path"])})
    config.nav = [item for item in nav if all(item.values())]
    return config


def _linked(uri: str, text: str) -> Iterator[str]:
    for found in _LINK.finditer(text):
        if path := _outside(_source(uri), found["path"]):
            yield path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/."""
    root = Path(config.docs_dir).parent
    pages = list(files.documentation_pages())
    while pages:
        page = pages.pop()
        for path in _linked(page.src_uri, page.content_string):
            uri = f"{TREE}/{path}"
            if (root / path).is_file() and files.get_file_from_path(uri) is None:
                file = File.generated(
                    config,
                    uri,
                    abs_src_path=os.fspath(root / path),
                    inclusion=InclusionLevel.NOT_IN_NAV,
                )
                files.append(file)
                if file.is_documentation_page():
                    pages.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where the site has their targets."""
    uri = page.file.src_uri

    def lead(found: re.Match[str]) -> str:
        target = posixpath.join(_source(uri), "..", found["path"])
        return posixpath.relpath(_uri(target), posixpath.dirname(uri) or ".")

    return _LINK.sub(lead, markdown)
