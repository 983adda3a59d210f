"""What mkdocs cannot do by its settings."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"

# Examples and exit codes in a command's help are lines that Markdown joins to one paragraph; those
# below the first are indented.
_LINES = re.compile(r"<p>([^<]*\n  [^<]*)</p>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of the benchmarks, which lie outside of docs/."""
    for path in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_event: object) -> str:
    """Let links to those pictures work on the pages as they do in the repository."""
    return markdown.replace("](../benchmarks/results/", "](results/")


def on_page_content(html: str, page: Page, **_event: object) -> str:
    """Show examples and exit codes of a command line by line, as its --help does."""
    if not page.file.src_uri.startswith("commands/"):
        return html
    return _LINES.sub(r"<pre>\1</pre>", html)
