"""Where commands look for the service when nobody says where it is."""

from __future__ import annotations

import os

# A service that was started with the same environment listens there.
DEFAULT_URL = f"http://127.0.0.1:{os.environ.get('TIMESTORE_PORT') or os.environ.get('PORT') or 4100}"
