"""The chat screen's learning: the dashboard, a training beside the chat, and the new assistant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.timer import Timer

from hhchat.pool import Pool
from hhchat.text import one_line
from hhchat.tui.dialogs import Choose, Confirm
from hhchat.tui.judging import Judging
from hhchat.types import HhchatError

if TYPE_CHECKING:
    from hhchat.protocols import Panel
    from hhchat.tui.training import Training

TRAIN = (
    "It runs beside the chat, which goes on with the assistant as it is. Nothing changes unless "
    "the result is measured to be better, and then you are asked."
)


BLIND = {"current": 1.0, "previous": 1.0}


class Learning(Judging):
    """What the picks have come to, and what they make."""

    training: Training | None = None
    offered = False  # a newer assistant is promoted than the one that is talked to
    _watch: Timer | None = None

    # The dashboard ---------------------------------------------------------------------------

    def action_dashboard(self) -> None:
        from hhchat.tui.dashboard import Dashboard  # not before the first frame

        def left(wanted: str | None) -> None:
            if wanted == "train":
                self.action_train()

        least = self.chat_app.setup.config.train.min_comparisons
        self.app.push_screen(Dashboard(self.session.store, least, self._panels()), left)

    def _panels(self) -> list[Panel]:
        plugins = self.session.plugins
        return [] if plugins is None else list(plugins.panels())

    # A training ------------------------------------------------------------------------------

    def action_train(self) -> None:
        """What there is to do: answer the offer, watch the run, or start one."""
        if self.offered:
            self.offer()
        elif self.training is not None and self.training.running:
            self.show_training()
        else:
            self._ask_to_train()

    def _ask_to_train(self) -> None:
        setup = self.chat_app.setup
        if setup.config.remote.url or setup.config.model.path.startswith("server:"):
            self.say("A server's model cannot be trained from here: open a model of your own.")
            return
        missing = self.progress.needed - self.progress.usable
        words = f"{self.progress.usable:,} pairs to learn from"
        if missing > 0:
            words += f"; {missing:,} more would make it worthwhile"

        def sure(answer: bool | None) -> None:
            if answer:
                self.start_training()

        self.app.push_screen(Confirm("Train the assistant now?", f"{words}. {TRAIN}"), sure)

    def start_training(self) -> None:
        from hhchat.tui.training import TICK, Training, command

        setup = self.chat_app.setup
        try:
            current = self.session.store.current()
            before = "base" if current is None else current.id
            words = setup.train_command or command(setup.config)
            self.training = Training(words, setup.store_path.parent, before)
        except HhchatError as error:
            self.oops(error)
            return
        # "current" would move under the conversation when the run is promoted.
        self.session.dealer.pin(before)
        if self._watch is not None:
            self._watch.stop()
        self._watch = self.set_interval(TICK, self._look)
        self.show_training()

    def show_training(self) -> None:
        from hhchat.tui.training import TrainScreen

        assert self.training is not None
        self.app.push_screen(TrainScreen(self.training))

    def _look(self) -> None:
        training = self.training
        if training is None:
            return
        training.look()
        if training.running:
            return
        if self._watch is not None:
            self._watch.stop()
        try:
            current = self.session.store.current()
            self.progress.count(self.session.store)
        except HhchatError as error:
            self.oops(error)
            return
        if current is not None and current.id != training.before:
            self.offered = True
            self.say("A better assistant is ready: ctrl+t uses it, or tries it blind.", "good")
        else:
            self.session.dealer.unpin()
            last = one_line(training.last, 200)
            self.say(f"The training has ended: {training.state()}. {last}")
        self.enter_again()

    def offer(self) -> None:
        """The new assistant: from now on, blind beside the old one, or not yet."""
        options = [
            "Use it from now on",
            "Try it blind: one reply by it and one by the old one, sides shuffled",
            "Stay with the old one until the app is opened again",
        ]

        def chosen(index: int | None) -> None:
            if index is None:
                return
            self.offered = False
            if index == 0:
                self.session.dealer.unpin()
                self.say("From the next message on you talk to the new assistant.", "good")
            elif index == 1:
                self._blind()
            else:
                self.say("You stay with the old one; `hhchat snapshots` lists them all.")
            self.enter_again()

        self.app.push_screen(Choose("The new assistant is promoted", options), chosen)

    def action_assistant(self) -> None:
        """From the palette: the current assistant alone, or blind beside the one before it."""
        try:
            base = None if self.session.engine is None else self.session.engine.base
            versions = Pool(self.session.store, BLIND).members(base)
        except HhchatError as error:
            self.oops(error)
            return
        if len(versions) == 1:
            self.say(
                "There is no other version yet to try blind: a training that is measured to be "
                "better makes one."
            )
            return

        def chosen(index: int | None) -> None:
            if index == 0:
                self.session.dealer.unpin()
                self.say("You talk to the current assistant.")
            elif index == 1:
                self._blind()

        options = ["The current one", "Blind: the current one beside the one before it"]
        self.app.push_screen(Choose("Which assistant?", options), chosen)

    def _blind(self) -> None:
        self.session.dealer.versus(BLIND)
        self.say("Blind from the next message on; progress (ctrl+g) shows who wins.")

    def enter_again(self) -> None:
        """Hints anew, without taking the focus from a dialog or another screen."""
        if self.app.screen is self:
            self.enter(self.stage)
        else:
            self.refresh_hints()

    def leaving(self) -> bool:
        """Whether the app may close now; else the user is asked what becomes of the run."""
        training = self.training
        if training is None or not training.running:
            return True
        options = [
            "Leave; the training goes on by itself (`hhchat runs` tells how it ends)",
            "Stop the training and leave; `hhchat train --resume` continues it",
        ]

        def chosen(index: int | None) -> None:
            if index is not None:
                if index == 1:
                    training.cancel()
                self.chat_app.finish()

        self.app.push_screen(Choose("A training is running", options), chosen)
        return False
