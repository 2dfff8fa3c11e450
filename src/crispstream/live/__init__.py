# SPDX-License-Identifier: Apache-2.0
"""Streams that come on their own time: sources that reconnect, a clock, sinks that never hold one another up."""
