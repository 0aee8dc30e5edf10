"""What every model must keep, whatever its architecture: memory, padding, packing, saving, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmcraft.core import find
from lmcraft.data.batch import IGNORE
from lmcraft.layers.source import Source
from lmcraft.models import model as models
from lmcraft.models import weights
from lmcraft.train.loss import summed_cross_entropy

VOCAB = 61
SMALL = {"vocab": VOCAB, "context": 48, "layers": 2, "width": 32, "heads": 4}
VARIANTS = {
    "decoder": {
        "llama": {},
        "grouped": {"kv_heads": 2, "tied": False},
        "one-kv-head": {"kv_heads": 1, "head_width": 16},
        "window": {"window": 5},
        "window-grouped": {"window": 3, "kv_heads": 2},
        "gpt2": {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": "all"},
        "sinusoidal": {"positions": "sinusoidal", "mlp": "gelu", "tied": False, "dropout": 0.1},
        "qwen2": {"bias": "qkv"},
        "qwen3": {"qk_norm": True, "head_width": 16, "kv_heads": 2},
        "gemma3": {
            "norm": "sandwich",
            "mlp": "geglu",
            "qk_norm": True,
            "head_width": 16,
            "kv_heads": 2,
            "window": 5,
            "attention": {"full_layers": [1], "local_rope_base": 500.0, "score_width": 24},
            "rope": {"kind": "linear", "factor": 4},
        },
        "smollm3": {"attention": {"no_rope_layers": [0]}, "bias": "mlp"},
        "linear": {"rope": {"kind": "linear", "factor": 4}},
        "dynamic": {"rope": {"kind": "dynamic", "factor": 2}},  # changes with the length beyond 24 tokens
        "yarn": {"rope": {"kind": "yarn", "factor": 4}, "bias": "attention"},
        "llama3": {"rope": {"kind": "llama3", "factor": 4}},
    },
    "encdec": {
        "2017": {"placement": "post", "tied": False},
        "pre": {"dropout": 0.1, "encoder_layers": 1},
        "t5": {
            "positions": "relative",
            "norm": "rmsnorm",
            "mlp": "geglu",
            "bias": False,
            "embedding": "plain",
            "head_width": 16,
        },
        "bart": {
            "positions": "learned",
            "placement": "post",
            "mlp": "gelu_exact",
            "embedding": "normed",
            "output_bias": True,
        },
        "marian": {"positions": "sinusoidal_halves", "placement": "post", "mlp": "silu", "output_bias": True},
    },
    "rnn": {
        "rnn": {"cell": "rnn"},
        "lstm": {"cell": "lstm", "dropout": 0.1},
        "rnn-plain": {"cell": "rnn", "residual": False, "tied": False},
        "lstm-plain": {"cell": "lstm", "residual": False, "tied": False},
    },
    "seq2seq": {
        "additive": {},
        "none": {"attention": "none", "tied": False, "dropout": 0.1},
        "rnn": {"cell": "rnn", "encoder_layers": 1, "attention_width": 24},
        "rnn-none": {"cell": "rnn", "attention": "none", "bidirectional": False},
        "one-way": {"bidirectional": False, "encoder_layers": 3, "shared": False},
    },
}
CASES = [
    pytest.param(kind, settings, id=f"{kind}-{name}")
    for kind in find.names("models")
    for name, settings in VARIANTS.get(kind, {"default": {}}).items()
]
CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # float32 sums in another order; logits here have a spread of about 1
every_model = pytest.mark.parametrize("kind,settings", CASES)
every_source_reader = pytest.mark.parametrize(
    "kind,settings", [case for case in CASES if case.values[0] in ("encdec", "seq2seq")]
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(kind: str, settings: dict) -> nn.Module:
    """A tiny model with every parameter away from its initial constant."""
    torch.manual_seed(0)
    schema = find.module("models", kind).Config
    config = schema(**{k: v for k, v in SMALL.items() if k in schema.model_fields} | settings)
    model = models.build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def segments(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


SOURCE = [3, 1, 4, 1, 5]


def source_of(tokens_BT, segments_BT=None) -> Source:
    """The same short source for every document of every row."""
    if segments_BT is None:
        segments_BT = torch.ones_like(tokens_BT)
    numbers = [sorted({*row} - {0}) for row in segments_BT.tolist()]
    longest = max(map(len, numbers)) * len(SOURCE)
    tokens_BS = torch.zeros(len(tokens_BT), longest, dtype=torch.long)
    segments_BS = torch.zeros_like(tokens_BS)
    for b, row in enumerate(numbers):
        tokens_BS[b, : len(row) * len(SOURCE)] = torch.tensor(SOURCE * len(row))
        segments_BS[b, : len(row) * len(SOURCE)] = torch.tensor(row).repeat_interleave(len(SOURCE))
    return Source(tokens_BS, segments_BS)


def hidden(model, tokens_BT, segments_BT=None, memory=None) -> torch.Tensor:
    """Hidden vectors, with a source beside the tokens where the model reads one."""
    if model.reads_source and memory is None:
        return model(tokens_BT, segments_BT, source=source_of(tokens_BT, segments_BT))
    return model(tokens_BT, segments_BT, memory)


def start(model, rows: int, length: int):
    """An empty memory, the source read."""
    source = source_of(torch.ones(rows, 1, dtype=torch.long))
    return model.start(rows, length, source) if model.reads_source else model.start(rows, length)


@torch.no_grad()
def logits(model, tokens_BT, segments_BT=None, memory=None) -> torch.Tensor:
    return model.head(hidden(model, tokens_BT, segments_BT, memory))


@every_model
@pytest.mark.parametrize("cuts", [[20], [1] * 20, [7, 1, 1, 4, 6, 1], [1, 19], [19, 1]], ids=str)
def test_remembered_equals_recomputed(kind, settings, cuts):
    """A difference would mean that generation continues another text than the one the model was given."""
    model = build(kind, settings)
    tokens_BT = tokens(3, 20)
    memory = start(model, 3, 20)
    pieces = [logits(model, part, None, memory) for part in tokens_BT.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), logits(model, tokens_BT), **CLOSE)


@every_model
def test_ragged_prompts_with_memory_equal_each_row_alone(kind, settings):
    """A difference would mean that a request's answer depends on how long the other prompts of its batch are."""
    model = build(kind, settings)
    lengths, steps = [9, 1, 5, 12], 6
    whole = [tokens(length + steps, seed=10 + length) for length in lengths]
    prompts_BT = tokens(4, max(lengths), seed=99)  # what stands in the padding must not matter
    segments_BT = torch.zeros_like(prompts_BT)
    for b, length in enumerate(lengths):
        prompts_BT[b, :length], segments_BT[b, :length] = whole[b][:length], 1
    memory = start(model, 4, max(lengths) + steps)
    found = [logits(model, prompts_BT, segments_BT, memory)]
    found += [
        logits(
            model, torch.stack([w[n + t] for w, n in zip(whole, lengths, strict=True)])[:, None], None, memory
        )
        for t in range(steps)
    ]
    for b, length in enumerate(lengths):
        expected = logits(model, whole[b][None])[0]
        torch.testing.assert_close(found[0][b, :length], expected[:length], **CLOSE)
        torch.testing.assert_close(torch.cat([f[b] for f in found[1:]]), expected[length:], **CLOSE)


