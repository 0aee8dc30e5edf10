"""Bad input: each kind gives one clear message, exit code 2, no traceback, and nothing lost or half-written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcraft.cli.main import run

GOOD = '{"messages": [{"role": "user", "content": "a cat?"}, {"role": "assistant", "content": "a cat."}]}\n'
STEPS = ("train.steps=2", "train.batch_size=4")
SMALL = ("model=nano", "model.context=64", "tokenizer.vocab=300", *STEPS)
MEGABYTE = 2**20

Refused = Callable[..., str]


def chat(*turns: tuple[str, str]) -> str:
    """One line of a file of conversations."""
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a finished base run; tests only read it."""
    place = tmp_path_factory.mktemp("made")
    (place / "book.txt").write_text("\n<|endoftext|>\n".join(f"The tale of {i} cats." for i in range(40)))
    (place / "chats.jsonl").write_text(
        "".join(chat(("user", f"{i}?"), ("assistant", f"{i}!")) for i in range(40))
    )
    base = place / "base"
    assert run(["train", "pretrain", f"data={place / 'book.txt'}", *SMALL, "--out", str(base)]) == 0
    assert (
        run(
            [
                "train",
                "sft",
                f"base={base}",
                f"data={place / 'chats.jsonl'}",
                *STEPS,
                "--out",
                f"{place}/chat",
            ]
        )
        == 0
    )
    return place


@pytest.fixture
def refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Runs a command that must be refused; returns the message. Nothing may have been written or changed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> str:
        before = contents(tmp_path, made)
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        assert err.count("error: ") == 1 and "Traceback" not in err and len(err) < 3000
        assert contents(tmp_path, made) == before, "something was written or changed"
        return err[err.index("error: ") :]

    return call


