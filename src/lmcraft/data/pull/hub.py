"""`hf:ORG/NAME[@REVISION]`: a model repository of the Hugging Face hub, or of what HF_ENDPOINT names.

1. `huggingface_hub` gives what belongs to the hub and the user: the endpoint, the token, the spelling of addresses. The
   files are fetched by `pull.web`, which resumes (the library starts a file anew) and compares digests.
2. The revision is resolved to a commit first, and everything is fetched from that commit, so a repository that
   changes meanwhile is not mixed.
3. Only the files of `modelfiles` are fetched, safetensors before .gguf; a pickle never is.
4. Large files have their SHA-256 in the listing, small ones the SHA-1 that git gives them; each is compared.
5. No telemetry: the library is told so before it is imported, and it makes no request of its own.

Proved by tests/pull/test_hub.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ...core.errors import UserError
from .. import blobs, gguffile, modelfiles, store
from . import web
from .address import Hub

_LISTING_BYTES = 2**25
_FILES = 20_000
_LARGEST_BYTES = 2**42
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA1 = re.compile("[0-9a-f]{40}")
_UNKNOWN = "not stated"


@dataclass(frozen=True, slots=True)
class Listing:
    """What the hub says of a repository at one commit: path → (size, sha256 or "", git's sha1 or "")."""

    commit: str
    files: dict[str, tuple[int, str, str]]
    licence: str


def pull(address: Hub, name: str, licence: str | None, file: str | None) -> store.Stored:
    """Bring a model of the hub into the store as `name`.

    Args:
        file: a .gguf file of the repository to take alone.

    Raises:
        UserError: it is not there, not public, holds no safetensors, or the network fails.
    """
    endpoint, headers = _access()

    def explain(code: int, answered: Mapping[str, str]) -> UserError | None:
        return _refused(address, code, answered)

    where = (
        f"{endpoint}/api/models/{address.repository}/revision/{quote(address.revision, safe='')}?blobs=true"
    )
    found = listing(web.document(where, headers, _LISTING_BYTES, explain), address)
    names, content = chosen(list(found.files), file, str(address))
    files = {
        name: web.File(
            url=f"{endpoint}/{address.repository}/resolve/{found.commit}/{quote(name)}", name=name, headers=headers,
            **dict(zip(("size", "sha256", "git"), found.files[name], strict=True)),
        )
        for name in names
    }  # fmt: skip
    facts = {
        "kind": "model",
        "content": content,
        "what": f"{address.repository} from the Hugging Face hub",
        "source": f"{address} (commit {found.commit})",
        "licence": licence or found.licence,
        "counts": {},
    }
    with store.adding(name, facts) as target:
        for path, wanted in files.items():
            place = target / (content if content.endswith(".gguf") else f"{content}/{path}")
            place.parent.mkdir(parents=True, exist_ok=True)
            if not (wanted.sha256 and blobs.put(wanted.sha256, place)):
                blobs.link(web.download(wanted, explain), place)
        if content.endswith(".gguf"):
            gguffile.require(target / content)
    web.forget(list(files.values()))
    return store.get(name)


def listing(facts: Any, address: Hub) -> Listing:
    """The repository as the hub describes it, every value checked: it comes from outside."""
    damaged = UserError("the hub describes the repository in a way that makes no sense", where=str(address))
    if not isinstance(facts, dict) or not isinstance(facts.get("siblings"), list):
        raise damaged
    commit, siblings = facts.get("sha"), facts["siblings"]
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or len(siblings) > _FILES:
        raise damaged
    files = {}
    for one in siblings:
        if not isinstance(one, dict) or not isinstance(one.get("rfilename"), str):
            raise damaged
        lfs = one["lfs"] if isinstance(one.get("lfs"), dict) else {}
        size, sha256, git = lfs.get("size", one.get("size")), lfs.get("sha256", ""), one.get("blobId", "")
        if type(size) is not int or not 0 <= size <= _LARGEST_BYTES:
            continue  # a file that cannot be checked is none; `chosen` says what is missing then
        if isinstance(sha256, str) and blobs.SHA256.fullmatch(sha256):
            files[one["rfilename"]] = (size, sha256, "")
        elif not lfs and isinstance(git, str) and _SHA1.fullmatch(git):
            files[one["rfilename"]] = (size, "", git)
    return Listing(commit, files, _licence(facts))


def chosen(names: list[str], file: str | None, where: str) -> tuple[list[str], str]:
    """The files to fetch, and what the content is called: "model" for a directory, else the .gguf file."""
    ggufs = [name for name in names if name.lower().endswith(".gguf") and "/" not in name]
    if file is not None:
        if file not in ggufs:
            raise UserError(
                f"there is no {file[:80]!a} in the repository", where=where,
                why=f"its .gguf files: {modelfiles.listed(ggufs)}",
            )  # fmt: skip
        return [file], gguffile.stored_name(file)
    if any(name.endswith(".safetensors") and modelfiles.allowed(name) for name in names) or not ggufs:
        return modelfiles.chosen(names, where), "model"
    if len(ggufs) > 1:
        raise UserError(
            "the repository has several .gguf files and no safetensors", where=where,
            why=modelfiles.listed(sorted(ggufs)), fix="say which: --file NAME.gguf",
        )  # fmt: skip
    return ggufs, gguffile.stored_name(ggufs[0])


def _access() -> tuple[str, dict[str, str]]:
    """The hub's address and the headers of the user's requests."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            "the hub is switched off",
            why="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set",
            fix="unset it to pull",
        )
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return constants.ENDPOINT, {"Authorization": f"Bearer {token}"} if token else {}


def _licence(facts: dict[str, Any]) -> str:
    card, tags = facts.get("cardData"), facts.get("tags")
    stated = card.get("license") if isinstance(card, dict) else None
    if isinstance(card, dict) and stated == "other":
        stated = card.get("license_name") or stated
    if not isinstance(stated, str) and isinstance(tags, list):
        stated = next(
            (t.removeprefix("license:") for t in tags if isinstance(t, str) and t.startswith("license:")),
            None,
        )
    return ascii(stated)[1:-1][:100] if isinstance(stated, str) and stated else _UNKNOWN


def _refused(address: Hub, code: int, answered: Mapping[str, str]) -> UserError | None:
    """What the hub means by refusing."""
    reason = answered.get("X-Error-Code", "")
    if reason == "RevisionNotFound":
        return UserError(
            f"there is no revision {address.revision} of {address.repository}", where=str(address)
        )
    if reason == "GatedRepo" or code == 403:
        return UserError(
            f"{address.repository} is for people who agreed to its terms", where=str(address),
            fix="agree on its page, then put a token of yours into HF_TOKEN",
        )  # fmt: skip
    if code in (401, 404):
        return UserError(
            f"there is no public model {address.repository} on the hub", where=str(address),
            fix="check the name; for a private one, put a token of yours into HF_TOKEN",
        )  # fmt: skip
    return None
