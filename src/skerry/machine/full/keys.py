"""Keys of a PC keyboard by name, and text as a US keyboard types it.

Names are QEMU's (QKeyCode in qapi/ui.json): `ctrl-alt-delete`, `ret`, `f2`.
"""

from skerry.base.errors import InvalidInput, LimitExceeded

MAX_STROKES = 4096
_NAMES = frozenset(
    [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    + [f"f{number}" for number in range(1, 25)]
    + [f"kp_{number}" for number in range(10)]
    + """shift shift_r alt alt_r ctrl ctrl_r meta_l meta_r menu esc minus equal backspace tab
    bracket_left bracket_right ret semicolon apostrophe grave_accent backslash comma dot slash
    asterisk spc caps_lock num_lock scroll_lock kp_divide kp_multiply kp_subtract kp_add kp_enter
    kp_decimal sysrq print home pgup pgdn end left up down right insert delete pause less power
    sleep wake""".split()
)
_OTHER_NAMES = {
    "enter": "ret",
    "return": "ret",
    "space": "spc",
    "escape": "esc",
    "del": "delete",
    "control": "ctrl",
    "win": "meta_l",
    "super": "meta_l",
    "pageup": "pgup",
    "pagedown": "pgdn",
}
_PLAIN = {
    "\n": "ret",
    "\t": "tab",
    "\b": "backspace",
    "\x1b": "esc",
    " ": "spc",
    "-": "minus",
    "=": "equal",
    "[": "bracket_left",
    "]": "bracket_right",
    ";": "semicolon",
    "'": "apostrophe",
    "`": "grave_accent",
    "\\": "backslash",
    ",": "comma",
    ".": "dot",
    "/": "slash",
}
_SHIFTED = dict(zip('!@#$%^&*()_+{}:"~|<>?', "1234567890-=[];'`\\,./", strict=True))


def chord(text: str) -> list[str]:
    """The keys that are pressed together: `ctrl-alt-f1`. InvalidInput."""
    found = []
    for word in text.lower().split("-"):
        name = _OTHER_NAMES.get(word, word)
        if name not in _NAMES:
            raise InvalidInput(
                f"unknown key {word!r:.40} in {text!r:.80}",
                hint="write keys as ret, f2, ctrl-alt-delete; text goes with --text",
            )
        found.append(name)
    if len(found) > 8:
        raise InvalidInput(f"too many keys at once: {text!r:.80}")
    return found


def typed(text: str) -> list[list[str]]:
    """The strokes that type a text. InvalidInput for letters that a US keyboard has not."""
    if len(text) > MAX_STROKES:
        raise LimitExceeded(f"at most {MAX_STROKES} letters are typed at once")
    return [_stroke(letter) for letter in text]


def _stroke(letter: str) -> list[str]:
    if letter in _SHIFTED:
        return ["shift", *_stroke(_SHIFTED[letter])]
    if letter in _PLAIN:
        return [_PLAIN[letter]]
    if letter.lower() in _NAMES and len(letter) == 1:
        return ["shift", letter.lower()] if letter.isupper() else [letter]
    raise InvalidInput(f"a US keyboard cannot type {letter!r}")
