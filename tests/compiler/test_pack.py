# SPDX-License-Identifier: Apache-2.0
"""Which tensors are packed: sizes, decode cost, shared codes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tlc.coding import huffman
from tlc.passes.pack import DecodeCost, FrozenWeights, PackedWeights, Packing, pack, table_arrays

MANY_PIXELS = 1000.0  # instructions per weight: decoding is lost in them


def gaussian(seed: int, rows: int, row_bytes: int, sigma: float) -> NDArray[np.int8]:
    values = np.random.default_rng(seed).normal(0, sigma, (rows, row_bytes))
    return np.clip(values.round(), -127, 127).astype(np.int8)


def frozen(values: NDArray[np.int8], per_weight: float = MANY_PIXELS) -> FrozenWeights:
    return FrozenWeights(values, per_weight * values.size)


def unpack(packing: Packing, name: str) -> NDArray[np.int8]:
    """The weights again, by the reference decoder; lengths come from the tables."""
    packed = packing.weights[name]
    if packed.code is None:
        return packed.data.astype(np.int8)
    tables = packing.codes[packed.code]
    lengths = np.full(256, huffman.ABSENT, np.int8)
    for entry in tables.lookup.tolist():
        if entry >= 0:
            lengths[np.uint8(entry & 0xFF).astype(np.int8).astype(int) + 128] = entry >> 8
    # Longer codes: how many of each length follows from the greatest code of each.
    index, code = 0, -1
    for level, last in enumerate(tables.last.tolist()):
        length = tables.first + level
        greatest = (last >> (16 - length)) if last != (tables.last[level - 1] if level else -1) else None
        if greatest is not None:
            smallest = (index - int(tables.base[level])) % 256
            smallest += (greatest - smallest) // 256 * 256
            for _ in range(smallest, greatest + 1):
                lengths[int(tables.symbols[index]) + 128] = length
                index += 1
        code = last
    assert code in (-1, 0xFFFF) and index == len(tables.symbols)
    flat = huffman.decode(packed.data.astype(np.uint16), lengths, packed.raw_bytes)
    return flat.reshape(packed.rows, packed.row_bytes)


def model() -> dict[str, FrozenWeights]:
    return {
        "conv1": frozen(gaussian(1, 16, 27, 30)),
        "conv2": frozen(gaussian(2, 64, 144, 8)),
        "conv3": frozen(gaussian(3, 64, 576, 9)),
        "noise": frozen(np.random.default_rng(4).integers(-127, 128, (64, 64)).astype(np.int8)),
        "zeros": frozen(np.zeros((32, 64), np.int8)),
        "dense": frozen(gaussian(5, 128, 640, 4), per_weight=3),
    }


@pytest.mark.parametrize("mode", ["none", "size", "auto"])
def test_weights_come_back(mode: str) -> None:
    weights = model()
    packing = pack(weights, mode)  # type: ignore[arg-type]
    assert list(packing.weights) == list(weights)
    for name, tensor in weights.items():
        assert np.array_equal(unpack(packing, name), tensor.values), name


def test_none_packs_nothing() -> None:
    packing = pack(model(), "none")
    assert {packed.kind for packed in packing.weights.values()} == {"raw"}
    assert packing.codes == {} and packing.flash_bytes == packing.raw_bytes


def test_size_is_least() -> None:
    sizes = {mode: pack(model(), mode).flash_bytes for mode in ("none", "auto", "size")}
    assert sizes["size"] < sizes["auto"] < sizes["none"]


def test_size_never_exceeds_raw() -> None:
    for rows in (1, 2, 4, 8, 16, 32, 64):
        packing = pack({"a": frozen(gaussian(rows, rows, 9, 12)), "b": frozen(gaussian(rows + 1, rows, 9, 14))}, "size")
        assert packing.flash_bytes <= sum(-(-rows * 9 // 4) * 4 for _ in "ab")


def test_incompressible_stays_raw() -> None:
    packing = pack(model(), "size")
    assert packing.weights["noise"].kind == "raw"


def test_auto_leaves_a_dense_layer_raw() -> None:
    packing = pack(model(), "auto")
    assert packing.weights["dense"].kind == "raw"
    assert packing.weights["conv3"].kind == "huffman"
    assert packing.weights["conv3"].instructions <= 0.25 * model()["conv3"].instructions


def test_auto_follows_the_cost_of_decoding() -> None:
    tensor = {"conv": frozen(gaussian(6, 64, 576, 8), per_weight=100)}
    assert pack(tensor, "auto").weights["conv"].kind == "huffman"
    assert pack(tensor, "auto", DecodeCost(weight=26)).weights["conv"].kind == "raw"
    twice = {"conv": FrozenWeights(tensor["conv"].values, tensor["conv"].instructions, uses=2)}
    assert pack(twice, "auto").weights["conv"].kind == "raw"


def test_a_tensor_read_twice_is_decoded_twice() -> None:
    values = gaussian(6, 64, 576, 8)
    once, twice = (pack({"w": FrozenWeights(values, 1e9, uses)}, "auto").weights["w"] for uses in (1, 2))
    assert twice.instructions == 2 * once.instructions > 2 * 18 * values.size


def test_auto_wants_five_percent() -> None:
    """Values uniform on 200 of 256 levels: 7.64 bits, which saves 4.5%; on 160 levels: 7.32 bits, 8.5%."""
    rng = np.random.default_rng(7)
    for levels, kind in ((200, "raw"), (160, "huffman")):
        values = rng.integers(-levels // 2, levels // 2, (256, 512)).astype(np.int8)
        assert pack({"w": frozen(values)}, "auto").weights["w"].kind == kind
        assert pack({"w": frozen(values)}, "size").weights["w"].kind == "huffman"


def test_small_tensors_share_a_code() -> None:
    """Each alone saves less than its tables cost."""
    weights = {f"conv{index}": frozen(gaussian(index, 16, 27, 25)) for index in range(12)}
    assert pack({"conv0": weights["conv0"]}, "size").weights["conv0"].kind == "raw"
    packing = pack(weights, "size")
    assert len(packing.codes) == 1
    assert all(packed.code == "code0" for packed in packing.weights.values())
    assert packing.flash_bytes < 0.92 * packing.raw_bytes


def test_tensors_of_different_width_do_not_share() -> None:
    weights = {"wide": frozen(gaussian(1, 64, 256, 40)), "narrow": frozen(gaussian(2, 64, 256, 1))}
    assert len(pack(weights, "size").codes) == 2


def test_packing_repeats() -> None:
    def everything(packing: Packing) -> list[object]:
        arrays = [packed.data.tobytes() for packed in packing.weights.values()]
        tables = [(name, [a.values for a in table_arrays(t)], t.first) for name, t in packing.codes.items()]
        return [arrays, tables, packing.report]

    assert everything(pack(model(), "size")) == everything(pack(model(), "size"))


def test_report_and_sizes_agree() -> None:
    packing = pack(model(), "size")
    for row in packing.report:
        packed: PackedWeights = packing.weights[row.name]
        assert row.packed_bytes == packed.data.nbytes <= packed.flash_bytes < packed.data.nbytes + 4
        if packed.code:
            assert row.bits_per_weight >= row.entropy
            assert packed.scratch_bytes == packed.row_bytes
    assert packing.flash_bytes == packing.table_bytes + sum(p.flash_bytes for p in packing.weights.values())


def test_no_weights() -> None:
    assert pack({}, "auto").flash_bytes == 0
