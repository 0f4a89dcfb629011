"""verify, inspect, stats and preview, and the commands as people type them."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from rlds_files import plain
from test_convert import CARD

from vla.cli import main
from vla.datasets.formats.conventions.source_card import load_source_card
from vla.datasets.formats.inspection.check import verify
from vla.datasets.formats.inspection.sheets import TILE
from vla.datasets.formats.readers.recognise import open_reader
from vla.datasets.formats.statistics.norm_stats import embodiments

pytest.importorskip("google_crc32c")


@pytest.fixture
def source(tmp_path):
    plain(tmp_path / "rlds")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    return tmp_path


def vla(capsys, *words):
    code = main(["data", *map(str, words)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_from_one_end_to_the_other(source, capsys):
    out, card = source / "out", source / "card.yaml"
    code, text, _ = vla(capsys, "convert", source / "rlds", out, "--card", card, "--dry-run")
    assert code == 0 and "about" in text and not out.exists()
    code, text, _ = vla(capsys, "convert", source / "rlds", out, "--card", card, "--workers", 1)
    assert code == 0 and "written: 4 of 4 records, 18 steps" in text
    assert vla(capsys, "convert", source / "rlds", out, "--card", card, "--workers", 1)[0] == 0
    code, text, error = vla(capsys, "convert", source / "rlds", out, "--card", card, "--workers", 1, "--noops", "drop")
    assert code == 2 and "not empty" in error
    assert vla(capsys, "convert", source / "rlds", out, "--card", card, "--workers", 1, "--overwrite")[0] == 0
    code, text, _ = vla(capsys, "verify", out, "--workers", 1)
    assert code == 0 and "4 records, 18 steps and 18 images are intact; 0 damaged" in text
    code, text, _ = vla(capsys, "inspect", out)
    assert code == 0 and text.startswith("size: ") and "records: 4" in text and "gripper: 0 closed, 1 open" in text
    code, text, _ = vla(capsys, "inspect", source / "rlds")
    assert code == 0 and "steps/action: tensor float32 [7]" in text and "train: 4" in text
    code, text, _ = vla(capsys, "stats", source / "rlds", "--card", card)
    assert code == 0 and json.loads(text)["action"]["mask"] == [True] * 6 + [False]
    code, text, _ = vla(capsys, "stats", source / "rlds", "--card", card, "--layout", "theirs")
    (theirs,) = embodiments(json.loads(text)).values()
    assert code == 0 and theirs.action.constant[2] is None and theirs.action.statistics["mask"] == (1,) * 6 + (0,)
    for scheme, keys in (("openpi", ["state", "actions"]), ("lerobot", ["action", "observation.state"])):
        stats = json.loads(vla(capsys, "stats", source / "rlds", "--card", card, "--scheme", scheme, "--layout", "theirs")[1])
        assert list(stats.get("norm_stats", stats)) == keys
    code, text, _ = vla(capsys, "preview", out, source / "page")
    assert code == 0 and (source / "page/index.html").is_file()
    assert vla(capsys, "explode")[0] == 2 and vla(capsys)[0] == 0


def test_overwrite_touches_nothing_that_is_not_a_conversions(source, capsys):
    home = source / "home"
    (home / "data").mkdir(parents=True)
    (home / "data/mine.txt").write_text("x")
    code, _, error = vla(capsys, "convert", source / "rlds", home, "--overwrite", "--workers", 1)
    assert code == 2 and "not empty" in error and (home / "data/mine.txt").is_file()


def test_holdout_writes_two(source, capsys):
    words = ("convert", source / "rlds", source / "out", "--holdout", 0.25, "--workers", 1)
    code, text, _ = vla(capsys, *words)
    assert code == 0 and "not chosen: 1 records (--holdout)" in text and "not chosen: 3 records" in text
    # As if it had been stopped between the two.
    shutil.rmtree(source / "out/val")
    assert vla(capsys, *words)[0] == 0
    assert "1 records" in vla(capsys, "verify", source / "out/val", "--workers", 1)[1]
    assert "3 records" in vla(capsys, "verify", source / "out/train", "--workers", 1)[1]


def test_damage_is_in_the_exit_code(source, capsys):
    path = next((source / "rlds").glob("*00000-of*"))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    code, text, _ = vla(capsys, "verify", source / "rlds", "--workers", 1)
    assert code == 1 and "record 0: the record has a wrong checksum" in text and "3 records" in text
    code, text, _ = vla(capsys, "convert", source / "rlds", source / "out", "--on-error", "skip", "--workers", 1)
    assert code == 1 and "damaged: 1 records" in text


@pytest.mark.parametrize("offset", [700, 2000, -3000])
def test_one_changed_byte_of_a_shard_is_found(source, capsys, offset):
    vla(capsys, "convert", source / "rlds", source / "out", "--workers", 1)
    path = next((source / "out").glob("*.tar"))
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
    code, text, _ = vla(capsys, "verify", source / "out", "--workers", 1)
    assert code == 1 and "checksum" in text


def test_a_missing_and_a_cut_shard_are_found(source, capsys):
    vla(capsys, "convert", source / "rlds", source / "out", "--workers", 1)
    path = next((source / "out").glob("*.tar"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    code, text, _ = vla(capsys, "verify", source / "out", "--workers", 1)
    assert code == 1 and "the samples after it cannot be read" in text
    path.unlink()
    (source / "out/shard-000007.tar").write_bytes(data)
    assert "the file is missing" in vla(capsys, "verify", source / "out", "--workers", 1)[1]


def test_several_processes_find_the_same(source):
    reader, card = open_reader(source / "rlds"), load_source_card(str(source / "card.yaml"))
    from vla.datasets.formats.inspection import check

    one = verify(reader, card)
    check.TOGETHER = 2
    try:
        assert verify(reader, card, workers=2) == one
    finally:
        check.TOGETHER = 16


def test_a_preview_shows_what_a_policy_would_see(source, capsys):
    flipped = {**CARD, "cameras": {"front": {"key": "observation/image", "orientation": "raw_opengl"}}}
    (source / "flipped.yaml").write_text(yaml.safe_dump(flipped))
    for name in ("card", "flipped"):
        vla(capsys, "preview", source / "rlds", source / name, "--card", source / f"{name}.yaml", "--episodes", 1)
    one, other = (np.asarray(Image.open(source / name / "000-images.png")).astype(int) for name in ("card", "flipped"))
    # The part of the first image that its camera's name does not cover.
    one, other = one[:TILE, TILE // 2 : TILE], other[:TILE, TILE // 2 : TILE]
    assert np.abs(one - other[::-1]).mean() < 6 < np.abs(one - other).mean()
    page = (source / "flipped/index.html").read_text()
    assert "raw_opengl" in page and "0 closed, 1 open" in page and (source / "flipped/000-values.png").is_file()
    assert "orientations.png" in page and (source / "flipped/orientations.png").is_file()


def test_data_without_images_is_shown_too(source, capsys):
    (source / "blind.yaml").write_text(yaml.safe_dump({**CARD, "cameras": {}}))
    assert vla(capsys, "preview", source / "rlds", source / "page", "--card", source / "blind.yaml")[0] == 0
    assert sorted(p.name for p in (source / "page").iterdir()) == [*(f"{k:03d}-values.png" for k in range(3)), "index.html"]


def test_what_a_format_leaves_unsaid_is_pointed_out(source, capsys):
    text = vla(capsys, "convert", source / "rlds", source / "out", "--dry-run")[1]
    assert "images: image 16 x 16" in text and "10 actions per second; unknown: gripper, rotation, frame" in text
    assert "assumed: upright images, delta actions, observations pre-action" in text and "vla data card" in text
    assert "enlarged" not in text
    text = vla(capsys, "inspect", source / "rlds")[1]
    assert "mode: not said (assumed: delta)" in text and "alignment: not said (assumed: pre)" in text
    assert "image: observation/image, orientation not said (assumed: upright)" in text and "card: none" in text
    text = vla(capsys, "convert", source / "rlds", source / "out", "--card", source / "card.yaml", "--size", 8, "--dry-run")[1]
    assert "images: front 8 x 8" in text and "the card of toy is unverified" in text


def test_what_is_not_there_or_not_known(tmp_path, capsys):
    assert "it does not exist" in vla(capsys, "inspect", tmp_path / "no")[2]
    (tmp_path / "x").mkdir()
    assert "unknown format" in vla(capsys, "inspect", tmp_path / "x")[2]
    assert "unknown format" in vla(capsys, "inspect", tmp_path / "x", "--format", "zarr")[2]
    assert "size" in vla(capsys, "convert", tmp_path / "x", tmp_path / "y", "--size", "big")[2]
