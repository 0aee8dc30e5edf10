"""`ollama:` against stand-in registries: honest, broken and hostile ones; what comes is checked or does not stay."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.data import store
from lmcraft.data.pull import ollama, web

MODEL = b"GGUF" + bytes(range(256)) * 300
KIND = "application/vnd.ollama.image."
TEXTS = {
    "template": b"{{ .Prompt }}",
    "params": b'{"stop": ["x"]}',
    "system": b"Be kind.",
    "license": b"MIT text",
}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def layer(kind, content, **changes):
    return {"mediaType": KIND + kind, "digest": f"sha256:{sha256(content)}", "size": len(content), **changes}


def manifest(*layers):
    return {"schemaVersion": 2, "config": layer("config", b"{}"), "layers": list(layers)}


WHOLE = manifest(
    layer("model", MODEL), *(layer(kind, text) for kind, text in TEXTS.items()), layer("license", b"more"),
    layer("projector", b"picture"),
)  # fmt: skip


class Registry:
    """The two addresses of a registry that a pull needs, for the model library/tiny:1."""

    def __init__(self, served, ranged):
        self.manifest, self.ranged = WHOLE, ranged
        self.blobs = {sha256(content): content for content in (MODEL, *TEXTS.values(), b"more", b"picture")}
        self.server = served(self.answer)

    def answer(self, path, headers):
        if path == "/v2/library/tiny/manifests/1" and "manifest.v2+json" in headers["Accept"]:
            return 200, {}, json.dumps(self.manifest).encode()
        front = "/v2/library/tiny/blobs/sha256:"
        if path.startswith(front) and path.removeprefix(front) in self.blobs:
            return self.ranged(self.blobs[path.removeprefix(front)], headers)
        return 404, {}, b"{}"


@pytest.fixture
def registry(served, ranged, monkeypatch):
    made = Registry(served, ranged)
    monkeypatch.setenv("LMCRAFT_OLLAMA_REGISTRY", made.server.url + "/")
    return made


def test_a_model(registry, told):
    """A failure would mean that a model comes without its licence, or from elsewhere than it was asked for."""
    facts = told("pull", "ollama:tiny:1", "--json")
    assert (facts["name"], facts["licence"], facts["was_there"]) == (
        "tiny-1",
        "LICENSE beside the model",
        False,
    )
    assert facts["source"] == f"ollama:tiny:1 ({registry.server.host})"
    folder = store.path("tiny-1")
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "entry.json"}
    assert found == {
        "model.gguf": MODEL, "template.go.txt": TEXTS["template"], "system.txt": TEXTS["system"],
        "parameters.json": TEXTS["params"], "LICENSE": b"MIT text\n\nmore",
    }  # fmt: skip
    assert not any("picture" in path or sha256(b"picture") in path for path, _ in registry.server.requests)
    assert list(web.folder().iterdir()) == []
    assert told("pull", "ollama:tiny:1", "--json")["was_there"] is True


def test_an_address_with_a_host(registry, told, monkeypatch):
    """A failure would mean that only one registry in the world can be used."""
    monkeypatch.setenv("LMCRAFT_OLLAMA_REGISTRY", "https://example.org")
    told("pull", f"ollama:{registry.server.host}/library/tiny:1", "--name", "mine")
    assert store.resolve("mine").read_bytes() == MODEL


def test_an_interrupted_pull_goes_on(registry, told):
    """A failure would mean that gigabytes begin anew after every broken connection."""
    registry.server.cuts = [None, 5000, 0, 0, 0]
    assert "stopped at 5,000 of" in told("pull", "ollama:tiny:1", code=2)
    begun = len(registry.server.requests)
    told("pull", "ollama:tiny:1")
    assert [h.get("Range") for p, h in registry.server.requests[begun:] if sha256(MODEL) in p] == [
        "bytes=5000-"
    ]
    assert store.resolve("tiny-1").read_bytes() == MODEL


def test_hostile_content(registry, told):
    """A failure would mean that a registry can plant a file of its choice, or fill the disk."""
    digest = sha256(MODEL)
    for content, words in (
        (b"GGUF" + bytes(len(MODEL) - 4), "not what it should be"),
        (MODEL + b"x", "more of"),
    ):
        registry.blobs[digest] = content
        assert words in told("pull", "ollama:tiny:1", code=2)
        assert not store.has("tiny-1") and list(web.folder().iterdir()) == []
    del registry.blobs[digest]
    assert "no model tiny:1" in told("pull", "ollama:tiny:1", code=2)
    registry.server.answer = lambda path, headers: (307, {"Location": "http://example.org/evil"}, b"")
    assert "leads elsewhere" in told("pull", "ollama:tiny:1", code=2)
    pickle = b"\x80\x04" + bytes(50)
    registry.server.answer = registry.answer
    registry.blobs[sha256(pickle)] = pickle
    registry.manifest = manifest(layer("model", pickle))
    assert "not a GGUF file" in told("pull", "ollama:tiny:1", code=2)
    assert store.entries() == []


def test_what_a_registry_refuses(registry, told, monkeypatch):
    """A failure would mean that a wrong name, a private model or a plain connection ends in a riddle."""
    assert "no model tiny:2" in told("pull", "ollama:tiny:2", code=2)
    registry.server.answer = lambda path, headers: (401, {}, b"")
    assert "only public models" in told("pull", "ollama:tiny:1", code=2)
    registry.server.answer = lambda path, headers: (200, {}, b" " * (2**20 + 1))
    assert "too long" in told("pull", "ollama:tiny:1", code=2)
    monkeypatch.setenv("LMCRAFT_OLLAMA_REGISTRY", "http://example.org")
    assert "over https" in told("pull", "ollama:tiny:1", code=2)


GOOD = layer("model", MODEL)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "no list of layers"), ([], "no list"), ({"layers": 1}, "no list"), ({"errors": []}, "no list"),
        (manifest(), "not one model"), (manifest(GOOD, GOOD), "not one model"), (manifest(1), "no object"),
        (manifest(*[GOOD] * 65), "over 64"), (manifest({}), "lacks mediaType"),
        (manifest({**GOOD, "digest": "sha256:../../../etc/passwd"}), "not a SHA-256"),
        (manifest({**GOOD, "digest": "sha256:" + "A" * 64}), "not a SHA-256"),
        (manifest({**GOOD, "digest": "sha256:" + "a" * 63 + "\n"}), "not a SHA-256"),
        (manifest({**GOOD, "digest": "sha1:" + "a" * 40}), "not a SHA-256"),
        (manifest({**GOOD, "size": -1}), "-1 bytes"), (manifest({**GOOD, "size": 0}), "0 bytes"),
        (manifest({**GOOD, "size": 2**63 - 1}), "bytes"), (manifest({**GOOD, "size": "9"}), "lacks"),
        (manifest({**GOOD, "size": True}), "lacks"), (manifest({**GOOD, "size": 1e308}), "lacks"),
        (manifest(GOOD, layer("template", b"x", size=2**21)), "template layer"),
        (manifest(GOOD, layer("adapter", b"x")), "an adapter"),
    ],
)  # fmt: skip
def test_manifests(found, words):
    """A failure would mean that a manifest from anywhere becomes a path, an allocation or a traceback."""
    with pytest.raises(UserError, match=words):
        ollama.layers(found, "x")


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(), st.text(max_size=80),
    st.sampled_from([0, 1, -1, 2**31, 2**63 - 1, "sha256:" + "a" * 64, "sha256:../x", KIND + "model", []]),
)  # fmt: skip
LAYERS = st.fixed_dictionaries(
    {}, optional={"mediaType": VALUES, "digest": VALUES, "size": VALUES, "urls": VALUES}
).map(lambda change: {**GOOD, **change})
MANIFESTS = st.one_of(
    VALUES,
    st.fixed_dictionaries({"layers": st.one_of(VALUES, st.lists(st.one_of(LAYERS, VALUES), max_size=3))}),
)


def checked(found):
    """Reads a manifest; what comes of it is bounded, and its digests are digests."""
    try:
        parts = ollama.layers(found, "x")
    except UserError as error:
        assert len(str(error)) < 500
        return
    assert [part.kind for part in parts].count("model") == 1
    for part in parts:
        assert (
            len(part.sha256) == 64 and set(part.sha256) <= set("0123456789abcdef") and 0 < part.size <= 2**42
        )


@settings(max_examples=2500)
@given(MANIFESTS)
def test_no_manifest_is_believed(found):
    """A failure would mean that a mutation nobody thought of gets through."""
    checked(found)


@pytest.mark.long
@settings(max_examples=100_000)
@given(MANIFESTS)
def test_no_manifest_is_believed_long(found):
    """A failure would mean the same, found by looking longer."""
    checked(found)
