"""The report: golden Markdown, HTML that is well formed, escaped, and fetches nothing."""

import base64
import errno
import html.parser
import os
import re

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.reporting import Section, literal, save_png, write_report

_VOID = {"meta", "img", "br", "link"}


class _Page(html.parser.HTMLParser):
  """Checks that tags nest, and collects what the page holds and would load."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.loads, self.text = [], [], [], {}
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.setdefault(self.open[-1] if self.open else "", []).append(data)


@pytest.fixture
def image(tmp_path):
  path = tmp_path / "run" / "images" / "a picture.png"
  save_png(path, np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
  return path


def _sections(image):
  return [
    Section(
      "Result <1>",
      "It is & has `a < b`.\nSame paragraph.\n\n- one\n- two `x`\n\nEnd.",
      (("set", "score | %"), [("a<b", 0.5), ("c", None)]),
    ),
    Section("Images", images=[('the [first] "<one>"', image)]),
  ]


def test_markdown_golden(tmp_path, image):
  markdown, page = write_report(tmp_path / "run", "A\nrun", _sections(image))
  assert (markdown, page) == (tmp_path / "run" / "report.md", tmp_path / "run" / "report.html")
  assert markdown.read_text() == (
    "# A run\n\n## Result <1>\n\n"
    "It is & has `a < b`.\nSame paragraph.\n\n- one\n- two `x`\n\nEnd.\n\n"
    "| set  | score \\| % |\n| ---- | ---------: |\n| a\\<b |        0.5 |\n| c    |            |\n\n"
    '## Images\n\n![the \\[first\\] "\\<one>"](images/a%20picture.png)\n'
  )


def test_names_of_users_show_as_they_are(tmp_path, image):
  name = "<script>alert(1)</script> [a](http://b) `c` \\<b>"
  sections = [Section(name, f"- {literal(name)}", (("set", name), [(name, 1.0)]), [(name, image)])]
  markdown, path = write_report(tmp_path / "run", name, sections)
  text = markdown.read_text()
  assert re.search(r"(?<!\\)(?:\\\\)*<(?:script|/script|b)", text) is None
  assert "](http" not in text and re.search(r"(?<!\\)`c", text) is None
  page = _Page(path.read_text())
  assert "script" not in page.tags and "a" not in page.tags and "code" not in page.tags
  assert page.text["h1"] == page.text["h2"] == page.text["li"] == page.text["figcaption"] == [name]


def test_html_is_well_formed_and_escaped(tmp_path, image):
  _, path = write_report(tmp_path / "run", "A <run> & more", _sections(image))
  page = _Page(path.read_text())
  assert page.text["title"] == page.text["h1"] == ["A <run> & more"]
  assert page.text["h2"] == ["Result <1>", "Images"]
  assert page.text["code"] == ["a < b", "x"]
  assert page.text["p"] == ["It is & has ", ". Same paragraph.", "End."]
  assert page.text["li"] == ["one", "two "]
  assert page.text["th"] == ["set", "score | %"] and page.text["td"] == ["a<b", "0.5", "c"]
  assert page.text["figcaption"] == ['the [first] "<one>"']
  assert "script" not in page.tags


def test_html_holds_its_images_and_asks_for_nothing(tmp_path, image):
  _, path = write_report(tmp_path / "run", "t", _sections(image))
  text = path.read_text()
  (source,) = _Page(text).loads
  head, data = source.split(",")
  assert head == "data:image/png;base64" and base64.b64decode(data) == image.read_bytes()
  for word in ("http:", "https:", "//", "url(", "@import", str(tmp_path)):
    assert word not in text.replace(data, "")
  assert "prefers-color-scheme: dark" in text


def test_text_cannot_break_out(tmp_path):
  evil = "</section><script>alert(1)</script>"
  _, path = write_report(tmp_path, evil, [Section(evil, evil, ((evil,), [(evil,)]))])
  assert "script" not in _Page(path.read_text()).tags


def test_images_outside_the_directory_are_linked_relatively(tmp_path, image):
  markdown, _ = write_report(tmp_path / "other", "t", [Section("s", images=[("c", image)])])
  assert "![c](../run/images/a%20picture.png)" in markdown.read_text()


def test_refusals_write_nothing(tmp_path, image):
  for path in (tmp_path / "none.png", tmp_path):
    with pytest.raises(UserError, match="of section 's' is missing"):
      write_report(tmp_path / "out", "t", [Section("s", images=[("c", path)])])
  with pytest.raises(UserError, match="a row has 2 cells"):
    write_report(tmp_path / "out", "t", [Section("s", table=(("a",), [(1, 2)]))])
  assert not (tmp_path / "out").exists()


def test_a_full_disk_keeps_the_earlier_report(tmp_path, monkeypatch):
  markdown, page = write_report(tmp_path, "first", [])
  before = markdown.read_bytes(), page.read_bytes()

  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "replace", full)
  with pytest.raises(UserError, match="no space left"):
    write_report(tmp_path, "second", [])
  assert (markdown.read_bytes(), page.read_bytes()) == before
