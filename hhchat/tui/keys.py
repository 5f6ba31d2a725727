"""Every key of the chat, once: the bindings, the hints on screen and the `?` map come from here."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    empty: bool = False  # while typing it is the chat's in an empty box only, else the text's


_LETTERS = dict(zip("RWSCUFA", Stage, strict=True))
ALL = "".join(_LETTERS)


def _key(
    action: str,
    keys: str,
    label: str,
    stages: str,
    help: str,
    *,
    cap: str = "",
    hint: bool = True,
    minor: bool = False,
    empty: bool = False,
) -> Key:
    """A row of the table below; `stages` by the initial letters of their names."""
    live_in = frozenset(_LETTERS[letter] for letter in stages)
    cap = cap or keys.split(",")[0]
    return Key(action, keys, cap, label, help, live_in, hint, "", minor, empty)


def _group(name: str, *keys: Key) -> tuple[Key, ...]:
    return tuple(replace(key, group=name) for key in keys)


# fmt: off
KEYS: tuple[Key, ...] = (
    *_group(
        "Choose",
        _key("pick('left')", "left,left_square_bracket", "left", "CA",
             "The left reply is better (also [)", cap="←"),
        _key("pick('right')", "right,right_square_bracket", "right", "CA",
             "The right reply is better (also ])", cap="→"),
        _key("scale", "1,2,3,4,5,6,7,8", "how much", "CA",
             "How much better: 1 left by far … 4 5 about equal … 8 right by far", cap="1–8"),
        _key("tie", "t", "tie", "CA",
             "Equally good: recorded, the chat goes on from one of them by chance"),
        _key("both_bad", "b", "both bad", "C",
             "Neither will do: recorded, and two new replies"),
        _key("skip", "s", "skip", "CA",
             "No opinion: two new replies"),
        _key("write_own", "e", "write own", "C",
             "Write a better reply yourself: it is preferred over both"),
        _key("comment", "c", "comment", "C",
             "Add a comment to the pick you are about to make", hint=False),
        _key("zoom", "z", "zoom", "SCA",
             "Give one reply the whole width, then the other, then both again", hint=False),
        _key("copy('left')", "y", "copy left", "C",
             "Copy the left reply", hint=False),
        _key("copy('right')", "Y", "copy right", "C",
             "Copy the right reply", hint=False),
        _key("scroll_pair(-1)", "up,pageup", "scroll", "SCA",
             "Scroll both replies up (Page Up for more)", cap="↑", hint=False),
        _key("scroll_pair(1)", "down,pagedown", "scroll", "SCA",
             "Scroll both replies down (Page Down for more)", cap="↓", hint=False),
        _key("stop", "escape", "stop", "S",
             "Stop both replies where they are; they can still be judged", cap="esc"),
        _key("regenerate", "r,ctrl+r", "again", "CF",
             "Ask the last message again: two new replies (Ctrl-R while typing)", minor=True),
        _key("undo", "u,ctrl+z", "undo", "SCUF",
             "Take back the last pick (Ctrl-Z while typing), until you send the next message"),
        _key("save_now", "enter", "try now", "U",
             "Try again to save the pick"),
    ),
    *_group(
        "Write",
        _key("send", "enter", "send", "RW",
             "Send your message"),
        _key("newline", "ctrl+j", "new line", "RW",
             "A new line in your message", minor=True),
        _key("undo", "ctrl+z", "undo pick", "R",
             "Take back the last pick (in an empty box; else typing is undone)", empty=True),
        _key("regenerate", "ctrl+r", "again", "R",
             "Ask the last message again", minor=True),
        _key("edit_last", "ctrl+e", "edit last", "RCF",
             "Edit your last message and send it again: the old branch stays stored", minor=True,
             empty=True),
        _key("copy_reply", "ctrl+y", "copy reply", "R",
             "Copy the last reply", hint=False, empty=True),
    ),
    *_group(
        "Everywhere",
        _key("new", "ctrl+n", "new chat", "RWCF",
             "Start a new conversation", minor=True),
        _key("conversations", "ctrl+o", "chats", "RWCF",
             "Your conversations: search, open, rename, export, delete", minor=True),
        _key("settings", "f2", "settings", "RCF",
             "This conversation's system prompt, temperature, top-p and longest reply", hint=False),
        _key("dashboard", "ctrl+g", "progress", "RWCF",
             "Your picks, what they have taught, and how sure one can be of it", minor=True),
        _key("train", "ctrl+t", "train", "RWCF",
             "Train the assistant beside the chat, watch it, and take or try what it made",
             minor=True),
        _key("command_palette", "ctrl+p", "commands", ALL,
             "Everything else: themes, modes, copying code, branching", hint=False),
        _key("help", "question_mark,f1", "help", ALL,
             "This map (F1 while typing)", cap="?", empty=True),
        _key("quit", "ctrl+q", "quit", ALL,
             "Leave; everything is saved already"),
    ),
)
# fmt: on


def bindings() -> list[Binding | tuple[str, str] | tuple[str, str, str]]:
    """The bindings of the chat screen; which of them are live depends on the stage.

    Those that work everywhere are taken before the message box sees the key. Otherwise the key
    would first travel through the box, and what is typed right after it would overtake it.
    """
    made: dict[str, Binding] = {}
    for key in KEYS:
        if key.action in ("send", "newline", "command_palette"):
            continue  # the message box and the app have these
        for name in key.keys.split(","):
            action = f"scale({name})" if key.action == "scale" else key.action
            if key.action.startswith("scroll_pair") and name.startswith("page"):
                action = key.action.replace("1)", "8)")
            target = "app.quit" if key.action == "quit" else action
            first = key.group == "Everywhere" and name != "question_mark"  # that one is text too
            made.setdefault(name, Binding(name, target, key.label, show=False, priority=first))
    return list(made.values())


def live(action: str, stage: Stage) -> bool:
    """Whether an action (by its bare name) means anything in a stage."""
    found = [k for k in KEYS if k.action.partition("(")[0] == action]
    return not found or any(stage in k.stages for k in found)


def hints(stage: Stage, *, writing: bool = False) -> list[Key]:
    """The keys to show for a stage, in order, each action once.

    `writing`: there is text in the message box, so that a key which is the chat's in an empty
    box only is left out, or shown by its other name (F1 for the map).
    """
    shown: dict[str, Key] = {}
    for key in KEYS:
        if not key.hint or stage not in key.stages:
            continue
        if writing and key.empty:
            others = [name for name in key.keys.split(",") if name.startswith("f")]
            if not others:
                continue
            key = replace(key, cap=others[0])
        shown.setdefault(key.action, key)
    return list(shown.values())
