# SPDX-License-Identifier: Apache-2.0
"""The dual-branch network in plain torch: the specification that kernels and engines are compared with."""
