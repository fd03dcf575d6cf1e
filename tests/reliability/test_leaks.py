"""Nothing of a patient leaves by accident: a run on marked images, and every byte of it looked through."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import monai.bundle
import pytest
import torch
from conftest import BUNDLE, TINY, tiny_pipeline
from marked_images import COLUMN, DATA_SET, FILE, FOLDER, HEADER, PATIENT, MarkedFolder, write_marked_folder
from marker_scan import Hit, MarkerScan
from picture_scan import PictureScan
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_plan.__main__ import main
from monai_plan.latent import Ledger
from monai_plan.pipeline import Pipeline
from monai_plan.transforms import LoadRadiograph
from monai_plan.utils import sha256_of

pytestmark = pytest.mark.skipif(not BUNDLE.is_dir(), reason="not a checkout")


class Rule(NamedTuple):
    """Where markers may stand, and why; elsewhere none may."""

    files: str
    kinds: frozenset[str]
    why: str


NAMES = frozenset({FILE, FOLDER, DATA_SET})
POLICY = (
    Rule("output/datalist.json", NAMES | {PATIENT}, "it is the list of whose image is in which split; stays inside"),
    Rule("output/private/latents.safetensors", NAMES | {PATIENT}, "whose latents are whose, for a withdrawal; 0600"),
    Rule("output/private/ledger.json", frozenset({PATIENT}), "who is behind an anchor, for requests of access; 0600"),
    Rule("output/run.json", frozenset({DATA_SET}), "where the images lie, for the commands that come later"),
    Rule("output/predictions.csv", NAMES, "a prediction is of an image; stays inside"),
    Rule("output/certificate/certificate.*", frozenset({DATA_SET}), "the data's name: their folder's, or audit#name"),
    Rule("output/certificate/*.md", frozenset({DATA_SET}), "as in the certificate"),
    Rule("said/* datalist.err", frozenset({DATA_SET}), "which table was read, on the console of whoever typed it"),
    Rule("said/* pipeline.err", frozenset({DATA_SET}), "the same"),
    Rule("said/* inference.out", frozenset({DATA_SET}), "MONAI repeats the words that were typed"),
    Rule("said/* ledger.out", frozenset({PATIENT}), "the answer to a question about this patient"),
)


def allowed(name: str) -> frozenset[str]:
    return frozenset().union(*(rule.kinds for rule in POLICY if fnmatchcase(name, rule.files)))


@contextmanager
def heard(folder: Path, name: str) -> Iterator[None]:
    """Keep what is printed, logged and warned of as ``NAME.out`` and ``NAME.err``."""
    out, err = StringIO(), StringIO()

    def show(*warning, **_):
        err.write(warnings.formatwarning(*warning[:4]))

    with warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err):
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield
    folder.mkdir(exist_ok=True)
    number = len(list(folder.iterdir())) // 2
    (folder / f"{number:02} {name}.out").write_text(out.getvalue())
    (folder / f"{number:02} {name}.err").write_text(err.getvalue())


@dataclass
class Run:
    """Everything that a hospital's run leaves: in ``folder``, beside the images themselves."""

    folder: Path
    marked: MarkedFolder
    real: torch.Tensor
    found: dict[str, list[Hit]]
    scan: MarkerScan


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Every command once, on marked images."""
    folder, inside = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("inside")
    marked = write_marked_folder(inside)
    output, said = folder / "output", folder / "said"

    def command(*words: object) -> None:
        with heard(said, str(words[0])):
            assert main([str(word) for word in words]) == 0

    command("datalist", marked.path, "--output", inside / "list.json", "--json")
    command(*tiny_pipeline(marked.path, output, "walk#planner#label_network=null"))
    command("release", "--output_dir", output, "--json")
    shutil.copytree(output / "release", folder / "released" / "not audited")
    command("audit", "--output_dir", output, "--set", "audit#images=24", "audit#iterations=2", "--json")
    for mode in ("images", "walks"):
        command("release", "--output_dir", output, "--mode", mode)
        shutil.copytree(output / "release", folder / "released" / mode)
    for kind in ("png", "nifti", "dicom"):
        words = ("--to", folder / "generated" / kind, "--per_class", 3, "--format", kind)
        command("generate", "--output_dir", output, *words)
    asked = Ledger.load(output / "private" / "ledger.json").grouping.groups[0].patients[0]
    command("ledger", "--output_dir", output, "--patient", asked, "--json")
    with heard(said, "inference"):
        places = {"dataset_dir": str(marked.path), "ckpt_dir": str(output / "private"), "output_dir": str(output)}
        tiny = {name: TINY[name] for name in ("image_size", "resnet_widths", "batch_size")}
        monai.bundle.run(config_file=str(BUNDLE / "configs" / "inference.json"), **places, **tiny)
    command("pack", "--bundle", packable(inside / "plan_packed", output), "--to", folder / "packed")

    real = torch.stack([LoadRadiograph(TINY["image_size"])(marked.path / image) for image in marked.images])
    scan = MarkerScan(marked.markers)
    return Run(folder, marked, real, scan.files_of(folder), scan)


def packable(bundle: Path, output: Path) -> Path:
    """A bundle of one's own: the shipped configs with the weights of the run."""
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("output", "*.safetensors", "*.pt"))
    lines = []
    for line in (BUNDLE / "weights.sha256").read_text().splitlines():
        place = line.split()[1]
        shutil.copy(output / "private" / Path(place).name, bundle / place)
        lines.append(f"{sha256_of(bundle / place)}  {place}\n")
    (bundle / "weights.sha256").write_text("".join(lines))
    return bundle


