"""Costs as declared: parameters, FLOPs and cache elements, declared values against measured ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from litmus.auditing.adapters.decoder import DecoderTarget, meta_model
from litmus.auditing.check import Check, Evidence, needs, plural
from litmus.auditing.checks.hidden_costs import hidden_costs
from litmus.auditing.hooks import describe_module
from litmus.auditing.target import generator
from litmus.model import Decoder, training_flops_per_token
from litmus.nn import Cache

CACHE_TOLERANCE = 0.01
"""Relative tolerance of cache elements, because buffer sizes may be rounded up for alignment."""

MAX_REDUNDANCY = 1.1
"""A low-rank matrix or buffer is a fault if it costs more than this times its factors."""


@needs("recipe")
def gather(target: DecoderTarget) -> Iterator[Evidence]:
    yield from parameters(target)
    yield from flops(target)
    yield from hidden_costs(target)
    yield from merged_matrices(target)
    yield from cache_as_declared(target)
    yield from cache_without_redundancy(target)
    yield from no_hidden_state(target)


def parameters(target: DecoderTarget) -> Iterator[Evidence]:
    """Parameters of the model against those of a model built from its recipe, and against its own count."""
    implied = sum(parameter.numel() for parameter in meta_model(target.recipe).parameters())
    model = target.unperturbed
    live = sum(parameter.numel() for parameter in model.parameters())
    declared = int(model.parameter_counts()["total"])
    if not live == implied == declared:
        yield Evidence(
            f"the model holds {live:,} parameters, reports {declared:,}, and its recipe implies {implied:,}",
            fault=True,
            measured=live,
            tolerance=implied,
            where="model.parameters()",
            mark="has other parameters than it declares",
        )
    else:
        yield Evidence(f"{live:,} parameters")


def flops(target: DecoderTarget) -> Iterator[Evidence]:
    """Reported training FLOPs per token (counted on the meta device) against a real forward and backward pass."""
    length = target.length(target.pick(32, 64))
    with sdpa_kernel(SDPBackend.MATH):  # a fused backward pass computes the scores again
        reported = training_flops_per_token(target.recipe, length)
    model = target.build_model().train()
    tokens = target.tokens(1, length, seed=110)
    # fp64 and math attention, because torch does not count the FLOPs of the CPU's fused fp32 kernels.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(tokens, tokens).total.backward()
    measured = counter.get_total_flops() / length
    # Routing and random objectives differ a little from pass to pass.
    if abs(measured - reported) > 0.1 * reported:
        yield Evidence(
            f"training takes {measured:,.0f} FLOPs per token where {reported:,.0f} are reported",
            fault=True,
            measured=measured / max(reported, 1e-9),
            tolerance=1.1,
            where="forward and backward pass",
            mark="takes other FLOPs than reported",
        )
    else:
        yield Evidence(f"{measured:,.0f} FLOPs per trained token of {length}")


class _MatmulRecorder(TorchDispatchMode):
    """Records the two-dimensional operands of every matrix product, each with the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm"):
            left, right = args[-2:] if name == "mm" else args[1:3]
            self.operands += [(left, right), (right, left)]
        return func(*args, **(kwargs or {}))


def merged_matrices(target: DecoderTarget) -> Iterator[Evidence]:
    """No activation is multiplied by a product of weights whose low rank two thin factors would use."""
    model, length = target.model, target.length(24)
    seen = []
    for run, seed in ((model, 111), (model, 112), (target.unperturbed, 111)):
        with torch.no_grad(), _MatmulRecorder() as products:
            run(target.tokens(1, length, seed=seed))
        seen.append(products.operands)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for (one, factor), (other, other_factor), (of_other_weights, _) in zip(*seen, strict=False):
        # Computed from weights: equal for different tokens, but not for other weights, as a start state or a mask is.
        # Parameters themselves may have any rank.
        if one.shape != other.shape or not torch.equal(one, other) or one.untyped_storage().data_ptr() in own:
            continue
        if factor.shape == other_factor.shape and torch.equal(factor, other_factor):
            continue  # no activation is in this product: it is one of weights, such as of a table of distances
        if min(one.shape) < 2 or torch.equal(one, of_other_weights):
            continue
        rows, columns = one.shape
        rank = int(torch.linalg.matrix_rank(one.double(), rtol=1e-9))
        if rows * columns > MAX_REDUNDANCY * rank * (rows + columns):
            yield Evidence(
                f"activations are multiplied by a {rows} x {columns} matrix of rank {rank}: {rows * columns:,} "
                f"multiply-adds where two thin matrices take {rank * (rows + columns):,}",
                fault=True,
                measured=rows * columns / max(1, rank * (rows + columns)),
                tolerance=MAX_REDUNDANCY,
                where="forward pass, a product of weights",
                mark="merges low-rank weights into full ones",
                meaning="The low rank is not used: its saving in FLOPs and cache does not exist.",
            )
            return


