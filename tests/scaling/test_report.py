import html.parser
import re

import numpy as np

from scaling import fit, laws, report


class Checker(html.parser.HTMLParser):
  """Collects tags, image sources and anything that would need the network."""

  def __init__(self):
    super().__init__()
    self.open, self.images, self.links = [], [], []

  def handle_starttag(self, tag, attrs):
    if tag not in ("meta", "img", "li"):
      self.open.append(tag)
    self.links += [v for k, v in attrs if k in ("href", "src") and not v.startswith("data:")]
    self.images += [v for k, v in attrs if k == "src"]

  def handle_endtag(self, tag):
    if tag != "li":
      assert self.open.pop() == tag


def make():
  x = np.geomspace(0.2, 2e4, 16)
  noise = np.exp(0.01 * np.random.default_rng(0).normal(size=16))
  y = laws.DOUBLE(x, np.array([0.6, 0.3, 0.1, 0.5])) * noise
  return fit.law(x, y, group=[f"<m{i // 4}>" for i in range(16)])


def test_report_is_self_contained_and_complete(tmp_path):
  report.write(make(), tmp_path / "report.html", truth={"c": 0.1})
  text = (tmp_path / "report.html").read_text()
  page = Checker()
  page.feed(text)
  assert page.links == []
  assert len(page.images) == 5
  assert "<m0>" not in text  # names from the data are escaped
  assert "&lt;m0&gt;" in text
  for word in ("units", "loss", "box", "versions", "intervals", "not on the frontier"):
    assert word in text
  assert len(re.findall(r"<tr><td>&lt;m", text)) == 16


def test_report_without_enough_points_to_compare_forms(tmp_path):
  x = np.geomspace(1, 100, 5)
  y = laws.DOUBLE(x, np.array([0.6, 0.3, 0.1, 0.5]))
  small = fit.law(x[:3], y[:3], form="power")
  report.write(small, tmp_path / "report.html")
  assert "too few" in (tmp_path / "report.html").read_text().lower()


def test_report_with_an_error_of_zero_says_why_forms_are_not_compared(tmp_path):
  x = np.geomspace(1, 100, 8)
  result = fit.law(x, np.linspace(0.5, 0.0, 8), residual="linear")
  report.write(result, tmp_path / "report.html")
  assert "errors of 0 have no relative error" in (tmp_path / "report.html").read_text()
