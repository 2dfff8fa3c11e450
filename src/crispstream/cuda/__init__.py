# SPDX-License-Identifier: Apache-2.0
"""The GPU's memory, streams, events and graphs, through pycuda. The only package that imports pycuda."""