def cache_as_declared(target: DecoderTarget) -> Iterator[Evidence]:
    """Elements of the cache buffers after decoding against those that the mixers declare."""
    model = target.model
    for rows, capacity in ((1, 1), (1, 100), (3, 40), (1, target.recipe.context)):
        declared = rows * model.kv_elements(capacity)
        cache = model.new_cache(rows, capacity)
        with torch.no_grad():
            model(target.tokens(rows, min(capacity, 30, target.longest)), cache)
        held = sum(buffer.numel() for layer in cache.layers for buffer in layer.values())
        if held > (1 + CACHE_TOLERANCE) * declared:
            layer, names = largest_layer(cache.layers)
            yield Evidence(
                f"the cache holds {held / rows / capacity:,.0f} elements per token where the mixers declare "
                f"{declared / rows / capacity:,.0f}",
                fault=True,
                measured=held / max(declared, 1),
                tolerance=1 + CACHE_TOLERANCE,
                where=f"{cache_owner(model, layer)}, buffers {names}",
                mark="caches more than it declares",
                meaning="Decoding takes another amount of memory than reported.",
            )
            return
        if held < (1 - CACHE_TOLERANCE) * declared:
            yield Evidence(
                f"the mixers declare {declared:,} cache elements and hold {held:,}",
                fault=True,
                measured=held / declared,
                tolerance=1 - CACHE_TOLERANCE,
                where="kv_elements",
                mark="declares another cache than it holds",
            )
            return
    per_token = model.kv_elements(target.recipe.context) / target.recipe.context
    yield Evidence(f"{per_token:,.0f} cache elements per token, as declared")


def cache_owner(model: Decoder, number: int) -> str:
    """The module whose buffers are `cache.layers[number]`; those of an embedding come after the layers'."""
    return describe_module(model, f"layers.{number}" if number < len(model.layers) else "embedding")


def largest_layer(layers: list[dict[str, Tensor]]) -> tuple[int, str]:
    sizes = [sum(buffer.numel() for buffer in layer.values()) for layer in layers]
    number = sizes.index(max(sizes))
    return number, ", ".join(f"{name} {tuple(buffer.shape)}" for name, buffer in layers[number].items())


def cache_without_redundancy(target: DecoderTarget) -> Iterator[Evidence]:
    """No cached vectors of low rank; a warning where slots are never read again."""
    redundant, unused = list(low_rank_buffers(target)), list(unused_slots(target))
    for what, where in unused:
        yield Evidence(
            what,
            warning=True,
            where=where,
            meaning="Decoding allocates more memory than the mechanism reads, as with a window that is only a mask; "
            "the mixer `window` keeps a ring of its last tokens.",
        )
    for what, where, ratio in redundant[:2]:
        yield Evidence(
            what,
            fault=True,
            measured=ratio,
            tolerance=MAX_REDUNDANCY,
            where=where,
            mark="caches more than it needs",
            meaning="Decoding takes more memory, and reads more of it per token, than the mechanism needs.",
        )
    if not redundant and not unused:
        yield Evidence("no cache element is redundant")


