"""Model card and datasheet: their headings, and the figures of the certificate."""

import json

import pytest
from audit_records import LONG, sample_record

from monai_plan.report import datasheet_text, model_card_text, with_verdicts

pytest.importorskip("jinja2")
FILL_IN = "*(to be filled in by the data holder)*"


@pytest.fixture(scope="module")
def certificate():
    return json.loads(json.dumps(with_verdicts(sample_record())).replace("NaN", "null"))


@pytest.mark.parametrize(
    "card, headings",
    [
        (
            model_card_text,
            "Model details, Intended use, Factors, Metrics, Evaluation data, Training data, Quantitative analyses, "
            "Ethical considerations, Caveats and recommendations",
        ),
        (
            datasheet_text,
            "Motivation, Composition, Collection process, Preprocessing; cleaning; labelling, Uses, Distribution, "
            "Maintenance",
        ),
    ],
)
def test_headings_and_escapes(certificate, card, headings):
    text = card(certificate)
    found = [line[3:].replace(", ", "; ") for line in text.splitlines() if line.startswith("## ")]
    assert found == headings.split(", ")
    assert "<script" not in text.replace("\\<script", "") and LONG in text and FILL_IN in text
    assert "Privacy audit: " in text and "unclear" in text
    for row in ("Guessing who was a patient, by distance (audit's own network) | AUROC | 0.438 | 0.390 to 0.486",):
        assert row in text
    assert "the walks read private data again" in text  # where epsilon is printed


@pytest.mark.parametrize("card", [model_card_text, datasheet_text])
def test_tables_have_as_many_cells_as_heads(certificate, card):
    lines = card(certificate).replace("\\|", "").splitlines()
    width = 0
    for line in lines:
        if line.startswith("|"):
            width = width or line.count("|")
            assert line.count("|") == width, line
        else:
            width = 0


@pytest.mark.parametrize("card", [model_card_text, datasheet_text])
def test_without_utility(certificate, card):
    assert "not measured" in card({**certificate, "utility": None})
