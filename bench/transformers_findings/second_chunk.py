"""Mamba with a filled cache gives a chunk of several tokens other logits than the full forward pass does."""

import torch
from transformers import MambaConfig, MambaForCausalLM

torch.manual_seed(0)
torch.set_grad_enabled(False)
model = MambaForCausalLM(MambaConfig(vocab_size=101, hidden_size=32, num_hidden_layers=2, initializer_range=0.5)).eval()
text = torch.randint(4, 101, (1, 12))
full = model(text).logits
first = model(text[:, :6], use_cache=True)
second = model(text[:, 6:], cache_params=first.cache_params, use_cache=True)
difference = (full[:, 6:] - second.logits).abs().max()
print(f"largest difference {float(difference):.3g}, logits have std {float(full.std()):.3g}")
