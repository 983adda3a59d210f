"""README and docs/ tell what the code does: flags, limits, commands, pages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from cxrseg.benchmarks import cli as benchmarks
from cxrseg.export import cli as export
from cxrseg.runtime import Segmenter, read
from cxrseg.runtime import cli as runtime
from cxrseg.runtime.quality.rules import RULES, Rule
from cxrseg.runtime.writers.report import make_report
from cxrseg.runtime.writers.tables import COLUMNS
from cxrseg.trainer import cli as trainer
from cxrseg.trainer.recipe_file import shipped_recipes
from helpers.dicom.patient import xray
from helpers.paths import REPO

DOCS = REPO / "docs"
README = REPO / "README.md"
CARD = "runtime/models/MODEL_CARD.md"

READERS = REPO / "runtime" / "readers"

COMMANDS = {
    "cxrseg-run": runtime.command,
    "cxrseg-train": trainer.command,
    "cxrseg-export": export.command,
    "cxrseg-recover": export.recover_command,
}


def first_cells(page: str, heading: str) -> list[str]:
    """Return the codes in the first column of the table below a heading of a page."""
    section = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    rows = re.findall(r"^\| *(`.*?) \|", section.split("\n## ")[0], re.MULTILINE)
    return [code for cell in rows for code in re.findall(r"`(\w+)`", cell)]


def test_page_explains_every_field_of_a_report(tmp_path: Path) -> None:
    xray(tmp_path / "x.dcm")
    radiograph = read(tmp_path / "x.dcm")
    report = make_report(
        Segmenter(device="cpu").segment(radiograph), radiograph, "x.dcm", ("json", "seg")
    )
    assert first_cells("output.md", "The JSON report") == list(report)


def test_page_explains_every_column_of_the_table() -> None:
    assert first_cells("output.md", "The table") == list(COLUMNS)


def test_page_explains_every_flag() -> None:
    of_readers = {
        code
        for path in READERS.rglob("*.py")
        for code in re.findall(r'Flag\(\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert len(of_readers) == 6
    explained = first_cells("flags.md", "What each flag means")
    assert sorted(explained) == sorted({rule.code for rule in RULES.values()} | of_readers)


FROM = {
    "nothing": "fixed",
    "statistics": "fixed; measured against the model's reference",
    "limit": "the model's reference",
}


def row_of(name: str, rule: Rule) -> str:
    """Return the row that the page must have for a rule."""
    least = "at least " if rule.needs == "limit" else ""
    side = "below" if rule.below else "above"
    where = FROM[rule.needs]
    cells = f"`{name}`", f"`{rule.code}`", rule.measured, f"{side} {least}{rule.limit:.3g}", where
    return f"| {' | '.join(cells)} |"


def test_page_lists_every_limit() -> None:
    lines = (DOCS / "flags.md").read_text(encoding="utf-8").splitlines()
    title = next(i for i, line in enumerate(lines) if line.startswith("| rule |"))
    expected = [row_of(name, rule) for name, rule in RULES.items()]
    assert lines[title + 2 : title + 2 + len(expected)] == expected
    assert lines[title + 2 + len(expected) :] == []


def test_readme_is_short_and_has_what_ci_runs() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert text.index("Not a diagnostic device") < text.index("## Run")
    for heading in ("Run", "Test"):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        assert "pip install" in section.split("```sh\n")[1]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md"])
def test_links_of_pages_at_the_root_lead_somewhere(page: str) -> None:
    text = (REPO / page).read_text(encoding="utf-8")
    links = [*re.findall(r"\]\(([^)#]+)", text), *re.findall(r'src="([^"]+)"', text)]
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (REPO / link).exists()]


def paths_in(page: Path) -> list[str]:
    """Return the files of the repository that a page names, as `folder/file.ext`."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"`((?:runtime|trainer|export|benchmarks|tests|docs)/[\w./-]+)`", text)


@pytest.mark.parametrize(
    "page",
    [*sorted(REPO.glob("[A-Z]*.md")), REPO / CARD, *sorted(DOCS.glob("*.md"))],
    ids=lambda page: page.name,
)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    missing = [path for path in paths_in(page) if not (REPO / path).exists()]
    assert not missing


def test_architecture_names_every_room() -> None:
    text = (REPO / "ARCHITECTURE.md").read_text(encoding="utf-8")
    packages = ("runtime", "trainer", "export", "benchmarks")
    rooms = [path.parent for name in packages for path in (REPO / name).rglob("__init__.py")]
    named = set(re.findall(r"^\| (?:\*\*)?`([\w/]+)/`", text, re.MULTILINE))
    assert {str(room.relative_to(REPO).as_posix()) for room in rooms} <= named
    assert not [name for name in named if not (REPO / name).is_dir()]
    assert len(text.splitlines()) < 100, "it is one page"


def test_page_lists_every_recipe() -> None:
    section = (DOCS / "training.md").read_text(encoding="utf-8").split("\n## Recipes\n")[1]
    listed = re.findall(r"^\| `([\w-]+)` \|", section.split("\n## ")[0], re.MULTILINE)
    assert sorted(listed) == shipped_recipes()


def command_named(words: list[str]) -> click.Command:
    """Return the command that a line starts, for cxrseg-bench its subcommand."""
    if words[0] == "cxrseg-bench":
        group = benchmarks.command
        found = group.get_command(click.Context(group), words[1])
        assert found is not None, words[1]
        return found
    return COMMANDS[words[0]]


def lines_with_commands(page: Path) -> list[list[str]]:
    """Return the words of each line of a page's sh blocks that starts a command of cxrseg."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL))
    lines = [shlex.split(line, comments=True) for line in blocks.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words and words[0].startswith("cxrseg-")]


@pytest.mark.parametrize("page", [README, *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_commands_that_a_page_shows_have_these_options(page: Path) -> None:
    for words in lines_with_commands(page):
        options = [word for word in words if word.startswith("-")]
        known = {name for parameter in command_named(words).params for name in parameter.opts}
        assert set(options) <= known | {"--help", "--version"}, words


def test_pages_show_commands() -> None:
    shown = {
        words[0] for page in (README, *DOCS.glob("*.md")) for words in lines_with_commands(page)
    }
    assert shown == {*COMMANDS, "cxrseg-bench"}
