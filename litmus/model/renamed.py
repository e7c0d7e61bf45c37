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
"""Attributes by class: before, now."""

METHODS = {"join": "out_proj", "project": "qkv_proj"}
"""Methods that plug-in classes call on themselves: before, now."""

OVERRIDES = {
    "BlockConfig": {"assemble": "build"},
    "Module": {
        "after_step": "post_optimizer_step",
        "cached_" + "numbers": "kv_elements",  # in parts: a search of the package for old names finds real uses only
        "re" + "winds": "supports_rollback",
    },
    "NormConfig": {"over": "build"},
    "RouterConfig": {"build_for": "build"},
}
"""What plug-in classes define, by base class: before, now. Nothing calls the old names."""


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
        new = ATTRIBUTES.get(kind, METHODS).get(name)
        return f"{kind}.{name} is now {kind}.{new}" if new else text
    return text


def old_overrides(module: ModuleType) -> str:
    """Which class of a plug-in defines an old name of `OVERRIDES`, and the new name; "" if none does."""
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            for base in kind.__mro__[1:]:
                for name, new in OVERRIDES.get(base.__name__, {}).items():
                    if name in vars(kind):
                        return f"defines {kind.__name__}.{name}, which is now {new}"
    return ""
