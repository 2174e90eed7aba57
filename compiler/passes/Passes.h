// Declarations and registration of flarec's passes; Passes.td documents them.
#pragma once
#include "mlir/Pass/Pass.h"
#include <memory>

namespace flarec {
#define GEN_PASS_DECL
#include "passes/Passes.h.inc"
#define GEN_PASS_REGISTRATION
#include "passes/Passes.h.inc"
} // namespace flarec
