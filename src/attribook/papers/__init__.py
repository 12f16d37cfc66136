"""The papers' laboratory: what the notebooks need beside the library. Extra `papers`."""
