"""BERT against `transformers`: same weights, same scores, both directions, padding; and Sentence-BERT's pooling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lmcraft.core.errors import UserError
from lmcraft.models import encoder, heads, weights
from lmcraft.models import model as models
from lmcraft.text.tokenizer import Tokenizer

SMALL = {
    "vocab_size": 67, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80,
    "max_position_embeddings": 40,
}  # fmt: skip
LABELS = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}, "label2id": {"O": 0, "B-PER": 1, "I-PER": 2}}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
CASES = {
    "words": (transformers.BertForMaskedLM, {}),
    "words-untied": (transformers.BertForMaskedLM, {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "pretraining": (transformers.BertForPreTraining, {"hidden_act": "relu"}),
    "classes": (transformers.BertForSequenceClassification, LABELS),
    "tags": (transformers.BertForTokenClassification, LABELS | {"classifier_dropout": 0.3}),
}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def reference(name: str):
    """A random model of `transformers`, every parameter away from its initial constant."""
    torch.manual_seed(0)
    kind, settings = CASES[name]
    model = kind(transformers.BertConfig(**SMALL | settings)).eval()
    return stirred(model)


def stirred(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def rows():
    """Token ids with padding of several lengths, and which are real."""
    tokens_BT = torch.randint(0, 67, (4, 40), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([40, 1, 17, 33])
    real_BT = (torch.arange(40)[None] < lengths[:, None]).long()
    return tokens_BT, real_BT


@torch.no_grad()
def theirs(model, tokens_BT, real_BT):
    found = model(input_ids=tokens_BT, attention_mask=real_BT)
    return found.prediction_logits if hasattr(found, "prediction_logits") else found.logits


@torch.no_grad()
def ours(model, tokens_BT, real_BT):
    scores = model.head(model(tokens_BT, real_BT))
    return scores[:, 0] if getattr(model.config, "task", "") == "classes" else scores


def compare(model, public):
    tokens_BT, real_BT = rows()
    found, expected = ours(model, tokens_BT, real_BT), theirs(public, tokens_BT, real_BT)
    real = real_BT.bool() if found.ndim == 3 else slice(None)
    torch.testing.assert_close(found[real], expected[real], **CLOSE)


@every_case
def test_scores_equal_transformers(name, tmp_path):
    """A difference would mean that a public BERT says something else here."""
    public = reference(name)
    public.save_pretrained(tmp_path)
    compare(weights.load(tmp_path), public)


@every_case
def test_what_we_save_is_read_by_transformers(name, tmp_path):
    """A difference would mean that nobody else can use what was trained here."""
    public = reference(name)
    public.save_pretrained(tmp_path / "theirs")
    model = stirred(weights.load(tmp_path / "theirs"))
    weights.save(model, tmp_path / "ours")
    kind = type(public) if name != "pretraining" else transformers.BertForMaskedLM
    back, facts = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not facts["missing_keys"] and not facts["unexpected_keys"] and not facts["mismatched_keys"]
    compare(model, back.eval())
    if name in ("classes", "tags"):
        assert back.config.id2label == {0: "O", 1: "B-PER", 2: "I-PER"}
    assert weights.load(tmp_path / "ours").config == model.config


def test_a_fresh_bert_is_read_by_transformers(tmp_path):
    """A difference would mean that the settings that are said to be BERT are not."""
    torch.manual_seed(0)
    bert = {"positions": "learned", "placement": "post", "token_types": 2, "embedding_norm": True}
    model = models.build(encoder.Config(vocab=67, context=40, layers=2, width=32, heads=2, **bert)).eval()
    weights.save(stirred(model), tmp_path)
    compare(model, transformers.BertForMaskedLM.from_pretrained(tmp_path).eval())


def test_the_names_of_2018(tmp_path):
    """A failure would mean that the first released BERTs cannot be read."""
    public = reference("words")
    public.save_pretrained(tmp_path)
    old = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        old[
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        ] = tensor
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(old, tmp_path / "model.safetensors")
    compare(weights.load(tmp_path), public)


def sentence_directory(place: Path, pooling: dict, modules: list[str], length: int | None = None):
    """A directory as sentence-transformers writes it; the bare encoder in it."""
    torch.manual_seed(0)
    public = stirred(transformers.BertModel(transformers.BertConfig(**SMALL)).eval())
    public.save_pretrained(place)
    types = [
        {"idx": i, "path": "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(modules)
    ]
    (place / "modules.json").write_text(json.dumps(types))
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 48} | pooling))
    if length:
        (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
    return public


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalized", [True, False])
def test_embeddings_equal_pooling_by_hand(pooling, normalized, tmp_path):
    """A difference would mean that sentences are compared by other vectors than everybody else's."""
    key = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}[pooling]
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalized else [])]
    public = sentence_directory(tmp_path / "a", {key: True, "pooling_mode_max_tokens": False}, modules, 20)
    model = weights.load(tmp_path / "a")
    assert model.max_length == 20 and model.config.context == 20
    weights.save(model, tmp_path / "b")
    tokens_BT, real_BT = rows()
    with torch.no_grad():
        hidden_BTD = public(input_ids=tokens_BT, attention_mask=real_BT).last_hidden_state
        mask_BT1 = real_BT[..., None].float()
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        expected_BD = mean_BD if pooling == "mean" else hidden_BTD[:, 0]
        if normalized:
            expected_BD = torch.nn.functional.normalize(expected_BD, dim=-1)
        for net in (model, weights.load(tmp_path / "b")):
            torch.testing.assert_close(net(tokens_BT, real_BT)[:, 0], expected_BD, **CLOSE)
    transformers.BertModel.from_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "1_Pooling" / "config.json").read_text())[key] is True


