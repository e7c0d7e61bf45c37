"""Moshi decodes other logits than its full forward pass gives, once the text is longer than its sliding window."""

import torch
from transformers import MoshiConfig, MoshiForCausalLM

torch.manual_seed(0)
torch.set_grad_enabled(False)
sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
config = MoshiConfig(vocab_size=101, sliding_window=8, max_position_embeddings=64, initializer_range=0.5, **sizes)
model, text, past, steps = MoshiForCausalLM(config).eval(), torch.randint(4, 101, (1, 20)), None, []
full = model(text).logits
for token in text.split(1, dim=1):
    out = model(token, past_key_values=past, use_cache=True)
    past = out.past_key_values
    steps.append(out.logits)
difference = (full - torch.cat(steps, 1)).abs().amax((0, 2))
print(f"largest difference by position: {[round(value, 4) for value in difference.tolist()]}")
