"""The AVX-VNNI kernels equal the reference where a machine has their instructions in any encoding.

AVX512-VNNI has them for 256-bit registers too. A level of these features but without AVX512BW runs
the same sources on machines that lack AVX-VNNI itself.
"""

from __future__ import annotations

from itertools import product as pairs

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.backends.cpu.isa import LEVELS, is_supported
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.toolchain import accepts
from tests.backends.helpers import Case, Const, case, check
from tests.backends.strategies import FEW, convolutions, linears, matmuls

_FEATURES = {feature.name: feature for level in LEVELS for feature in level.features}
_NAMES = ("avx2", "fma", "avx512f", "avx512vl", "avx512_vnni")
YMM_VNNI = Isa("ymmvnni", tuple(_FEATURES[name] for name in _NAMES))

pytestmark = pytest.mark.skipif(
    not (is_supported(YMM_VNNI) and accepts(YMM_VNNI)), reason="needs AVX512VL and AVX512-VNNI"
)


@FEW
@given(
    st.lists(st.one_of(convolutions(), linears(), matmuls()), min_size=25, max_size=25),
    st.lists(convolutions(depthwise=True), min_size=5, max_size=5),
)
def test_products_equal_the_reference(products: list[Case], depthwise: list[Case]) -> None:
    check([*products, *depthwise], [YMM_VNNI])


def test_every_number_of_rows_and_panels() -> None:
    random = torch.Generator().manual_seed(3)
    cases = []
    for rows, last in pairs(range(1, 27), (8, 13)):
        x = torch.randint(-128, 128, (rows, 70), dtype=torch.int8, generator=random)
        out = 16 * (rows % 4) + last
        constants = [
            Const(torch.randint(-127, 128, (out, 70), generator=random).to(torch.int8)),
            Const(torch.randint(-999, 999, (out,), generator=random).to(torch.int32)),
            Const(torch.tensor([2**30 + 128], dtype=torch.int32)),
            Const(torch.tensor([41], dtype=torch.int32)),
        ]
        cases.append(case("linear_requant", x, *constants, -9, 3, -128, 127))
    check(cases, [YMM_VNNI])
