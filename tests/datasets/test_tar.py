import io
import subprocess
import sys

import numpy as np
import pytest
import webdataset as wds

from vla.datasets.tar import TarWriter
from vla.errors import UserError


def test_bytes_are_webdatasets():
    rng = np.random.default_rng(0)
    ours = io.BytesIO()
    writer = TarWriter(ours)
    theirs = io.BytesIO()
    reference = wds.TarWriter(theirs, user="vla", group="vla", encoder=False, mtime=0)
    for i, size in enumerate([0, 1, 511, 512, 513, 10240, 70000]):
        members = {"front.jpg": rng.bytes(size), "json": b"{}", "action.npy": rng.bytes(150)}
        writer.write(f"e{i:06d}_s0000", sorted(members.items()))
        reference.write({"__key__": f"e{i:06d}_s0000", **members})
    writer.close()
    reference.close()
    assert ours.getvalue() == theirs.getvalue()


def test_a_name_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="does not fit"):
        TarWriter(io.BytesIO()).write("k" * 100, [("json", b"")])


def test_a_writer_imports_no_torch():
    code = "import sys, vla.datasets.tar; print({'torch', 'webdataset'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
