# SPDX-License-Identifier: Apache-2.0
"""Inference engines: one protocol, one module per library."""
