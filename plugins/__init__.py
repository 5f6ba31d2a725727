"""Plugins that ship with hhchat, through the same entry points as a stranger's."""
