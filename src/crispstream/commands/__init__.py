# SPDX-License-Identifier: Apache-2.0
"""What `crispstream` can be told to do, a module a verb or a group of verbs; ``cli`` puts them together."""
