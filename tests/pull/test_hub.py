"""`hf:`: from a stand-in of the hub comes what is allowed, all of it, from one commit, and checked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from lmcraft.core.errors import UserError
from lmcraft.data import store
from lmcraft.data.pull import address, hub, web

COMMIT, OLDER = "c" * 40, "a" * 40
WEIGHTS = bytes(range(256)) * 400
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{ }",
    "1_Pooling/config.json": b"{}\n",
    "README.md": b"read me",
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"evil",
    "onnx/model.onnx": b"onnx",
    "../../escape.safetensors": b"escape",
    "/etc/escape.safetensors": b"escape",
}
LARGE = (".safetensors", ".bin", ".gguf")


class Hub:
    """The interface of the hub, for one repository."""

    def __init__(self, served, ranged, files):
        self.files, self.ranged, self.card = dict(files), ranged, {"license": "apache-2.0"}
        self.commits = {"main": COMMIT, "v1": OLDER, COMMIT: COMMIT}
        self.server = served(self.answer)

    def answer(self, path, headers):
        path = unquote(path)
        front = "/api/models/some/thing/revision/"
        if path.startswith(front):
            revision = path.removeprefix(front).partition("?")[0]
            if revision not in self.commits:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            return 200, {}, json.dumps(self.listing(self.commits[revision])).encode()
        for commit in (COMMIT, OLDER):
            if path.startswith(f"/some/thing/resolve/{commit}/"):
                name = path.removeprefix(f"/some/thing/resolve/{commit}/")
                if name.endswith(LARGE):
                    return 302, {"Location": f"/cdn/{name}", "X-Repo-Commit": commit}, b""
                return self.ranged(self.files[name], headers)
        if path.startswith("/cdn/"):
            return self.ranged(self.files[path.removeprefix("/cdn/")], headers)
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def listing(self, commit):
        return {
            "id": "some/thing", "sha": commit, "cardData": self.card, "tags": ["license:mit"],
            "siblings": [self.sibling(*item) for item in self.files.items()],
        }  # fmt: skip

    def sibling(self, name, content):
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        facts = {"rfilename": name, "size": len(content), "blobId": git}
        if name.endswith(LARGE):
            facts["lfs"] = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 9,
            }
        return facts

    def fetched(self):
        """The files that were asked for, without redirects."""
        return sorted({path.split("/", 5)[5] for path, _ in self.server.requests if "/resolve/" in path})


@pytest.fixture
def hub_of(served, ranged, monkeypatch):
    """Makes the stand-in hub the one that is asked, with given files in its only repository."""

    def make(files):
        made = Hub(served, ranged, files)
        monkeypatch.setattr(constants, "ENDPOINT", made.server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        return made

    return make


def test_a_model(hub_of, told, tmp_path):
    """A failure would mean that a model of the hub is incomplete, unchecked, or comes with pickles and code."""
    made = hub_of(FILES)
    facts = told("pull", "hf:some/thing", "--json")
    assert (facts["name"], facts["licence"], facts["was_there"]) == ("thing", "apache-2.0", False)
    assert facts["source"] == f"hf:some/thing (commit {COMMIT})"
    folder = store.resolve("thing")
    allowed = sorted(
        name for name in FILES if not name.endswith((".bin", ".py", ".onnx", "escape.safetensors"))
    )
    found = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
    assert found == {name: FILES[name] for name in allowed}
    assert made.fetched() == allowed
    assert list(web.folder().iterdir()) == [] and not list(tmp_path.rglob("*escape*"))
    count = len(made.server.requests)
    assert told("pull", "hf:some/thing", "--json")["was_there"] is True and len(made.server.requests) == count


def test_as_a_user_would(hub_of, lmcraft):
    """A failure would mean that HF_ENDPOINT is not respected, or that the library asks somebody for something else."""
    made = hub_of({**FILES, "model.safetensors": b"x" * 10})
    settings = {"HF_ENDPOINT": made.server.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret"}
    done = lmcraft("pull", "hf:some/thing@v1", "--name", "mine", "--json", env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] == f"hf:some/thing@v1 (commit {OLDER})"
    paths = [path for path, _ in made.server.requests]
    assert paths[0].startswith("/api/models/some/thing/revision/v1")
    assert all("/resolve/" in path or path.startswith("/cdn/") for path in paths[1:])
    assert all("torch" not in headers.get("User-Agent", "") for _, headers in made.server.requests)
    assert all(headers["Authorization"] == "Bearer hf_secret" for _, headers in made.server.requests)


def test_an_interrupted_pull_goes_on(hub_of, told):
    """A failure would mean that large weights begin anew after every broken connection."""
    made = hub_of(FILES)
    order = [name for name in sorted(FILES) if name in ("1_Pooling/config.json", "README.md", "config.json")]
    made.server.cuts = [None] * (1 + len(order) + 1) + [1000, *[0] * 6]
    assert "stopped at 1,000 of" in told("pull", "hf:some/thing", code=2)
    assert not store.has("thing")
    begun = len(made.server.requests)
    told("pull", "hf:some/thing")
    again = made.server.requests[begun:]
    assert [h.get("Range") for path, h in again if path == "/cdn/model.safetensors"] == ["bytes=1000-"]
    assert not [path for path, _ in again if path.endswith("/README.md")]
    assert (store.resolve("thing") / "model.safetensors").read_bytes() == WEIGHTS


def test_weights_that_are_here_already(hub_of, told):
    """A failure would mean that a model which shares its weights with another one is fetched and stored twice."""
    made = hub_of(FILES)
    told("pull", "hf:some/thing")
    begun = len(made.server.requests)
    told("pull", "hf:some/thing@v1", "--name", "second")
    assert not [path for path, _ in made.server.requests[begun:] if "safetensors" in path]
    files = [store.resolve(name) / "model.safetensors" for name in ("thing", "second")]
    assert files[0].samefile(files[1])


def test_a_changed_file(hub_of, told):
    """A failure would mean that the listing and the content may differ without anybody noticing."""
    made = hub_of(FILES)
    original = made.listing(COMMIT)
    made.listing = lambda commit: original
    for name in ("config.json", "model.safetensors"):
        made.files = {**FILES, name: bytes(len(FILES[name]))}
        assert "not what it should be" in told("pull", "hf:some/thing", code=2)
        assert not store.has("thing")
        assert all(file.name != original["siblings"][1]["lfs"]["sha256"] for file in web.folder().iterdir())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"config.json": b"{}", "pytorch_model.bin": b"p"},
            "pytorch_model.bin: pickled weights can hold code",
        ),
        ({"config.json": b"{}"}, "no safetensors"),
        ({"model.safetensors": b"x"}, "not a model directory"),
        ({}, "it holds nothing"),
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "--file NAME.gguf"),
        ({"a.gguf": b"PK"}, "not a GGUF file"),
    ],
)
def test_what_is_no_model(hub_of, told, files, words):
    """A failure would mean that a repository without safe weights ends in a riddle, or in a pickle."""
    hub_of(files)
    assert words in told("pull", "hf:some/thing", code=2)
    assert store.entries() == []


def test_gguf_files(hub_of, told):
    """A failure would mean that a quantized model cannot be chosen, or that all of them are fetched."""
    made = hub_of({"a-Q4.gguf": b"GGUFa", "b.gguf": b"GGUFb", "README.md": b"r"})
    told("pull", "hf:some/thing", "--file", "a-Q4.gguf")
    assert store.resolve("thing").name == "a-Q4.gguf" and store.resolve("thing").read_bytes() == b"GGUFa"
    assert made.fetched() == ["a-Q4.gguf"]
    assert "its .gguf files: a-Q4.gguf, b.gguf" in told(
        "pull", "hf:some/thing", "--file", "c", "--again", code=2
    )
    made.files = {"only.gguf": b"GGUF!"}
    told("pull", "hf:some/thing", "--again")
    assert store.resolve("thing").read_bytes() == b"GGUF!"


def test_what_the_hub_refuses(hub_of, told, monkeypatch):
    """A failure would mean that a wrong name, a gated model or a hub that is switched off ends in a riddle."""
    made = hub_of(FILES)
    assert "no public model some/other" in told("pull", "hf:some/other", code=2)
    assert "no revision v9" in told("pull", "hf:some/thing@v9", code=2)
    made.server.answer = lambda path, headers: (403, {"X-Error-Code": "GatedRepo"}, b"{}")
    assert "HF_TOKEN" in told("pull", "hf:some/thing", code=2)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "switched off" in told("pull", "hf:some/thing", code=2)


@pytest.mark.parametrize(
    "change",
    [
        {"sha": None}, {"sha": "main"}, {"sha": "../" + "c" * 37}, {"siblings": None}, {"siblings": [1]},
        {"siblings": [{"rfilename": 1}]}, {"siblings": [{}]},
        {"siblings": [{"rfilename": "config.json", "size": 1, "blobId": "a" * 40}] * 20_001},
    ],
)  # fmt: skip
def test_a_senseless_listing(hub_of, told, change):
    """A failure would mean a traceback, or a path built from what a server sent."""
    made = hub_of(FILES)
    original = made.listing(COMMIT)
    made.listing = lambda commit: {**original, **change}
    assert "makes no sense" in told("pull", "hf:some/thing", code=2)


@pytest.mark.parametrize(
    "facts",
    [
        {"size": -1, "blobId": "a" * 40}, {"size": 2**63, "blobId": "a" * 40}, {"size": "9", "blobId": "a" * 40},
        {"size": True, "blobId": "a" * 40}, {"size": 9, "blobId": "../x"}, {"size": 9}, {"blobId": "a" * 40},
        {"size": 9, "lfs": {"size": 9, "sha256": "../../" + "a" * 58}}, {"size": 9, "lfs": {"size": None}},
    ],
)  # fmt: skip
def test_files_that_cannot_be_checked_are_none(facts):
    """A failure would mean that an unchecked file, or one of any size, is fetched."""
    listing = {"sha": COMMIT, "siblings": [{"rfilename": "model.safetensors", **facts}]}
    assert hub.listing(listing, address.parse("hf:a/b")).files == {}


def test_licences():
    """A failure would mean that a licence is not shown, or that text of a server reaches the terminal raw."""
    for facts, licence in (
        ({"cardData": {"license": "mit"}}, "mit"),
        ({"cardData": {"license": "other", "license_name": "gemma"}}, "gemma"),
        ({"tags": ["x", "license:bsd"]}, "bsd"),
        ({"cardData": {"license": ["a", "b"]}, "tags": [1, None]}, "not stated"),
        ({"cardData": {"license": "\x1b[2Jmit"}}, "\\x1b[2Jmit"),
        ({}, "not stated"),
    ):
        listing = {"sha": COMMIT, "siblings": [], **facts}
        assert hub.listing(listing, address.parse("hf:a/b")).licence == licence


def test_weights_that_are_there_twice():
    """A failure would mean that twice the bytes are fetched, of which one half is in another layout."""
    names = [
        "config.json",
        "consolidated.safetensors",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
    ]
    assert hub.chosen(names, None, "x")[0] == [name for name in names if name != "consolidated.safetensors"]
    with pytest.raises(UserError):
        hub.chosen(["a.gguf"], "../a.gguf", "x")


def test_the_library_is_imported_only_when_it_is_used():
    """A failure would mean that every verb waits for a library of the network."""
    code = "import sys; from lmcraft.data.pull import hub; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
