"""The documents name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = [ROOT, ROOT / "actors", *(ROOT / "genserve").glob("*/")]
"""Where a bare name may be: a page names a folder's other files without repeating it."""


def named_files(page: Path) -> set[str]:
    return set(re.findall(r"`([\w./-]+\.(?:py|toml|json))`", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    absent = [name for name in sorted(named_files(page)) if not any((f / name).exists() for f in FOLDERS)]
    assert not absent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_readme_names_every_command_of_the_makefile_that_it_promises() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    promised = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert promised <= targets
