"""Tokenizers of the public kinds, made tiny: same ids as transformers, the right special tokens, clear refusals."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from lmcraft.core.errors import UserError
from lmcraft.text.tokenizer import Tokenizer

TEXTS = [
    "hello world, how are you? The quick brown fox",
    "It's 12345 é 日本\n\nnew  line",
    "[INST] x [/INST]",
    "",
]
CORPUS = TEXTS * 4


def write(directory: Path, library: Library, **files: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    library.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def byte_level(specials: list[str], split: str | None = None, vocab: int = 320) -> Library:
    """GPT-2 without `split`; Llama 3 and Qwen with it."""
    library = Library(models.BPE())
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)]
    if split is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(split), "isolated"))
    library.pre_tokenizer = pre_tokenizers.Sequence(steps)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    )
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return library


def gpt2(directory: Path) -> Path:
    library = byte_level(["<|endoftext|>"])
    end = library.token_to_id("<|endoftext|>")
    return write(directory, library, tokenizer_config={}, config={"bos_token_id": end, "eos_token_id": end})


def qwen(directory: Path) -> Path:
    library = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], r"\p{L}+|\p{N}|[^\p{L}\p{N}]")
    library.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    ids = {token: library.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>")}
    return write(
        directory,
        library,
        tokenizer_config={
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": "{{ '<|im_start|>' }}{{ '<|im_end|>' }}",
        },
        config={"bos_token_id": ids["<|endoftext|>"]},
        generation_config={"eos_token_id": list(ids.values()), "pad_token_id": ids["<|endoftext|>"]},
    )


def llama3(directory: Path) -> Path:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    library = byte_level(names, r"\p{L}+|\p{N}{1,3}|[^\p{L}\p{N}]+")
    bos = library.token_to_id("<|begin_of_text|>")
    library.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    stops = [library.token_to_id("<|end_of_text|>"), library.token_to_id("<|eot_id|>")]
    return write(
        directory,
        library,
        special_tokens_map={"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|end_of_text|>"},
        generation_config={"eos_token_id": stops},
    )


def llama2(directory: Path) -> Path:
    """SentencePiece as BPE: a space before the first word, bytes for unknown characters."""
    letters = sorted({c for text in TEXTS for c in text if c.isascii() and c not in " \n"})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello"), ("▁", "w"), ("o", "u")]
    for left, right in merges:
        pieces.append(left + right)
    vocab = {piece: number for number, piece in enumerate(pieces)}
    library = Library(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    )
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return write(
        directory,
        library,
        tokenizer_config={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None,
                          "chat_template": "{{ eos_token }}"},
    )  # fmt: skip


KINDS = {kind.__name__: kind for kind in (gpt2, qwen, llama3, llama2)}


@pytest.fixture(params=KINDS)
def public(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, KINDS[request.param](tmp_path / request.param)


def reference(directory: Path):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))


def test_ids_are_those_of_transformers(public: tuple[str, Path]) -> None:
    """If this failed, a public model would be fed other tokens than those it was trained on."""
    _, directory = public
    ours, theirs = Tokenizer.load(directory), reference(directory)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == text


def test_no_public_tokenizer_adds_bos(public: tuple[str, Path]) -> None:
    """If this failed, a template or document that writes BOS would get two of them (trap 5)."""
    _, directory = public
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode("hello"))
    if tokenizer.roles.bos:
        assert tokenizer.encode(tokenizer.roles.bos + "hello").count(tokenizer.bos) == 1


def test_roles_are_read(public: tuple[str, Path]) -> None:
    """If this failed, generation would run past its end, or texts would begin with the wrong token (trap 4)."""
    kind, directory = public
    roles = Tokenizer.load(directory).roles
    expected = {
        "gpt2": ("<|endoftext|>", "<|endoftext|>", None, None),
        "qwen": (None, "<|im_end|>", "<|endoftext|>", "<|im_end|>"),
        "llama3": ("<|begin_of_text|>", "<|end_of_text|>", None, "<|eot_id|>"),
        "llama2": ("<s>", "</s>", None, "</s>"),
    }
    assert (roles.bos, roles.eos, roles.pad, roles.end_of_turn) == expected[kind]


@pytest.mark.parametrize(
    ("kind", "stops"),
    [("qwen", {"<|endoftext|>", "<|im_end|>"}), ("llama3", {"<|end_of_text|>", "<|eot_id|>"})],
)
def test_everything_that_generation_stops_at_is_known(kind: str, stops: set[str], tmp_path: Path) -> None:
    """If this failed, a model that ends its text with one token and its turns with another would not stop (trap 4)."""
    tokenizer = Tokenizer.load(KINDS[kind](tmp_path))
    assert {tokenizer.decode([number], skip_special=False) for number in tokenizer.stop_ids} == stops


def test_special_texts_can_be_ordinary(public: tuple[str, Path]) -> None:
    """If this failed, a user could end the turn or begin a system message by writing the token's name."""
    _, directory = public
    tokenizer = Tokenizer.load(directory)
    for token, number in tokenizer.specials.items():
        text = f"say {token}{token} now"
        assert tokenizer.encode(text).count(number) == 2
        assert tokenizer.special_ids.isdisjoint(tokenizer.encode_plain(text))
        assert tokenizer.decode(tokenizer.encode_plain(text)) == text


def test_added_words_that_are_not_special_stay_words(tmp_path: Path) -> None:
    """If this failed, the thoughts of a thinking model would be spelled letter by letter in training data."""
    tokenizer = Tokenizer.load(qwen(tmp_path))
    assert tokenizer.encode_plain("<think>") == [tokenizer.id("<think>")]
    assert tokenizer.id("<think>") not in tokenizer.special_ids


