"""What can be written into is asked before the work begins."""

import pytest

from vla.errors import UserError
from vla.folders import check_writable, check_writable_file


def test_a_folder_that_can_be_made_is_fine_and_is_not_made(tmp_path):
    check_writable(tmp_path / "a/b/c")
    check_writable_file(tmp_path / "a/b/c.json")
    check_writable("s3://bucket/folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/in/it", "n" * 300])
def test_where_nothing_can_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="nothing can be written there") as refused:
        check_writable(tmp_path / name, "--record")
    assert refused.value.where == str(tmp_path / name) and "--record" in refused.value.fix


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    with pytest.raises(UserError, match="a folder is there"):
        check_writable_file(tmp_path)
    with pytest.raises(UserError, match="no folder is named"):
        check_writable("")
