"""The `encodings` that the launcher's interpreter starts with: UTF-8 now, the rest when asked for.

Each start of Python needs this package to know one codec. The standard library's takes a listing of
two folders and three files for that, a tenth of a short command. This one knows UTF-8 by itself and
becomes the standard library's, which comes next on the path, with the first question about anything
else.
"""

import codecs
import sys
from _codecs import unregister, utf_8_decode, utf_8_encode

_HERE = __path__[0].rpartition("/")[0]
_PATH = [folder for folder in sys.path if folder != _HERE]
__path__ = [f"{folder}/encodings" for folder in _PATH]
_UTF_8 = frozenset(("utf_8", "utf-8", "utf8"))


def _decode(data, errors="strict"):
    return utf_8_decode(data, errors, True)


class _IncrementalEncoder(codecs.IncrementalEncoder):
    def encode(self, data, final=False):
        return utf_8_encode(data, self.errors)[0]


class _IncrementalDecoder(codecs.BufferedIncrementalDecoder):
    _buffer_decode = utf_8_decode


class _StreamWriter(codecs.StreamWriter):
    encode = utf_8_encode


class _StreamReader(codecs.StreamReader):
    decode = utf_8_decode


def _search(name):
    """What `codecs.register` wants: the codec of that name, or None."""
    if name in _UTF_8:
        return codecs.CodecInfo(
            utf_8_encode,
            _decode,
            _StreamReader,
            _StreamWriter,
            _IncrementalEncoder,
            _IncrementalDecoder,
            "utf-8",
        )
    return _become_whole()["search_function"](name)


def _become_whole():
    """The names of the standard library's package, which take the place of these."""
    from _frozen_importlib_external import PathFinder

    unregister(_search)
    del globals()["__getattr__"]
    spec = PathFinder.find_spec("encodings", _PATH)
    exec(spec.loader.get_code("encodings"), globals())
    return globals()


def __getattr__(name):
    _become_whole()
    return getattr(sys.modules["encodings"], name)


codecs.register(_search)
