"""``cxrseg-bench report``: the results in a folder as one page to read."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.options import require_bench
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import echo, fail

if TYPE_CHECKING:
    from markdown_it.token import Token

TEMPLATE = "report.jinja"

TITLE = "Adaptive low-rank, quantization-aware lung segmentation"
"""Heading of a page that is given none."""

MAX_SVG = 200_000
"""Above so many bytes a figure is shown as PNG."""

LONG = 24
"""Tables of more rows are folded."""

GENERATOR = '<meta name="generator" content="cxrseg-bench">'
"""How an earlier page is told from files of others."""

SECTIONS: dict[str, tuple[str, str]] = {
    "accuracy": (
        "How good are the masks?",
        "Each mask is compared with one that people drew, at the size of the X-ray. Dice is 1 where"
        " both agree in every pixel; distances tell how far outlines lie apart at their worst. Two"
        " readers do not reach 1 with each other either: on JSRT they overlap by 0.946, a Dice of"
        " about 0.97 (van Ginneken et al. 2006).",
    ),
    "labels": (
        "How good is the truth?",
        "Masks are drawn by people, and sets of them mix conventions. A mask that fits the other"
        " convention better than its own lowers the Dice of any model, however good.",
    ),
    "methods": (
        "What would other ways to train have given?",
        "The same training images for each way to fine-tune the network, with and without INT8,"
        " and for a U-Net, which is what most would take; how many each saw stands in the table.",
    ),
    "significance": (
        "Does INT8 cost anything?",
        "The same images with the INT8 and the FP32 file of one checkpoint, so that each image is"
        " its own control. One test asks whether they differ at all, another whether they are shown"
        " to be equal within a margin. Only the second can support the word equal.",
    ),
    "ssim": (
        "Where on the image do models differ?",
        "Structural similarity compares small windows of a mask with the same place in the true"
        " one. Its map shows where an outline runs well and where it strays; the difference of two"
        " maps shows where one model does better.",
    ),
    "quantization-error": (
        "What does rounding do inside?",
        "INT8 stores each weight as a whole number of steps. The error of that is at most half a"
        " step, and what it does to the network is read from the output of every layer.",
    ),
    "ranks": (
        "Where did AdaLoRA spend its budget?",
        "Adapters begin with the same rank in every layer. While training goes on, singular values"
        " that matter little are dropped, wherever they are. The map shows what was left, most in"
        " bright layers.",
    ),
    "compression": (
        "How much smaller is it?",
        "The paper's factors are arithmetic on SAM ViT-B; they are repeated here on its real"
        " tensors. Beside them stands what counts on a clinic's PC: bytes of files.",
    ),
    "latency": (
        "How fast is it?",
        "All models take turns on the same machine, so that whatever else it does hits all alike."
        " Ratios travel to other machines better than milliseconds.",
    ),
    "roofline": (
        "How much of the machine is used?",
        "A single large product of matrices shows what the CPU can do at most. A network hardly"
        " reaches that: the share tells how much there is left to win.",
    ),
    "tradeoff": (
        "Which model to take?",
        "A mask that is a little better may take much longer. Models that lie above and to the left"
        " of others are the ones to choose from.",
    ),
    "startup": (
        "How long does one image take, from a cold start?",
        "Whole processes, from the command to the finished mask: what somebody at a PC waits for.",
    ),
    "agreement": (
        "Do others see the same lungs?",
        "The same file on other execution providers, and the network in PyTorch, pixel by pixel.",
    ),
    "emulation": (
        "And on older PCs?",
        "Emulated CPUs run the program as an operator would; their masks are compared with ours.",
    ),
    "quality": (
        "What is flagged?",
        "Images that a model should not be trusted on, and how many of them are noticed.",
    ),
    "paper": (
        "How was all of this made?",
        "One command exported the checkpoint and made each part. A part is made anew only when"
        " something that it depends on has changed.",
    ),
}
"""Benchmark -> heading and a few plain words, in the order of the page."""

_OTHER = ("Other results", "")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}\Z")
_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Figure:
    """A figure inside the page: its data URI, caption, and whether it shows patients."""

    uri: str
    caption: str
    shows_patients: bool


@dataclass(frozen=True)
class Block:
    """A piece of HTML; of a table also the number of its rows."""

    html: str
    rows: int = 0


@dataclass(frozen=True)
class Part:
    """One result on the page.

    Attributes:
        name: The name of its JSON file, also its place in the page.
        title: Its heading.
        record: What its JSON file holds.
        blocks: Its text and tables.
        figures: Its figures.
        definitions: What columns mean, in paragraphs; empty where the tables do with their text.
        circumstances: When, where, with which versions, model and seed it was made.
    """

    name: str
    title: str
    record: Mapping[str, Any]
    blocks: Sequence[Block]
    figures: Sequence[Figure]
    definitions: Sequence[str]
    circumstances: str


@dataclass(frozen=True)
class Section:
    """Results that answer one question."""

    title: str
    intro: str
    parts: Sequence[Part]


def read_folder(
    folder: Path, left_out: Collection[str] = ()
) -> tuple[list[Part], list[CxrsegError]]:
    """Read all results of ``cxrseg-bench`` in a folder; other files are passed over.

    Args:
        folder: The folder; the folders in it are not searched.
        left_out: Names of files that are passed over too.

    Returns:
        The results, and what could not be read.

    Raises:
        CxrsegError: It is missing, or holds no result.
    """
    from cxrseg.benchmarks.harness.record import read_record

    if not folder.is_dir():
        raise CxrsegError(folder, "no such folder", "give the folder of results")
    parts: list[Part] = []
    problems: list[CxrsegError] = []
    for path in sorted(folder.glob("*.json")):
        if path.name in left_out:
            continue
        try:
            record = read_record(path)
            if record is not None:
                parts.append(_part(path, record, problems))
        except CxrsegError as error:
            problems.append(error)
    if not parts:
        remedy = "make some with cxrseg-bench accuracy -o, or all with cxrseg-bench paper"
        raise CxrsegError(folder, "holds no result of cxrseg-bench", remedy)
    return parts, problems


def _part(path: Path, record: dict[str, Any], problems: list[CxrsegError]) -> Part:
    from cxrseg.benchmarks.harness.record import read_bytes

    text = read_bytes(path.with_suffix(".md")).decode(errors="replace")
    definitions = str(record.get("definitions", "")).split("\n\n")
    circumstances = _circumstances(record, text)
    title, blocks = read_markdown(text, (f"`{record.get('command')}`", circumstances, *definitions))
    figures = []
    listed = record.get("figures")
    for each in listed if isinstance(listed, list) else ():
        try:
            figures.append(_figure(path, each))
        except CxrsegError as error:
            problems.append(error)
    return Part(
        name=path.name,
        title=title or path.stem,
        record=record,
        blocks=blocks,
        figures=figures,
        definitions=definitions,
        circumstances=circumstances.replace("`", ""),
    )


def _circumstances(record: Mapping[str, Any], text: str) -> str:
    """Return the paragraph of a result's Markdown that begins with its circumstances."""
    from cxrseg.benchmarks.harness.record import circumstances

    try:
        start = circumstances(record)
    except (LookupError, TypeError, AttributeError):
        return ""  # not every record tells
    paragraphs = (" ".join(each.split("\n")) for each in text.split("\n\n"))
    return next((each for each in paragraphs if each.startswith(start)), start)


