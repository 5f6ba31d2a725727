"""The chat screen's learning: the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hhchat.tui.judging import Judging

if TYPE_CHECKING:
    from hhchat.protocols import Panel


class Learning(Judging):
    """What the picks have come to."""

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

    def action_train(self) -> None:
        self.say("Leave the app and run: hhchat train")
