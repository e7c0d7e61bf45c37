"""RoBERTa's `generate` counts positions from 0, its forward pass from padding_idx + 1: they are two models."""

import torch
from transformers import RobertaConfig, RobertaForCausalLM

torch.manual_seed(0)
torch.set_grad_enabled(False)
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
model = RobertaForCausalLM(RobertaConfig(vocab_size=101, is_decoder=True, initializer_range=0.5, **sizes)).eval()
text = torch.randint(4, 101, (1, 8))
mask = torch.ones_like(text)
generated = model.generate(text, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None)[0, 8:]
from_zero = model(text, position_ids=torch.arange(8)[None]).logits[0, -1].argmax()
for _ in range(6):
    text = torch.cat((text, model(text).logits[:, -1:].argmax(-1)), 1)
print(f"generate: {generated.tolist()}, forward pass: {text[0, 8:].tolist()}, first with positions from 0: {from_zero}")