def contents(*places: Path) -> dict[str, str]:
    """Every file and folder with the digest of its bytes, apart from locks, which are empty but for a process id."""
    found = {}
    for file in (file for place in places for file in sorted(place.rglob("*"))):
        if file.name != ".lock":
            found[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return found


def sft(made: Path, data: object, *more: object) -> list[object]:
    return ["train", "sft", f"base={made / 'base'}", f"data={data}", *STEPS, *more, "--out", "new"]


DATA = {
    "a broken line": ("x.jsonl", GOOD + '{"messages": [\n' + GOOD, ["x.jsonl:2: not JSON"]),
    "empty": ("x.jsonl", "", ["x.jsonl:1: the file is empty"]),
    "only blank lines": ("x.jsonl", "\n \n", ["x.jsonl:1: the file is empty"]),
    "not UTF-8": ("x.jsonl", GOOD.encode() + b'{"messages": "\xff"}\n', ["x.jsonl:2: not UTF-8: byte 0xff"]),
    "UTF-16": ("x.jsonl", GOOD.encode("utf-16"), ["UTF-16, only UTF-8", "iconv"]),
    "user, user": ("x.jsonl", GOOD + chat(("user", "a"), ("user", "b"), ("assistant", "c")), ["x.jsonl:2: wrong role"]),
    "a role nobody knows": ("x.jsonl", GOOD + chat(("user", "a"), ("wizard" * 5000, "b")), ["x.jsonl:2", "known"]),
    "nobody answers": ("x.jsonl", GOOD + chat(("user", "a")), ["x.jsonl:2", "no assistant turn"]),
    "an empty answer": ("x.jsonl", GOOD + chat(("user", "a"), ("assistant", " ")), ["x.jsonl:2", "says nothing"]),
    "another shape": ("x.jsonl", GOOD * 3 + '{"text": "a"}\n', ["x.jsonl:4", "'messages' is missing"]),
    "columns nobody knows": ("x.jsonl", '{"apples": 1}\n', ["x.jsonl:1", "the columns are: apples", '{"messages"}']),
    "5000 broken lines": ("x.jsonl", '{"x"\n' * 5000, ["5,000 of 5,000 rows", "x.jsonl:10:", "and 4,990 more"]),
    "texts": ("x.txt", "a cat\n", ["fine-tuning needs conversations", "x.txt:1"]),
    "half of an archive": ("x.jsonl.gz", b"\x1f\x8b\x08\x00\x00\x00", ["x.jsonl.gz:1", "damaged"]),
    "an extension nobody knows": ("x.docx", "hello", ["x.docx", "known are .csv", "rename"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used(refused: Refused, made: Path, tmp_path: Path, case: str) -> None:
    """If this failed, a user would train on wrong rows, or would not learn which line to mend."""
    name, content, told = DATA[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(*sft(made, name))
    assert all(part in message for part in told), message


def test_data_that_is_not_there(refused: Refused, made: Path, tmp_path: Path) -> None:
    """If this failed, a typo in a path would look like something else."""
    (tmp_path / "folder.jsonl").mkdir()
    assert "no such data file" in refused(*sft(made, "nosuch.jsonl"))
    assert "found a directory" in refused(*sft(made, "folder.jsonl"))
    assert "lmcraft pull shakespeare" in refused(*sft(made, "shakespeare"))
    assert "did you mean chitchat?" in refused(*sft(made, "chitcat"))
    assert "data: required, but not given" in refused("train", "sft", f"base={made / 'base'}")


SETTINGS = {
    "an unknown group": (["tran.steps=3"], ["tran: unknown key; did you mean 'train'?", "argument 'tran.steps=3'"]),
    "an unknown key": (["train.stebs=3"], ["train.stebs: unknown key; did you mean 'steps'?"]),
    "a wrong type": (["train.lr=fast"], ["train.lr: expected a valid number, ", "found 'fast'", "argument"]),
    "out of range": (["train.steps=0"], ["train.steps: expected greater than 0, found 0"]),
    "not a number": (["train.lr=.nan"], ["train.lr: expected a finite number"]),
    "a word not in the list": (["stage.train_on=answer"], ["did you mean 'answers'?"]),
    "an enormous seed": ([f"seed={10**30}"], ["seed: expected less than"]),
    "no key": (["train"], ["an argument is written key=value"]),
    "several at once": (
        ["train.lr=fast", "train.stebs=2", "seed=-1", "data.holdout=2"],
        ["4 mistakes", "train.lr: ", "train.stebs: ", "seed: ", "data.holdout: "],
    ),
    "model and base": (["model=nano"], ["model and base are both given", "leave out"]),
    "more context than the model has": (["data.context=512"], ["data.context is 512", "at most 64", "leave"]),
    "no template": (["template=nono"], ["no chat template", "chatml, plain"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_cannot_be_used(refused: Refused, made: Path, case: str) -> None:
    """If this failed, a mistyped setting would be ignored, or the user told about one mistake at a time."""
    arguments, told = SETTINGS[case]
    message = refused(*sft(made, made / "chats.jsonl", *arguments))
    assert all(part in message for part in told), message


def test_a_config_file_with_mistakes(refused: Refused, tmp_path: Path) -> None:
    """If this failed, mistakes in a file would be shown one by one or without their lines."""
    (tmp_path / "a.yaml").write_text(
        "stage: pretrain\ndata: x.txt\nmodel:\n  preset: nno\n  widht: 3\ntrain:\n  steps: -1\n"
    )
    message = refused("train", "a.yaml")
    for part in ("3 mistakes", "a.yaml:4: model.preset", "a.yaml:5: model.widht", "a.yaml:7: train.steps"):
        assert part in message
    (tmp_path / "b.yaml").write_text("stage: pretrain\ndata: [x.txt\n")
    assert "b.yaml:3" in refused("train", "b.yaml")
    assert "No such file" in refused("train", "c.yaml")


def test_a_first_argument_that_is_something_else(refused: Refused, made: Path) -> None:
    """If this failed, the first thing that a newcomer types would give a puzzle."""
    assert "did you mean 'sft'?" in refused("train", "stf", "data=x.jsonl")
    assert f"lmcraft train pretrain data={made / 'book.txt'}" in refused("train", made / "book.txt")
    assert f"lmcraft train {made / 'base' / 'config.yaml'}" in refused("train", made / "base")
    assert "lmcraft train pretrain data=x.txt" in refused("train", "data=x.txt")
    assert "did you mean 'decoder'?" in refused("train", "pretrain", "data=x.txt", "model.kind=decodr")
    assert "not divisible" in refused("train", "pretrain", "data=x.txt", "model.width=65", "model.heads=2")


def garbled(name: str, content: str) -> Callable[[Path], object]:
    return lambda run: (run / "model" / name).write_text(content)


def halved(run: Path) -> None:
    file = run / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


BASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "weights of garbage": (garbled("model.safetensors", "garbage" * 99), ["cannot be read", "model.safetensors"]),
    "half of the weights": (halved, ["the weights cannot be read", "model.safetensors"]),
    "a config of garbage": (garbled("config.json", "{garbage"), ["not valid JSON", "config.json:1"]),
    "a config that is a list": (garbled("config.json", "[1]"), ["config.json"]),
    "a config without sizes": (
        garbled("config.json", '{"model_type": "llama"}'), ["config.json", "'num_hidden_layers'"],
    ),
    "a model nobody knows": (garbled("config.json", '{"model_type": "x"}'), ["'x' cannot be read", "llama"]),
    "a tokenizer of garbage": (garbled("tokenizer.json", '{"a": 1}'), ["library refuses", "tokenizer.json"]),
    "tokenizer settings of garbage": (garbled("tokenizer_config.json", "[]"), ["tokenizer_config.json"]),
    "no model yet": (lambda run: shutil.rmtree(run / "model"), ["this run has no model yet", "to finish it"]),
    "nothing": (shutil.rmtree, ["there is no model here", "lmcraft runs"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BASES)
def test_a_base_that_cannot_be_used(refused: Refused, made: Path, tmp_path: Path, case: str) -> None:
    """If this failed, a damaged model would be a crash, or worse, be trained on with wrong weights."""
    damage, told = BASES[case]
    base = tmp_path / "base"
    shutil.copytree(made / "base", base)
    damage(base)
    message = refused("train", "sft", f"base={base}", f"data={made / 'chats.jsonl'}", *STEPS, "--out", "new")
    assert all(part in message for part in told), message


def test_a_place_that_is_taken(refused: Refused, made: Path, tmp_path: Path) -> None:
    """If this failed, a run, a file or a folder of the user's would be written over."""
    asked = [
        "train",
        "sft",
        f"base={made / 'base'}",
        f"data={made / 'chats.jsonl'}",
        "train.batch_size=4",
        "--out",
    ]
    message = refused(*asked, made / "chat", "train.steps=9")
    assert "with other settings" in message and "train.steps: 2 there, 9 asked for" in message
    (tmp_path / "file").write_text("mine")
    assert "a file is in the way" in refused(*asked, "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    message = refused(*asked, "folder")
    assert "not a run and not empty" in message and "thesis.txt" in message


def test_a_run_whose_data_has_changed(made: Path, refused: Refused, tmp_path: Path) -> None:
    """If this failed, the second half of a run would be trained on other rows than its log says."""
    from lmcraft import api

    data = tmp_path / "chats.jsonl"
    shutil.copy(made / "chats.jsonl", data)
    settings = [f"base={made / 'base'}", f"data={data}", "train.steps=4", "train.batch_size=4"]
    for step in api.train("sft", settings, out=tmp_path / "new"):
        if step.number == 2:
            break
    data.write_text(data.read_text().replace("1!", "one!"))
    message = refused("train", "sft", *settings, "--out", "new")
    assert "the data has changed since this run began" in message and "--out" in message


def test_a_run_that_another_process_writes(made: Path, refused: Refused) -> None:
    """If this failed, two processes would write one run and both results would be lost."""
    hold = "import sys; from lmcraft.core.run import Run\nwith Run.open(sys.argv[1]).lock(): print(flush=True), input()"
    command = [sys.executable, "-c", hold, str(made / "chat")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        (made / "chat" / "state.json").rename(made / "kept.json")
        (made / "chat" / "state.json").write_text('{"status": "running", "step": 1}')
        try:
            message = refused("train", made / "chat" / "config.yaml")
        finally:
            (made / "kept.json").rename(made / "chat" / "state.json")
            process.stdin.close()
    assert f"process {process.pid} on" in message and "another process" in message


TALK = {
    "a long text": (["generate", "{base}", "cat " * 200], ["at most 64 tokens", "shorten"]),
    "a long message": (["chat", "{chat}", "cat " * 200], ["at most 64 tokens", "shorten"]),
    "cold": (["generate", "{base}", "a", "-t", "-1"], ["temperature: expected greater than or equal", "--temperature"]),
    "not a temperature": (["chat", "{chat}", "a", "-t", "nan"], ["temperature: expected a finite number"]),
    "three at once": (
        ["generate", "{base}", "a", "--top-p", "7", "--top-k", "0", "--min-p", "-3"],
        ["3 mistakes", "--top-p", "--top-k", "--min-p"],
    ),
    "a word for a number": (["chat", "{chat}", "a", "--top-p", "x"], ["--top-p", "lmcraft chat --help"]),
    "no tokens": (["chat", "{chat}", "a", "-m", "0"], ["max_new_tokens: expected greater than 0"]),
    "no answers": (["generate", "{base}", "a", "-n", "0"], ["'-n'"]),
    "an enormous seed": (["generate", "{base}", "a", "--seed", str(2**200)], ["seed: expected less than"]),
    "not text": (["generate", "{base}", "a\udcff"], ["not UTF-8"]),
    "a base model": (["chat", "{base}", "hello"], ["this is a base model", "lmcraft generate", "lmcraft train sft"]),
    "no model": (["chat", "nowhere/at/all", "hello"], ["there is no model here", "lmcraft runs"]),
    "an evaluation nobody knows": (["eval", "{base}", "perplexty"], ["did you mean 'perplexity'?"]),
    "no file to measure on": (["eval", "{base}", "perplexity", "nowhere.txt"], ["no such data file", "nowhere.txt"]),
    "a setting nobody knows": (["eval", "{base}", "perplexity", "windw=8"], ["windw: unknown key", "'window'?"]),
    "a window that is too long": (["eval", "{base}", "perplexity", "window=900"], ["window 900", "64 tokens"]),
    "conversations for a base": (["eval", "{base}", "perplexity", "{chats}"], ["base model cannot be scored on conv"]),
    "nothing to report": (["report", "nowhere"], ["neither a run nor a demo", "no such directory"]),
    "no numbers of steps": (["demo", "--data", "{chats}", "--steps", "many"], ["'many'", "--steps 300,100"]),
    "texts for a demo": (["demo", "--data", "{book}", "--steps", "1,1"], ["conversations", "book.txt:1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TALK)
def test_questions_that_cannot_be_answered(refused: Refused, made: Path, case: str) -> None:
    """If this failed, an option out of range would be ignored or crash after the model was loaded."""
    arguments, told = TALK[case]
    names = {"{base}": "base", "{chat}": "chat", "{chats}": "chats.jsonl", "{book}": "book.txt"}
    message = refused(*(made / names[word] if word in names else word for word in arguments))
    assert all(part in message for part in told), message


def test_standard_input_that_is_not_text(
    refused: Refused, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, piping the wrong file into a model would be reported as our bug."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), encoding="utf-8"))
    assert "standard input" in refused("generate", made / "base", "-")


@pytest.mark.parametrize("verb", [["pull", "chitchat"], ["demo"]])
def test_no_network(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    """If this failed, a user without a network would see a page of pip's, and no way to bring the file by hand."""
    home = tmp_path / "home"
    (home / "store").mkdir(parents=True)
    (home / "store" / ".chitchat.lock").touch()
    for name, value in (
        ("INDEX_URL", "http://127.0.0.1:9/simple"),
        ("RETRIES", "0"),
        ("CONFIG_FILE", os.devnull),
    ):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("LMCRAFT_HOME", str(home))
    message = refused(*verb)
    assert "pip could not fetch chitchat-dataset==" in message and "--from FILE" in message


def test_mistakes_as_json(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, a program would have to read messages for people."""
    capsys.readouterr()
    assert run([*map(str, sft(made, made / "nosuch.jsonl")), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["what"] == "there is no such data file" and error["where"].endswith("nosuch.jsonl")


def child(
    *arguments: object, cwd: Path, limit: tuple[int, tuple[int, int]] | None = None, before: str = ""
) -> tuple[int, str, int]:
    """Runs the command in a process of its own; returns exit code, message and peak memory in bytes."""
    command = [sys.executable, "-m", "lmcraft", *map(str, arguments)]
    if before:
        command = ["unshare", "-m", "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    with (cwd / "told").open("w+") as told:
        process = subprocess.Popen(
            command, cwd=cwd, stderr=told, stdout=subprocess.DEVNULL,
            preexec_fn=(lambda: resource.setrlimit(*limit)) if limit else None,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        return process.returncode, told.read(), usage.ru_maxrss * 1024


def test_a_line_of_100_megabytes(made: Path, tmp_path: Path) -> None:
    """If this failed, one line without an end would take all memory of the machine."""
    (tmp_path / "small.jsonl").write_text("{\n")
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.write(GOOD.encode() + b'{"messages": "')
        file.truncate(100 * MEGABYTE)
    code, told, usual = child(*sft(made, "small.jsonl"), cwd=tmp_path)
    assert code == 2, told
    code, told, peak = child(*sft(made, "large.jsonl"), cwd=tmp_path)
    assert code == 2 and "large.jsonl:2: the line is 104,857," in told and not (tmp_path / "new").exists()
    assert peak - usual < 200 * MEGABYTE, f"{(peak - usual) / MEGABYTE:.0f} MB more"


def test_files_may_not_grow(made: Path, tmp_path: Path) -> None:
    """If this failed, a quota or a limit on file sizes would look like a bug of ours."""
    limit = (resource.RLIMIT_FSIZE, (60_000, 60_000))
    code, told, _ = child(*sft(made, made / "chats.jsonl"), cwd=tmp_path, limit=limit)
    assert code == 2 and "cannot write: File too large" in told and "Traceback" not in told, told


def may_mount() -> bool:
    return os.getuid() == 0 and shutil.which("unshare") is not None and (
        subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    )  # fmt: skip


@pytest.mark.skipif(not may_mount(), reason="needs root and mount namespaces")
def test_a_full_disk(made: Path, tmp_path: Path) -> None:
    """If this failed, a disk that fills up would end in a traceback instead of naming the disk and what is missing."""
    (tmp_path / "disk").mkdir()
    before = f"mount -t tmpfs -o size=200k tmpfs {tmp_path / 'disk'}"
    asked = [
        "train",
        "sft",
        f"base={made / 'base'}",
        f"data={made / 'chats.jsonl'}",
        *STEPS,
        "--out",
        "disk/new",
    ]
    code, told, _ = child(*asked, cwd=tmp_path, before=before)
    assert code == 2 and "error: the disk is full" in told and "Traceback" not in told, told
    assert "bytes are free" in told and "disk/new" in told and "the same command then goes on" in told
