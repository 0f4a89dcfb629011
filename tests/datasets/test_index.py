import io
import os
import pickle
import tarfile

import pytest

from vla.datasets.index import ShardIndex
from vla.errors import UserError


@pytest.fixture
def folder(tmp_path, make):
    return make(tmp_path / "data")


def test_random_access_reads_what_tarfile_reads(folder):
    index = ShardIndex(folder)
    assert len(index) == 45 and index.keys[13] == "e000003_s0001"
    with tarfile.open(folder / "shard-000001.tar") as tar:
        member = tar.extractfile("e000003_s0001.action.npy")
        assert member is not None and index.read(13)["action.npy"] == member.read()
    assert list(index.read(44, only=("json",))) == ["json"]
    assert "shard-000001.tar, e000003_s0001.json" in index.where(13, "json")


def test_travels_to_another_process(folder):
    index = ShardIndex(folder)
    index.read(0)
    assert pickle.loads(pickle.dumps(index)).read(44) == index.read(44)


def test_index_is_kept_and_rebuilt_when_the_shard_changes(folder, make, tmp_path):
    ShardIndex(folder)
    kept = folder / "shard-000000.idx"
    before = kept.stat().st_mtime_ns
    assert len(ShardIndex(folder)) == 45 and kept.stat().st_mtime_ns == before
    other = make(tmp_path / "other", per_shard=20)
    os.replace(other / "shard-000000.tar", folder / "shard-000004.tar")
    for path in folder.glob("shard-00000[0-3].tar"):
        path.unlink()
    assert len(ShardIndex(folder)) == 20
    (folder / "shard-000004.idx").write_text("{broken")
    assert len(ShardIndex(folder)) == 20


@pytest.mark.parametrize(
    "kind", ["inside a member", "inside a header", "between members", "no end mark", "damaged header", "empty"]
)
def test_a_cut_or_damaged_shard_is_named_with_its_last_whole_sample(folder, kind):
    shard = folder / "shard-000001.tar"
    data = shard.read_bytes()
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    # Samples 10 to 19 have five members each; the cut is in the fourth sample.
    cut = members[17]
    end = members[-1].offset_data + 512 * -(-members[-1].size // 512)
    last = {"no end mark": "e000004_s0001", "empty": "none"}.get(kind, "e000003_s0000")
    shard.write_bytes(
        {
            "inside a member": data[: cut.offset_data + 5],
            "inside a header": data[: cut.offset + 100],
            "between members": data[: cut.offset],
            "no end mark": data[:end],
            "damaged header": data[: cut.offset] + b"x" * 512 + data[cut.offset_data :],
            "empty": b"",
        }[kind]
    )
    with pytest.raises(UserError, match=r"shard-000001\.tar: the shard is truncated or damaged") as caught:
        ShardIndex(folder)
    assert f"last whole sample is {last}\n" in str(caught.value)


def test_a_shard_that_shrinks_later_is_named(folder):
    index = ShardIndex(folder)
    os.truncate(folder / "shard-000000.tar", 2000)
    with pytest.raises(UserError, match="shorter than when it was indexed"):
        index.read(9)


def test_missing_shards_members_and_doubled_keys_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="no shards"):
        ShardIndex(tmp_path)
    with pytest.raises(UserError, match=r"no depth\.png, only"):
        ShardIndex(folder).read(0, only=("depth.png",))
    (folder / "shard-000009.tar").write_bytes((folder / "shard-000000.tar").read_bytes())
    with pytest.raises(UserError, match="occurs 2 times"):
        ShardIndex(folder)


def repacked(shard, change):
    """Rewrites a shard with tarfile; `change` lists the members (name, content) to write for each member."""
    with tarfile.open(shard) as old:
        members = [(entry.name, old.extractfile(entry).read()) for entry in old]
    with tarfile.open(shard, "w") as new:
        for name, content in (changed for member in members for changed in change(*member)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("again", ["e000003_s0001.front.jpg", "e000003_s0001.front.JPG"])
def test_a_member_that_occurs_twice_is_refused(folder, again):
    repacked(
        folder / "shard-000001.tar", lambda name, data: [(name, data)] + [(again, b"x")] * (name == "e000003_s0001.front.jpg")
    )
    with pytest.raises(UserError, match=rf"shard-000001\.tar: the member {again} occurs twice"):
        ShardIndex(folder)


def test_files_that_are_no_members_are_passed_over(folder):
    """A shard repacked on macOS, which keeps attributes in ._NAME, with a text that belongs to no sample."""
    whole = [ShardIndex(folder).read(i) for i in range(45)]
    repacked(folder / "shard-000000.tar", lambda name, data: [(f"._{name}", b"\0\5\x16\7"), (name, data), ("README", b"x")])
    index = ShardIndex(folder)
    assert [index.read(i) for i in range(45)] == whole


def test_cameras_may_have_capital_letters(folder):
    repacked(folder / "shard-000000.tar", lambda name, data: [(name.replace("front", "Front"), data)])
    assert ShardIndex(folder).read(0, only=("Front.jpg",))


def test_a_folder_that_cannot_be_written_is_read_without_a_cache(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    assert len(ShardIndex(folder)) == 45
    assert not list(folder.glob("*.idx*"))