def test_markers_stand_nowhere_but_where_they_must(run):
    leaks = [
        f"{hit.place}: {hit.marker.kind} ({hit.marker.where}) as {hit.form}"
        for name, hits in run.found.items()
        for hit in hits
        if hit.marker.kind not in allowed(name)
    ]
    assert not leaks, f"{len(leaks)} leaks:\n" + "\n".join(leaks[:20])


def test_no_hash_of_a_name_or_number_stands_anywhere(run):
    """Whoever can guess a number can check the guess by its hash, so a hash without a key is the number itself."""
    forms = {hit.form for hits in run.found.values() for hit in hits}
    assert forms == {"utf-8"}


@pytest.mark.parametrize("rule", POLICY, ids=lambda rule: rule.files)
def test_the_policy_allows_no_more_than_is_there(run, rule):
    there = {hit.marker.kind for name, hits in run.found.items() if fnmatchcase(name, rule.files) for hit in hits}
    assert there == rule.kinds, rule.why


def test_the_run_left_everything_that_is_to_be_scanned(run, record_property):
    files = set(run.found)
    for pattern in (
        "output/private/train_gan/tensorboard/events.*",
        "output/private/train_gan/checkpoint.pt",
        "output/private/*.safetensors",
        "output/stages/*.json",
        "output/samples_plan.png",
        "output/certificate/certificate.html",
        "output/certificate/config.json",
        "released/walks/manifest.json",
        "released/images/images/*.png",
        "generated/png/datalist.json",
        "generated/nifti/images/*/*.nii",
        "generated/dicom/images/*/*.dcm",
        "packed/*.zip",
        "said/*.err",
    ):
        assert any(fnmatchcase(name, pattern) for name in files), pattern
    assert {marker.kind for marker in run.marked.markers} == {FILE, FOLDER, PATIENT, HEADER, COLUMN, DATA_SET}
    assert run.scan.files == len(files) and run.scan.bytes > 1e6
    record_property("scanned", f"{len(run.marked.markers)} markers, {run.scan.files} files, {run.scan.bytes} bytes")


def test_tensorboard_holds_curves_alone(run):
    events = EventAccumulator(str(run.folder / "output" / "private" / "train_gan" / "tensorboard"))
    tags = events.Reload().Tags()
    assert tags.pop("scalars") and not any(tags.values())