@every_model
def test_rows_that_are_kept_go_on_as_before(kind, settings):
    """A difference would mean that a request changes its answer when another one of the batch ends."""
    model = build(kind, settings)
    lengths = [4, 11, 7]
    whole = [tokens(length + 4, seed=20 + length) for length in lengths]
    prompts_BT, segments_BT = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long)
    for b, length in enumerate(lengths):
        prompts_BT[b, :length], segments_BT[b, :length] = whole[b][:length], 1
    memory = start(model, 3, 15)
    logits(model, prompts_BT, segments_BT, memory)
    alive = [0, 1, 2]
    for t, keep in enumerate([[0, 1, 2], [2, 0], [0], [0]]):
        memory.keep(keep)
        alive = [alive[i] for i in keep]
        step = torch.stack([whole[b][lengths[b] + t] for b in alive])[:, None]
        found = logits(model, step, None, memory)
        for row, b in enumerate(alive):
            expected = logits(model, whole[b][None, : lengths[b] + t + 1])[0, -1]
            torch.testing.assert_close(found[row, 0], expected, **CLOSE)


@every_model
def test_batch_equals_single_rows(kind, settings):
    """A difference would mean that rows of a batch influence each other."""
    model = build(kind, settings)
    tokens_BT = tokens(5, 17)
    single = torch.cat([logits(model, row[None]) for row in tokens_BT])
    torch.testing.assert_close(logits(model, tokens_BT), single, **CLOSE)


