"""The app in a browser, and one model for all its tabs.

`web` is the server that a browser talks to: textual-serve behind a gate. `host` holds the engine
in a process of its own; `shared` is the engine that each tab's app uses in its stead, and `wire`
is what the two say to each other. Only `web` needs more than the standard library.
"""
