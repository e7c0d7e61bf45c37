"""CpmAnt's causal model attends to later tokens: the logits of position 0 change with the last token."""

import torch
from transformers import CpmAntConfig, CpmAntForCausalLM

torch.manual_seed(0)
torch.set_grad_enabled(False)
config = CpmAntConfig(vocab_size=101, hidden_size=32, num_attention_heads=4, dim_head=8, dim_ff=48, num_hidden_layers=2)
model = CpmAntForCausalLM(config).eval()
text = torch.randint(4, 101, (1, 8))
other = text.clone()
other[0, -1] = (text[0, -1] + 1) % 101
one, two = model(text).logits, model(other).logits
print(f"largest difference at position 0: {float((one - two)[0, 0].abs().max()):.3g}")
