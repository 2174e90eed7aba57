#include "flarec/autotune/tuner.h"

using namespace flarec;
using namespace flarec::autotune;

const std::vector<Published> &autotune::published() {
  static const std::vector<Published> list = [] {
    std::vector<Published> all;
    // arXiv 2508.12594 and its code: the PDE benchmarks train in f32, the
    // surface with a million points in 16 bits.
    struct Row {
      const char *name;
      int64_t heads;
      int headDim, latents;
      int64_t tokens;
    };
    for (const Row &r : {Row{"Elasticity", 8, 8, 64, 972},
                         {"Darcy", 16, 4, 256, 7225},
                         {"Airfoil", 8, 8, 256, 11271},
                         {"Pipe", 8, 8, 128, 16641},
                         {"DrivAerML-40k", 8, 8, 256, 40000},
                         {"LPBF", 8, 8, 128, 50000}})
      for (DType type : {DType::F32, DType::BF16})
        all.push_back({r.name, r.heads, r.headDim, r.latents, r.tokens, type});
    for (int latents : {128, 512, 1024, 2048})
      for (DType type : {DType::BF16, DType::F16})
        all.push_back({"DrivAerML-1M", 8, 8, latents, 1 << 20, type});
    return all;
  }();
  return list;
}
