"""The report of a run, as Markdown and as one HTML file that needs nothing else."""

import base64
import html
import os
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jdistill.base import UserError
from jdistill.files import write_text
from jdistill.reporting.table import cell, format_table, literal

_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}
_CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #57606a; --paper: #fff; --line: #d8dee4; --tint: #f3f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --dim: #98a2ad; --paper: #14171b; --line: #343b43; --tint: #1f242a; }
}
body { margin: 0 auto; max-width: 56rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1.5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p, ul, figure, .table { margin: 0 0 1rem; }
code { font: .875em/1.5 ui-monospace, monospace; background: var(--tint); border-radius: 4px; }
code { padding: .1em .3em; overflow-wrap: anywhere; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .925rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th { color: var(--dim); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
img { max-width: 100%; background: #fff; }
figcaption { color: var(--dim); font-size: .875rem; }
"""


class Section(NamedTuple):
  """One part of a report.

  Attributes:
    title: its heading.
    text: Markdown of the plainest kind: paragraphs separated by blank lines, lists of lines that start with `- `, and
      inside them `code`. Names and messages of users go through `literal` first.
    table: `(headers, rows)`; the first column is aligned left and the others right.
    images: `(caption, path)` of PNG, JPEG or GIF files.
  """

  title: str
  text: str = ""
  table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None
  images: Sequence[tuple[str, str | os.PathLike]] = ()


def write_report(directory: str | os.PathLike, title: str, sections: Sequence[Section]) -> tuple[Path, Path]:
  """Writes `report.md`, which links its images, and `report.html`, which contains them and fetches nothing.

  Args:
    directory: where both files go; links in the Markdown are relative to it.
    title: the heading.
    sections: in order.

  Returns:
    The paths of the Markdown and of the HTML file.

  Raises:
    UserError: an image is missing or of another type, a table is ragged, or the disk is full.
  """
  directory = Path(directory)
  for section in sections:
    for _, path in section.images:
      if Path(path).suffix.lower() not in _MIME or not Path(path).is_file():
        raise UserError(
          f"image {path} of section {section.title!r} is missing or not a PNG, JPEG or GIF: make it first"
        )
  texts = (_markdown(directory, title, sections), _html(title, sections))
  paths = (directory / "report.md", directory / "report.html")
  for path, text in zip(paths, texts, strict=True):
    write_text(path, text)
  return paths


def _markdown(directory: Path, title: str, sections: Sequence[Section]) -> str:
  blocks = [f"# {literal(title)}"]
  for section in sections:
    blocks.append(f"## {literal(section.title)}")
    if section.text.strip():
      blocks.append(section.text.strip())
    if section.table is not None:
      headers, rows = section.table
      blocks.append(format_table([literal(one) for one in headers], [[literal(one) for one in row] for row in rows]))
    for caption, path in section.images:
      relative = Path(os.path.relpath(Path(path).absolute(), directory.absolute())).as_posix()
      label = literal(caption).replace("[", "\\[").replace("]", "\\]")
      blocks.append(f"![{label}]({urllib.parse.quote(relative)})")
  return "\n\n".join(blocks) + "\n"


def _html(title: str, sections: Sequence[Section]) -> str:
  heading = html.escape(cell(title))
  body = [f"<h1>{heading}</h1>"]
  for section in sections:
    body.append(f"<section>\n<h2>{html.escape(cell(section.title))}</h2>")
    body += [_block(block) for block in re.split(r"\n\s*\n", section.text.strip()) if block]
    if section.table is not None:
      body.append(_table(*section.table))
    body += [_figure(caption, Path(path)) for caption, path in section.images]
    body.append("</section>")
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{heading}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
  )


def _block(block: str) -> str:
  lines = block.split("\n")
  if all(line.startswith("- ") for line in lines):
    return "<ul>\n" + "\n".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "\n</ul>"
  return f"<p>{_inline(' '.join(lines))}</p>"


def _inline(text: str) -> str:
  parts = re.split(r"(?<!\\)(`[^`]+`)", text)  # what is between backticks is taken literally
  return "".join(
    f"<code>{html.escape(part[1:-1])}</code>" if index % 2 else html.escape(re.sub(r"\\([\\`<(])", r"\1", part))
    for index, part in enumerate(parts)
  )


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  def line(tag: str, values: Sequence[Any]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell(value))}</{tag}>" for value in values) + "</tr>"

  lines = [line("th", headers), *(line("td", row) for row in rows)]
  return '<div class="table">\n<table>\n' + "\n".join(lines) + "\n</table>\n</div>"


def _figure(caption: str, path: Path) -> str:
  data = base64.b64encode(path.read_bytes()).decode()
  text = html.escape(cell(caption))
  source = f"data:{_MIME[path.suffix.lower()]};base64,{data}"
  return f'<figure>\n<img src="{source}" alt="{text}">\n<figcaption>{text}</figcaption>\n</figure>'
