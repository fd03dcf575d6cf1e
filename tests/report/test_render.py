"""Values are escaped for the kind of text that they land in."""

import pytest

from monai_plan.report import fill_template, render

pytest.importorskip("jinja2")
EVIL = "<b>&|*[x](y)`\\\nnext"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("page.html.j2", "<i>&lt;b&gt;&amp;|*[x](y)`\\\nnext</i>\n"),
        ("card.md.j2", "<i>\\<b\\>\\&\\|\\*\\[x\\](y)\\`\\\\ next</i>\n"),
    ],
)
def test_escapes(tmp_path, monkeypatch, name, expected):
    (tmp_path / name).write_text("<i>{{ value }}</i>\n")
    monkeypatch.setattr(render, "TEMPLATES", tmp_path)
    assert fill_template(name, value=EVIL) == expected


def test_a_forgotten_value_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "card.md.j2").write_text("{{ value }}")
    monkeypatch.setattr(render, "TEMPLATES", tmp_path)
    with pytest.raises(Exception, match="'value' is undefined"):
        fill_template("card.md.j2")
