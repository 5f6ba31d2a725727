"""Every key of the chat, once: the bindings, the hints on screen and the `?` map come from here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from textual.binding import Binding


class Stage(Enum):
    """What the chat is waiting for; the hints show the keys of the stage."""

    READY = auto()  # for a message
    WAITING = auto()  # for the model to load, with a message to answer
    SAMPLING = auto()  # for the two replies
    CHOOSING = auto()  # for a pick
    UNSAVED = auto()  # for the store to take a pick
    FAILED = auto()  # for a decision after an error while sampling
    AGAIN = auto()  # for a second look at an old pair


@dataclass(frozen=True)
class Key:
    """One action: `keys` as Textual names them, `cap` as people read them."""

    action: str
    keys: str
    cap: str
    label: str
    help: str
    stages: frozenset[Stage]
    hint: bool = True  # shown among the hints, not only in the map
    group: str = "Chat"
    minor: bool = False  # the first to go when the hints have too little room


def _on(*stages: Stage) -> frozenset[Stage]:
    return frozenset(stages)


_R, _W, _S, _C, _U, _F, _A = Stage
_ALL = frozenset(Stage)

KEYS: tuple[Key, ...] = (
    Key(
        "pick('left')",
        "left,left_square_bracket",
        "←",
        "left",
        "The left reply is better (also [)",
        _on(_C, _A),
        group="Choose",
    ),
    Key(
        "pick('right')",
        "right,right_square_bracket",
        "→",
        "right",
        "The right reply is better (also ])",
        _on(_C, _A),
        group="Choose",
    ),
    Key(
        "scale",
        "1,2,3,4,5,6,7,8",
        "1–8",
        "how much",
        "How much better: 1 left by far … 4 5 about equal … 8 right by far",
        _on(_C, _A),
        group="Choose",
    ),
    Key(
        "tie",
        "t",
        "t",
        "tie",
        "Equally good: recorded, the chat goes on from one of them by chance",
        _on(_C, _A),
        group="Choose",
    ),
    Key(
        "both_bad",
        "b",
        "b",
        "both bad",
        "Neither will do: recorded, and two new replies",
        _on(_C),
        group="Choose",
    ),
    Key("skip", "s", "s", "skip", "No opinion: two new replies", _on(_C, _A), group="Choose"),
    Key(
        "write_own",
        "e",
        "e",
        "write own",
        "Write a better reply yourself: it is preferred over both",
        _on(_C),
        group="Choose",
    ),
    Key(
        "comment",
        "c",
        "c",
        "comment",
        "Add a comment to the pick you are about to make",
        _on(_C),
        hint=False,
        group="Choose",
    ),
    Key(
        "zoom",
        "z",
        "z",
        "zoom",
        "Give one reply the whole width, then the other, then both again",
        _on(_S, _C, _A),
        hint=False,
        group="Choose",
    ),
    Key(
        "copy('left')",
        "y",
        "y",
        "copy left",
        "Copy the left reply",
        _on(_C),
        hint=False,
        group="Choose",
    ),
    Key(
        "copy('right')",
        "Y",
        "Y",
        "copy right",
        "Copy the right reply",
        _on(_C),
        hint=False,
        group="Choose",
    ),
    Key(
        "scroll_pair(-1)",
        "up,pageup",
        "↑",
        "scroll",
        "Scroll both replies up (Page Up for more)",
        _on(_S, _C, _A),
        hint=False,
        group="Choose",
    ),
    Key(
        "scroll_pair(1)",
        "down,pagedown",
        "↓",
        "scroll",
        "Scroll both replies down (Page Down for more)",
        _on(_S, _C, _A),
        hint=False,
        group="Choose",
    ),
    Key(
        "stop",
        "escape",
        "esc",
        "stop",
        "Stop both replies where they are; they can still be judged",
        _on(_S),
        group="Choose",
    ),
    Key(
        "regenerate",
        "r,ctrl+r",
        "r",
        "again",
        "Ask the last message again: two new replies (Ctrl-R while typing)",
        _on(_C, _F),
        group="Choose",
        minor=True,
    ),
    Key(
        "undo",
        "u,ctrl+z",
        "u",
        "undo",
        "Take back the last pick (Ctrl-Z while typing), until you send the next message",
        _on(_C, _S, _U, _F),
        group="Choose",
    ),
    Key(
        "save_now",
        "enter",
        "enter",
        "try now",
        "Try again to save the pick",
        _on(_U),
        group="Choose",
    ),
    Key("send", "enter", "enter", "send", "Send your message", _on(_R, _W), group="Write"),
    Key(
        "newline",
        "ctrl+j",
        "ctrl+j",
        "new line",
        "A new line in your message",
        _on(_R, _W),
        group="Write",
        minor=True,
    ),
    Key("undo", "ctrl+z", "ctrl+z", "undo pick", "Take back the last pick", _on(_R), group="Write"),
    Key(
        "regenerate",
        "ctrl+r",
        "ctrl+r",
        "again",
        "Ask the last message again",
        _on(_R),
        group="Write",
        minor=True,
    ),
    Key(
        "edit_last",
        "ctrl+e",
        "ctrl+e",
        "edit last",
        "Edit your last message and send it again: the old branch stays stored",
        _on(_R, _C, _F),
        group="Write",
        minor=True,
    ),
    Key(
        "copy_reply",
        "ctrl+y",
        "ctrl+y",
        "copy reply",
        "Copy the last reply",
        _on(_R),
        hint=False,
        group="Write",
    ),
    Key(
        "new",
        "ctrl+n",
        "ctrl+n",
        "new chat",
        "Start a new conversation",
        _on(_R, _C, _F, _W),
        group="Everywhere",
        minor=True,
    ),
    Key(
        "conversations",
        "ctrl+o",
        "ctrl+o",
        "chats",
        "Your conversations: search, open, rename, export, delete",
        _on(_R, _C, _F, _W),
        group="Everywhere",
        minor=True,
    ),
    Key(
        "settings",
        "f2",
        "f2",
        "settings",
        "This conversation's system prompt, temperature, top-p and longest reply",
        _on(_R, _C, _F),
        hint=False,
        group="Everywhere",
    ),
    Key(
        "dashboard",
        "ctrl+g",
        "ctrl+g",
        "progress",
        "Your picks, what they have taught, and how sure one can be of it",
        _on(_R, _C, _F, _W),
        group="Everywhere",
        minor=True,
    ),
    Key(
        "train",
        "ctrl+t",
        "ctrl+t",
        "train",
        "Train the assistant beside the chat, watch it, and take or try what it made",
        _on(_R, _C, _F, _W),
        group="Everywhere",
        minor=True,
    ),
    Key(
        "command_palette",
        "ctrl+p",
        "ctrl+p",
        "commands",
        "Everything else: themes, modes, copying code, branching",
        _ALL,
        hint=False,
        group="Everywhere",
    ),
    Key(
        "help",
        "question_mark,f1",
        "?",
        "help",
        "This map (F1 while typing)",
        _ALL,
        group="Everywhere",
    ),
    Key(
        "quit",
        "ctrl+q",
        "ctrl+q",
        "quit",
        "Leave; everything is saved already",
        _ALL,
        group="Everywhere",
    ),
)


def bindings() -> list[Binding | tuple[str, str] | tuple[str, str, str]]:
    """The bindings of the chat screen; which of them are live depends on the stage."""
    made: dict[str, Binding] = {}
    for key in KEYS:
        if key.action in ("send", "newline", "command_palette"):
            continue  # the message box and the app have these
        for name in key.keys.split(","):
            action = f"scale({name})" if key.action == "scale" else key.action
            if key.action.startswith("scroll_pair") and name.startswith("page"):
                action = key.action.replace("1)", "8)")
            target = "app.quit" if key.action == "quit" else action
            made.setdefault(
                name, Binding(name, target, key.label, show=False, priority=key.action == "quit")
            )
    return list(made.values())


def live(action: str, stage: Stage) -> bool:
    """Whether an action (by its bare name) means anything in a stage."""
    found = [k for k in KEYS if k.action.partition("(")[0] == action]
    return not found or any(stage in k.stages for k in found)


def hints(stage: Stage) -> list[Key]:
    """The keys to show for a stage, in order, each action once."""
    shown: dict[str, Key] = {}
    for key in KEYS:
        if key.hint and stage in key.stages:
            shown.setdefault(key.action, key)
    return list(shown.values())
