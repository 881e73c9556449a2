"""How is a page put together so that no text of the data becomes a part of it?

Text is escaped wherever it is put in; what `tag` returns is not escaped again. A caption `<script>` is shown as text.
"""

import html
import json
from typing import Any


class Html(str):
    """Text that is markup already."""


def tag(name: str, *children: str, **attributes: str | int | float | bool | None) -> Html:
    """An element. Attributes that are None or False are left out; `class_` and `data_x` are called class and data-x."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    return Html(opening if name in VOID else f"{opening}{join(*children)}</{name}>")


VOID = ("img", "meta")


def join(*children: str) -> Html:
    """Elements and texts behind one another."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children))


def data_block(name: str, value: Any) -> Html:
    """JSON that a script reads by its id; it cannot end the block that it stands in."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')
