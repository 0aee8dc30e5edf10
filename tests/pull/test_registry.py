"""`ollama:` against a real registry: Debian's docker-registry, with a model pushed through its interface."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from lmcraft.data import store
from lmcraft.data.pull import web

PROGRAM = shutil.which("docker-registry")
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="docker-registry is not installed: apt-get install docker-registry"
)
MODEL = b"GGUF" + bytes(range(256)) * 3000
KIND = "application/vnd.ollama.image."


@pytest.fixture
def registry(tmp_path):
    """The host and port of a registry of its own; it ends with the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: {host}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'registry'}}}}}\n"
    )
    with subprocess.Popen(
        [PROGRAM, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://{host}/v2/").close()
                    break
                except urllib.error.URLError:
                    assert process.poll() is None, "docker-registry did not start"
                    time.sleep(0.05)
            yield host
        finally:
            process.kill()


def push(host, name, tag, layers):
    """Uploads blobs and a manifest as `ollama push` does: first the blobs, each by its digest, then what names them."""
    described = [{"mediaType": f"{KIND}{kind}", **blob(host, name, content)} for kind, content in layers]
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", **blob(host, name, b"{}")}
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": described}).encode()
    ask("PUT", f"http://{host}/v2/{name}/manifests/{tag}", body, kind)


def blob(host, name, content):
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    place = ask("POST", f"http://{host}/v2/{name}/blobs/uploads/", b"", "application/octet-stream")[
        "Location"
    ]
    ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", content, "application/octet-stream")
    return {"digest": digest, "size": len(content)}


def ask(method, url, body, kind):
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
    with urllib.request.urlopen(request) as answer:
        return answer.headers


def test_push_and_pull(registry, told):
    """A failure would mean that we speak a registry's language only with ourselves."""
    push(registry, "me/tiny", "v1", [("model", MODEL), ("template", b"{{ .Prompt }}"), ("license", b"MIT")])
    facts = told("pull", f"ollama:{registry}/me/tiny:v1", "--json")
    assert (facts["name"], facts["bytes"]) == ("tiny-v1", len(MODEL))
    assert store.resolve("tiny-v1").read_bytes() == MODEL
    assert (store.path("tiny-v1") / "template.go.txt").read_text() == "{{ .Prompt }}"
    assert "no model tiny:v2" in told("pull", f"ollama:{registry}/me/tiny:v2", code=2)


def test_the_rest_of_a_blob(registry, told):
    """A failure would mean that a real registry is asked for a range in words that it does not understand."""
    push(registry, "me/tiny", "v1", [("model", MODEL)])
    web.folder().mkdir(parents=True)
    digest = hashlib.sha256(MODEL).hexdigest()
    (web.folder() / f"{digest}.part").write_bytes(MODEL[:500_000])
    told("pull", f"ollama:{registry}/me/tiny:v1")
    assert store.resolve("tiny-v1").read_bytes() == MODEL and list(web.folder().iterdir()) == []
