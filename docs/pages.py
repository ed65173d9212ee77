"""The parts of README and docs that are made of the catalog and of the declared options, so that they cannot be wrong.

  python -m docs.pages

rewrites them in the current checkout: what stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jdistill import catalog, stages
from jdistill.config import Declared, Plain
from jdistill.config.common import RUN
from jdistill.files import write_text
from jdistill.reporting import format_table
from jdistill.schema import REQUIRED, Field, fields
from jdistill.selection import SELECTORS

FILES = {
  "README.md": ("systems",),
  "docs/configuration.md": ("keys", "methods", "policies", "selectors"),
  "docs/selection.md": ("coresets",),
}


def systems() -> str:
  """The table of all systems."""
  rows = [
    [f"`{row.name}`", row.family, f"[{row.title}]({row.paper}) ({row.venue})", f"`{row.config}`"]
    for row in catalog.rows()
  ]
  return format_table(["name", "family", "paper", "experiment"], rows, align="llll")


def keys() -> str:
  """Every key of a configuration that does not depend on the method: by stage and section."""
  parts = ["**Every run**", _declared(RUN, skip=("method", "task"))]
  seen = dict(RUN.sections)
  for name, stage in stages.STAGES.items():
    own = stage.fields.sections
    # stages that declare a section differently, such as what it is a copy of, say so
    text = _declared(stage.fields, skip=[key for key in own if key in RUN.sections or seen.get(key) == own[key]])
    seen |= own
    if text:
      parts += [f"**Stage `{name}`**", text]
  return "\n\n".join(parts)


def _declared(declared: Declared, skip: Sequence[str]) -> str:
  rows = [_row(key, field) for key, field in declared.keys.items()]
  for name, section in declared.sections.items():
    if name in skip:
      continue
    if isinstance(section, Plain):
      rows += [_row(f"{name}.{key}", field) for key, field in section.fields.items()]
    else:
      default = section.default
      shown = f"as `{default}`" if isinstance(default, str) else f"`{default['name']}`" if default else "required"
      rows.append([f"`{name}`", "`name` and the options of what it names", shown])
      rows += [_row(f"{name}.{key}", field) for key, field in section.common.items()]
  return format_table(["key", "values", "default"], rows, align="lll") if rows else ""


def methods() -> str:
  """The options of every method, with their defaults."""
  rows = [[f"`{row.name}`", _options(row.fields())] for row in catalog.rows() if not row.policy]
  return format_table(["method", "options"], rows, align="ll")


def policies() -> str:
  """The options of every data policy."""
  rows = [[f"`{name}`", _options(catalog.policy_fields(name))] for name in catalog.policy_names()]
  return format_table(["data policy", "options"], rows, align="ll")


def selectors() -> str:
  """The options of every selector of queries."""
  rows = [[f"`{name}`", _options(catalog.selector_fields(name))] for name in catalog.selector_names()]
  return format_table(["selector", "options"], rows, align="ll")


def coresets() -> str:
  """Every rule that chooses a part of a data set, with what it reads and costs."""
  rows = [
    [f"`{name}`", row.rule, ", ".join(f"`{need}`" for need in row.needs), row.cost, _options(fields(row.choose))]
    for name, row in SELECTORS.items()
  ]
  return format_table(["selector", "keeps", "evidence beside labels", "cost", "options"], rows, align="lllll")


def _options(fields: dict[str, Field]) -> str:
  return ", ".join(f"`{key}={field.default!r}`" for key, field in fields.items())


def _row(key: str, field: Field) -> list[str]:
  return [f"`{key}`", values(field), "required" if field.default is REQUIRED else f"`{field.default!r}`"]


def values(field: Field) -> str:
  """What a key may hold, in words."""
  text = ", ".join(f"`{choice}`" for choice in field.choices) or field.kind.__name__
  bounds = [
    f"above {field.above:,}" if field.above is not None else "",
    f"at least {field.low:,}" if field.low is not None else "",
    f"at most {field.high:,}" if field.high is not None else "",
  ]
  text += "".join(f", {bound}" for bound in bounds if bound)
  return text + (" or `None`" if field.optional else "")


def rewritten(text: str, names: tuple[str, ...]) -> str:
  """A page with its generated parts made anew.

  Raises:
    ValueError: it has no place for one of them.
  """
  makers = {"systems": systems, "keys": keys, "methods": methods, "policies": policies, "selectors": selectors}
  makers |= {"coresets": coresets}
  for name in names:
    made = makers[name]()
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
      raise ValueError(f"no place for {name}: add <!-- {name} --> and <!-- /{name} -->")
    text = pattern.sub(lambda match, made=made: f"{match[1]}\n{made}\n\n{match[2]}", text)
  return text


def main(root: Path) -> None:
  """Rewrites all pages below a checkout."""
  for name, parts in FILES.items():
    path = root / name
    write_text(path, rewritten(path.read_text(encoding="utf-8"), parts))
    print(path)


if __name__ == "__main__":
  main(Path.cwd())
  sys.exit(0)
