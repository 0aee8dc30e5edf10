"""Tokenizers out of GGUF files: splits by name, scores as merges, special tokens, exactly one BOS."""

from __future__ import annotations

import io
import random

import pytest

from lmcraft.core import gguf
from lmcraft.core.errors import UserError
from lmcraft.generate.language_model import LanguageModel
from lmcraft.text import gguf_tokenizer
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

# What each split makes of a text, by the published tokenizer.json of the model it is called after; ▁ for a space.
CUT = {
    "gpt-2": ("We'll  see 1234\n\n x", ["We", "'ll", "▁", "▁see", "▁1234", "ĊĊ", "▁x"]),
    "smollm": ("a  12 b", ["a", "▁▁", "1", "2", "▁b"]),
    "llama-bpe": ("I'LL go: 12345\n\n x", ["I", "'LL", "▁go", ":", "▁", "123", "45", "ĊĊ", "▁x"]),
    "qwen2": ("I'LL 123 (x)\n", ["I", "'LL", "▁", "1", "2", "3", "▁(", "x", ")Ċ"]),
    "gpt-4o": ("CamelCase's 1234//\n", ["Camel", "Case's", "▁", "123", "4", "//Ċ"]),
    "tekken": ("CamelCase's 12", ["Camel", "Case", "'s", "▁", "1", "2"]),
    "default": ("a+b 12345 x.", ["a", "+", "b", "▁", "123", "45", "▁x", "."]),
}  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_each_split_cuts_as_its_model_does(files, name):
    """A failure would mean that a model reads pieces it has never seen, and is a little worse without a word."""
    library, _ = gguf_tokenizer.build(gguf.read(files.llama(files.bpe_facts(name))))
    text, expected = CUT[name]
    assert [piece.replace("Ġ", "▁") for piece, _ in library.pre_tokenizer.pre_tokenize_str(text)] == expected


def test_an_unknown_split_is_refused_and_a_missing_one_told(files, capsys):
    """A failure would mean that some other split is used in silence."""
    with pytest.raises(UserError, match="splits text as 'deepseek-r9'"):
        Tokenizer.load(files.llama(files.bpe_facts("deepseek-r9")))
    assert "warning" not in capsys.readouterr().err
    Tokenizer.load(files.llama(files.bpe_facts(None)))
    assert "does not say how its tokenizer splits" in capsys.readouterr().err


def test_a_word_that_is_a_token_needs_no_merges(files):
    """A failure would mean that Llama 3's longest tokens are never used."""
    facts = files.bpe_facts("llama-bpe")
    facts["tokenizer.ggml.tokens"].append("zzz")
    facts["tokenizer.ggml.token_type"].append(1)
    number = len(facts["tokenizer.ggml.tokens"]) - 1
    assert Tokenizer.load(files.llama(facts)).encode("zzz") == [number]
    assert Tokenizer.load(files.llama(facts | {"tokenizer.ggml.pre": "gpt-2"})).encode("zzz") != [number]


def test_qwen_composes_accents(files):
    """A failure would mean that the same letter has two sets of ids, one of which was never trained."""
    tokenizer = Tokenizer.load(files.llama(files.bpe_facts("qwen2")))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")


def test_special_tokens_have_their_roles(files):
    """A failure would mean that generation never stops, or that a user's text can end a turn."""
    facts = files.bpe_facts() | {"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": 2}
    tokenizer = Tokenizer.load(files.llama(facts))
    roles = tokenizer.roles
    assert (roles.bos, roles.eos, roles.pad, roles.end_of_turn) == (
        "<|im_start|>", "<|endoftext|>", "<|im_end|>", "<|im_end|>",
    )  # fmt: skip
    assert tokenizer.stop_ids == [0, 2] and tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.encode("<|im_end|>") == [2] and 2 not in tokenizer.encode_plain("<|im_end|>")


def test_user_defined_tokens_are_whole_and_not_special(files):
    """A failure would mean that `<think>` is cut into pieces, or that it vanishes from what is shown."""
    facts = files.bpe_facts()
    facts["tokenizer.ggml.tokens"].append("<think>")
    facts["tokenizer.ggml.token_type"].append(4)
    tokenizer = Tokenizer.load(files.llama(facts))
    number = len(facts["tokenizer.ggml.tokens"]) - 1
    assert tokenizer.encode("a<think>b")[1] == number and number not in tokenizer.special_ids
    assert tokenizer.decode([number]) == "<think>"


