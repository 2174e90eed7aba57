// The `flare` dialect: types, ops, and helpers to speak of indices.
#pragma once

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "flare/FlareDialect.h.inc"
#include "flare/FlareEnums.h.inc"
#include "flare/FlareInterfaces.h.inc"
#define GET_TYPEDEF_CLASSES
#include "flare/FlareTypes.h.inc"
#define GET_OP_CLASSES
#include "flare/FlareOps.h.inc"

namespace flarec::flare {

/// The bit of an index in `FlareTensorType::indices()`.
inline unsigned bit(Index i) { return 1u << unsigned(i); }

/// The f32 type that carries the indices of `set`, sizes taken from `a` and `b`.
FlareTensorType withIndices(unsigned set, FlareTensorType a, FlareTensorType b);

/// The type of an f32 elementwise result of two operands; null if their sizes disagree.
FlareTensorType broadcast(FlareTensorType a, FlareTensorType b);

} // namespace flarec::flare
