"""Applications that people open in a browser or call over HTTP: doors onto the hub, none of them imported by it.

from visalign.apps import compare, desk     # modules; importing this folder alone loads no web framework
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors
    from . import answers as answers
    from . import board as board
    from . import booth as booth
    from . import compare as compare
    from . import desk as desk
    from . import marks as marks
    from . import pool as pool
    from . import routes as routes
    from . import runs as runs
    from . import safety as safety
    from . import tally as tally
    from . import taste as taste