def no_hidden_state(target: DecoderTarget) -> Iterator[Evidence]:
    """No tensors outside the cache that grow with the number of decoded tokens."""
    held = []
    for length in (8, target.length(40)):
        model = target.build_model()
        cache = model.new_cache(1, length)
        with torch.no_grad():
            for token in target.tokens(1, length, seed=113).split(1, dim=1):
                model(token, cache)
        held.append({name: hidden_elements(module) for name, module in model.named_modules()})
    grown = {name: held[1][name] - held[0][name] for name in held[0] if held[1][name] > held[0][name]}
    if grown:
        worst = max(grown, key=lambda name: grown[name])
        yield Evidence(
            f"{plural(len(grown), 'module')} store tensors outside the cache that grow with every decoded token",
            fault=True,
            measured=sum(grown.values()) / max(1, target.length(40) - 8),
            tolerance=0.0,
            where=describe_module(model, worst) if worst else "model",
            mark="caches more than it declares",
            meaning="Memory that no measurement includes, and state that one batch leaves to the next.",
        )


def hidden_elements(module: nn.Module) -> int:
    """Elements of tensors that are plain attributes of a module or entries of its lists and dicts."""
    found = 0
    for value in vars(module).values():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        for tensor in values:
            if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                found += tensor.numel()
    return found


FULL_RANK = 0.9
"""Fraction of the possible rank that counts as full: norms that subtract a mean remove one dimension."""

MAX_RANK_TOKENS = 700
Redundancy = tuple[str, str, float]
"""A description, the module, and the ratio of elements cached to elements needed."""


