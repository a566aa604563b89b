# SPDX-License-Identifier: Apache-2.0
"""Writes ``huffman_vectors.h``, which holds the C decoder to the Python encoder: ``python make_huffman_vectors.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlc.coding import huffman
from tlc.passes.pack import table_arrays

HEADER = Path(__file__).parent / "huffman_vectors.h"


@dataclass(frozen=True, eq=False)
class Case:
    """Values and the code to pack them with."""

    name: str
    values: NDArray[np.int8]  # (rows, row bytes)
    lookup_bits: int
    limit: int = huffman.MAX_BITS
    code_of: NDArray[np.int8] | None = None  # more values, whose code it is; None: of these

    @property
    def lengths(self) -> NDArray[np.int8]:
        """The code."""
        values = self.values if self.code_of is None else self.code_of
        return huffman.code_lengths(huffman.histogram(values), self.limit)


def cases() -> list[Case]:
    """What is written, the same every time."""
    rng = np.random.default_rng(0)

    def normal(rows: int, row_bytes: int, sigma: float) -> NDArray[np.int8]:
        return np.clip(rng.normal(0, sigma, (rows, row_bytes)).round(), -128, 127).astype(np.int8)

    every = rng.permutation(np.arange(-128, 128)).astype(np.int8).reshape(16, 16)
    # Fibonacci counts give the longest codes there are: of 1 to 16 bits; the longest are met often.
    fibonacci = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597]
    steep = np.repeat(np.arange(-8, 9), fibonacci).astype(np.int8)
    return [
        Case("one value", np.full((3, 7), -128, np.int8), 1),
        Case("two values", rng.choice([-1, 127], (5, 13)).astype(np.int8), 1),
        Case("the last row fills its word", np.repeat(np.arange(4), 16).astype(np.int8).reshape(8, 8), 2),
        Case("every value, look-up of 8 bits", every, 8),
        Case("every value, look-up of 7 bits", every, 7),
        Case("narrow", normal(9, 25, 2.0), 4),
        Case("wide, look-up of 1 bit", normal(7, 33, 30.0), 1),
        Case("wide, look-up of 8 bits", normal(7, 33, 30.0), 8),
        Case("codes of up to 16 bits", rng.choice([-8, -7, -6, 7, 8], (8, 30)).astype(np.int8), 3, 16, steep),
        Case("rows of one weight", normal(40, 1, 5.0), 3),
    ]


def render() -> str:
    """The header's text."""
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        "/* Written by make_huffman_vectors.py. Do not edit. */",
        "/* clang-format off */",
        "#ifndef HUFFMAN_VECTORS_H",
        "#define HUFFMAN_VECTORS_H",
        "",
        '#include "tlc/huffman.h"',
        "",
        "typedef struct {",
        "    const uint16_t *stream;",
        "    uint32_t words; /* of the stream, the one behind it included */",
        "    uint32_t rows, row_bytes;",
        "    const tlc_huffman_t *code;",
        "    const int8_t *values; /* (rows, row_bytes) */",
        "} huffman_vector_t;",
        "",
    ]
    entries = []
    for index, case in enumerate(cases()):
        values, lengths = case.values, case.lengths
        tables, stream = huffman.build_tables(lengths, case.lookup_bits), huffman.encode(values, lengths)
        lines.append(f"/* {case.name} */")
        members = []
        for array in table_arrays(tables):
            members.append(f"v{index}_{array.field}" if array.values else "0")
            if array.values:
                lines += _array(array.c_type, members[-1], array.values)
        lines += _array("uint16_t", f"v{index}_stream", stream.tolist())
        lines += _array("int8_t", f"v{index}_values", values.ravel().tolist())
        members += [str(tables.lookup_bits), str(tables.first)]
        lines += [f"static const tlc_huffman_t v{index}_code = {{{', '.join(members)}}};", ""]
        rows, row_bytes = values.shape
        entries.append(f"    {{v{index}_stream, {stream.size}, {rows}, {row_bytes}, &v{index}_code, v{index}_values}},")
    lines += ["static const huffman_vector_t huffman_vectors[] = {", *entries, "};"]
    longest = max(case.values.shape[1] for case in cases())
    lines += [
        f"#define HUFFMAN_VECTOR_COUNT {len(entries)}u",
        f"#define HUFFMAN_VECTOR_MAX_ROW {longest}",
        "",
        "#endif /* HUFFMAN_VECTORS_H */",
    ]
    return "\n".join(lines) + "\n"


def _array(c_type: str, name: str, values: list[int]) -> list[str]:
    lines = [f"static const {c_type} {name}[{len(values)}] = {{"]
    lines += ["    " + ", ".join(map(str, values[start : start + 20])) + "," for start in range(0, len(values), 20)]
    return [*lines, "};"]


if __name__ == "__main__":
    HEADER.write_text(render())