def _figure(path: Path, entry: Any) -> Figure:
    """Return a figure of a result, whose files are named after the result's own."""
    from cxrseg.benchmarks.harness.record import figure_files, read_bytes

    name = entry.get("name") if isinstance(entry, dict) else None
    # It becomes part of a path, so it must be nothing but a name.
    if not isinstance(name, str) or not _NAME.match(name):
        raise CxrsegError(path, "names a figure in a way that cannot be", "figure left out")
    png, svg = figure_files(path, name)
    small = svg.is_file() and svg.stat().st_size <= MAX_SVG
    data, kind = (read_bytes(svg), "svg+xml") if small else (read_bytes(png), "png")
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return Figure(uri, str(entry.get("caption", "")), bool(entry.get("shows_patients")))


def read_markdown(text: str, told: Sequence[str] = ()) -> tuple[str, list[Block]]:
    """Turn a result's Markdown into HTML that refers to nothing.

    Args:
        text: The page as ``cxrseg-bench`` writes it; any other is shown as well, HTML in it as
            text.
        told: Beginnings of paragraphs that are left out, because the page tells them elsewhere.

    Returns:
        The first heading, and the blocks below it. Pictures are left out.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "autolink", "image", "reference"])
    kept = re.sub(r"\A<!--[^\n]*-->\n", "", text)
    tokens = parser.parse(kept)
    title, blocks = "", []
    for group in _top_level(tokens):
        inline = group[1].content if len(group) > 2 else ""
        if group[0].type == "heading_open" and not title:
            title = inline
            continue
        if group[0].type == "paragraph_open" and (
            inline.startswith("![") or any(each and inline.startswith(each) for each in told)
        ):
            continue
        rows = sum(token.type == "tr_open" for token in group)
        blocks.append(Block(parser.renderer.render(group, parser.options, {}), max(0, rows - 1)))
    return title, blocks


def _top_level(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    group: list[Token] = []
    depth = 0
    for token in tokens:
        group.append(token)
        depth += token.nesting
        if depth == 0:
            yield group
            group = []


def sections(parts: Sequence[Part]) -> list[Section]:
    """Group results by the question that they answer, in the order of `SECTIONS`.

    Within a section the oldest stands first.
    """
    parts = sorted(parts, key=lambda part: (str(part.record.get("date", "")), part.name))
    found = []
    for benchmark, (title, intro) in SECTIONS.items():
        own = [part for part in parts if part.record["benchmark"] == benchmark]
        if own:
            found.append(Section(title, intro, own))
    rest = [part for part in parts if part.record["benchmark"] not in SECTIONS]
    return [*found, Section(*_OTHER, rest)] if rest else found


def render(parts: Sequence[Part], problems: Sequence[CxrsegError], title: str) -> str:
    """Return the page as HTML.

    Args:
        parts: The results.
        problems: What could not be read.
        title: The page's title.
    """
    import jinja2
    from markupsafe import Markup

    from cxrseg.benchmarks.claims import claims
    from cxrseg.benchmarks.harness.record import now
    from cxrseg.runtime.core.version import package_version

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ordered = sections(parts)
    shown = [part for section in ordered for part in section.parts]
    return environment.get_template(TEMPLATE).render(
        generator=Markup(GENERATOR),
        title=title,
        version=package_version(),
        date=now(),
        sections=ordered,
        claims=claims((part.name, part.record) for part in shown),
        shows_patients=any(f.shows_patients for part in shown for f in part.figures),
        problems=[str(problem) for problem in problems],
        long=LONG,
        safe=Markup,
    )


def check_page(path: Path) -> None:
    """Refuse, before the work, a page that could not be written after it.

    Raises:
        CxrsegError: It does not end in ``.html``, its folder is missing, or a file stands there
            that is no earlier page.
    """
    from cxrseg.benchmarks.harness.record import read_bytes

    if path.suffix != ".html":
        raise CxrsegError(path, "the page does not end in .html", "name it like report.html")
    if not path.resolve().parent.is_dir():
        raise CxrsegError(path.parent, "no such folder", "make it, or choose another with -o")
    if path.exists() and (path.is_dir() or GENERATOR.encode() not in read_bytes(path)[:4096]):
        cause = "exists and is no page of cxrseg-bench, so it is kept"
        raise CxrsegError(path, cause, "rename it, or choose another name with -o")


def write_page(
    folder: Path, output: Path, title: str, left_out: Collection[str] = ()
) -> list[CxrsegError]:
    """Write the page of a folder.

    Args:
        folder: The folder of results.
        output: The page.
        title: Its title.
        left_out: Names of files that are not to be shown.

    Returns:
        What could not be shown.

    Raises:
        CxrsegError: There is no result, or the page cannot be written.
    """
    from cxrseg.runtime.core.atomic import write_together

    check_page(output)
    parts, problems = read_folder(folder, left_out)
    write_together({output: render(parts, problems, title).encode()})
    return problems


@click.command("report")
@click.argument("folder", metavar="RUN", type=_PATH)
@click.option(
    "-o",
    "--output",
    metavar="FILE.html",
    type=_PATH,
    help="The page to write.  [default: report.html in RUN]",
)
@click.option(
    "--title",
    default=TITLE,
    show_default=True,
    help="Heading of the page.",
)
def command(folder: Path, output: Path | None, title: str) -> None:
    """Turn the results in a folder into one page to read and to print.

    RUN is a folder with files that cxrseg-bench wrote with -o, of whichever subcommands. The page
    holds their tables and figures with a few words on each, what the paper claims beside what was
    measured, and how everything was made. It is a single file that needs nothing else, no network
    either.

    \b
    Examples
      cxrseg-bench report results
      cxrseg-bench report runs/ward7/paper -o ward7.html --title "Ward 7"
    """
    require_bench("report")
    output = output or folder / "report.html"
    for problem in write_page(folder, output, title):
        fail(problem)
    echo(f"written: {output}")
