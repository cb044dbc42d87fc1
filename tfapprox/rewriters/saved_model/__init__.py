"""The SavedModel engine: opens a directory, finds its kernels, writes it back rewritten."""

from tfapprox.rewriters.saved_model.source import SavedModelSource, open_saved_model
from tfapprox.rewriters.saved_model.writing import write_saved_model

__all__ = ["SavedModelSource", "open_saved_model", "write_saved_model"]
