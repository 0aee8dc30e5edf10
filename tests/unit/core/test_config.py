"""Configuration: every mistake at once, each with its line, and nothing in a file that can run."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.core import config
from lmcraft.core.errors import UserError


class Lora(config.Strict):
    kind: Literal["lora"] = "lora"
    rank: int = 8


class Prompt(config.Strict):
    kind: Literal["prompt"] = "prompt"
    vectors: int = 10


class Train(config.Strict):
    steps: int
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    precision: Literal["bf16", "fp32"] = "fp32"


class Source(config.Strict):
    path: str
    weight: float = 1.0


class Config(config.Strict):
    train: Train
    adapter: Annotated[Lora | Prompt, pydantic.Field(discriminator="kind")] | None = None
    data: list[Source] = []
    note: str = ""
    sizes: int | list[int] = 1


def check(text: str, *overrides: str) -> Config:
    document = config.parse(text, "a.yaml")
    for override in overrides:
        config.override(document, override)
    return config.validate(Config, document)


def mistakes(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        check(text, *overrides)
    return str(caught.value)


def test_all_mistakes_are_told_at_once_each_with_its_line() -> None:
    """If this failed, users would mend one mistake a run, or look for it in the wrong line."""
    told = mistakes(
        "train:\n"
        "  stpes: 3\n"
        "  lr: fast\n"
        "  precision: bf61\n"
        "adapter:\n"
        "  kind: lora\n"
        "  rnak: 4\n"
        "data:\n"
        "  - path: a.txt\n"
        "  - path: b.txt\n"
        "    weigth: 2\n"
        "train:\n"
        "  lr: 1\n"
    )
    # The second `train` replaces the first one's values, but both are looked at as written.
    assert "a.yaml:12: train: given twice, first at a.yaml:1" in told
    assert "a.yaml:7: adapter.rnak: unknown key; did you mean 'rank'?" in told
    assert "a.yaml:11: data.1.weigth: unknown key; did you mean 'weight'?" in told
    told = mistakes("train:\n  stpes: 3\n  lr: fast\n  precision: bf61\n")
    assert told.startswith("4 mistakes")
    assert "a.yaml:2: train.stpes: unknown key; did you mean 'steps'?" in told
    assert "a.yaml:1: train.steps: required, but not given" in told
    assert "a.yaml:3: train.lr: expected a valid number" in told and "found 'fast'" in told
    assert "a.yaml:4: train.precision: expected 'bf16' or 'fp32', found 'bf61'; did you mean 'bf16'?" in told


def test_an_unknown_key_without_a_near_name_lists_the_valid_ones() -> None:
    """If this failed, a user with a wrong idea of the options would get no hint."""
    told = mistakes("train: {steps: 1}\nadapter: {kind: prompt, xyzzy: 1}\n")
    assert "adapter.xyzzy: unknown key; valid keys: kind, vectors" in told and "rank" not in told


def test_a_union_is_one_mistake() -> None:
    """If this failed, one wrong value would be told once for every member of a union."""
    told = mistakes("train: {steps: 1}\nsizes: abc\n")
    assert told.count("a.yaml") == 1 and "integer" in told and " or expected a valid list" in told


def test_numbers_and_words_follow_yaml_1_2() -> None:
    """If this failed, `lr: 1e-4` would be text, and a country code `no` would be False, as in YAML 1.1."""
    expected: dict[str, Any] = {
        "1e-4": 1e-4, "1.5E+3": 1500.0, ".5": 0.5, "-3": -3, "+3": 3, "012": 12, "0x1F": 31, "0o17": 15,
        "1_000": "1_000", "1:30": "1:30", "no": "no", "Yes": "Yes", "on": "on", "true": True, "False": False,
        "~": None, "null": None, "": None, "2024-01-01": "2024-01-01", "1e": "1e", "-": "-", ".": ".", "-inf": "-inf",
    }  # fmt: skip
    for text, value in expected.items():
        assert config.scalar(text) == value and type(config.scalar(text)) is type(value), text
    assert config.scalar("-.inf") == -math.inf and math.isnan(config.scalar(".nan"))
    assert check("train: {steps: 1, lr: 1e-4}").train.lr == 1e-4
    assert check('train: {steps: 1}\nnote: "1e-4"').note == "1e-4"


def test_numbers_that_are_not_finite_are_mistakes() -> None:
    """If this failed, a learning rate of NaN would train garbage."""
    assert "finite" in mistakes("train: {steps: 1, lr: .nan}")
    assert "finite" in mistakes("train: {steps: 1, lr: .inf}")


def test_arguments_override_and_are_named() -> None:
    """If this failed, the command line would be ignored, or its mistakes blamed on the file."""
    made = check(
        "train: {steps: 1}\ndata: [{path: a}, {path: b}]",
        "train.lr=1e-4",
        "adapter.kind=lora",
        "adapter.rank=3",
        "sizes=[1, 2]",
        "data.1.weight=2",
        "note=*.txt",
        "train.steps=2",
        "train.steps=3",
    )
    assert made.train == Train(steps=3, lr=1e-4)
    assert made.adapter == Lora(rank=3)
    assert (made.sizes, made.data[1].weight, made.note) == ([1, 2], 2.0, "*.txt")
    told = mistakes(
        "train: {steps: 1}\ndata: [{path: a}]",
        "train.lr=fast",
        "train.stpes=1",
        "loud",
        "train.steps.x=1",
        "data.7.path=b",
        "sizes=[1",
        "adapter={kind: lora, rnak: 1}",
    )
    assert told.startswith("7 mistakes")
    assert "argument 'train.lr=fast': train.lr: expected" in told
    assert "argument 'train.stpes=1': train.stpes: unknown key; did you mean 'steps'?" in told
    assert "argument 'loud': an argument is written key=value" in told
    assert "argument 'train.steps.x=1': train.steps.x: train.steps is not a group of keys" in told
    assert "argument 'data.7.path=b': data.7" in told
    assert "argument 'sizes=[1': sizes: not valid YAML" in told
    assert "argument 'adapter={kind: lora, rnak: 1}': adapter.rnak: unknown key; did you mean 'rank'?" in told


def test_an_argument_replaces_a_group_with_its_places() -> None:
    """If this failed, a mistake in a replaced group would be shown at the line of the old one."""
    told = mistakes(
        "train: {steps: 1}\nadapter:\n  kind: lora\n  rank: x\n", "adapter={kind: prompt, vectors: y}"
    )
    assert "argument" in told and "a.yaml" not in told


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch marker']",
        "a: !!python/name:os.system",
        "!!map {a: 1}",
        "a: !custom 1",
        "a: !!binary aGk=",
        "a: &x 1",
        "a: *x",
        "<<: {a: 1}",
        "? {a: 1}\n: b",
        "? [a]\n: b",
        "--- {train: {steps: 1}}\n--- {train: {steps: 2}}",
    ],
)
def test_nothing_but_plain_values_is_obeyed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a file could run code (tags), grow without bound (aliases), or hide a second document."""
    monkeypatch.chdir(tmp_path)
    assert "a.yaml:" in mistakes(text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [1", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("a:\n\t- b", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("- a\n- b", "a configuration is a mapping"),
        ("hello", "a configuration is a mapping"),
        ("[" * 100_000, "nested deeper"),
        ("a: " + "{a: " * 1000, "nested deeper"),
        ("a: " + "x" * config.MAX_BYTES, "larger than"),
    ],
)
def test_files_that_are_not_configurations(text: str, what: str) -> None:
    """If this failed, a damaged or hostile file would end in a traceback, a recursion error or a long wait."""
    with pytest.raises(UserError, match=what) as caught:
        config.parse(text, "a.yaml")
    assert caught.value.where and caught.value.where.startswith("a.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """If this failed, a wrong path or a Latin-1 file would end in a traceback."""
    with pytest.raises(UserError, match="cannot read"):
        config.read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot read"):
        config.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8") as caught:
        config.read(tmp_path / "latin.yaml")
    assert caught.value.where == f"{tmp_path / 'latin.yaml'}:2"
    (tmp_path / "large.yaml").write_bytes(b"#" * (config.MAX_BYTES + 1))
    with pytest.raises(UserError, match="larger than"):
        config.read(tmp_path / "large.yaml")


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    """If this failed, a file saved by a Windows editor would have a first key that nobody knows."""
    (tmp_path / "dos.yaml").write_bytes(b"\xef\xbb\xbftrain:\r\n  steps: 4\r\n")
    assert config.validate(Config, config.read(tmp_path / "dos.yaml")).train.steps == 4


def test_without_a_file_arguments_are_enough() -> None:
    """If this failed, `lmcraft train sft key=value` would not work, or blame a file that is not there."""
    assert config.validate(Config, config.read(None, ["train.steps=4"])).train.steps == 4
    with pytest.raises(UserError) as caught:
        config.validate(Config, config.read(None, []))
    assert (caught.value.what, caught.value.where) == ("train: required, but not given", "arguments")


def test_a_part_of_a_document_knows_its_lines() -> None:
    """If this failed, checking one group alone would lose the line of its mistakes."""
    part = config.parse("train: {steps: 1}\nadapter:\n  kind: lora\n  rnak: 2\n", "a.yaml").sub("adapter")
    with pytest.raises(UserError) as caught:
        config.validate(Lora, part)
    assert caught.value.where == "a.yaml:4"


def test_a_config_never_changes() -> None:
    """If this failed, a run could be trained with other values than its config.yaml says."""
    made = check("train: {steps: 1}")
    with pytest.raises(pydantic.ValidationError):
        made.train.steps = 2  # type: ignore[misc]


def test_dump_is_complete_and_read_back_equal() -> None:
    """If this failed, config.yaml of a run would miss defaults, or mean something else when read again."""
    made = check("train: {steps: 1, lr: 1e-5}\nadapter: {kind: lora}\nnote: 'no'")
    text = config.dump(made)
    assert "betas" in text and "precision: fp32" in text and "rank: 8" in text
    assert config.validate(Config, config.parse(text, "config.yaml")) == made


TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    st.sampled_from(["no", "1e5", "1e-4", "0o7", "0x1", "~", "", "null", "12:30", "*x", "&x", "!t", "a: b", "# c"]),
    st.from_regex(r"[-+.0-9eEoxXtrufalsn_:]{1,8}", fullmatch=True),
)  # fmt: skip


class Anything(config.Strict):
    words: list[str] = []
    numbers: list[float] = []
    named: dict[str, int] = {}


@given(
    st.builds(
        Anything,
        words=st.lists(TEXTS),
        numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False)),
        named=st.dictionaries(TEXTS, st.integers(-(2**63), 2**63), max_size=4),
    )
)
def test_every_value_survives_dump_and_parse(made: Anything) -> None:
    """If this failed, some text or number would change between config.yaml and the run that reads it."""
    assert config.validate(Anything, config.parse(config.dump(made), "a.yaml")) == made


@given(st.text(max_size=200) | st.from_regex(r"[-\[\]{}:,&*!|>'\"%@` \na0#?]{0,40}", fullmatch=True))
def test_any_text_is_read_or_refused(text: str) -> None:
    """If this failed, some file would end in a traceback instead of a message."""
    with contextlib.suppress(UserError):
        config.validate(Config, config.parse(text, "a.yaml"))


@given(st.lists(st.from_regex(r"[a-z.0-9=\[\]{}'\": ,-]{0,20}", fullmatch=True), max_size=4))
def test_any_arguments_are_read_or_refused(arguments: list[str]) -> None:
    """If this failed, some argument would end in a traceback instead of a message."""
    with contextlib.suppress(UserError):
        config.validate(Config, config.read(None, arguments))
