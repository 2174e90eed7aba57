// The manifest (docs/artefact.md) as it grows during lowering: a JSON text in the module's `flarec.manifest`.
#pragma once
#include "passes/Registers.h"
#include "tile/Tile.h"
#include "mlir/IR/Builders.h"
#include "llvm/Support/JSON.h"

namespace flarec {

class Manifest {
public:
  explicit Manifest(mlir::OpBuilder &b) : b(b) {}

  void beginFunction(tile::ProgramOp program) {
    using namespace llvm;
    function = json::Object{{"name", program.getSymName().str()}};
    json::Array tensors, scalars;
    for (auto [i, attr] : enumerate(program.getTensors())) {
      auto dict = mlir::cast<mlir::DictionaryAttr>(attr);
      auto text = [&](StringRef key) { return dict.getAs<mlir::StringAttr>(key).str(); }; // owned: json keeps references otherwise
      auto t = mlir::dyn_cast<flare::FlareTensorType>(program.getRegion().getArgument(i).getType());
      if (!t) {
        scalars.push_back(json::Object{{"name", text("name")}, {"type", "f32"}});
        continue;
      }
      json::Object o{{"name", text("name")}, {"role", text("role")}, {"index", t.getTokens() ? "n" : t.isRange() ? "b" : "m"},
                     {"rows", t.getTokens() ? -1 : t.isRange() ? 1 : t.getLatents()}, {"columns", t.getChannels()}, {"type", typeName(t.getElement())}};
      if (auto s = dict.getAs<mlir::IntegerAttr>("sweep"))
        o["sweep"] = s.getInt();
      if (dict.get("reduced"))
        o["reduced"] = true;
      tensors.push_back(std::move(o));
    }
    function["tensors"] = std::move(tensors);
    function["scalars"] = std::move(scalars);
    sweeps = {};
    kernels = {};
  }

  /// A sweep's kernel, which may be one that is not made itself: the others take as many numbers of splits.
  void addSweep(tile::KernelOp kernel) {
    auto c = kernel.getConfigAttr();
    sweeps.push_back(llvm::json::Object{{"tile", c.getTile()}, {"heads", c.getHeads()}, {"row_groups", c.getRowGroups()}, {"blocks", c.getBlocks()}});
  }

  /// `any`: the kernel's form for rows of any alignment, if it has one.
  void addKernel(tile::ProgramOp program, tile::KernelOp kernel, const std::string &symbol, int64_t threads, int64_t shared, const std::string &any,
                 int64_t blocksPerHead) {
    using namespace llvm;
    json::Object k{{"symbol", symbol}, {"threads", threads}, {"shared", shared}, {"code", 0}, {"sweep", kernel.getSweep()}};
    json::Array variants;
    if (kernel.getKind() == "sweep") {
      addSweep(kernel);
      k["grid"] = "sweep";
      if (!any.empty()) {
        json::Array tensors;
        int64_t alignment = 4;
        for (auto a : program.getRegion().getArguments())
          if (auto t = mlir::dyn_cast<flare::FlareTensorType>(a.getType()); t && t.getChannels() && (t.getTokens() || hasPairs(program, a, t))) {
            tensors.push_back(a.getArgNumber());
            if (t.getTokens())
              alignment = std::max(alignment, rowAlignment(t));
          }
        variants.push_back(json::Object{{"symbol", symbol}, {"alignment", alignment}, {"tensors", std::move(tensors)}});
        variants.push_back(json::Object{{"symbol", any}, {"alignment", 0}, {"tensors", json::Array{}}});
      }
    } else {
      k["grid"] = "latents";
      k["blocks_per_head"] = blocksPerHead;
    }
    k["variants"] = std::move(variants);
    kernels.push_back(std::move(k));
  }

  /// Latents that come from outside, whose 16-bit channels such kernels read two at a time; what the function makes itself lies so anyway.
  static bool hasPairs(tile::ProgramOp program, mlir::BlockArgument a, flare::FlareTensorType t) {
    auto description = mlir::cast<mlir::DictionaryAttr>(program.getTensors()[a.getArgNumber()]);
    return t.getLatents() && t.getChannels() % 2 == 0 && bytesOf(t.getElement()) == 2 && description.getAs<mlir::StringAttr>("role").getValue() == "input";
  }

  void endFunction() {
    function["sweeps"] = std::move(sweeps);
    function["kernels"] = std::move(kernels);
    functions.push_back(std::move(function));
  }

  mlir::StringAttr attribute() {
    std::string text;
    llvm::raw_string_ostream(text) << llvm::json::Value(std::move(functions));
    return b.getStringAttr(text);
  }

private:
  static llvm::StringRef typeName(mlir::Type t) {
    if (t.isInteger())
      return t.isInteger(8) ? "i8" : "i32";
    return t.isF32() ? "f32" : t.isBF16() ? "bf16" : t.isF16() ? "f16" : "f64";
  }

  mlir::OpBuilder &b;
  llvm::json::Array functions, sweeps, kernels;
  llvm::json::Object function;
};

} // namespace flarec
