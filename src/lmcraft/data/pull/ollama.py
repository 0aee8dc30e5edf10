"""`ollama:NAME:TAG`: a model of an Ollama registry, which is an OCI registry whose layers are the parts of a model.

https://github.com/opencontainers/distribution-spec

1. The manifest names layers by digest. The `model` layer is a GGUF file; template, parameters, system text and licence
   are small texts beside it. Layers of other kinds (projectors of pictures) are left, adapters refused.
2. The template is in the language of Go, not Jinja. It is kept for reading; the GGUF file has its own for `chat`.
3. A digest becomes a path only after it was matched letter by letter, and a size only after it was bounded: a registry
   can send anything (CVE-2024-37032 was a digest used as a path).
4. The registry is LMCRAFT_OLLAMA_REGISTRY, or registry.ollama.ai; an address can name another. Plain http is
   spoken with this machine only.

Proved by tests/pull/test_ollama.py and tests/pull/test_registry.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...core.errors import UserError
from .. import blobs, gguffile, store
from . import web
from .address import LOOPBACK, Registry

_DEFAULT = "https://registry.ollama.ai"
_VARIABLE = "LMCRAFT_OLLAMA_REGISTRY"
_MANIFEST_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
)
_KIND = "application/vnd.ollama.image."
_MANIFEST_BYTES = 2**20
_LARGEST_BYTES = 2**42
_TEXT_BYTES = 2**20
_LAYERS = 64
_CONTENT = "model.gguf"
_TEXTS = {
    "template": "template.go.txt",
    "system": "system.txt",
    "params": "parameters.json",
    "license": "LICENSE",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A part of a model: kind ("model", "template" …), SHA-256, size in bytes."""

    kind: str
    sha256: str
    size: int


def pull(address: Registry, name: str, licence: str | None) -> store.Stored:
    """Bring a model of a registry into the store as `name`.

    Raises:
        UserError: it is not there, its manifest makes no sense, a digest is wrong, or the network fails.
    """
    base = f"{_registry(address)}/v2/{address.user}/{address.model}"

    def explain(code: int, answered: Mapping[str, str]) -> UserError | None:
        return _refused(address, code)

    raw = web.document(
        f"{base}/manifests/{address.tag}", {"Accept": _MANIFEST_TYPES}, _MANIFEST_BYTES, explain
    )
    parts = layers(raw, str(address))
    files = [
        web.File(url=f"{base}/blobs/sha256:{layer.sha256}", name=f"{address.name} ({layer.kind})",
                 size=layer.size, sha256=layer.sha256)
        for layer in parts
    ]  # fmt: skip
    facts = {
        "kind": "model",
        "content": _CONTENT,
        "what": f"{address.model}:{address.tag} from an Ollama registry",
        "source": f"{address} ({urlsplit(base).netloc})",
        "licence": licence
        or ("LICENSE beside the model" if any(p.kind == "license" for p in parts) else "not stated"),
        "counts": {},
    }
    with store.adding(name, facts) as target:
        for layer, file in zip(parts, files, strict=True):
            if layer.kind == "model":
                if not blobs.put(layer.sha256, target / _CONTENT):
                    blobs.link(web.download(file, explain), target / _CONTENT)
                gguffile.require(target / _CONTENT)
            else:
                _append(web.download(file, explain), target / _TEXTS[layer.kind])
    web.forget(files)
    return store.get(name)


def layers(manifest: Any, where: str) -> list[Layer]:
    """The layers that are taken, the model first, every value checked.

    Raises:
        UserError: it is no manifest, or not of exactly one model, or a value is out of bounds.
    """
    if not isinstance(manifest, dict) or not isinstance(manifest.get("layers"), list):
        raise _senseless(where, "it has no list of layers")
    if len(manifest["layers"]) > _LAYERS:
        raise _senseless(where, f"over {_LAYERS} layers")
    found = [layer for one in manifest["layers"] if (layer := _layer(one, where))]
    kinds = [layer.kind for layer in found]
    if "adapter" in kinds:
        raise UserError(
            "this is an adapter to another model", where=where, why="only whole models are pulled"
        )
    if kinds.count("model") != 1:
        raise UserError(
            "this is not one model", where=where, why=f"its manifest has {kinds.count('model')} model layers"
        )
    return sorted(found, key=lambda layer: layer.kind != "model")


def _layer(one: Any, where: str) -> Layer | None:
    """A layer of a manifest; None when it is of a kind that we do not take."""
    if not isinstance(one, dict):
        raise _senseless(where, "a layer is no object")
    kind, digest, size = one.get("mediaType"), one.get("digest"), one.get("size")
    if not isinstance(kind, str) or not isinstance(digest, str) or type(size) is not int:
        raise _senseless(where, "a layer lacks mediaType, digest or size")
    sort, _, sha256 = digest.partition(":")
    if sort != "sha256" or not blobs.SHA256.fullmatch(sha256):
        raise _senseless(where, f"{digest[:80]!a} is not a SHA-256")
    kind = kind.removeprefix(_KIND)
    if kind not in ("model", "adapter", *_TEXTS):
        return None
    if not 0 < size <= (_LARGEST_BYTES if kind in ("model", "adapter") else _TEXT_BYTES):
        raise _senseless(where, f"a {kind} layer of {size:,} bytes")
    return Layer(kind, sha256, size)


def _append(source: Path, target: Path) -> None:
    """A model can have several licences: their texts follow each other."""
    with target.open("ab") as file:
        if file.tell():
            file.write(b"\n\n")
        file.write(source.read_bytes())


def _registry(address: Registry) -> str:
    """The registry of an address, as scheme://host:port."""
    if address.host:
        scheme = "http" if address.host.partition(":")[0] in LOOPBACK else "https"
        return f"{scheme}://{address.host}"
    return os.environ.get(_VARIABLE, "").rstrip("/") or _DEFAULT


def _refused(address: Registry, code: int) -> UserError | None:
    if code == 404:
        return UserError(
            f"there is no model {address.model}:{address.tag}", where=str(address), fix="check the name"
        )
    if code in (401, 403):
        return UserError(
            f"{address.model}:{address.tag} is not public", where=str(address),
            why=f"the registry answers {code}; only public models can be pulled",
        )  # fmt: skip
    return None


def _senseless(where: str, why: str) -> UserError:
    return UserError("the manifest of the registry makes no sense", where=where, why=why)
