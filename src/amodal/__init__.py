"""amodal: learning from several modalities when some of them are missing."""

from __future__ import annotations

__version__ = "0.1.0"
