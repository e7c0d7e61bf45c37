"""Exchange of models with other programs: Hugging Face checkpoints in and out."""

from litmus.interop.hf.export import export_model, export_run
from litmus.interop.hf.importing import import_run, read_model

__all__ = ["export_model", "export_run", "import_run", "read_model"]