@pytest.mark.parametrize("facts", ["bpe_facts", "spm_facts"])
def test_any_text_comes_back(files, facts):
    """A failure would mean that some characters are lost."""
    tokenizer = Tokenizer.load(files.llama(getattr(files, facts)()))
    draw = random.Random(0)
    for _ in range(100):
        text = "".join(draw.choice("ab thing\n\tä日😀\u0301\u00a0.1") for _ in range(draw.randint(1, 30)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


TEXT = """the quick brown fox jumps over the lazy dog and then the dog thinks about the thing it should have done
 when the fox was still there; nothing of that kind had ever happened to him before, he thought, and slept again"""


@pytest.mark.parametrize("prefix", [True, False])
def test_scores_are_merged_as_sentencepiece_does(files, prefix):
    """A failure would mean that models with SentencePiece vocabularies (Llama 2, Gemma) read other tokens."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n") * 3), model_writer=model, vocab_size=360, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=prefix, remove_extra_whitespaces=False, minloglevel=2,
        normalization_rule_name="identity", user_defined_symbols=["▁" * n for n in range(2, 12)],
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = theirs.vocab_size()
    pieces = [theirs.id_to_piece(number) for number in range(size)]
    runs = [piece.replace("▁", " ") if set(piece) == {"▁"} and len(piece) > 1 else piece for piece in pieces]
    tests = (
        (2, theirs.is_unknown),
        (3, theirs.is_control),
        (6, theirs.is_byte),
        (4, lambda n: " " in runs[n]),
    )
    kinds = [next((kind for kind, test in tests if test(n)), 1) for n in range(size)]
    facts = files.spm_facts(prefix) | {
        "tokenizer.ggml.tokens": runs, "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [theirs.get_score(n) for n in range(size)],
    }  # fmt: skip
    ours = Tokenizer.load(files.llama(facts))
    draw = random.Random(0)
    words = [*TEXT.split(), "fox  dog", "Ärger", "日", "…", "", "thethe", "nothing.", "\n", "   x"]
    texts = [" ".join(draw.choice(words) for _ in range(draw.randint(1, 8))) for _ in range(1000)]
    differ = [text for text in texts if text and ours.encode(text) != theirs.encode(text)]
    assert not differ, (len(differ), differ[0], ours.encode(differ[0]), theirs.encode(differ[0]))


@pytest.mark.parametrize("adds", [None, True, False])
@pytest.mark.parametrize("kind", ["bpe_facts", "spm_facts"])
def test_exactly_one_bos(files, kind, adds):
    """A failure would mean that BOS is doubled or missing on some path."""
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' ' + m['content'] + eos_token }}{% endfor %}"
    )
    facts = getattr(files, kind)() | {"tokenizer.chat_template": template}
    facts.pop("tokenizer.ggml.add_bos_token", None)
    if adds is not None:
        facts["tokenizer.ggml.add_bos_token"] = adds
    file = files.llama(facts)
    lm = LanguageModel.load(file)
    expected = int(kind == "spm_facts" if adds is None else adds)
    bos = lm.tokenizer.bos
    assert lm.ids("the thing").count(bos) == lm.document("the thing").count(bos) == expected
    assert lm.prompt([{"role": "user", "content": "the"}]).count(bos) == 1
    assert ChatTemplate.load(file, lm.tokenizer).source == template and ChatTemplate.exists(file)

    from transformers import AutoTokenizer

    lm.save(files.folder / "saved")
    again = LanguageModel.load(files.folder / "saved")
    theirs = AutoTokenizer.from_pretrained(files.folder / "saved")
    assert again.ids("the thing") == lm.ids("the thing") == theirs("the thing").input_ids
    talk = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "thing"}]
    assert again.template.encode(talk).ids.count(bos) == 1
    assert again.prompt(talk[:1]) == lm.prompt(talk[:1])


def test_llama_3_begins_texts_by_itself(files):
    """A failure would mean that files of Llama 3 which do not say so get no BOS."""
    facts = files.bpe_facts("llama-bpe")
    del facts["tokenizer.ggml.add_bos_token"]
    assert Tokenizer.load(files.llama(facts)).beginning == [1]
    assert Tokenizer.load(files.llama(facts | {"tokenizer.ggml.pre": "qwen2"})).beginning == []


def test_a_template_that_attacks_runs_into_the_sandbox(files):
    """A failure would mean that a chat template out of a GGUF file can reach the machine."""
    attacks = (
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append }}{{ lipsum.__globals__['os'] }}",
    )
    for attack in attacks:
        file = files.llama(files.bpe_facts() | {"tokenizer.chat_template": attack + "<|im_end|>"})
        lm_tokenizer = Tokenizer.load(file)
        with pytest.raises(UserError):
            ChatTemplate.load(file, lm_tokenizer).prompt([{"role": "user", "content": "a"}])
