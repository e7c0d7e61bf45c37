"""Names of Litmus that have changed, to explain the errors of plug-in files written for an earlier version."""

from __future__ import annotations

import re
from types import ModuleType

from litmus.errors import message

IMPORTS = {
    "Heads": "AttentionBase",
    "HeadsConfig": "AttentionBaseConfig",
    "RouterFigures": "RouterStats",
    "Site": "LayerContext",
    "Step": "ForwardContext",
    "Terms": "AuxLosses",
    "Visibility": "AttentionMask",
    "write": "update_kv",
}
"""Names in litmus.nn: before, now."""

MODULES = {"litmus.audit": "litmus.auditing"}
"""Modules that a plug-in or a script may have imported: before, now."""

ATTRIBUTES = {
    "AuxLosses": {"leave": "add"},
    "Cache": {"part": "slice_rows", "select": "reorder", "rewind": "truncate", "release": "reset_rows"},
    "ForwardContext": {
        "at": "with_cache",
        "documents": "document_ids",
        "once": "memo",
        "start": "start_pos",
        "terms": "aux_losses",
        "used": "kv_len",
        "valid": "padding_mask",
        "visibility": "attention_mask",
    },
    "LayerContext": {"layer": "index"},
}
"""Attributes by class: before, now."""

OVERRIDES = {
    "after_step": "post_optimizer_step",
    "cached_numbers": "kv_elements",
    "join": "out_proj",
    "project": "qkv_proj",
    "rewinds": "supports_rollback",
}
"""Attributes that plug-in classes define or call on themselves: before, now."""


def explained(error: BaseException) -> str:
    """The message of `error`, with the new name if its cause is an old one."""
    text = message(error)
    if found := re.match(r"cannot import name '(\w+)' from '(litmus[\w.]*)'", text):
        name, module = found.groups()
        return f"imports {name} from {module}, which is now {IMPORTS[name]}" if name in IMPORTS else text
    if (found := re.match(r"No module named '(litmus\.[\w.]+)'", text)) and found[1] in MODULES:
        return f"imports {found[1]}, which is now {MODULES[found[1]]}"
    if found := re.match(r"'(\w+)' object has no attribute '(\w+)'", text):
        kind, name = found.groups()
        new = ATTRIBUTES.get(kind, OVERRIDES).get(name)
        return f"{kind}.{name} is now {kind}.{new}" if new else text
    return text


def old_overrides(module: ModuleType) -> str:
    """What a plug-in's classes define under a name that nothing calls any more; "" if there is nothing."""
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            own = [name for name in vars(kind) if name in OVERRIDES]
            if own and any(base.__module__.startswith("litmus.") for base in kind.__mro__):
                return f"defines {kind.__name__}.{own[0]}, which is now {OVERRIDES[own[0]]}"
    return ""