def test_tokens_are_bytes(public: tuple[str, Path]) -> None:
    """If this failed, bits per byte and shown tokens would be wrong for that kind of vocabulary."""
    kind, directory = public
    tokenizer = Tokenizer.load(directory)
    for text in TEXTS:
        found = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text)))
        assert found.removeprefix(b" " if kind == "llama2" else b"") == text.encode()
    for text, number in tokenizer.specials.items():
        assert tokenizer.token_bytes(number) == text.encode()


def test_pieces_go_on_without_a_new_beginning(tmp_path: Path) -> None:
    """If this failed, each turn of a Llama 2 conversation would begin with a space that nobody wrote."""
    tokenizer = Tokenizer.load(llama2(tmp_path))
    whole = "<s>[INST] hello [/INST] hello world</s><s>[INST] hello"
    pieces = ["<s>[INST] hello [/INST]", " hello world</s>", "<s>[INST] hello"]
    pairs = [(tokenizer.context("".join(pieces[:n])), piece) for n, piece in enumerate(pieces)]
    assert [number for ids in tokenizer.encode_after(pairs) for number in ids] == tokenizer.encode(whole)
    assert tokenizer.encode(" hello world")[0] != tokenizer.encode_after([("\n", " hello world")])[0][0]


def test_a_saved_tokenizer_is_one_for_transformers(tmp_path: Path) -> None:
    """If this failed, an exported model could not be used by anybody else, or would read other tokens."""
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.train(CORPUS, 320)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "<|im_start|>user\nhello<|im_end|>\n"]:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == tokenizer.decode(
            tokenizer.encode(text), skip_special=False
        )
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        tokenizer.bos, tokenizer.eos, tokenizer.pad
    )  # fmt: skip
    assert "<|im_end|>" in theirs.all_special_tokens and len(theirs) == tokenizer.size


def test_public_tokenizers_survive_saving(public: tuple[str, Path], tmp_path: Path) -> None:
    """If this failed, fine-tuning a public model would change its tokenizer on the way."""
    _, directory = public
    tokenizer = Tokenizer.load(directory)
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
    assert (again.bos, again.eos, again.pad) == (tokenizer.bos, tokenizer.eos, tokenizer.pad)


def test_settings_that_cut_or_pad_are_not_followed(tmp_path: Path) -> None:
    """If this failed, a file made for 512 tokens would silently cut every document (trap 8)."""
    library = byte_level(["<|endoftext|>"])
    library.enable_truncation(4)
    library.enable_padding(length=16)
    tokenizer = Tokenizer.load(write(tmp_path, library))
    assert tokenizer.decode(tokenizer.encode("The quick brown fox jumps")) == "The quick brown fox jumps"


def test_a_lone_file_is_enough(tmp_path: Path) -> None:
    """If this failed, a tokenizer.json without its neighbours could not be looked at."""
    file = write(tmp_path, byte_level(["<s>", "</s>", "<|im_end|>"])) / "tokenizer.json"
    roles = Tokenizer.load(file).roles
    assert (roles.bos, roles.eos, roles.end_of_turn) == ("<s>", "</s>", "<|im_end|>")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}'),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "Nothing", "vocab": {}}}'),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b'{"bos_token": 7}'),
        ("tokenizer_config.json", b'{"eos_token": "<nowhere>"}'),
        ("special_tokens_map.json", b"nonsense"),
        ("generation_config.json", b"\x80"),
    ],
)
def test_damaged_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    """If this failed, a half-downloaded model would end in a traceback, or load with the wrong tokens."""
    Tokenizer.train(CORPUS, 300).save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        Tokenizer.load(tmp_path)
    assert name in (error.value.where or "") or str(tmp_path) in (error.value.where or "")


@pytest.mark.parametrize(
    "content",
    [{"eos_token_id": -1}, {"eos_token_id": 1 << 40}, {"eos_token_id": "x"}, {"eos_token_id": [None, 9999]}],
)
def test_senseless_ids_are_left_out(content: dict, tmp_path: Path) -> None:
    """If this failed, an id outside the vocabulary could index past a model's embedding."""
    tokenizer = Tokenizer.train(CORPUS, 300)
    tokenizer.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert Tokenizer.load(tmp_path).stop_ids == tokenizer.stop_ids


def test_a_place_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    """If this failed, a wrong path would be a traceback."""
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "x.json"):
        with pytest.raises(UserError, match="no tokenizer"):
            Tokenizer.load(place)


def test_no_damage_brings_down_the_reader(tmp_path: Path) -> None:
    """If this failed, a damaged or hostile tokenizer.json would be a crash instead of a message."""
    Tokenizer.train(CORPUS, 300).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    good, chance, outcomes = file.read_bytes(), random.Random(0), set()
    for _ in range(2000):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(content))
            match chance.randrange(4):
                case 0:
                    content[place] = chance.randrange(256)
                case 1:
                    del content[place : place + chance.randint(1, 200)]
                case 2:
                    content[place:place] = bytes(chance.choices(b'{}[]",:0123456789-etrufalsn\\', k=4))
                case 3:
                    content = content[: place + 1]
        file.write_bytes(content)
        try:
            tokenizer = Tokenizer.load(tmp_path)
            ids = tokenizer.encode("hello <|im_end|> é") + tokenizer.encode_plain("hello <|im_end|> é")
            assert all(0 <= number < tokenizer.size for number in ids)
            outcomes.add("read")
        except UserError as error:
            assert error.where
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
