# SPDX-License-Identifier: Apache-2.0
"""From frame to frame through an engine: on the CPU, or on a GPU with several frames in flight."""
