// What an artefact says about its kernels. docs/artefact.md, section 2, is the
// definition; this is its image in C++.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace flarec {

enum class DType { F32, BF16, F16, I32, I8 };

/// Bytes of an element.
constexpr int64_t byteSize(DType type) {
  return type == DType::F32 || type == DType::I32 ? 4 : type == DType::I8 ? 1 : 2;
}
/// "f32", "bf16", "f16", "i32", "i8".
std::string_view name(DType type);

enum class CodeKind { Ptx, Cubin, Elf };
/// Instruction sets of the host, from least to most.
enum class Isa { Baseline, Avx2, Avx512 };
enum class Role { Input, Result, Workspace };
/// What the rows of a tensor are.
enum class Index { Tokens, Latents, Batch };
enum class Grid { Sweep, Latents };

struct CodeSpec {
  CodeKind kind = CodeKind::Ptx;
  Isa isa = Isa::Baseline; ///< of an elf blob
  uint64_t offset = 0;     ///< from the first blob byte
  uint64_t size = 0;
};

struct TensorSpec {
  std::string name;
  Role role = Role::Input;
  Index index = Index::Tokens;
  int64_t rows = -1;   ///< of latents; -1 for tokens, 1 for the batch
  int64_t columns = 0; ///< 0: no such axis
  DType type = DType::F32;
  int sweep = -1;       ///< of a partial result; -1 otherwise
  bool reduced = false; ///< the kernel sums over batches that share the latents
};

/// "q<m=128, d=8, bf16>".
std::string describe(const TensorSpec &tensor);

struct ScalarSpec {
  std::string name;
};

struct SweepSpec {
  int64_t tile = 1, heads = 1, rowGroups = 1, blocks = 1;
  /// Bytes of partial results for each split, batch and head, times the number
  /// of the function's sweeps that have any: what counts against the bound on
  /// all of them together. Follows from the tensors.
  int64_t partialBytes = 0;
};

struct VariantSpec {
  std::string symbol;
  int64_t alignment = 0;
  std::vector<int> tensors;
  int code = -1; ///< its blob; -1: the kernel's
};

struct KernelSpec {
  std::string symbol;
  Grid grid = Grid::Sweep;
  int sweep = 0;             ///< of a sweep grid
  int64_t blocksPerHead = 1; ///< of a latents grid
  int threads = 1;
  int64_t shared = 0;
  int code =
      0; ///< index of the blob on the GPU; the host picks by instruction set
  std::vector<VariantSpec> variants;
};

struct FunctionSpec {
  std::string name;
  std::vector<TensorSpec> tensors; ///< inputs, results, workspace
  std::vector<ScalarSpec> scalars;
  std::vector<SweepSpec> sweeps;
  std::vector<KernelSpec> kernels;

  /// How many tensors the caller gives: inputs and results.
  size_t argumentCount() const;
};

struct Manifest {
  std::string compiler, key, target;
  std::vector<CodeSpec> code;
  std::vector<FunctionSpec> functions;

  bool isHost() const { return target == "host"; }

  /// Throws Error unless the text is a manifest in which every index, size and
  /// reference holds.
  static Manifest parse(std::string_view json);
  std::string json() const;
};

} // namespace flarec
