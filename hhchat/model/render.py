"""Messages <-> token ids: the one prompt format of chat, preference model and PPO.

The chat template is rendered with stand-ins for the contents; frame and contents are then encoded
apart, the contents with special tokens switched off. So no typed, sampled or imported text can ever
become a control token, whatever it spells (chat.md 4; transformers' own template call allows it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hhchat.types import Message, ModelError

_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use marks around a stand-in's number

# For models without a chat template: the paper's own plain dialogue format.
# (The blank lines stand in expressions: trim_blocks eats a newline that follows a tag.)
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '\n\nHuman: ' + m.content }}"
    "{% else %}{{ '\n\nAssistant: ' + m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
PLAIN_STOPS = ("\n\nHuman:", "\n\nAssistant:")
_PLAIN_MARK = re.compile(r"\n{2,}(?=Human:|Assistant:)")


class Renderer:
    """Turns conversations into ids and ids into text, for one tokenizer folder."""

    def __init__(self, folder: Path, vocab: int) -> None:
        self.folder = folder
        config = _read_json(folder / "tokenizer_config.json", {})
        generation = _read_json(folder / "generation_config.json", {})
        model = _read_json(folder / "config.json", {})
        self._frame = _load_tokenizer(folder)
        self._text = _load_tokenizer(folder)
        self._text.encode_special_tokens = True
        named = {
            k: _token_text(config.get(k))
            for k in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        self._named = {k: v for k, v in named.items() if v}
        template = config.get("chat_template")
        file = folder / "chat_template.jinja"
        if file.exists():
            template = file.read_text(encoding="utf-8")
        if isinstance(template, list):  # several named templates: take the default one
            template = {t["name"]: t["template"] for t in template}.get("default")
        self.plain = template is None
        self.stops: tuple[str, ...] = PLAIN_STOPS if self.plain else ()
        self._template = _compile(PLAIN_TEMPLATE if template is None else template)
        self._ends = self._end_ids(model, generation)
        self._after = self._after_reply()
        self.end_id = self._pick_end()
        self.end_ids = frozenset(self._ends | {self.end_id})
        pad = self._frame.token_to_id(self._named.get("pad_token", ""))
        # Pads are hidden by position and never by id: any id will do where there is no token.
        self.pad_id = 0 if pad is None else int(pad)
        self.vocab = vocab
        self._blocked: tuple[int, ...] | None = None

    # -- to ids

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation up to where the assistant's reply begins."""
        return list(_flat(self._pieces(messages, True), messages, self))

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain content: no special token can come of it."""
        return list(self._text_ids(text))

    @lru_cache(maxsize=4096)  # noqa: B019 (a conversation's turns come again with each message)
    def _text_ids(self, text: str) -> tuple[int, ...]:
        if self.plain:  # the turn marks of the plain format are text: defuse them
            text = _PLAIN_MARK.sub("\n", text)
        return tuple(int(i) for i in self._text.encode(text, add_special_tokens=False).ids)

    def reply(self, text: str) -> list[int]:
        """Ids of a reply's text, without the end token."""
        return self.text_ids((" " if self.plain else "") + text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of reply ids: no special tokens, stripped, cut at a plain format's turn mark."""
        text: str = self._frame.decode(list(ids), skip_special_tokens=True)
        for stop in self.stops:
            text = text.split(stop)[0]
        return text.strip()

    def partial(self, ids: Sequence[int]) -> str:
        """Text of an unfinished reply so far, without what the next token may still change."""
        text: str = self._frame.decode(list(ids), skip_special_tokens=True)
        text = text.rstrip("\ufffd")
        for stop in self.stops:
            text = text.split(stop)[0]
            for n in range(len(stop) - 1, 0, -1):
                if text.endswith(stop[:n]):
                    text = text[:-n]
                    break
        return text.strip()  # a space at the end may turn out to be the reply's last

    def stopped(self, ids: Sequence[int]) -> bool:
        """A plain format's turn mark has been sampled."""
        if not self.stops:
            return False
        text: str = self._frame.decode(list(ids)[-12:], skip_special_tokens=True)
        return any(stop in text for stop in self.stops)

    @property
    def blocked(self) -> tuple[int, ...]:
        """Special ids that a reply may never contain (all but the end tokens)."""
        if self._blocked is None:
            added = self._frame.get_added_tokens_decoder()
            special = {int(i) for i, token in added.items() if token.special}
            self._blocked = tuple(sorted(i for i in special - self.end_ids if i < self.vocab))
        return self._blocked

    # -- the frame

    def _pieces(self, messages: Sequence[Message], ask: bool) -> list[int | str]:
        """The rendered template as frame text and numbers of the contents between."""
        shapes = tuple(m.role for m in messages)
        return self._split(shapes, ask)

    @lru_cache(maxsize=256)  # noqa: B019 (a renderer lives as long as its model)
    def _split(self, roles: tuple[str, ...], ask: bool) -> list[int | str]:
        names: list[dict[str, str]] = [
            {"role": role, "content": f"{_OPEN}{i}{_CLOSE}"} for i, role in enumerate(roles)
        ]
        text = self._render(names, ask)
        pieces: list[int | str] = []
        for i, chunk in enumerate(text.split(_OPEN)):
            if i == 0:
                pieces.append(chunk)
                continue
            number, _, frame = chunk.partition(_CLOSE)
            pieces += [int(number), frame]
        wanted = set(range(len(roles)))
        if not wanted <= {p for p in pieces if isinstance(p, int)}:
            raise ModelError("the model's chat template leaves messages out")
        return pieces

    def _render(self, names: list[dict[str, str]], ask: bool) -> str:
        import jinja2

        try:
            made = self._template.render(messages=names, add_generation_prompt=ask, **self._named)
            return str(made)
        except jinja2.TemplateError as error:
            if names and names[0]["role"] == "system" and len(names) > 1:
                # Some templates (Gemma) refuse a system message: put it before the first question.
                merged = {
                    "role": "user",
                    "content": names[0]["content"] + "\n\n" + names[1]["content"],
                }
                return self._render([merged, *names[2:]], ask)
            raise ModelError(f"the model's chat template fails: {error}") from None

    def frame_ids(self, text: str) -> list[int]:
        return (
            [int(i) for i in self._frame.encode(text, add_special_tokens=False).ids] if text else []
        )

    def _end_ids(self, model: dict[str, Any], generation: dict[str, Any]) -> set[int]:
        ends: set[int] = set()
        for source in (model, generation):
            value = source.get("eos_token_id")
            ends |= {
                int(v) for v in (value if isinstance(value, list) else [value]) if v is not None
            }
        named = self._frame.token_to_id(self._named.get("eos_token", ""))
        return ends | ({int(named)} if named is not None else set())

    def _after_reply(self) -> list[int]:
        """Ids that the template puts after an assistant's reply."""
        pieces = self._split(("user", "assistant"), False)
        tail = pieces[-1]
        return self.frame_ids(tail) if isinstance(tail, str) else []

    def _pick_end(self) -> int:
        for token in self._after:
            if token in self._ends:
                return token
        specials = {int(i) for i in self._frame.get_added_tokens_decoder()}
        if self._after and self._after[0] in specials and not self.plain:
            return self._after[0]  # the template ends turns by a token that the config forgot
        if self._ends:
            return min(self._ends)
        raise ModelError(f"{self.folder.name} names no end token")


def _flat(pieces: Sequence[int | str], messages: Sequence[Message], r: Renderer) -> list[int]:
    if not messages or messages[-1].role == "assistant":
        raise ValueError("a prompt must end on the user's side")
    ids: list[int] = []
    if r.plain:  # a chat template writes its own
        bos = r._named.get("bos_token")
        token = r._frame.token_to_id(bos) if bos else None
        ids += [] if token is None else [int(token)]
    for piece in pieces:
        if isinstance(piece, int):
            ids += r.text_ids(messages[piece].content.strip())
        else:
            ids += r.frame_ids(piece)
    return ids


def _compile(source: str) -> Any:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` blocks mark training targets elsewhere; here they pass through."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.globals["raise_exception"] = refuse
    env.filters["tojson"] = lambda x, **kw: json.dumps(x, ensure_ascii=False)
    try:
        return env.from_string(source)
    except TemplateError as error:
        raise ModelError(f"the model's chat template is not valid: {error}") from None


def _load_tokenizer(folder: Path) -> Any:
    file = folder / "tokenizer.json"
    if file.exists():
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"tokenizer.json of {folder.name} is not readable: {error}") from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        tokenizer = slow.backend_tokenizer
    except Exception as error:
        raise ModelError(f"{folder.name} has no usable tokenizer: {str(error)[:200]}") from None
    if not tokenizer.encode("a", add_special_tokens=False).ids:
        # Without any tokenizer file transformers makes an empty tokenizer and says nothing.
        raise ModelError(f"{folder.name} has no usable tokenizer: it has no tokenizer.json")
    return tokenizer


def _read_json(path: Path, default: dict[str, Any]) -> dict[str, Any]:
    if not path.exists():
        return default
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} of {path.parent.name} is not valid JSON: {error}") from None
    if not isinstance(read, dict):
        raise ModelError(f"{path.name} of {path.parent.name} is not a JSON object")
    return read


def _token_text(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
