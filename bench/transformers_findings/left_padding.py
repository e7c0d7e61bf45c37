"""Bart's decoder gives a text other logits when padding stands on its left, as `generate` puts it."""

import torch
from transformers import BartConfig, BartForCausalLM

torch.manual_seed(0)
torch.set_grad_enabled(False)
sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
model = BartForCausalLM(BartConfig(vocab_size=101, is_decoder=True, init_std=0.5, **sizes)).eval()
text = torch.randint(4, 101, (1, 8))
padded, mask = torch.cat((torch.full((1, 3), 1), text), 1), torch.tensor([[0] * 3 + [1] * 8])
alone, beside = model(text).logits, model(padded, attention_mask=mask).logits[:, 3:]
print(f"largest difference {float((alone - beside).abs().max()):.3g}, logits have std {float(alone.std()):.3g}")
