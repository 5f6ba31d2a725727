"""The chat screen: sending, editing, copying, and moving between conversations."""

from __future__ import annotations

from hhchat.session import QUESTIONS
from hhchat.text import one_line
from hhchat.tui.blocks import code_blocks
from hhchat.tui.composer import LIMIT, Composer
from hhchat.tui.conversations import Conversations
from hhchat.tui.dialogs import Choose, Edit
from hhchat.tui.help import Help
from hhchat.tui.keys import Stage, bindings
from hhchat.tui.learning import Learning
from hhchat.tui.pane import ReplyPane
from hhchat.tui.setup import remember
from hhchat.tui.welcome import Welcome
from hhchat.types import BadInput, HhchatError, Side, StoreError

NOTHING = {
    "edit_last": "There is nothing to edit yet: say something first.",
    "branch": "There is nothing to branch from yet.",
    "copy_reply": "There is no reply to copy yet.",
    "copy_code": "There is no code block here.",
}


class ChatScreen(Learning):
    """Where one lives: type, read two replies, pick, go on."""

    BINDINGS = bindings()

    async def on_mount(self) -> None:
        self.notice.display = False
        self.pair_view.can_focus = True
        await self.show_conversation()

    async def show_conversation(self) -> None:
        """Draw the session's conversation; an unanswered last message is asked again."""
        self.abandon()
        self.comment = ""
        history = self.session.history()
        self.remember()
        await self.log_view.open(history, Welcome(self.chat_app.setup.starter))
        if self.session.unanswered:
            self.ask_pair()
        else:
            self.enter(Stage.READY)

    def remember(self) -> None:
        """Note which conversation is open: the app opens on it again."""
        conversation = self.session.conversation
        remember(self.chat_app.setup.store_path, conversation.id if conversation else None)

    # Writing ---------------------------------------------------------------------------------

    async def on_composer_sent(self, message: Composer.Sent) -> None:
        if self.stage is Stage.WAITING:
            self.say("The model is still loading; your last message is answered first.")
            return
        if not message.text.strip():
            self.say("Type a message first, then Enter.")
            return
        if len(message.text) > LIMIT:
            self.say(
                f"A message holds at most {LIMIT:,} characters; this has {len(message.text):,}."
            )
            return
        try:
            turn = self.session.say(message.text)
        except HhchatError as error:
            self.oops(error)  # the text stays in the box
            return
        # What was typed since Enter stays for the next message.
        self.composer.load_text(self.composer.text.removeprefix(message.text))
        self.say("")
        self.remember()
        await self.log_view.say(turn.user)
        await self.answer()

    def action_send(self) -> None:
        """For the mouse: the box has the key."""
        self.composer.post_message(Composer.Sent(self.composer.text))

    def action_newline(self) -> None:
        self.composer.action_newline()

    def on_composer_refused(self, message: Composer.Refused) -> None:
        self.say(message.why, "bad")

    def action_edit_last(self) -> None:
        """Bring the last message back for editing; sending it makes a branch."""
        turn = self.session.turn
        if turn is None:
            self.say(NOTHING["edit_last"])
            return

        async def resend(text: str | None) -> None:
            if text is None:
                return
            try:
                self.session.edit(text)
            except HhchatError as error:
                self.oops(error)
                return
            await self.show_conversation()

        self.app.push_screen(Edit("Edit your last message and send it again", turn.user), resend)

    def action_branch(self) -> None:
        """Say something else after an earlier turn: a branch of the conversation."""
        try:
            turns = [t for t in self.session.history() if t.reply is not None]
        except HhchatError as error:
            self.oops(error)
            return
        if not turns:
            self.say(NOTHING["branch"])
            return

        async def said(index: int, text: str | None) -> None:
            if text is None:
                return
            try:
                self.session.branch(turns[index].id, text)
            except HhchatError as error:
                self.oops(error)
                return
            await self.show_conversation()

        def chosen(index: int | None) -> None:
            if index is not None:
                after = f"Say this after turn {turns[index].index + 1} instead"
                self.app.push_screen(Edit(after), lambda text: said(index, text))

        options = [f"{t.index + 1}. {one_line(t.user, 60)}" for t in turns]
        self.app.push_screen(Choose("Branch after which turn?", options), chosen)

    async def action_regenerate(self) -> None:
        try:
            if not self.session.unanswered:
                self.session.reopen()
                await self.log_view.take_back()
        except HhchatError as error:
            self.oops(error)
            return
        self.ask_pair()

    # Copying ---------------------------------------------------------------------------------

    def action_copy(self, side: Side) -> None:
        pair = self.session.pair
        if pair is not None:
            self.copy_text(pair.texts[pair.index(side)], f"the {side} reply")

    def action_copy_reply(self) -> None:
        text = self.last_reply()
        if text is None:
            self.say(NOTHING["copy_reply"])
        else:
            self.copy_text(text, "the reply")

    def action_copy_code(self) -> None:
        """Copy a code block of the replies on the table, or of the last reply."""
        pair = self.session.pair
        texts = pair.texts if pair and self.stage is Stage.CHOOSING else [self.last_reply() or ""]
        blocks = [block for text in texts for block in code_blocks(text)]
        if not blocks:
            self.say(NOTHING["copy_code"])
        elif len(blocks) == 1:
            self.copy_text(blocks[0], "the code")
        else:

            def chosen(index: int | None) -> None:
                if index is not None:
                    self.copy_text(blocks[index], "the code")

            self.app.push_screen(Choose("Copy which code block?", blocks), chosen)

    def copy_text(self, text: str, what: str) -> None:
        """Through the terminal (OSC 52, base64): what the text holds cannot act."""
        self.app.copy_to_clipboard(text.encode("utf-8", "replace").decode("utf-8"))
        self.say(f"Copied {what} ({len(text):,} characters), if your terminal allows it.")

    def last_reply(self) -> str | None:
        turn = self.session.turn
        return turn.reply.text if turn is not None and turn.reply is not None else None

    def on_reply_pane_clicked(self, message: ReplyPane.Clicked) -> None:
        if self.stage in (Stage.CHOOSING, Stage.AGAIN):
            self.call_later(self.action_pick, message.side)

    # Moving ----------------------------------------------------------------------------------

    async def action_new(self, mode: str | None = None) -> None:
        try:
            self.put_away()
            self.session.new(mode)
        except HhchatError as error:
            self.oops(error)
            return
        self.say("")
        await self.show_conversation()

    def put_away(self) -> None:
        """Save a pick that waits for it, before its conversation is left; raises StoreError."""
        try:
            self.progress.add(self.session.retry())
        except StoreError as error:
            words = f"the last pick is not saved yet, so this chat stays open: {error}"
            raise StoreError(words) from error

    def action_mode(self) -> None:
        """A new conversation in another mode."""
        session = self.session
        more = [*session.objectives, *(session.plugins.objectives() if session.plugins else ())]
        questions = {**{o.name: o.question for o in more}, **QUESTIONS}
        modes = [*QUESTIONS, *(name for name in questions if name not in QUESTIONS)]

        async def chosen(index: int | None) -> None:
            if index is not None:
                await self.action_new(modes[index])

        usual = {"redteam-best": " (the usual one for red-teaming)"}
        options = [f"{mode}: {questions[mode]}{usual.get(mode, '')}" for mode in modes]
        self.app.push_screen(Choose("A new conversation in which mode?", options), chosen)

    def action_settings(self) -> None:
        """The system prompt and sampling of this conversation (or of the one to be started)."""
        from hhchat.tui.settings import Kept, Settings

        def kept(settings: Kept | None) -> None:
            if settings is None:
                return
            try:
                self.session.settle_on(*settings)
            except HhchatError as error:
                self.oops(error)
                return
            again = " r asks for two new replies." if self.stage is Stage.CHOOSING else ""
            self.say(f"Kept, from the next replies on.{again}", "good")

        self.app.push_screen(Settings(self.session.system or "", self.session.sampling), kept)

    def action_conversations(self) -> None:
        async def chosen(conversation: str | None) -> None:
            if self._deleted():
                self.session.unsaved = None  # it went with its conversation
                if conversation is None:
                    await self.action_new()
            if conversation is None:
                self.enter_again()  # its title may be another
                return
            try:
                self.put_away()
                self.session.resume(conversation)
            except HhchatError as error:
                self.oops(error)
                return
            self.say("")
            await self.show_conversation()

        self.app.push_screen(Conversations(self.session.store), chosen)

    def _deleted(self) -> bool:
        """Whether the conversation on screen was deleted from the list; a new title is taken."""
        session = self.session
        if session.conversation is None:
            return False
        try:
            session.conversation = session.store.conversation(session.conversation.id)
        except BadInput:
            return True
        except HhchatError as error:  # not readable now, but not deleted
            self.oops(error)
        return False

    async def command(self, action: str) -> None:
        """From the palette: the action, if it means anything now, else a line that says why not."""
        if self.check_action(action, ()):
            await self.run_action(action)
        elif self.possible(action):
            self.say("Not now: first finish what is on the table.")
        else:
            self.say(NOTHING.get(action, "There is nothing to do that with yet."))

    def action_help(self) -> None:
        async def clicked(action: str | None) -> None:
            if action is not None:
                await self.run_action(action)

        self.app.push_screen(Help(), clicked)
