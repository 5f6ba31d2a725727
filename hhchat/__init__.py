"""hhchat: a terminal chat whose assistant learns from your picks.

A plugin imports this and nothing deeper: `hookimpl` and the nouns of `hhchat.types`.
"""

from hhchat.hookspecs import hookimpl
from hhchat.types import (
    Comparison,
    Exchange,
    Generation,
    HhchatError,
    Measurement,
    Message,
    Metric,
    Prompt,
    Report,
    Snapshot,
)

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Exchange",
    "Generation",
    "HhchatError",
    "Measurement",
    "Message",
    "Metric",
    "Prompt",
    "Report",
    "Snapshot",
    "__version__",
    "hookimpl",
]