def low_rank_buffers(target: DecoderTarget) -> Iterator[Redundancy]:
    """Buffers whose vectors span far fewer dimensions than they could, over many random tokens.

    Cached vectors of N elements, computed from vectors of `dim` elements, can span min(N, dim) dimensions. If they span
    only r, r elements per token suffice for every text (as in MLA).
    """
    model = target.model
    empty = model.new_cache(1, 8), model.new_cache(1, 9)
    widest = max((buffer[0].numel() // 8 for layer in empty[0].layers for buffer in layer.values()), default=0)
    tokens = min(target.longest, MAX_RANK_TOKENS, int(1.3 * min(widest, target.recipe.dim)) + 16)
    if widest == 0 or tokens < 8:
        return
    cache = model.new_cache(1, tokens)
    text = target.tokens(1, tokens, seed=120)
    with torch.no_grad():
        model(text, cache)
        embedded = model.embed(text, model.forward_context(text))[0].double()
    # A narrow embedding (a factorised one) limits what the first layer can cache, whatever its mixer does.
    embedding_rank = int(torch.linalg.matrix_rank(embedded, rtol=1e-9)) if embedded.ndim == 2 else target.recipe.dim
    for number, layer in enumerate(cache.layers):
        for name, buffer in layer.items():
            if not per_token(empty[0].layers[number][name], empty[1].layers[number][name]):
                continue
            content = buffer[0].reshape(buffer.shape[1], -1).double()  # by slot; a bounded cache has fewer than tokens
            content = content[content.any(1)]
            possible = min(content.shape[1], target.recipe.dim, target.recipe.vocab_size)
            possible = min(possible, embedding_rank) if number == 0 else possible
            if content.shape[0] < 1.2 * possible:
                continue  # too few tokens to determine the rank
            rank = int(torch.linalg.matrix_rank(content, rtol=1e-9))
            if rank < FULL_RANK * possible:
                yield (
                    f"{name!r} caches {content.shape[1]} elements per token that span {rank} dimensions",
                    cache_owner(model, number),
                    content.shape[1] / max(rank, 1),
                )
                return


def per_token(at_8: Tensor, at_9: Tensor) -> bool:
    """Whether a buffer's second dimension is the capacity in tokens."""
    return at_8.ndim >= 2 and at_8.shape[1] == 8 and at_9.shape[1] == 9 and at_8[0].numel() * 9 == at_9[0].numel() * 8


def unused_slots(target: DecoderTarget) -> Iterator[tuple[str, str]]:
    """Slots of old tokens that can be overwritten without any effect on the following tokens, and where they are."""
    tokens = min(target.longest - 4, max(target.recipe.context, 64), target.pick(300, 1100))
    if tokens < 16:
        return
    text = target.tokens(1, tokens + 4, seed=121)
    # In both models: if attention is very sharp, a weight may be too small to have an effect.
    unused = unread_buffers(target.model, text)
    unused = [place for place in unused if place in unread_buffers(target.unperturbed, text)] if unused else []
    # Layers that skip most tokens, as in a mixture of depths, may have skipped these four.
    unused = unread_buffers(target.model, text, tokens // 2, of=unused) if unused else []
    unused = [place for place in unused if not any(fades(m, text, *place) for m in (target.model, target.unperturbed))]
    for number, name in unused[:1]:
        yield (
            f"the oldest {tokens // 4} of {tokens} slots of {name!r} are never read again, but stay allocated",
            cache_owner(target.model, number),
        )


def unread_buffers(
    model: Decoder, text: Tensor, last: int = 4, of: list[tuple[int, str]] | None = None
) -> list[tuple[int, str]]:
    """(layer, buffer) pairs whose oldest quarter of slots has no effect on the `last` tokens of `text`.

    of: the pairs to try; all by default.
    """
    prompt, following = text[:, :-last], text[:, -last:]
    cache = model.new_cache(1, text.shape[1])
    found = []
    with torch.no_grad():
        model(prompt, cache)
        expected = decode_copy(model, following, cache)
        for number, layer in enumerate(cache.layers):
            for name, buffer in layer.items():
                if buffer.ndim < 2 or buffer.shape[1] != cache.capacity or not buffer.numel():
                    continue
                if not buffer.is_floating_point():  # ids, which noise would make invalid
                    continue
                if of is not None and (number, name) not in of:
                    continue
                changed = copy.deepcopy(cache)
                slots = changed.layers[number][name][:, : prompt.shape[1] // 4]
                slots += torch.randn(slots.shape, generator=generator(122), dtype=slots.dtype)
                if torch.equal(decode_copy(model, following, changed), expected):
                    found.append((number, name))
    return found


AGES, FADED = 16, 1e-6
"""Blocks of slots by age, and the effect of the oldest that has one, relative to the largest, if the buffer fades."""


def fades(model: Decoder, text: Tensor, number: int, name: str) -> bool:
    """Whether the effect of a buffer's slots becomes small with their age before it ends, as in a decaying state.

    The slots beyond a window, on the other hand, end while their effect is large.
    """
    prompt, following = text[:, :-4], text[:, -4:]
    cache = model.new_cache(1, text.shape[1])
    with torch.no_grad():
        model(prompt, cache)
        expected = decode_copy(model, following, cache)
        effects = []
        for slots in torch.arange(prompt.shape[1]).tensor_split(AGES):
            changed = copy.deepcopy(cache)
            held = changed.layers[number][name][:, slots[0] : slots[-1] + 1]
            held += torch.randn(held.shape, generator=generator(122), dtype=held.dtype)
            effects.append(float((decode_copy(model, following, changed) - expected).abs().max()))
    oldest = next((effect for effect in effects if effect > 0), 0.0)
    return 0 < oldest < FADED * max(effects)


def decode_copy(model: Decoder, following: Tensor, cache: Cache) -> Tensor:
    """Logits of the following tokens, decoded in four chunks with a copy of the cache."""
    cache = copy.deepcopy(cache)
    chunks = following.split(max(1, following.shape[1] // 4), dim=1)
    return torch.cat([model(chunk, cache) for chunk in chunks], dim=1)


CHECK = Check(
    name="costs as declared",
    asserts="Parameters, FLOPs and cache are what the recipe implies, and the cache holds no more than is needed.",
    how="Elements of live tensors are counted; matrices that multiply activations are checked for wasted rank, cache "
    "buffers for rank and for slots without effect, modules for tensors that grow while decoding.",
    tolerance="1 % for buffers (alignment), 10 % for FLOPs (routing) and for wasted rank; ranks in fp64 at 1e-9 of the "
    "largest singular value, which is unambiguous for random weights.",
    means="The cost column of a comparison would be wrong.",
    mark="costs more than it declares",
    gather=gather,
)
