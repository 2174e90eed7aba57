// A program that ships compiled kernels: it loads an artefact and runs it on
// this processor from raw pointers. It links flarec's runtime alone: no
// compiler, no LLVM, no torch.
//
//   flarec compile --head-dim 8 --latents 64 --dtype f32 --target host \
//       -o mixer.flare
//   example_aot mixer.flare
#include "flarec/error.h"
#include "flarec/function.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

using namespace flarec;

static void run(const char *path) {
  std::shared_ptr<Module> module =
      Module::load(std::make_shared<Artefact>(Artefact::read(path)));
  if (!module->isHost())
    throw Error("this example runs on the host: compile with --target host");
  const Function &forward = module->function("mixer_forward");
  const TensorSpec &q = forward.spec().tensors[0];
  if (q.type != DType::F32)
    throw Error("this example has float tensors: compile with --dtype f32");

  // q is [H, M, D], shared by the batch; k and v are [B, N, H, D], as a layer
  // makes them, and so is y. The numbers are chosen now: the artefact fixed
  // M, D and the type only.
  const int64_t B = 2, H = 4, N = 1000, M = q.rows, D = q.columns;
  std::mt19937 engine(0);
  std::normal_distribution<float> normal;
  auto random = [&](int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    std::generate(values.begin(), values.end(), [&] { return normal(engine); });
    return values;
  };
  std::vector<float> latents = random(H * M * D), keys = random(B * N * H * D),
                     values = random(B * N * H * D), y(values.size()),
                     z(size_t(B * H * M * D)), encodeSums(size_t(B * H * M)),
                     decodeSums(size_t(B * H * N));

  // Addresses with their strides over batch, head and row, in elements. The
  // order is the manifest's: inputs, then results (`flarec info` lists them).
  auto tokens = [&](std::vector<float> &t) {
    return TensorRef{t.data(), N * H * D, D, H * D};
  };
  std::vector<TensorRef> tensors = {
      {latents.data(), 0, M * D, D}, // q
      tokens(keys),                  // k
      tokens(values),                // v
      tokens(y),                     // y
      {z.data(), H * M * D, M * D, D},
      {encodeSums.data(), H * M, M, 1},
      {decodeSums.data(), H * N, N, 1},
  };
  float scale = 1;
  Sizes sizes{.batch = B, .heads = H, .tokens = N};

  // The workspace is the caller's, and may serve the next call too.
  size_t bytes = (size_t(forward.workspaceBytes(sizes)) + 63) / 64 * 64;
  std::unique_ptr<void, decltype(&std::free)> workspace(
      std::aligned_alloc(64, std::max<size_t>(64, bytes)), std::free);
  forward.launchHost(sizes, tensors, {&scale, 1}, workspace.get(),
                     defaultParallelFor());

  // Each y is a mean of v's with positive weights, so it lies among them.
  auto [least, most] = std::minmax_element(values.begin(), values.end());
  auto [low, high] = std::minmax_element(y.begin(), y.end());
  std::printf("%s: %lld tokens, %lld heads, %lld latents\n", path,
              (long long)(B * N), (long long)H, (long long)M);
  std::printf("y of the first token: ");
  for (int64_t d = 0; d < D; ++d)
    std::printf("%s%.4f", d ? " " : "", double(y[size_t(d)]));
  std::printf("\nv lies in [%.3f, %.3f], y in [%.3f, %.3f]\n", double(*least),
              double(*most), double(*low), double(*high));
  if (!(*low >= *least && *high <= *most && *low < *high))
    throw Error("y is no mean of v: something is wrong");
}

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: example_aot FILE.flare\n");
    return 2;
  }
  try {
    run(argv[1]);
  } catch (const Error &error) {
    std::fprintf(stderr, "example_aot: %s\n", error.what());
    return 1;
  }
}
