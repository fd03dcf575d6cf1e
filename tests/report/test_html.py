"""The page, read by a parser."""

import base64
import json
from html.parser import HTMLParser

import pytest
from audit_records import EVIL, passing_record, sample_record

from monai_plan.report import certificate_html, with_verdicts
from monai_plan.report.finding_words import figure_text, interval_text
from monai_plan.report.html import _axis, _detail_blocks

pytest.importorskip("jinja2")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
VOID = {"meta", "br", "img", "line", "rect", "circle", "path", "polyline"}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(record, required=(), **options):
    certificate = json.loads(json.dumps(with_verdicts(record, required)).replace("NaN", "null"))
    text = certificate_html(certificate, "ab" * 32, **options)
    return text, Page(text), certificate


@pytest.mark.parametrize("pictures", [None, {"closest pair": PNG}])
def test_it_is_balanced_and_asks_nobody(pictures):
    text, page, _ = page_of(sample_record(), pictures=pictures)
    assert page.open == [] and page.tags.count("main") == 1
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    for word in ("http://", "https://", "url(", "@import", "onload", "javascript:"):
        assert word not in text
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets and all(f'id="{target}"' in text for target in targets)


def test_names_are_escaped_and_whole():
    text, page, certificate = page_of(sample_record())
    assert "<script" not in text and EVIL in page.text and certificate["data"]["name"] in page.text


def test_every_figure_of_the_tests_is_on_the_page():
    _, page, certificate = page_of(sample_record(), ["membership_shadow"])
    for test in certificate["tests"]:
        assert test["verdict"] in page.text
        if test["result"] is None:
            assert test["not_run"] in page.text
            continue
        result = test["result"]
        figures = [result[name] for name in ("value", "control", "resolvable", "n", "n_control")]
        for figure in [*figures, *(test["limit"] or {}).values(), *leaves(result["details"])]:
            if isinstance(figure, int | float):
                assert " ".join(figure_text(figure).split()) in page.text, (test["id"], figure)
        assert interval_text(result["interval"]) in page.text and test["id"] in page.text
    assert "Required, and not run: membership_shadow" in page.text


def leaves(value):
    if isinstance(value, dict | list):
        return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in leaves(item)]
    return [value]


def test_curves_are_drawn_from_corner_to_corner():
    text, _, _ = page_of(sample_record())
    lines = [line for line in text.splitlines() if "<polyline" in line]
    assert len(lines) == 3 and all('points="0.0,200.0 ' in line and ' 200.0,0.0"' in line for line in lines)


def test_pictures_only_where_given():
    _, page, _ = page_of(sample_record())
    assert "img" not in page.tags and "no picture of a patient is in this document" in page.text
    _, page, _ = page_of(sample_record(), pictures={"closest pair": PNG})
    assert page.tags.count("img") == 1 and "Keep it inside" in page.text
    uri = next(link for link in page.links if link.startswith("data:"))
    assert base64.b64decode(uri.split(",")[1]) == PNG


@pytest.mark.parametrize(
    "change, verdict, words",
    [
        ({}, "Passed", "Every test that had a limit was run and kept it"),
        ({"at_most": 0.1}, "Failed", "Do not release."),
        ({"at_most": 0.5}, "Unclear", "Do not treat this as a pass."),
    ],
)
def test_what_to_do_follows_the_verdict(change, verdict, words):
    record = passing_record()
    record["tests"][0]["limit"] = change or record["tests"][0]["limit"]
    _, page, _ = page_of(record)
    assert f"{verdict} " in page.text and words in page.text


def test_an_effect_without_a_limit_is_said_beside_the_verdict():
    _, page, _ = page_of(sample_record())
    assert "(worst case): no limit was set, and an effect is there: 0.773, guessing gives 0.500" in page.text


def test_epsilon_never_stands_without_its_warning():
    _, page, _ = page_of(sample_record())
    assert page.text.count("the walks read private data again") == 3  # table, test, limits


@pytest.mark.parametrize(
    "mode, words", [("walks", "render more images than the checked points"), ("images", "finished")]
)
def test_the_mode_tells_what_the_receiver_holds(mode, words):
    record = {**passing_record(), "release": {"mode": mode, "k": None}}
    _, page, _ = page_of(record)
    assert words in page.text and "no nominal risk 1/k" in page.text


def test_nothing_but_tests(tmp_path):
    record = {**passing_record(), "utility": None}
    _, page, _ = page_of(record, signed=True)
    assert "Not measured in this audit" in page.text and "openssl pkeyutl -verify" in page.text


def only(value, interval, **limit):
    result = {"value": value, "interval": interval, "baseline": 0.0, "control": None, "control_interval": None}
    return {"result": {**result, "measure": "rate"}, "limit": limit or None}


@pytest.mark.parametrize(
    "tests, expected",
    [
        ([only(0.083, [0.083, 0.083], at_most=0.09)], (0.0, 0.1)),
        ([only(0.0, None)], (0.0, 0.25)),
        ([only(0.3, [0.3, None])], (0.0, 0.4)),
        ([only(-0.01, [-0.05, 0.02], at_most=0.05)], (-0.05, 0.05)),
        ([only(0.99, [0.98, 1.0])], (0.0, 1.0)),
        ([only(0.01, [0.0, 0.02]), only(3.0, [2.0, 7.0])], (0.0, 10.0)),
    ],
)
def test_axes_are_round_and_hold_everything(tests, expected):
    assert _axis(tests) == pytest.approx(expected)


def test_groups_with_the_same_columns_become_tables():
    details = {"k": 12, "planted": {"crop": {"light": {"rate": 0.5, "n": 3}, "strong": {"rate": 0.25, "n": 3}}}}
    blocks = _detail_blocks({**details, "nndr": {"training": 0.9, "held_out": 0.8}, "found": [0.1, None]})
    assert [table["rows"] for table in blocks["tables"]] == [
        [["crop, light", "0.500", "3"], ["crop, strong", "0.250", "3"]]
    ]
    names = "nearest over second nearest patient, median / "
    assert blocks["pairs"] == [
        ("k", "12"),
        (names + "training", "0.900"),
        (names + "held out", "0.800"),
        ("found", "0.100, –"),
    ]
