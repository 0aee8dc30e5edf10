"""Damaged and hostile GGUF files end in a clear error, in seconds of the processor's time and bounded memory."""

from __future__ import annotations

import pickle
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmcraft.core import gguf
from lmcraft.core.errors import UserError
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models.gguf.load import load
from lmcraft.text.tokenizer import Tokenizer

SECONDS = 2.0  # of the processor
MEGABYTES = 300
SMALL = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<s>", "a", "b", "ab", "Ġ", "c"], "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}<s>{% endfor %}",
}  # fmt: skip
SPM = {
    "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "▁", "a", "b", "ab"],
    "tokenizer.ggml.scores": [0.0, 0.0, -1.0, -2.0, -3.0, -4.0], "tokenizer.ggml.token_type": [2, 3, 1, 1, 1, 1],
    "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.unknown_token_id": 0,
}  # fmt: skip


class Victim:
    """A whole small model as bytes, the places of its fields, and a file for what is made of it."""

    def __init__(self, folder: Path, made, tokenizer: dict) -> None:
        sizes = {"width": 8, "mlp": 8}
        raw = made.raw_llama(made.llama_facts(6, **sizes) | tokenizer, made.llama_tensors(6, **sizes))
        self.content, self.fields = bytes(raw.content), raw.fields
        self.file = folder / "victim.gguf"
        self.file.write_bytes(self.content)
        self.header = gguf.read(self.file).tensors["token_embd.weight"].offset
        self.extremes = (
            0,
            1,
            -1,
            1 << 31,
            (1 << 63) - 1,
            (1 << 32) - 1,
            len(self.content) - 1,
            len(self.content),
            len(self.content) + 1,
        )

    def attacked(self, content: bytes, whole: bool = False) -> bool:
        """Whether a file is refused; it must be refused properly, or read."""
        self.file.write_bytes(content)
        began = time.process_time()
        try:
            gguf.read(self.file)
            Tokenizer.load(self.file)
            if whole:
                LanguageModel.load(self.file)
        except UserError as error:
            assert error.what and str(self.file) in (error.where or ""), error
            return True
        finally:
            assert time.process_time() - began < SECONDS
        return False


@pytest.fixture(scope="module")
def victims(tmp_path_factory, made):
    """Models with either kind of tokenizer."""
    return [
        Victim(tmp_path_factory.mktemp(name), made, facts) for name, facts in (("bpe", SMALL), ("spm", SPM))
    ]


