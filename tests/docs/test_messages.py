"""The page of messages shows what the code says today."""

from docs import messages


def test_page_is_up_to_date(monkeypatch):
  monkeypatch.delenv("COLUMNS", raising=False)
  assert messages.PAGE.read_text(encoding="utf-8") == messages.page(), "python -m docs.messages"


def test_every_message_is_one_line_with_a_cure():
  for cases in messages.SECTIONS.values():
    for case in cases:
      text = messages.message(case)
      assert "\n" not in text and len(text) > 30 and "Traceback" not in text
      assert case.cause.endswith(".") and case.cure.endswith(".")
