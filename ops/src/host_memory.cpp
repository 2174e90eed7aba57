#include "host_memory.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <sys/mman.h>

namespace flarec::ops {
namespace {

constexpr size_t hugePage = 2 << 20, smallPage = 4096;

size_t roundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

struct Block {
  void *data;
  size_t bytes;
};

/// A new block that begins with a huge page; null: there is no memory.
void *map(size_t bytes) {
  void *all = mmap(nullptr, bytes + hugePage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED)
    return nullptr;
  char *begin = static_cast<char *>(all);
  size_t before = -reinterpret_cast<uintptr_t>(begin) % hugePage;
  if (before)
    munmap(begin, before);
  munmap(begin + before + bytes, hugePage - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE); // refused, nothing is lost
  return begin + before;
}

class HostMemory final : public c10::Allocator {
public:
  HostMemory() {
    static HostMemory *self = this;
    pthread_atfork([] { self->mutex.lock(); }, [] { self->mutex.unlock(); },
                   [] { self->mutex.unlock(); });
  }

  c10::DataPtr allocate(size_t wanted) override {
    size_t bytes = roundUp(std::max<size_t>(wanted, 1), smallPage);
    auto context = std::make_unique<Block>();
    *context = take(bytes);
    void *data = context->data;
    return {data, context.release(), &HostMemory::release, at::kCPU};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }

  void copy_data(void *to, const void *from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

private:
  std::mutex mutex;
  std::list<Block> free; // the latest first
  size_t used = 0, waiting = 0, most = 0;

  Block take(size_t bytes) {
    std::lock_guard lock(mutex);
    // One that is not much larger.
    auto it = std::find_if(free.begin(), free.end(), [&](const Block &b) {
      return b.bytes >= bytes && b.bytes <= bytes + bytes / 4;
    });
    Block block{nullptr, bytes};
    if (it != free.end()) {
      block = *it;
      waiting -= block.bytes;
      free.erase(it);
    } else {
      trim(most > used + bytes ? most - used - bytes : 0);
      block.data = map(bytes);
      if (!block.data) {
        trim(0);
        block.data = map(bytes);
      }
      TORCH_CHECK(block.data, "flarec: no memory for a result of ", bytes,
                  " bytes");
    }
    used += block.bytes;
    most = std::max(most, used);
    return block;
  }

  /// Gives back the oldest free blocks until no more than this is left.
  void trim(size_t bytes) {
    while (waiting > bytes) {
      munmap(free.back().data, free.back().bytes);
      waiting -= free.back().bytes;
      free.pop_back();
    }
  }

  static void release(void *context) {
    Block *block = static_cast<Block *>(context);
    static_cast<HostMemory &>(hostMemory()).put(*block);
    delete block;
  }

  void put(const Block &block) {
    // The system may take them until they are written again.
    madvise(block.data, block.bytes, MADV_FREE);
    std::lock_guard lock(mutex);
    used -= block.bytes;
    waiting += block.bytes;
    free.push_front(block);
    trim(most - used);
  }
};

} // namespace

c10::Allocator &hostMemory() {
  static auto &memory = *new HostMemory; // tensors may outlive everything else
  return memory;
}

} // namespace flarec::ops
