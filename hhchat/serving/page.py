"""What a browser gets besides textual-serve's own files. Nothing comes from another host."""

from __future__ import annotations

from html import escape
from string import Template

# What may run and load: textual-serve's script and style and ours, its fonts, our socket. Its
# script writes style elements, so inline styles are let in; inline scripts are not.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; "
    "img-src 'self' data:; connect-src {socket}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

# The way in. A page that moves on rather than a redirect: a strict cookie set on the way of a
# link from elsewhere (a terminal in the browser, a file) would not be sent along a redirect.
_ENTRY = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>hhchat</title><link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url=$place"></head>
<body style="background:#15181d"><a href="$place" style="color:#fff">hhchat</a></body></html>
""")

_APP = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>hhchat</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/css/xterm.css">
<script src="static/js/textual.js"></script>
<script src="page.js"></script>
<style>
@font-face { font-family: "Roboto Mono"; font-weight: 100 700; font-style: normal;
  src: url("static/fonts/RobotoMono-VariableFont_wght.ttf"); }
@font-face { font-family: "Roboto Mono"; font-weight: 100 700; font-style: italic;
  src: url("static/fonts/RobotoMono-Italic-VariableFont_wght.ttf"); }
html, body { margin: 0; height: 100%; background: #15181d; overflow: hidden; }
.textual-terminal { position: absolute; inset: 0; }
#ended { display: none; position: absolute; left: 0; right: 0; bottom: 0; z-index: 10;
  padding: 12px; text-align: center; background: #5e0ba7; color: #fff;
  font: 16px "Roboto Mono", monospace; }
body.-closed #ended { display: block; }
#ended a { color: #fff; }
</style>
</head>
<body>
<div id="terminal" class="textual-terminal" data-session-websocket-url="$socket"
  data-font-size="$size"></div>
<div id="ended">The chat has ended; everything is saved. <a href="./">Open it again</a></div>
</body>
</html>
""")

# Keys reach the chat without a click first, as soon as it has drawn itself.
SCRIPT = """"use strict";
addEventListener("DOMContentLoaded", () => {
  const body = document.body;
  const watch = new MutationObserver(() => {
    const box = document.querySelector(".xterm-helper-textarea");
    if (box && body.classList.contains("-first-byte")) {
      watch.disconnect();
      box.focus();
    }
  });
  watch.observe(body, { attributes: true, attributeFilter: ["class"] });
});
"""


def entry(place: str) -> str:
    return _ENTRY.substitute(place=escape(place))


def app(socket: str, size: int) -> str:
    """`socket` is the full address of the WebSocket, `size` that of the font in pixels."""
    return _APP.substitute(socket=escape(socket), size=size)
