"""What the pipeline's records keep of files that cannot be made again."""

import shutil

import pytest

from monai_plan.utils import write_json
from monai_plan.utils.stage_records import require_kept


@pytest.fixture
def run(tmp_path):
    """A run with a ledger."""
    folder = tmp_path / "run"
    write_json(folder / "private" / "ledger.json", {})
    write_json(folder / "stages" / "walk.json", {"kept": ["private/ledger.json"]})
    return folder


def test_a_run_may_be_moved(run, tmp_path):
    run.rename(tmp_path / "elsewhere")
    require_kept(tmp_path / "elsewhere" / "stages")
    (tmp_path / "elsewhere" / "private" / "ledger.json").unlink()
    with pytest.raises(FileNotFoundError, match="elsewhere/private/ledger.json' is lost"):
        require_kept(tmp_path / "elsewhere" / "stages")


def test_the_ledger_of_another_copy_is_none_of_this_one(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "private" / "ledger.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"copy/private/ledger.json' is lost, which the stage walk"):
        require_kept(copy / "stages")


@pytest.mark.parametrize("record", [{"kept": None}, {"kept": []}, {}, []])
def test_records_of_stages_that_keep_nothing(run, record):
    (run / "private" / "ledger.json").unlink()
    with pytest.raises(FileNotFoundError):
        require_kept(run / "stages")
    write_json(run / "stages" / "walk.json", record)
    require_kept(run / "stages")
