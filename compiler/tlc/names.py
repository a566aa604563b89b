# SPDX-License-Identifier: Apache-2.0
"""What a person calls a tensor."""

__all__ = ["first_name"]


def first_name(name: str) -> str:
    """LiteRT's converter names a fused tensor by all that went into it, ``a;b;c``: the first of them is enough."""
    return name.split(";", 1)[0] or name
