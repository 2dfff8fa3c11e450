# SPDX-License-Identifier: Apache-2.0
"""A page that shows a live stream before and after, with its figures; needs ``pip install 'crispstream[live]'``."""
