"""A conversation as a file: Markdown to read, JSON to work with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hhchat.store import Store
from hhchat.types import BadInput


def export(store: Store, conversation_id: str, path: Path) -> None:
    """Write the conversation to `path`, as its suffix says. Refuses to replace a file."""
    text = (
        as_json(store, conversation_id)
        if path.suffix == ".json"
        else as_markdown(store, conversation_id)
    )
    try:
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except FileExistsError:
        raise BadInput(f"{path} exists already: choose another name") from None
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from None


def as_markdown(store: Store, conversation_id: str) -> str:
    """The branch that is being continued: what was said and picked."""
    conversation = store.conversation(conversation_id)
    parts = [
        f"# {conversation.title or 'Conversation'}",
        f"*{conversation.created} · {conversation.mode}*",
    ]
    if conversation.system:
        parts.append(f"**System:** {conversation.system}")
    for turn in store.history(conversation_id):
        parts.append(f"**You:** {turn.user}")
        if turn.reply is not None:
            parts.append(f"**Assistant:** {turn.reply.text}")
    return "\n\n".join(parts) + "\n"


def as_json(store: Store, conversation_id: str) -> str:
    """The conversation, its turns and every comparison made in it."""
    conversation = store.conversation(conversation_id)
    record = {
        "conversation": asdict(conversation),
        "turns": [asdict(turn) for turn in store.history(conversation_id)],
        "comparisons": [asdict(c) for c in store.comparisons(conversation=conversation.id)],
    }
    return json.dumps(record, ensure_ascii=False, indent=2) + "\n"