def test_an_answer_about_a_patient_names_no_other(run):
    (name,) = (name for name in run.found if name.endswith("ledger.out"))
    assert len({hit.marker for hit in run.found[name]}) == 1


def test_no_real_image_is_shown_or_kept_anywhere(run, record_property):
    scan, left = PictureScan(run.real), []
    for name in run.found:
        left += scan.of_file(run.folder / name, name)
    assert not left
    assert scan.pictures > 30 and scan.tensors > 300
    record_property("scanned", f"{scan.pictures} pictures, {scan.tensors} tensors")


def test_a_certificate_with_real_images_has_them_and_the_scan_sees_it(run, tmp_path):
    """The one option that shows real images; it also proves that the scan above can fail."""
    output = shutil.copytree(run.folder / "output", tmp_path / "output")
    quick = ("--set", "audit#images=24", "audit#iterations=2")
    assert main(["audit", "--output_dir", str(output), "--show_real_images", *quick]) == 0
    page = output / "certificate" / "certificate.html"
    assert {found.row for found in PictureScan(run.real).of_file(page)}
    assert {hit.marker.kind for hit in run.scan.of(page.read_bytes(), "page")} == {DATA_SET}


def test_a_release_says_whether_it_was_audited(run):
    """Before the audit, and after it; untrained networks do not pass."""
    said = {name: (run.folder / name).read_text() for name in run.found if name.startswith("said/")}
    (before, _, _) = (text for name, text in said.items() if name.endswith("release.err"))
    assert "NOT AUDITED" in before and "Nothing may leave" in before
    manifests = {mode: json.loads((run.folder / "released" / mode / "manifest.json").read_text()) for mode in MODES}
    assert manifests["not audited"]["audit"]["verdict"] is None
    certificate = json.loads((run.folder / "output" / "certificate" / "certificate.json").read_text())
    for mode in ("walks", "images"):
        assert manifests[mode]["audit"]["verdict"] == certificate["verdict"]["overall"]


MODES = ("not audited", "walks", "images")


# faults: a message may name an image and its folder, so that it can be found; no patient, and nothing of a header


def cut(suffix: str, keep: float = 0.6):
    def spoil(marked: MarkedFolder) -> None:
        path = next(marked.path / image for image in marked.images if image.endswith(suffix))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return spoil


def edited(old: str, new: str, count: int = -1):
    def spoil(marked: MarkedFolder) -> None:
        table = marked.path / "metadata.csv"
        text = table.read_text()
        assert old in text
        table.write_text(text.replace(old, new, count))

    return spoil


def without_header(marked: MarkedFolder) -> None:
    table = marked.path / "metadata.csv"
    table.write_text(table.read_text().partition("\n")[2])


def without_an_image(marked: MarkedFolder) -> None:
    (marked.path / marked.images[0]).unlink()


def doubled(marked: MarkedFolder) -> None:
    """One file under two labels: a warning, and the run goes on."""
    lines = (marked.path / "metadata.csv").read_text().splitlines()
    well, ill = (next(line.split(",")[0] for line in lines if f".png,{label}," in line) for label in ("well", "ill"))
    (marked.path / well).write_bytes((marked.path / ill).read_bytes())


def only_dicom(marked: MarkedFolder) -> None:
    table = marked.path / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines if ".dcm," in line)]))


def in_two_splits(marked: MarkedFolder) -> None:
    assert main(["datalist", str(marked.path), "--output", str(marked.path), "--quiet"]) == 0
    path = marked.path / "datalist.json"
    content = json.loads(path.read_text())
    content["testing"][0]["patient_id"] = content["training"][0]["patient_id"]
    path.write_text(json.dumps(content))


