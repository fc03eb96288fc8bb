"""Conversations in a terminal: `pyllm chat`.

tree, transcript, store   a conversation, how it is kept, and where
engine, local, remote     what answers: a model in this process or a server
state, answering          one chat as it goes; an answer as it comes
markdown, screen, ...     how it looks
prompt, repl, commands    what the person types
"""
