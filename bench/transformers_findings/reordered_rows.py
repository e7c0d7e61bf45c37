"""The cache of MiniMax keeps the states of its linear layers in place when rows are reordered, as beam search does."""

import torch
from transformers import MiniMaxConfig, MiniMaxForCausalLM

config = MiniMaxConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=4, layer_types=["full_attention", "linear_attention"],
)  # fmt: skip
torch.manual_seed(0)
model = MiniMaxForCausalLM(config).eval()
texts, order = torch.randint(64, (2, 8)), torch.tensor([1, 0])
with torch.no_grad():
    cache = model(texts[:, :7], use_cache=True).past_key_values
    cache.reorder_cache(order)
    decoded = model(texts[order][:, 7:], past_key_values=cache).logits[:, -1]
    full = model(texts[order]).logits[:, -1]
difference = (full - decoded).abs().max()
print(f"largest difference {float(difference):.3g}, logits have std {float(full.std()):.3g}")
