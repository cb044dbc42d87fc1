"""Tests of the HTML page."""

import builtins
import html.parser
import re

import pytest

from tests.report.conftest import HOSTILE, make_report
from tfapprox.errors import UserError
from tfapprox.report.page import render_page, write_page
from tfapprox.report.report import Scores

_VOID = {"meta", "link", "input", "path", "br", "img"}


class Outline(html.parser.HTMLParser):
    """Collects the tags, and fails where they are not well nested."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.words, self._open = [], [], [], []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_names_from_the_model_are_escaped(report):
    outline = Outline(render_page(report))
    assert "img" not in outline.tags
    assert outline.tags.count("script") == 1
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert HOSTILE in "".join(outline.words)


def test_the_page_needs_nothing_else(report):
    outline = Outline(render_page(report))
    links = [value for name, value in outline.attributes if name in ("src", "href")]
    assert links == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", render_page(report))
    policy = dict(outline.attributes)["content"].split("; ")
    assert "default-src 'none'" in policy  # and no exception names a place outside
    assert not [word for rule in policy for word in rule.split() if ":" in word and word != "data:"]


def test_every_verdict_with_its_reason_is_there(report):
    words = "".join(Outline(render_page(report)).words)
    for verdict in report.plan.verdicts:
        assert verdict.site in words
        assert (verdict.reason or str(verdict.choice)) in words
    assert "passed" in words
    assert "1.80x" in words
    assert "rank 8 of 30" in words


def test_accuracy_before_and_after_is_shown_where_it_was_measured(report):
    assert "Accuracy" not in "".join(Outline(render_page(report)).words)
    words = "".join(Outline(render_page(make_report(scores=Scores(0.984, 0.961)))).words)
    assert "98.40 %96.10 %-2.30 points" in words.replace("\n", "")
    other = "".join(Outline(render_page(make_report(scores=Scores(31.5, 30.0, "psnr")))).words)
    assert "Psnr31.530-1.5" in other.replace("\n", "")


def test_many_spectra_are_folded_away():
    page = render_page(make_report(20))
    assert page.count("<figure>") == 20
    assert "<summary>8 more</summary>" in page


def test_a_report_without_measurements_makes_a_page():
    page = render_page(make_report(verification=None, latency=(), spectra=(), seconds={}))
    assert "Speed was not measured." in page
    assert "<h2>Latency</h2>" not in page


def test_writing_says_what_is_wrong_with_the_path(report, tmp_path):
    write_page(report, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == render_page(report)
    with pytest.raises(UserError, match="can't be written: No such file"):
        write_page(report, tmp_path / "nowhere" / "page.html")


def test_without_jinja2_the_way_out_is_told(report, monkeypatch):
    real = builtins.__import__

    def without_jinja2(name, *args, **kwargs):
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_jinja2)
    with pytest.raises(UserError, match=r"pip install 'tfapprox\[report\]'"):
        render_page(report)
