"""Bart's causal model compares each position with the label of that position, not of the next: it learns to copy."""

import torch
from torch.nn.functional import cross_entropy
from transformers import BartConfig, BartForCausalLM

torch.manual_seed(0)
torch.set_grad_enabled(False)
sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
model = BartForCausalLM(BartConfig(vocab_size=101, is_decoder=True, init_std=0.5, **sizes)).eval()
text = torch.randint(4, 101, (4, 8))
out = model(text, labels=text)
same, following = (cross_entropy(out.logits[:, :n].flatten(0, 1), text[:, m:].flatten()) for n, m in ((8, 0), (7, 1)))
print(f"loss {float(out.loss):.4f}; of the same token {float(same):.4f}; of the next token {float(following):.4f}")
