# SPDX-License-Identifier: Apache-2.0
"""A page that shows a live stream before and after. Raises UsageError where a package that it needs is missing."""

from importlib.util import find_spec

from crispstream.errors import UsageError

if missing := [name for name in ("aiohttp", "cv2") if find_spec(name) is None]:
    raise UsageError(f"the preview page needs {' and '.join(missing)}", "pip install 'crispstream[live]'")
