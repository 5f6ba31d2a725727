"""The chat screen's lower floor: its widgets, its stage, and the sampling of a pair."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from hhchat.session import Session
from hhchat.text import one_line
from hhchat.tui import pump
from hhchat.tui.composer import Composer
from hhchat.tui.hints import Hints
from hhchat.tui.keys import Stage, hints, live
from hhchat.tui.log import ConversationLog
from hhchat.tui.pair import PairView
from hhchat.tui.setup import Progress
from hhchat.tui.topbar import TopBar
from hhchat.types import HhchatError

if TYPE_CHECKING:
    from hhchat.tui.app import ChatApp

NOTICE_ROWS = 3  # as in app.tcss
STATES = {
    Stage.READY: ("ready", ""),
    Stage.WAITING: ("loading the model …", "busy"),
    Stage.SAMPLING: ("writing …", "busy"),
    Stage.CHOOSING: ("your pick", ""),
    Stage.UNSAVED: ("NOT SAVED", "bad"),
    Stage.FAILED: ("error", "bad"),
    Stage.AGAIN: ("an old pair again", ""),
}
# Commands without a key of their own are live where these are.
LIKE = {"mode": "new", "branch": "edit_last", "assistant": "train"}


class ChatTable(Screen[None]):
    """Everything on the table. Workers post messages here; only the handlers move widgets."""

    AUTO_FOCUS: ClassVar[str | None] = "#composer"

    def __init__(self, session: Session, progress: Progress) -> None:
        super().__init__()
        self.session = session
        self.progress = progress
        self.stage = Stage.READY
        self.engine_state = "loading"  # loading, ready, failed
        self.engine_error = ""
        self.sampler: pump.Sampler | None = None
        self.comment = ""
        self.complete_at = 0.0
        self._ticket = 0
        self.top, self.log_view, self.pair_view = TopBar(), ConversationLog(), PairView()
        self.notice = Static("", id="notice", markup=False)
        self.composer = Composer(id="composer", placeholder="Say something …", of_chat=True)
        self.hint_bar = Hints("", id="hints")

    @property
    def chat_app(self) -> ChatApp:
        return cast("ChatApp", self.app)

    def compose(self) -> ComposeResult:
        yield self.top
        yield self.log_view
        yield self.pair_view
        yield self.notice
        yield self.composer
        yield self.hint_bar

    # Stage -----------------------------------------------------------------------------------

    def enter(self, stage: Stage) -> None:
        """Move to a stage: what is shown, what has the focus, and which keys are live."""
        self.stage = stage
        pairing = stage in (Stage.SAMPLING, Stage.CHOOSING, Stage.UNSAVED, Stage.AGAIN)
        self.set_class(pairing, "-pairing")
        typing = stage in (Stage.READY, Stage.WAITING)
        self.composer.display = typing
        self.refresh_hints()
        state, kind = STATES[stage]
        if stage is Stage.READY and self.engine_state != "ready":
            state = "loading the model …" if self.engine_state == "loading" else "no model"
            kind = "busy" if self.engine_state == "loading" else "bad"
        self.top.show_state(state, kind)
        again, conversation = self.session.again, self.session.conversation
        if stage is Stage.AGAIN and again is not None:  # what is judged is the old pair
            self.top.show_mode(again.before.mode)
            self.top.show_title(again.before.question)
        else:
            self.top.show_mode(self.session.mode)
            self.top.show_title(conversation.title if conversation else "")
        # At once, not by a message: a key typed right now must reach the right widget.
        self.set_focus(self.composer if typing else self.pair_view, scroll_visible=False)
        self.refresh_bindings()

    def refresh_hints(self) -> None:
        writing = bool(self.composer.display and self.composer.text)
        keys = [k for k in hints(self.stage, writing=writing) if self.possible(k.action)]
        self.hint_bar.show(keys)

    def on_text_area_changed(self) -> None:
        """What some keys do depends on whether there is text in the box."""
        self.refresh_hints()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return live(LIKE.get(action, action), self.stage) and self.possible(action)

    def possible(self, action: str) -> bool:
        """Whether there is something for the action to act on."""
        if action == "undo":
            return self.session.can_undo or self.session.unsaved is not None
        if action in ("regenerate", "edit_last"):
            return self.session.turn is not None
        if action == "branch":
            turn = self.session.turn
            return turn is not None and (turn.index > 0 or turn.reply is not None)
        if action == "copy_reply":
            return self.session.turn is not None and self.session.turn.reply is not None
        return True

    def say(self, text: str, kind: str = "", way_out: str = "") -> None:
        """Up to three lines above the keys; `kind` is good, bad or nothing. The words carry the
        meaning. `way_out` is what to do now: where there is too little room, `text` gives way."""
        ends = f" · {way_out}" if way_out else ""
        told, limit = one_line(text, 400) + ends, 400
        width = max(20, self.size.width - 4)  # less the padding
        while ends and limit > 20 and Content(told).get_height({}, width) > NOTICE_ROWS:
            limit -= 10
            told = one_line(text, limit) + ends
        self.notice.update(Content(told))
        self.notice.display = bool(text)
        for name in ("good", "bad"):
            self.notice.set_class(kind == name, f"-{name}")

    def oops(self, error: HhchatError) -> None:
        self.say(pump.reason(error), "bad")

    # The model -------------------------------------------------------------------------------

    def on_engine_ready(self, message: pump.EngineReady) -> None:
        self.session.engine = message.engine
        self.engine_state = "ready"
        if self.stage is Stage.WAITING:
            self.ask_pair()
        else:
            self.enter(self.stage)

    def on_engine_failed(self, message: pump.EngineFailed) -> None:
        self.engine_state, self.engine_error = "failed", message.error
        self.say(f"The model could not be loaded: {message.error}", "bad")
        self.enter(Stage.FAILED if self.stage is Stage.WAITING else self.stage)

    # Sampling --------------------------------------------------------------------------------

    def ask_pair(self) -> None:
        """Sample two replies to the last message, as soon as there is a model."""
        if self.session.engine is None:
            if self.engine_state == "failed":
                self.say(f"The model could not be loaded: {self.engine_error}", "bad")
                self.enter(Stage.FAILED)
            else:
                self.say("Your message is stored; the replies come as soon as the model is loaded.")
                self.enter(Stage.WAITING)
            return
        self.abandon()
        try:
            self.session.draw_pair()
        except HhchatError as error:
            self.oops(error)
            self.enter(Stage.FAILED)
            return
        pair = self.session.pair
        assert pair is not None
        self._ticket += 1
        self.comment = ""  # what was said of another pair
        self.say("")
        self.pair_view.ask(
            self.session.question, "writing …", loud=self.session.mode == "redteam-worst"
        )
        if pair.attempt:
            self.say("Those two said the same: here is another pair.")
        self.sampler = pump.Sampler(self.session, pair, self._ticket, self.post_message)
        self.enter(Stage.SAMPLING)
        self.sampler.start()

    def abandon(self) -> None:
        """Stop the running sampler, if any; what it still posts is stale."""
        if self.sampler is not None:
            self.sampler.abandoned = True
            self.sampler.stopped.set()
            self.sampler = None

    def on_grew(self, message: pump.Grew) -> None:
        if self.sampler is not None and message.ticket == self.sampler.ticket:
            self.sampler.drawn(self.pair_view.grow(message.left, message.right))

    def on_sampled(self, message: pump.Sampled) -> None:
        if self.sampler is None or message.ticket != self.sampler.ticket:
            return
        stopped, self.sampler = self.sampler.stopped.is_set(), None
        pair = self.session.pair
        assert pair is not None
        try:
            self.session.keep()
        except HhchatError as error:
            self.oops(error)  # the pick will try again to store them
        if pair.complete and pair.alike and pair.attempt == 0 and not stopped:
            self.ask_pair()
            return
        if not pair.complete or not any(text.strip() for text in pair.texts):
            self.say("Stopped before there was anything to judge: r asks again.")
            self.enter(Stage.FAILED)
            return
        self.pair_view.finish(pair)
        self.complete_at = time.monotonic()
        self.enter(Stage.CHOOSING)

    def on_sampling_failed(self, message: pump.SamplingFailed) -> None:
        if self.sampler is None or message.ticket != self.sampler.ticket:
            return
        self.sampler = None
        way_out = "ctrl+e edits it, ctrl+n is a new chat"
        if not message.too_long:
            way_out = "your message is stored, r asks again"
        self.say(message.error, "bad", way_out)
        self.enter(Stage.FAILED)

    def action_stop(self) -> None:
        if self.sampler is not None:
            self.sampler.stopped.set()
            self.top.show_state("stopping …", "busy")

    def latency(self) -> float:
        """Seconds from both replies complete until now."""
        return time.monotonic() - self.complete_at

    def action_zoom(self) -> None:
        self.pair_view.zoom()

    def action_scroll_pair(self, lines: int) -> None:
        self.pair_view.scroll_both(lines)