FAULTS = {  # how the folder is spoilt, the command's options, the exit code, and a word of the message
    "PNG cut off": (cut(".png"), (), 2, "cannot be decoded"),
    "JPEG cut off": (cut(".jpg"), (), 2, "cannot be decoded"),
    "DICOM cut off in its header": (cut(".dcm", 0.3), (), 2, "DICOM without an image"),
    "DICOM cut off in its pixels": (cut(".dcm", 0.8), (), 2, "cannot be decoded"),
    "NIfTI cut off": (cut(".nii.gz"), (), 2, "cannot be decoded"),
    "image missing": (without_an_image, (), 2, "no file at"),
    "label empty": (edited(",well,", ",,", 1), (), 2, "the label is empty"),
    "one class": (edited(",well,", ",ill,"), (), 2, "every image"),
    "no header": (without_header, (), 2, "names of its columns"),
    "column twice": (edited("remark", "name", 1), (), 2, "names a column twice"),
    "a value too many": (edited(",well,", ",well,x,", 1), (), 2, "values are needed"),
    "not DICOM": (only_dicom, ("--patient_tag", "AcquisitionNumber"), 2, "has no AcquisitionNumber"),
    "an invalid value of DICOM": (only_dicom, ("--patient_tag", "StudyInstanceUID"), 0, "training"),
    "one file, two labels": (doubled, (), 0, "left out"),
}


@pytest.fixture
def marked(tmp_path) -> MarkedFolder:
    return write_marked_folder(tmp_path, patients_per_class=8, seed=1)


def assert_no_leak(marked: MarkedFolder, said: Path, kinds: frozenset[str] = NAMES) -> None:
    scan = MarkerScan(marked.markers)
    hits = [hit for hits in scan.files_of(said).values() for hit in hits if hit.marker.kind not in kinds]
    assert not hits, hits[:3]


@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
@pytest.mark.parametrize("fault", FAULTS)
def test_messages_name_images_and_no_patients(marked, tmp_path, fault, as_json):
    spoil, options, exit_code, word = FAULTS[fault]
    spoil(marked)
    words = ["datalist", str(marked.path), "--output", str(tmp_path / "list.json"), *options]
    with heard(tmp_path / "said", "datalist"):
        assert main([*words, *(["--json"] if as_json else [])]) == exit_code
    said = "".join(file.read_text() for file in (tmp_path / "said").iterdir())
    assert word in said
    assert_no_leak(marked, tmp_path / "said")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (cut(".png"), "cannot be decoded"),
        (in_two_splits, "is in training and in testing"),
        (without_an_image, "do not exist"),
    ],
)
def test_messages_of_the_pipeline(marked, tmp_path, spoil, word):
    spoil(marked)
    with heard(tmp_path / "said", "pipeline"):
        assert main(tiny_pipeline(marked.path, tmp_path / "output")) == 2
    assert word in (tmp_path / "said" / "00 pipeline.err").read_text()
    assert_no_leak(marked, tmp_path / "said")


def test_an_image_that_is_damaged_while_a_run_works(marked, tmp_path, monkeypatch):
    """After all were checked: the fault comes out of a transform, through MONAI."""
    monkeypatch.setattr(Pipeline, "_check_images", lambda self, common: cut(".dcm")(marked))
    with heard(tmp_path / "said", "pipeline"):
        assert main(tiny_pipeline(marked.path, tmp_path / "output")) == 2
    assert "cannot be decoded" in (tmp_path / "said" / "00 pipeline.err").read_text()
    assert_no_leak(marked, tmp_path / "said")


def test_a_fault_of_the_program_with_its_traceback(marked, tmp_path, monkeypatch):
    def broken(self, image):
        raise TypeError("no image of this kind was thought of")

    monkeypatch.setattr(LoadRadiograph, "_resized", broken)
    with heard(tmp_path / "said", "datalist"):
        assert main(["datalist", str(marked.path), "--output", str(tmp_path / "list.json"), "--json"]) == 70
    assert "Traceback" in (tmp_path / "said" / "00 datalist.err").read_text()
    assert_no_leak(marked, tmp_path / "said", frozenset({DATA_SET}))
