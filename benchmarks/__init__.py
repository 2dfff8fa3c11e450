# SPDX-License-Identifier: Apache-2.0
"""What CrispStream costs, each part beside the limit that the machine sets it: ``make bench``, docs/performance.md."""
