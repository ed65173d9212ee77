"""Numbers in words a person reads at a glance."""


def amount(value: float, unit: str) -> str:
  """Three digits and a decimal prefix: `1.23e13, "FLOP" -> "12.3 TFLOP"`."""
  for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
    if abs(value) >= size:
      return f"{value / size:.3g} {prefix}{unit}"
  return f"{value:.3g} {unit}"


def seconds(value: float) -> str:
  """A time with three digits, from nanoseconds to hours: `0.0625 -> "62.5 ms"`."""
  for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
    if value >= size:
      return f"{value / size:.3g} {unit}"
  return f"{value * 1e9:.3g} ns"
