"""LoRA against the library peft: forward, gradients, training steps, and its directory format in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from torch import nn

from lmcraft.adapt import adapter, directory, entries, lora
from lmcraft.adapt.base import fingerprint
from lmcraft.core.errors import UserError
from lmcraft.models import weights

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.*is_gradient_checkpointing:FutureWarning"
    ),  # peft asks transformers so
    pytest.mark.filterwarnings(
        "ignore:.*ensure_weight_tying:UserWarning"
    ),  # both beside a tied weight, on purpose
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers:UserWarning"),
]
IDS = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(3))
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def llama(**settings) -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True, **settings,
        )
    )  # fmt: skip


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
    )  # fmt: skip


def gemma() -> nn.Module:
    return transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=32, sliding_window=8,
        )
    )  # fmt: skip


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0, num_labels=3,
        )
    )  # fmt: skip


MAKERS = {"llama": llama, "gpt2": gpt2, "gemma": gemma, "bert": bert}
# For each model: peft's names, and ours for the same modules.
TARGETS = {
    "llama": ([*PROJECTIONS, "gate_proj", "up_proj", "down_proj"], ()),
    "gpt2": (["c_attn", "c_fc", "attn.c_proj", "mlp.c_proj"], ()),
    "gemma": (["q_proj", "v_proj", "down_proj"], ("attn.q", "attn.v", "mlp.down")),
    "bert": (["query", "value"], ("attn.q", "attn.v")),
}


@pytest.fixture(scope="module", params=MAKERS)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def place(tmp_path_factory, family) -> Path:
    """The directory of a public model with random weights."""
    torch.manual_seed(0)
    found = tmp_path_factory.mktemp(family)
    MAKERS[family]().eval().save_pretrained(found)
    return found


def theirs(place: Path, family: str) -> nn.Module:
    return type(MAKERS[family]()).from_pretrained(place, dtype=torch.float32).eval()


def peft_config(family: str, **settings) -> peft.LoraConfig:
    task = {"task_type": "SEQ_CLS"} if family == "bert" else {"task_type": "CAUSAL_LM"}
    settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS[family][0], **task, **settings}
    return peft.LoraConfig(**settings, fan_in_fan_out=family == "gpt2")


def stir(model: nn.Module, wanted: str) -> None:
    """Gives trained tensors other numbers than those they begin with."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad and wanted in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def our_logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found = model.head(model(IDS))
    return found[:, 0] if getattr(model.config, "task", "") == "classes" else found


def ours(place: Path, **settings) -> nn.Module:
    model = weights.load(place)
    adapter.freeze(model)
    under = entries.Base(str(place), fingerprint(model))
    return entries.apply(model, [lora.Config(rank=4, alpha=8, **settings)], under, None)


def same_start(ours: nn.Module, theirs: nn.Module, folder: Path) -> nn.Module:
    """Our model with the numbers of their adapter."""
    theirs.save_pretrained(folder)
    return directory.load({None: folder}, Path(ours), None)


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"]
)
def test_what_peft_trained_is_read(place, family, settings, tmp_path):
    """If this failed, an adapter from elsewhere would compute something else here."""
    torch.manual_seed(1)
    model = peft.get_peft_model(theirs(place, family), peft_config(family, **settings)).eval()
    stir(model, "lora_")
    stir(model, "classifier")
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(IDS).logits
    found = our_logits(directory.load({None: tmp_path}, place, None))
    assert (found - our_logits(weights.load(place))).abs().max() > 1e-4
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"rank_stabilized": True}, {"dora": True}], ids=["lora", "rslora", "dora"]
)
def test_what_is_trained_here_is_read_by_peft(place, family, settings, tmp_path):
    """If this failed, an adapter from here would be of no use to other programs, or to us after it was saved."""
    model = ours(place, targets=TARGETS[family][1], **settings).eval()
    for part in adapter.parts(model).values():
        for parameter in part.parameters():
            parameter.requires_grad_(True)
    stir(model, ".beside.")
    directory.save(model, tmp_path)
    wanted = our_logits(model)
    assert (wanted - our_logits(weights.load(place))).abs().max() > 1e-4
    torch.testing.assert_close(
        our_logits(directory.load({None: tmp_path}, place, None)), wanted, rtol=0, atol=0
    )
    read = peft.PeftModel.from_pretrained(theirs(place, family), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(read(IDS).logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama"], indirect=True)
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_training_is_peft_s(place, family, settings, tmp_path):
    """If this failed, gradients or the scale would differ, and so would every run (trap 30)."""
    torch.manual_seed(1)
    target = [*PROJECTIONS, "embed_tokens", "lm_head"] if not settings else PROJECTIONS
    other = theirs(place, family)
    model = peft.get_peft_model(other, peft_config(family, target_modules=target, **settings))
    model.save_pretrained(tmp_path)
    mine = directory.load({None: tmp_path}, place, None).double()
    model.double()  # AdamW makes large steps of small gradients, and so of their rounding
    trained = [p for part in adapter.parts(mine).values() for p in part.parameters()]
    for part in trained:
        part.requires_grad_(True)
    both = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=2e-3) for m in (model, mine)]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    labels = IDS.flatten()
    for step in range(20):
        theirs_logits, our = model(IDS).logits, mine.head(mine(IDS))
        torch.testing.assert_close(our, theirs_logits, rtol=0, atol=1e-5)
        for optimizer, logits in zip(both, (theirs_logits, our), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, 1), labels).backward()
        if step == 0:
            a = {n: p.grad for n, p in mine.named_parameters() if p.grad is not None}
            b = model.base_model.model.model.layers[1].self_attn.v_proj
            torch.testing.assert_close(
                a["blocks.1.attn.v.beside.lora.B"], b.lora_B["default"].weight.grad, rtol=0, atol=1e-5
            )
        for optimizer in both:
            optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(mine.head(mine(IDS)), model(IDS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama"], indirect=True)
@pytest.mark.parametrize(
    "change,part",
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"alpha_pattern": {"(": 3}}, "alpha"),
    ],
)
def test_what_would_be_ignored_is_refused(place, family, change, part, tmp_path):
    """If this failed, an adapter would load without a word and answer wrongly."""
    peft.get_peft_model(theirs(place, family), peft_config(family)).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=part):
        directory.load({None: tmp_path}, place, None)
