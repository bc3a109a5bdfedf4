"""``python -m vpoll_asyncio``: see `vpoll_asyncio.cli`."""

import sys

from .cli import main

sys.exit(main())
