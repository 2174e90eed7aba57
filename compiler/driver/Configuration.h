// The request's `config` (docs/artefact.md, section 4): from text to the attribute on each sweep.
#pragma once
#include "tile/Tile.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"
#include <string>
#include <utility>

namespace flarec {

/// A configuration's fields as it prints them: names and texts, in order. Whatever fields the attribute has.
using Fields = llvm::SmallVector<std::pair<std::string, std::string>>;
Fields fieldsOf(tile::ConfigAttr config);

/// An entry for one sweep: a whole #tile.config<…>, or a dictionary of the fields that differ from `heuristic`.
llvm::Expected<tile::ConfigAttr> configurationFrom(mlir::Attribute entry, tile::ConfigAttr heuristic);

/// Puts the configuration of the request on the sweeps, which have the heuristic's.
llvm::Error configure(mlir::ModuleOp module, llvm::StringRef text);

} // namespace flarec
