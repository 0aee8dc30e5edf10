"""What the README, the pages of docs and the examples say is executed, on tiny data and with tiny models."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from lmcraft.cli import main
from lmcraft.core import config, find

ROOT = Path(__file__).resolve().parents[2]
# A page may use what the pages before it made, as a reader would who goes through them in this order.
PAGES = ("README.md", "docs/index.md", "docs/training.md", "docs/generating.md", "docs/evaluating.md")
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.yaml"))
NANO = ["model.context=128", "tokenizer.vocab=300"]
FEW = ["train.steps=2", "train.batch_size=4", "data.context=128", "sample.max_new_tokens=8"]
# Taken as said: they need a network or install things, and have tests of their own.
NOT_RUN = ("make", ".", "lmcraft demo", "lmcraft pull")


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


def fields(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names of all settings and their defaults."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", None if field.is_required() else field.default


def documented() -> list[dict[str, str]]:
    """The tables of settings of docs/training.md, each as {name: default}."""
    found: list[dict[str, str]] = []
    for line in (ROOT / "docs" / "training.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| setting | default |"):
            found.append({})
        elif found and (row := re.match(r"\| `([a-z_.]+)` \| (.*?) \|", line)):
            found[-1][row[1]] = row[2]
    return found


def test_every_setting_is_documented_with_its_default() -> None:
    """If this failed, a setting would be unknown to its users, or documented with another default than it has."""
    from lmcraft.recipe import Recipe

    def said(pairs: Iterator[tuple[str, Any]]) -> dict[str, str]:
        shown = {}
        for name, default in pairs:
            text = str(list(default) if isinstance(default, tuple) else default)
            shown[name] = "–" if default is None else text.lower() if isinstance(default, bool) else text
        return shown

    general, sft, decoder, rnn = documented()
    assert general.pop("stage.kind") == "–"
    expected = said(fields(Recipe))
    assert general == {name: default for name, default in expected.items() if name not in ("stage", "model")}
    for table, folder, kind, prefix in (
        (sft, "stages", "sft", "stage."), (decoder, "models", "decoder", "model."), (rnn, "models", "rnn", "model.")
    ):  # fmt: skip
        expected = said(fields(find.module(folder, kind).Config, prefix))
        kinds = {f"{prefix}kind": expected[f"{prefix}kind"]}
        assert {**kinds, **table} == expected


def test_rates_named_in_the_page_are_those_of_the_stages() -> None:
    """If this failed, the page would name learning rates that nobody uses."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for stage in find.names("stages"):
        number = float(re.search(rf"([0-9e.-]+) for `{stage}`", page)[1])
        assert number == find.module("stages", stage).LR


def test_options_named_in_the_page_are_those_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, the page would name options that do not exist, or miss one."""
    page = (ROOT / "docs" / "generating.md").read_text(encoding="utf-8")
    main.run(["generate", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--json"}
    assert set(re.findall(r"^\| `(--[a-z-]+)`", page, re.MULTILINE)) == known
