"""Exchange of models with other programs: Hugging Face checkpoints in and out, GGUF files in."""

from litmus.interop.hf.export import export_model, export_run
from litmus.interop.hf.published import read_model
from litmus.interop.importing import import_run

__all__ = ["export_model", "export_run", "import_run", "read_model"]
