// Where candidates run: the host or a GPU, with one interface.
#pragma once

#include "reference.h"

#include "flarec/function.h"

#include <functional>
#include <map>
#include <memory>
#include <string>

namespace flarec::autotune {

/// Memory, launches and clocks of one device.
class Bench {
public:
  virtual ~Bench() = default;
  virtual void *allocate(size_t bytes) = 0;
  virtual void free(void *memory) = 0;
  virtual void write(void *to, const void *from, size_t bytes) = 0;
  virtual void read(void *to, const void *from, size_t bytes) = 0;
  /// From one place of the bench to another, after what was launched before.
  virtual void copy(void *to, const void *from, size_t bytes) = 0;
  virtual void launch(const Function &function, const Sizes &sizes,
                      const std::vector<TensorRef> &tensors, float scale,
                      void *workspace) = 0;
  virtual void wait() = 0;
  /// Seconds of `times` calls of a body that launches. `cold`: the caches hold
  /// other things first; then times is 1.
  virtual double time(const std::function<void()> &body, int times, bool cold) = 0;
  /// MHz now; 0: nobody says.
  virtual int clock() = 0;
  /// Bytes of the last cache; 0: cold runs are not told apart.
  virtual size_t cacheBytes() const = 0;
};

/// Of a CUDA device, or of the host (-1).
std::unique_ptr<Bench> benchOf(int cudaDevice);

/// Memory of a bench, freed with it.
class Buffer {
public:
  Buffer() = default;
  Buffer(Bench &bench, size_t bytes)
      : bench(&bench), memory(bytes ? bench.allocate(bytes) : nullptr) {}
  Buffer(Buffer &&other) noexcept { *this = std::move(other); }
  Buffer &operator=(Buffer &&other) noexcept {
    std::swap(bench, other.bench);
    std::swap(memory, other.memory);
    return *this;
  }
  ~Buffer() {
    if (memory)
      bench->free(memory);
  }
  void *get() const { return memory; }

private:
  Bench *bench = nullptr;
  void *memory = nullptr;
};

/// A mixer's tensors of one size on a bench, by name. Tokens lie as
/// [tokens][heads][channels]; latents are shared by the batch of 1.
class Tensors {
public:
  /// `data`'s sizes; its values, repeated where it has fewer tokens than asked.
  Tensors(Bench &bench, const Data &data, DType dtype, int64_t heads,
          int64_t tokens);

  /// Those of a function, inputs and results.
  std::vector<TensorRef> of(const FunctionSpec &function);
  /// [heads][rows][columns] as numbers.
  std::vector<double> values(const std::string &name);
  /// These results become NaN.
  void forget(const std::vector<std::string> &names);

  const Sizes &sizes() const { return callSizes; }

private:
  struct Tensor {
    Buffer memory;
    bool tokens = false;
    int64_t rows = 0, columns = 0;
    DType type = DType::F32;
    size_t bytes = 0;
  };
  void add(const std::string &name, bool tokens, int64_t columns, DType type,
           const std::vector<float> *values);
  TensorRef reference(const Tensor &tensor) const;

  Bench &bench;
  Sizes callSizes;
  int64_t latents, sourceTokens, sourceHeads;
  std::map<std::string, Tensor> all;
};

} // namespace flarec::autotune
