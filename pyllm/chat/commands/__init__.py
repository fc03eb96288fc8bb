"""What the person can type with a slash: one function each, by family."""

from pyllm.chat.commands import branches, figures, files, general, settings, turns
from pyllm.chat.commands.registry import COMMANDS, Command, find

__all__ = ["COMMANDS", "Command", "branches", "figures", "files", "find", "general", "settings", "turns"]
