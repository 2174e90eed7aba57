//===- darcy.h - Darcy flow through random rock ---------------------------===//
//
// A field of two permeabilities in smooth random patches and the pressure of
// -div(a grad u) = 1 with u = 0 outside, by finite volumes and conjugate
// gradients. No torch in here.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <cstdint>

namespace flarec::train {

/// Fills `permeability` (0 or 1 for the two kinds) and `pressure`, `[side,
/// side]` each. The same seed gives the same field on every machine.
void solveDarcy(int64_t side, uint64_t seed, float *permeability,
                float *pressure);

} // namespace flarec::train
