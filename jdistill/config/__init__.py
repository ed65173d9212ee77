"""What a configuration may hold: filling in defaults, and refusing everything that cannot work before work starts."""

from jdistill.config.arms import checked_order
from jdistill.config.identity import config_hash, determining, difference, flat_keys
from jdistill.config.resolve import declared, resolve
from jdistill.config.sections import Declared, Named, Plain
from jdistill.config.template import template

__all__ = [
  "Declared",
  "Named",
  "Plain",
  "checked_order",
  "config_hash",
  "declared",
  "determining",
  "difference",
  "flat_keys",
  "resolve",
  "template",
]