@pytest.fixture(autouse=True)
def bounded_memory():
    """The peak of the process may not grow by more than `MEGABYTES`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES


@st.composite
def damage(draw, size: int, header: int, fields: list, extremes: tuple) -> tuple:
    """How a file is changed: what, where, and with what."""
    what = draw(st.sampled_from(("cut", "flip", "field", "field", "bytes", "remove", "repeat")))
    if what == "field":
        return what, draw(st.sampled_from(fields)), draw(st.sampled_from(extremes))
    place = draw(st.integers(0, header + (size - header) // 8))
    if what == "cut":
        return what, place, None
    if what == "flip":
        return what, place, draw(st.integers(0, 7))
    if what == "bytes":
        return what, place, draw(st.binary(min_size=1, max_size=9))
    return what, place, draw(st.integers(1, 40))


def damaged(content: bytes, how: tuple) -> bytes:
    """The file, changed."""
    what, place, value = how
    if what == "field":
        begin, width = place
        return (
            content[:begin] + (value % (1 << 8 * width)).to_bytes(width, "little") + content[begin + width :]
        )
    if what == "cut":
        return content[:place]
    if what == "flip":
        return content[:place] + bytes([content[place] ^ 1 << value]) + content[place + 1 :]
    if what == "bytes":
        return content[:place] + value + content[place + len(value) :]
    if what == "remove":
        return content[:place] + content[place + value :]
    return content[: place + value] + content[place:]


def attack(victim: Victim, examples: int) -> int:
    """Hypothesis makes damaged files of the victim; returns how many were refused."""
    refused = 0

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(damage(len(victim.content), victim.header, victim.fields, victim.extremes))
    def once(how: tuple) -> None:
        nonlocal refused
        refused += victim.attacked(damaged(victim.content, how))

    once()
    return refused


@pytest.mark.parametrize("which", [0, 1])
def test_thousands_of_damaged_files(victims, which):
    """A failure would mean a traceback, a hang or a bomb for a file that came from outside."""
    assert attack(victims[which], 2600) > 1500


@pytest.mark.long
@pytest.mark.parametrize("which", [0, 1])
def test_many_more_damaged_files(victims, which):
    """The same as above, for whoever has the time."""
    assert attack(victims[which], 100_000) > 50_000


@pytest.mark.parametrize("which", [0, 1])
def test_every_field_with_every_extreme(victims, which):
    """A failure would mean that one count, length, type or offset of the format is believed as it stands."""
    victim = victims[which]
    fields = [(field, value) for field in victim.fields for value in victim.extremes]
    refused = sum(victim.attacked(damaged(victim.content, ("field", *one))) for one in fields)
    assert len(fields) > 900 and refused > 0.8 * len(fields)
    assert not victim.attacked(victim.content, whole=True)


def test_every_length(victims):
    """A failure would mean that a download which was cut off somewhere passes for a model."""
    victim = victims[0]
    last = (
        len(victim.content) - 8 * 4
    )  # what may be missing is the padding of the last tensor, of which there is none
    for length in range(0, last, 3):
        assert victim.attacked(victim.content[:length]), length


# Facts that are well formed and that no sizes of a model can be.
SIZES = [
    ("llama.block_count", 1 << 31), ("llama.block_count", 0), ("llama.block_count", 2), ("llama.embedding_length", 0),
    ("llama.embedding_length", 1 << 31), ("llama.embedding_length", 16), ("llama.feed_forward_length", (1 << 31) - 1),
    ("llama.feed_forward_length", 0), ("llama.attention.head_count", 0), ("llama.attention.head_count", 3),
    ("llama.attention.head_count", (1 << 31) - 1), ("llama.attention.head_count_kv", 0),
    ("llama.attention.head_count_kv", 7), ("llama.context_length", 0), ("llama.rope.dimension_count", 2),
    ("llama.attention.key_length", 1 << 30), ("llama.attention.value_length", 1), ("llama.expert_count", 8),
    ("llama.rope.freq_base", -1.0), ("llama.rope.freq_base", float("nan")),
    ("llama.attention.layer_norm_rms_epsilon", float("inf")), ("llama.rope.scaling.type", "new"),
    ("general.architecture", "bert"), ("general.architecture", 7), ("split.count", 3),
    ("tokenizer.ggml.model", "rwkv"), ("tokenizer.ggml.pre", "unheard-of"), ("tokenizer.ggml.bos_token_id", 6),
    ("tokenizer.ggml.eos_token_id", 1 << 30), ("tokenizer.ggml.tokens", ["a"]),
    ("tokenizer.ggml.tokens", ["a", "a", "b", "c", "d", "e"]), ("tokenizer.ggml.tokens", [1, 2]),
    ("tokenizer.ggml.merges", ["a z"]), ("tokenizer.ggml.merges", ["ab"]), ("tokenizer.ggml.token_type", [1]),
    ("tokenizer.ggml.add_bos_token", 1), ("tokenizer.chat_template", 5),
    ("tokenizer.chat_template", "{% for %}"), ("tokenizer.chat_template", "{{ ''.__class__.__mro__ }}"),
    ("tokenizer.chat_template", "{{ 'x' * 10**10 }}"), ("tokenizer.chat_template", "x" * (1 << 17)),
    ("tokenizer.chat_template", "{% for i in range(10**9) %}{% endfor %}{{ messages[0].content }}<s>"),
    ("tokenizer.chat_template", "{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), SIZES)
def test_a_fact_that_cannot_be_is_told(tmp_path, made, key, value):
    """A failure would mean a bomb, a traceback, or code of the file that runs."""
    sizes = {"width": 8, "mlp": 8}
    facts = made.llama_facts(6, **sizes) | SMALL | {key: value}
    victim = tmp_path / "victim.gguf"
    victim.write_bytes(made.raw_llama(facts, made.llama_tensors(6, **sizes)).content)
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        lm = LanguageModel.load(victim)
        lm.prompt([{"role": "user", "content": "a"}])
    assert time.process_time() - began < SECONDS + 3  # a template has a budget of its own
    assert caught.value.where or caught.value.why


def test_tensors_that_do_not_fit_are_named(tmp_path, made):
    """A failure would mean that a layer of random numbers passes for a trained one."""
    facts = made.llama_facts(6, width=8, mlp=8) | SMALL

    def refused(change, *parts: str) -> None:
        tensors = made.llama_tensors(6, width=8, mlp=8)
        change(tensors)
        file = tmp_path / "victim.gguf"
        file.write_bytes(made.raw_llama(facts, tensors).content)
        with pytest.raises(UserError) as caught:
            load(file)
        for part in parts:
            assert part in str(caught.value)

    refused(lambda t: t.pop("blk.0.attn_q.weight"), "1 tensors are missing", "blk.0.attn_q.weight")
    refused(lambda t: t.update({"blk.0.extra": np.zeros(1, np.float32)}), "left over", "blk.0.extra")
    refused(
        lambda t: t.update({"blk.0.attn_q.weight": np.zeros((9, 8), np.float32)}),
        "of another shape",
        "[9, 8]",
    )
    refused(lambda t: t["blk.0.attn_q.weight"].__setitem__((0, 0), np.nan), "no finite numbers")
    refused(lambda t: t["output_norm.weight"].__setitem__(0, np.inf), "no finite numbers")
    refused(lambda t: t.pop("token_embd.weight"), "embedding does not fit")


@pytest.mark.parametrize("suffix", [".gguf", ".bin", ".pt", ".safetensors"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_is_refused(tmp_path, suffix, protocol):
    """A failure would mean that a model file can run code, or that the user is not told why it is refused."""

    class Attack:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "attacked",)

    file = tmp_path / f"model{suffix}"
    file.write_bytes(pickle.dumps(Attack(), protocol=protocol) + bytes(64))
    with pytest.raises(UserError) as caught:
        LanguageModel.load(file)
    assert not (tmp_path / "attacked").exists()
    assert protocol == 0 or "pickle" in str(caught.value)
