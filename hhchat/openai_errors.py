"""What an OpenAI-compatible server says when it refuses, in the shapes that servers give it."""

from __future__ import annotations

import json
import re
from typing import Any

# What servers call a conversation that is longer than the model's context: OpenAI, vLLM, SGLang,
# llama.cpp, Ollama, LM Studio and TGI, in the wording of several versions.
OVERLONG = re.compile(
    r"context_length_exceeded|exceed_context_size"
    r"|max(imum)? (context|model) length|context (length|window) (is|of) only"
    r"|context (size|length|window) (is )?exceeded"
    r"|(exceeds?|exceeded|longer than) [^.;]{0,40}context (size|length|window)"
    r"|max_tokens must be at least 1, got -"
    r"|`inputs` (tokens \+ `max_new_tokens` must be|must have less than)",
    re.IGNORECASE,
)
CONTEXT = re.compile(
    r"(?:context|model) (?:size|length|window)\W*(?:(?:is|of|only)\W+)*(\d+)", re.IGNORECASE
)


def read_error(raw: bytes, kind: str) -> Any:
    """What an error's body holds: JSON, or the line of a plain text; nothing of a web page."""
    text = raw.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text if kind == "text/plain" else ""


def message_of(value: Any) -> str:
    """The reason, in the shapes that servers give it."""
    if isinstance(value, dict):
        for name in ("error", "message", "detail"):
            found = message_of(value.get(name))
            if found:
                return found
        return ""
    return value if isinstance(value, str) else ""


def is_overlong(told: Any) -> bool:
    """Whether an error says that the conversation does not fit the model's context.

    Only in its message, code and type: other fields may quote what the user said.
    """
    words = [message_of(told)]
    for part in (told, told.get("error")) if isinstance(told, dict) else ():
        if isinstance(part, dict):
            words += [str(part.get(name) or "") for name in ("code", "type")]
    return any(OVERLONG.search(word) for word in words)


def context_of(told: Any) -> int | None:
    """The model's context in tokens, in an error that says it."""
    for part in (told, told.get("error")) if isinstance(told, dict) else ():
        if isinstance(part, dict) and isinstance(part.get("n_ctx"), int):
            return int(part["n_ctx"])
    found = CONTEXT.search(message_of(told))
    return int(found[1][:12]) if found else None