@every_model
def test_no_segments_means_one_document(kind, settings):
    """A difference would mean that training and scoring disagree about what a plain row is."""
    model = build(kind, settings)
    tokens_BT = tokens(2, 17)
    torch.testing.assert_close(
        logits(model, tokens_BT, torch.ones_like(tokens_BT)), logits(model, tokens_BT), **CLOSE
    )


@every_model
def test_future_tokens_do_not_show(kind, settings):
    """A difference would mean that the model is trained with the answer in sight."""
    model = build(kind, settings)
    tokens_BT = tokens(2, 20)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 12:] = (changed_BT[:, 12:] + 1) % VOCAB
    before, after = logits(model, tokens_BT), logits(model, changed_BT)
    torch.testing.assert_close(after[:, :12], before[:, :12], **CLOSE)
    assert (after[:, 12:] - before[:, 12:]).abs().max() > 0.01  # or the comparison would prove nothing


@every_model
@pytest.mark.parametrize(
    "layout",
    [
        [1] * 8 + [0] * 4,
        [0] * 4 + [1] * 8,
        [0, 0] + [1] * 5 + [0, 0] + [2] * 3,
        [1, 1, 0, 2, 2, 2, 0, 0, 3, 0, 4, 4],
    ],
    ids=["right", "left", "around", "between"],
)
def test_padding_has_no_effect(kind, settings, layout):
    """A difference would mean that loss or text depends on how much padding a row happens to have."""
    model = build(kind, settings)
    segments_BT = segments(layout)
    tokens_BT = tokens(1, len(layout))
    other_BT = torch.where(segments_BT == 0, (tokens_BT + 7) % VOCAB, tokens_BT)
    real_BT = segments_BT != 0
    with_padding = logits(model, tokens_BT, segments_BT)
    assert with_padding.isfinite().all()
    torch.testing.assert_close(
        logits(model, other_BT, segments_BT)[real_BT], with_padding[real_BT], rtol=0, atol=0
    )
    alone = [logits(model, tokens_BT[:, segments_BT[0] == n])[0] for n in sorted({*layout} - {0})]
    torch.testing.assert_close(with_padding[real_BT], torch.cat(alone), **CLOSE)


@every_model
def test_documents_of_a_row_do_not_see_each_other(kind, settings):
    """A difference would mean that packing changes what is learned (functionary#265: loss 37.6 instead of 44.1)."""
    model = build(kind, settings)
    layout = [1] * 6 + [2] * 1 + [3] * 9
    segments_BT, tokens_BT = segments(layout, layout), tokens(2, 16)
    packed = logits(model, tokens_BT, segments_BT)
    for number in (1, 2, 3):
        inside = segments_BT[0] == number
        torch.testing.assert_close(packed[:, inside], logits(model, tokens_BT[:, inside]), **CLOSE)
        changed_BT = torch.where(inside, (tokens_BT + 1) % VOCAB, tokens_BT)
        after = logits(model, changed_BT, segments_BT)
        assert torch.equal(after[:, ~inside], packed[:, ~inside])
        assert (after[:, inside] - packed[:, inside]).abs().max() > 0.01


@every_model
def test_gradients_do_not_cross_documents(kind, settings):
    """A gradient would mean that a document is trained by its neighbour's loss."""
    model = build(kind, settings)
    seen = []
    hook = model.embedding.register_forward_hook(lambda m, i, o: (o.retain_grad(), seen.append(o))[-1])
    hidden_BTD = hidden(model, tokens(1, 12), segments([1] * 7 + [2] * 5))
    hook.remove()
    hidden_BTD[:, 7:].square().sum().backward()
    assert (seen[0].grad[:, :7] == 0).all()
    assert (seen[0].grad[:, 7:].abs().sum(dim=-1) > 0).all()