@pytest.mark.parametrize(
    "pooling,modules,what",
    [
        ({"pooling_mode_max_tokens": True}, ["Transformer", "Pooling"], "pooling_mode_max_tokens"),
        ({"pooling_mode_mean_tokens": True}, ["Transformer", "Pooling", "Dense"], "Dense"),
    ],
)
def test_other_sentence_models_are_refused(pooling, modules, what, tmp_path):
    """A failure would mean that a module is silently left out."""
    sentence_directory(tmp_path, pooling, modules)
    with pytest.raises(UserError, match=what):
        weights.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"position_embedding_type": "relative_key"}, {"is_decoder": True}, {"hidden_act": "silu"},
     {"architectures": ["BertForQuestionAnswering"]}, {"problem_type": "regression"}],
)  # fmt: skip
def test_what_would_change_the_function_is_refused(change, tmp_path):
    """A failure would mean that a setting is ignored and every number is a little wrong."""
    reference("words").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match="not supported"):
        weights.load(tmp_path)


def test_heads_that_bert_has_not_keep_our_own_names(tmp_path):
    """A failure would mean that a classifier of mean vectors is saved as one of [CLS] and says something else."""
    reference("words").save_pretrained(tmp_path / "base")
    model = heads.around(weights.load(tmp_path / "base"), task="classes", labels=("a", "b"), pooling="mean")
    weights.save(model, tmp_path / "own")
    assert json.loads((tmp_path / "own" / "config.json").read_text())["model_type"] == "lmcraft"
    tokens_BT, real_BT = rows()
    back = weights.load(tmp_path / "own")
    assert torch.equal(ours(back, tokens_BT, real_BT), ours(model.eval(), tokens_BT, real_BT))


def test_vocabulary_files_agree_with_transformers(tmp_path):
    """A difference would mean that a BERT reads other words than it was trained on."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "hello",
        "wor",
        "##ld",
        "##s",
        ",",
        "a",
        "##b",
        "京",
        "e",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    texts = ["Hello, worlds!", "ab abb HÉLLO 京京", "e é [MASK] [SEP] x", "  hello\t\nworld  ", ""]
    for lower in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        mine = Tokenizer.load(tmp_path)
        their = transformers.BertTokenizer.from_pretrained(tmp_path)
        for text in texts:
            assert mine.encode(text) == their(text, add_special_tokens=False)["input_ids"], text
        assert (mine.bos, mine.eos, mine.mask, mine.pad) == (2, 3, 4, 0)
        mine.save(tmp_path / "saved")
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
        assert again("hello")["input_ids"] == [2, 5, 3]
        assert (again.cls_token, again.sep_token, again.mask_token) == ("[CLS]", "[SEP]", "[MASK]")
