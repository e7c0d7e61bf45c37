"""Renamed API of Litmus, to explain errors of plug-in files written for an earlier version."""

from __future__ import annotations

import re
from types import ModuleType

from litmus.errors import message

IMPORTS = {
    "Heads": "AttentionBase",
    "HeadsConfig": "AttentionBaseConfig",
    "Latent": "CompressedAttention",
    "LatentConfig": "CompressedConfig",
    "RouterFigures": "RouterStats",
    "Site": "LayerContext",
    "Step": "ForwardContext",
    "Terms": "AuxLosses",
    "Visibility": "AttentionMask",
    "write": "update_kv",
}
"""Names in litmus.nn: old, new."""

MODULES = {"litmus.audit": "litmus.auditing"}
"""Modules: old, new."""

ATTRIBUTES = {
    "AuxLosses": {"leave": "add"},
    "Cache": {"part": "slice_rows", "select": "reorder", "rewind": "truncate", "release": "reset_rows"},
    "ForwardContext": {
        "at": "with_cache",
        "documents": "document_ids",
        "fast": "use_reference",
        "once": "memo",
        "start": "start_pos",
        "terms": "aux_losses",
        "used": "kv_len",
        "valid": "padding_mask",
        "visibility": "attention_mask",
    },
    "LayerContext": {"layer": "index", "positions": "rotation"},
}
"""Attributes by class: old, new."""

METHODS = {"join": "out_proj", "project": "qkv_proj"}
"""Methods that plug-in classes call on themselves: old, new."""

OVERRIDES = {
    "BlockConfig": {"assemble": "build"},
    "Module": {
        "after_step": "post_optimizer_step",
        "cached_" + "numbers": "kv_elements",  # split, so that a search for the old names finds uses only
        "re" + "winds": "supports_rollback",
    },
    "NormConfig": {"over": "build"},
    "Router": {"leave_terms": "add_aux_losses"},
    "RouterConfig": {"build_for": "build"},
}
"""Methods and attributes that plug-in classes define, by base class: old, new. Nothing uses the old names."""


def explained(error: BaseException) -> str:
    """The message of `error`; if an old name is the cause, a message with the new name."""
    text = message(error)
    if found := re.match(r"cannot import name '(\w+)' from '(litmus[\w.]*)'", text):
        name, module = found.groups()
        return f"imports {name} from {module}, which is now {IMPORTS[name]}" if name in IMPORTS else text
    if (found := re.match(r"No module named '(litmus\.[\w.]+)'", text)) and found[1] in MODULES:
        return f"imports {found[1]}, which is now {MODULES[found[1]]}"
    if found := re.match(r"'(\w+)' object has no attribute '(\w+)'", text):
        kind, name = found.groups()
        new = ATTRIBUTES.get(kind, METHODS).get(name)
        return f"{kind}.{name} is now {kind}.{new}" if new else text
    return text


def old_overrides(module: ModuleType) -> str:
    """A message if a class of the plug-in defines an old name of `OVERRIDES`, else ""."""
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            for base in kind.__mro__[1:]:
                for name, new in OVERRIDES.get(base.__name__, {}).items():
                    if name in vars(kind):
                        return f"defines {kind.__name__}.{name}, which is now {new}"
    return ""
