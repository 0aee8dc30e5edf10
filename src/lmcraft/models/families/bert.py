"""BERT: the encoder with post-norm and learned positions, its heads for words, texts and tokens, and Sentence-BERT.

Devlin et al., arXiv 1810.04805; Reimers and Gurevych, arXiv 1908.10084.

1. `architectures` says what stands on the encoder: BertForMaskedLM (or ForPreTraining, whose head for next sentences
   is left out) is an encoder; BertForSequenceClassification and BertForTokenClassification are heads of classes, tags.
2. A bare BertModel is read as an embedding model: as modules.json and 1_Pooling/config.json say, where sentence-
   transformers has written them, else as the mean of all positions.
3. The release of 2018 called the two parts of a norm gamma and beta.

Proved by tests/parity/test_bert.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import encoder, heads
from .family import Link, refusal, require

TYPES = {"bert": "BertForMaskedLM"}
PREFIXES = {"": "bert.", "bert.": ""}
LEFT_OUT = {
    r"(bert\.)?embeddings\.position_ids": "numbers 0, 1, 2 … as a buffer",
    r"cls\.seq_relationship\.(weight|bias)": "the head for next sentences",
    r"(bert\.)?pooler\.dense\.(weight|bias)": "a pooler that the head does not use",
    r"cls\.predictions\..*": "the head for words, which another head replaces",
}
MODULES, POOLING, LENGTH = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
BESIDE = (MODULES, POOLING, LENGTH)

WORDS = ("BertForMaskedLM", "BertForPreTraining")
CLASSES, TAGS, BARE = "BertForSequenceClassification", "BertForTokenClassification", "BertModel"
ACTIVATIONS = {"gelu": "gelu_exact", "gelu_new": "gelu", "relu": "relu"}
POOLS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}


def from_public(public: dict[str, Any], where: str) -> encoder.Config | heads.Config:
    """Our Config of a config.json and the files beside it."""
    require(
        public, where, hidden_act=tuple(ACTIVATIONS), position_embedding_type=("absolute",), is_decoder=(False,),
        add_cross_attention=(False,), problem_type=(None, "single_label_classification"),
    )  # fmt: skip
    body = encoder.Config(
        vocab=public["vocab_size"], context=public.get("max_position_embeddings", 512),
        layers=public["num_hidden_layers"], width=public["hidden_size"], heads=public["num_attention_heads"],
        mlp_width=public["intermediate_size"], positions="learned", norm="layernorm",
        norm_eps=public.get("layer_norm_eps", 1e-12), placement="post",
        mlp=ACTIVATIONS[public.get("hidden_act", "gelu")], token_types=public.get("type_vocab_size", 2),
        embedding_norm=True, transform=True, tied=public.get("tie_word_embeddings", True),
        dropout=public.get("hidden_dropout_prob", 0.1),
    )  # fmt: skip
    name = (public.get("architectures") or [BARE])[0]
    if name in WORDS:
        return body
    if name in (CLASSES, TAGS):
        labels = _labels(public, where)
        dropout = public.get("classifier_dropout")
        dropout = body.dropout if dropout is None else dropout
        if name == TAGS:
            return heads.Config(task="tags", body=body, labels=labels, dropout=dropout)
        return heads.Config(
            task="classes", body=body, labels=labels, pooling="cls", pooler=True, dropout=dropout
        )
    if name == BARE:
        return _embedding(public, body, where)
    raise refusal(
        f"architectures = {name!r}", where, f"supported: {', '.join((*WORDS, CLASSES, TAGS, BARE))}"
    )


def _labels(public: dict[str, Any], where: str) -> tuple[str, ...]:
    """The names of the classes in the order of their numbers."""
    named = public.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    by_number = {int(number): str(label) for number, label in named.items()}
    if sorted(by_number) != list(range(len(by_number))) or len(by_number) < 2:
        raise refusal("this id2label", where, "it must name the classes 0, 1, … , at least two")
    return tuple(by_number[number] for number in range(len(by_number)))


def _embedding(public: dict[str, Any], body: encoder.Config, where: str) -> heads.Config:
    """A bare encoder, pooled as the files of sentence-transformers say."""
    modules = public.get(MODULES)
    if modules is None:
        return heads.Config(task="embedding", body=body, pooling="mean", normalized=False)
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise refusal(
            f"the sequence of modules {', '.join(kinds)}", where, "Transformer, Pooling and Normalize are"
        )
    said = public[POOLING]
    chosen = [name for name, key in POOLS.items() if said.get(key)]
    others = [key for key, on in said.items() if key.startswith("pooling_mode_") and on is True]
    if len(chosen) != 1 or len(others) != 1:
        raise refusal(
            f"pooling by {', '.join(others) or 'nothing'}", where, f"one of {', '.join(POOLS.values())} is"
        )
    return heads.Config(
        task="embedding", body=body, pooling=chosen[0], normalized="Normalize" in kinds,
        longest=(public.get(LENGTH) or {}).get("max_seq_length"),
    )  # fmt: skip


def to_public(config: Any) -> dict[str, Any]:
    """The config.json of a Config."""
    body = config.body if isinstance(config, heads.Config) else config
    activation = next(public for public, ours in ACTIVATIONS.items() if ours == body.mlp)
    public = {
        "architectures": [_class(config)], "model_type": "bert", "vocab_size": body.vocab,
        "hidden_size": body.width, "num_hidden_layers": body.layers, "num_attention_heads": body.heads,
        "intermediate_size": body.mlp_width, "hidden_act": activation, "hidden_dropout_prob": body.dropout,
        "attention_probs_dropout_prob": 0.0, "max_position_embeddings": body.context,
        "type_vocab_size": body.token_types, "layer_norm_eps": body.norm_eps, "tie_word_embeddings": body.tied,
        "position_embedding_type": "absolute", "torch_dtype": "float32",
    }  # fmt: skip
    if isinstance(config, heads.Config) and config.labels:
        public |= {
            "id2label": {str(number): label for number, label in enumerate(config.labels)},
            "label2id": {label: number for number, label in enumerate(config.labels)},
            "classifier_dropout": config.dropout,
        }
    return public


def files(config: Any) -> dict[str, Any]:
    """What sentence-transformers reads beside config.json, by file name; nothing for other models."""
    if not isinstance(config, heads.Config) or config.task != "embedding":
        return {}
    parts = ["Transformer", "Pooling", *(["Normalize"] if config.normalized else [])]
    modules = [
        {"idx": n, "name": str(n), "path": "" if n == 0 else f"{n}_{kind}",
         "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(parts)
    ]  # fmt: skip
    pooling = {key: name == config.pooling for name, key in POOLS.items()}
    return {
        MODULES: modules,
        POOLING: {"word_embedding_dimension": config.body.width, **pooling},
        LENGTH: {"max_seq_length": config.longest or config.body.context, "do_lower_case": False},
    }


def expresses(config: Any) -> bool:
    """Whether a Config describes a BERT, with a head that its public classes have."""
    if isinstance(config, heads.Config):
        if config.task == "score":
            return False
        on_top = config.task != "classes" or (config.pooling == "cls" and config.pooler)
        enough = config.task == "embedding" or len(config.labels) > 1
        return on_top and enough and isinstance(config.body, encoder.Config) and _is_bert(config.body)
    return isinstance(config, encoder.Config) and _is_bert(config)


def _is_bert(body: encoder.Config) -> bool:
    looks = (body.positions, body.norm, body.placement, body.bias, body.embedding_norm, body.transform)
    known = body.mlp in ACTIVATIONS.values() and body.token_types > 0
    return looks == ("learned", "layernorm", "post", True, True, True) and known


def _class(config: Any) -> str:
    task = config.task if isinstance(config, heads.Config) else "words"
    return {"words": WORDS[0], "classes": CLASSES, "tags": TAGS, "embedding": BARE}[task]


def links(config: Any) -> Iterator[Link]:
    """All tensors."""
    name = _class(config)
    ours, public = ("", "bert.") if name in WORDS else ("body.", "" if name == BARE else "bert.")
    body = config.body if isinstance(config, heads.Config) else config
    tied = ("cls.predictions.decoder.weight",) if name in WORDS and body.tied else ()
    yield Link(f"{public}embeddings.word_embeddings.weight", (f"{ours}embedding.weight",), copies=tied)
    yield Link(f"{public}embeddings.position_embeddings.weight", (f"{ours}position.weight",))
    yield Link(f"{public}embeddings.token_type_embeddings.weight", (f"{ours}token_type.weight",))
    yield from _norm(f"{public}embeddings.LayerNorm", f"{ours}embedding_norm")
    for i in range(body.layers):
        there, here = f"{public}encoder.layer.{i}", f"{ours}blocks.{i}"
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
            yield from _linear(f"{there}.attention.self.{word}", f"{here}.attn.{letter}")
        yield from _linear(f"{there}.attention.output.dense", f"{here}.attn.out")
        yield from _norm(f"{there}.attention.output.LayerNorm", f"{here}.attn_norm")
        yield from _linear(f"{there}.intermediate.dense", f"{here}.mlp.up")
        yield from _linear(f"{there}.output.dense", f"{here}.mlp.down")
        yield from _norm(f"{there}.output.LayerNorm", f"{here}.mlp_norm")
    if name in WORDS:
        yield from _linear("cls.predictions.transform.dense", "transform.dense")
        yield from _norm("cls.predictions.transform.LayerNorm", "transform.norm")
        if body.tied:
            yield Link("cls.predictions.bias", ("output.bias",), copies=("cls.predictions.decoder.bias",))
        else:  # the class then has two biases and adds the second one
            yield Link("cls.predictions.bias", ("output.bias",))
            yield from _linear("cls.predictions.decoder", "output")
    if name == CLASSES:
        yield from _linear("bert.pooler.dense", "pooler")
    if name in (CLASSES, TAGS):
        yield from _linear("classifier", "output")


def _linear(public: str, ours: str) -> Iterator[Link]:
    for part in ("weight", "bias"):
        yield Link(f"{public}.{part}", (f"{ours}.{part}",))


def _norm(public: str, ours: str) -> Iterator[Link]:
    for part, old in (("weight", "gamma"), ("bias", "beta")):
        yield Link(f"{public}.{part}", (f"{ours}.{part}",), copies=(f"{public}.{old}",))
