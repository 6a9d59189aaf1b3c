"""Adapter folders made by plain peft on tiny random models: what people bring to merge and port."""

import json

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

TARGETS = {
    "bert": ["query", "value", "dense"],
    "llama": ["q_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
}


def base_model(family, seed=0):
    """The same weights for the same seed, in evaluation mode."""
    torch.manual_seed(seed)
    if family == "bert":
        config = BertConfig(
            vocab_size=64,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=40,
            max_position_embeddings=32,
            num_labels=3,
        )
        return BertForSequenceClassification(config).eval()
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=64, n_positions=32, n_embd=24, n_layer=2, n_head=2)
        ).eval()
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).eval()


def make_adapter(path, family="bert", seed=1, base_seed=0, base_name="tiny-base", share_a=False, **options):
    """Save an adapter whose factors are all random, as a trained one's are."""
    model = base_model(family, base_seed)
    model.config._name_or_path = base_name
    model.name_or_path = base_name
    task = {"bert": "SEQ_CLS"}.get(family, "CAUSAL_LM")
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": TARGETS[family], "task_type": task} | options
    )
    peft_model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(peft_model.named_parameters()):
            if not parameter.requires_grad or (share_a and "lora_A" in name):
                continue
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        if share_a:  # nested: a smaller rank has the first rows
            for name, parameter in sorted(peft_model.named_parameters()):
                if "lora_A" in name:
                    rows = torch.randn(64, parameter.shape[1], generator=torch.Generator().manual_seed(5))
                    parameter.copy_(rows[: len(parameter)])
    peft_model.save_pretrained(path, safe_serialization=True, save_embedding_layers=False)
    return path


def edit_config(path, **changes):
    """Change keys of ``adapter_config.json``; None removes nothing, it writes null."""
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def delta_weights(path, family, base_seed=0):
    """Layer -> the change that peft itself computes for a folder, (m, n), float64; and what it trained whole."""
    model = PeftModel.from_pretrained(base_model(family, base_seed), path).eval().double()
    deltas, heads = {}, {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            delta = module.get_delta_weight("default").detach()
            deltas[name] = delta.T if module.fan_in_fan_out else delta
        if hasattr(module, "modules_to_save") and "default" in module.modules_to_save:
            saved = module.modules_to_save["default"]
            heads |= {f"{name}.{k}": v.detach() for k, v in saved.named_parameters()}
    return deltas, heads


def logits(model):
    """Of fixed tokens, float64."""
    ids = torch.arange(20).reshape(2, 10) % 60 + 1
    with torch.no_grad():
        return model.eval().double()(input_ids=ids).logits