@every_source_reader
def test_a_target_reads_its_own_source_only(kind, settings):
    """A difference would mean that a translation depends on its neighbours' sources or on padding."""
    model = build(kind, settings)
    layout, source_layout = segments([1] * 4 + [2] * 5 + [0]), segments([1] * 3 + [2] * 6 + [0] * 2)
    tokens_BT, source_BS = tokens(1, 10), tokens(1, 11, seed=5)
    with torch.no_grad():
        both = model.head(model(tokens_BT, layout, source=Source(source_BS, source_layout)))[0]
        for number in (1, 2, 0):
            other_BS = torch.where(source_layout == number, (source_BS + 1) % VOCAB, source_BS)
            changed = model.head(model(tokens_BT, layout, source=Source(other_BS, source_layout)))[0]
            for mine in (1, 2):
                same = torch.equal(changed[layout[0] == mine], both[layout[0] == mine])
                assert same == (mine != number)
        for number in (1, 2):
            own = Source.of(source_BS[:, source_layout[0] == number])
            alone = model.head(model(tokens_BT[:, layout[0] == number], source=own))[0]
            torch.testing.assert_close(both[layout[0] == number], alone, **CLOSE)


@every_source_reader
def test_a_remembered_source_equals_one_beside(kind, settings):
    """A difference would mean that the model writes something else than it was trained to."""
    model = build(kind, settings)
    tokens_BT, source_BS = tokens(3, 9), tokens(3, 7, seed=5)
    segments_BS = segments([1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6)
    source = Source(source_BS, segments_BS)
    with torch.no_grad():
        beside = model.head(model(tokens_BT, source=source))
        memory = model.start(3, 9, source)
        memory.keep([2, 0, 0])
        found = [model.head(model(part, None, memory)) for part in tokens_BT[[2, 0, 0]].split(1, dim=1)]
    torch.testing.assert_close(torch.cat(found, dim=1), beside[[2, 0, 0]], **CLOSE)


@every_model
def test_saved_model_loads_with_equal_logits(kind, settings, tmp_path):
    """A difference would mean that the model on disk is not the one that was trained."""
    model = build(kind, settings)
    tokens_BT = tokens(2, 16)
    weights.save(model, tmp_path / "model")
    back = weights.load(tmp_path / "model")
    assert torch.equal(logits(back, tokens_BT), logits(model, tokens_BT))
    assert back.config.tied == model.config.tied
    assert models.count_parameters(back) == models.count_parameters(model)
    assert (back.output.weight is back.embedding.weight) == model.config.tied
    weights.save(back, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


@every_model
def test_gradient_reaches_every_parameter(kind, settings):
    """A parameter without gradient would be saved and counted, but never learn."""
    model = build(kind, settings).train()
    targets_BT = tokens(4, 20, seed=2)
    targets_BT[:, :3] = IGNORE
    summed_cross_entropy(model, hidden(model, tokens(4, 20)), targets_BT).backward()
    # softmax does not see a bias of the keys unless rotation makes it depend on the position
    blind = ".k.bias" if getattr(model.config, "positions", "") != "rotary" else "\0"
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-4 or blind in name, name


@every_model
def test_dropout_acts_in_training_only(kind, settings):
    """A difference in evaluation would make scores random; none in training would mean that dropout is ignored."""
    model = build(kind, settings | {"dropout": 0.3})
    tokens_BT = tokens(2, 16)
    assert torch.equal(logits(model, tokens_BT), logits(model, tokens_BT))
    model.train()
    assert not torch.equal(logits(model, tokens_BT), logits(model, tokens_BT))


@every_model
def test_same_seed_gives_same_weights(kind, settings):
    """A difference would mean that a run cannot be repeated."""
    first, second = build(kind, settings), build(kind, settings)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@every_model
def test_says_how_long_it_reads(kind, settings):
    """Generation cuts at `max_length`; a wrong value would let it run past what the model has seen."""
    model = build(kind, settings)
    assert model.max_length in (None, 48)
    longest_BT = tokens(1, model.max_length or 200)
    assert logits(model, longest_BT).isfinite().all()
