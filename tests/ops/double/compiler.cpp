//===- compiler.cpp - a stand-in for libflarec_compiler.so ----------------===//
//
// Answers every request for a mixer on the host with the plain loops of
// kernels.c. $FLAREC_COMPILER_LIBRARY points the runtime at it. It counts its
// calls, so that tests can tell what compiled.
//
//===----------------------------------------------------------------------===//
#include "flarec/artefact.h"
#include "flarec/sha256.h"
#include "flarec/version.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

using namespace flarec;

namespace {

std::atomic<int> calls{0};

std::string readFile(const char *path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

class Signature {
public:
  Signature(int64_t headDim, int64_t latents, DType type)
      : headDim(headDim), latents(latents), type(type) {}

  void add(Role role, const char *name, Index index, bool wide = false,
           bool columns = true) {
    TensorSpec t;
    t.name = name;
    t.role = role;
    t.index = index;
    t.rows = index == Index::Latents ? latents : -1;
    t.columns = columns ? headDim : 0;
    t.type = wide ? DType::F32 : type;
    tensors.push_back(t);
  }

  std::vector<TensorSpec> tensors;

private:
  int64_t headDim, latents;
  DType type;
};

KernelSpec kernel(const std::string &symbol) {
  KernelSpec spec;
  spec.symbol = symbol;
  spec.grid = Grid::Latents;
  return spec;
}

/// The key's text: a request for one instruction set has the key of one for all.
std::string withoutIsa(const std::string &request) {
  auto json = nlohmann::ordered_json::parse(request);
  return json.erase("isa") ? json.dump() : request;
}

std::string makeArtefact(const std::string &request) {
  auto json = nlohmann::json::parse(request);
  if (json.at("target") != "host")
    throw std::runtime_error("the stand-in compiles for the host only");
  auto mixer = json.at("mixer");
  DType type = mixer.at("dtype") == "f32"    ? DType::F32
               : mixer.at("dtype") == "f16" ? DType::F16
                                            : DType::BF16;
  std::string gradients = mixer.at("gradients");
  int64_t headDim = mixer.at("head_dim"), latents = mixer.at("latents");
  constexpr auto input = Role::Input, result = Role::Result;
  constexpr auto m = Index::Latents, n = Index::Tokens;

  Manifest manifest;
  manifest.compiler = "stand-in for tests";
  manifest.key = sha256Hex(withoutIsa(request));
  manifest.target = "host";
  CodeSpec code;
  code.kind = CodeKind::Elf;
  manifest.code = {code};

  Signature f(headDim, latents, type);
  f.add(input, "q", m);
  f.add(input, "k", n);
  f.add(input, "v", n);
  f.add(result, "y", n);
  f.add(result, "z", m, true);
  f.add(result, "lse_encode", m, true, false);
  f.add(result, "lse_decode", n, true, false);
  FunctionSpec forward;
  forward.name = "mixer_forward";
  forward.tensors = f.tensors;
  forward.scalars = {{"scale"}};
  forward.kernels = {kernel("forward")};
  manifest.functions.push_back(forward);

  if (!gradients.empty()) {
    Signature b(headDim, latents, type);
    b.add(input, "grad_y", n);
    b.add(input, "q", m);
    b.add(input, "k", n);
    b.add(input, "v", n);
    b.add(input, "y", n);
    b.add(input, "z", m, true);
    b.add(input, "lse_encode", m, true, false);
    b.add(input, "lse_decode", n, true, false);
    for (char g : gradients) {
      b.add(result,
            g == 'q'   ? "grad_q"
            : g == 'k' ? "grad_k"
                       : "grad_v",
            g == 'q' ? m : n);
      b.tensors.back().reduced = g == 'q';
    }
    FunctionSpec backward;
    backward.name = "mixer_backward";
    backward.kernels = {kernel("backward_" + gradients)};
    if (gradients[0] == 'q') {
      b.add(Role::Workspace, "grad_q_batches", m, true);
      backward.kernels.push_back(kernel("reduce_" + gradients));
    }
    backward.tensors = b.tensors;
    backward.scalars = {{"scale"}};
    manifest.functions.push_back(backward);
  }
  return Artefact(manifest,
                  {readFile(type == DType::F32   ? KERNELS_F32
                             : type == DType::F16 ? KERNELS_F16
                                                  : KERNELS_BF16)})
      .serialise();
}

char *copied(const std::string &text) {
  char *bytes = static_cast<char *>(std::malloc(text.size() + 1));
  std::memcpy(bytes, text.data(), text.size());
  bytes[text.size()] = 0;
  return bytes;
}

} // namespace

extern "C" {
__attribute__((visibility("default"))) int
flarec_compile(const char *request, char **bytes, size_t *size, char **error) {
  ++calls;
  try {
    std::string artefact = makeArtefact(request);
    *bytes = copied(artefact);
    *size = artefact.size();
    return 0;
  } catch (const std::exception &e) {
    *error = copied(e.what());
    return 1;
  }
}
__attribute__((visibility("default"))) void flarec_free(void *p) {
  std::free(p);
}
__attribute__((visibility("default"))) const char *flarec_version() {
  return flarec::version();
}
__attribute__((visibility("default"))) int flarec_double_calls() {
  return calls;
}
}
