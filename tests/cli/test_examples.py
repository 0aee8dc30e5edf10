"""What the README, the pages of docs and the examples say is executed, on tiny data and with tiny models."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmcraft.cli import main
from lmcraft.core import config, find

ROOT = Path(__file__).resolve().parents[2]
# A page may use what the pages before it made, as a reader would who goes through them in this order.
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/training.md",
    "docs/generating.md",
    "docs/evaluating.md",
    "docs/translating.md",
    "docs/reading.md",
    "docs/preferences.md",
    "docs/aligning.md",
    "docs/feedback.md",
)
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.yaml"))
NANO = ["model.context=128", "tokenizer.vocab=300"]
FEW = ["train.steps=2", "train.batch_size=4", "data.context=128", "sample.max_new_tokens=8"]
# Taken as said: they need a network or install things, and have tests of their own.
NOT_RUN = ("make", ".", "lmcraft demo", "lmcraft pull", "lmcraft feedback round")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: a book, another one, conversations, and the examples."""
    place = tmp_path_factory.mktemp("reader")
    for name in ("book", "other-book"):
        tales = (f"It was the tale of {number} cats, told by {name}." for number in range(60))
        (place / f"{name}.txt").write_text("\n<|endoftext|>\n".join(tales))
    turn = '{{"role": "{}", "content": "{} cats{}"}}'
    rows = (f"{turn.format('user', i, '?')}, {turn.format('assistant', i, '!')}" for i in range(60))
    (place / "chats.jsonl").write_text("".join(f'{{"messages": [{row}]}}\n' for row in rows))
    words = [(str(n), f"{n} {n}") for n in range(60)]
    pairs = [json.dumps({"source": s, "target": t}) for s, t in words]
    (place / "pairs.jsonl").write_text("\n".join(pairs))
    (place / "languages.jsonl").write_text(
        "\n".join(json.dumps({"en": s, "de": t, "fr": s}) for s, t in words)
    )
    sentences = [{"text": f"a {w} day in week {n}", "label": w} for n in range(40) for w in ("fine", "bad")]
    names = [{"tokens": ["Peter", "saw", str(n)], "tags": ["B-PER", "O", "O"]} for n in range(60)]
    judged = [
        {"prompt": f"{n} cats?", "chosen": f"{n} cats!", "rejected": f"no {n}", "weight": 1}
        for n in range(60)
    ]
    for name, made in (("sentences", sentences), ("names", names), ("preferences", judged)):
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made)))
    judged = ({"prompt": f"{n}?", "answers": [f"A fine {n}.", f"{n} is bad."]} for n in range(12))
    (place / "answers.jsonl").write_text("\n".join(map(json.dumps, judged)))
    (place / "guidelines.yaml").write_text(blocks("docs/feedback.md", "yaml")[0])
    shutil.copytree(ROOT / "examples", place / "examples")
    return place


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Follows a page in that folder, and types one message where a conversation is offered."""
    monkeypatch.chdir(folder)
    said = iter(["hello", "/exit"] * 9)
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    return folder


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command in the `sh` blocks of a page."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def tiny(words: list[str]) -> list[str]:
    """A training command with a model and a number of steps that take a moment."""
    if words[0] != "train":
        return words
    recipe = config.read(words[1]).value if words[1].endswith(".yaml") else {}
    has_base = "base" in recipe or any(word.startswith("base=") for word in words)
    return [*words, *([] if has_base else ["model=nano", *NANO]), *FEW]


def test_the_pages_can_be_followed(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, a reader who copies a command from a page would get an error."""
    ran = 0
    for page in PAGES:
        for words in commands(page):
            line = " ".join(words)
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
            if line.startswith(NOT_RUN):
                continue
            assert words[0] == "lmcraft", f"{page}: {line}"
            code = main.run(tiny(words[1:]))
            assert code == 0, f"{page}: {line}\n{capsys.readouterr().err}"
            ran += 1
        for block in blocks(page, "python"):
            exec(compile(block, page, "exec"), {})
    assert ran > 20


def test_every_example_is_shown_somewhere() -> None:
    """If this failed, an example would not be executed by the test above."""
    shown = {word for page in PAGES for words in commands(page) for word in words}
    assert EXAMPLES and set(EXAMPLES) <= shown


def test_links_lead_somewhere() -> None:
    """If this failed, a page would send its reader to nothing."""
    ours = {"docs/log.md", "docs/images/report.png"}  # written from a run of the demo
    for page in (*PAGES, "CHANGELOG.md", "docs/decisions/0001-libraries.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            path = ((ROOT / page).parent / link).resolve()
            known = link.startswith("https://") or path.exists() or path.relative_to(ROOT).as_posix() in ours
            assert known, f"{page}: {link}"


def test_every_setting_is_documented_with_its_default() -> None:
    """If this failed, a setting would be unknown to its users, or documented with another default than it has."""
    command = [sys.executable, str(ROOT / "docs" / "make_settings.py"), "--check"]
    assert subprocess.run(command).returncode == 0
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for folder, title in (("stages", "stage"), ("models", "model")):
        for name in find.names(folder):
            assert f"### `{title}.kind={name}`" in page
            for setting in find.module(folder, name).Config.model_fields:
                assert setting == "kind" or f"`{title}.{setting}" in page


def test_options_named_in_the_page_are_those_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, the page would name options that do not exist, or miss one."""
    page = (ROOT / "docs" / "generating.md").read_text(encoding="utf-8")
    main.run(["generate", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--json"}
    assert set(re.findall(r"^\| `(--[a-z-]+)`", page, re.MULTILINE)) == known
