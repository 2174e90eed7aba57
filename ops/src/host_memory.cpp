#include "host_memory.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <list>
#include <mutex>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unordered_map>

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

/// Under `ulimit -v` a free block's addresses are what others lack.
bool addressesAreLimited() {
  rlimit limit;
  return getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur != RLIM_INFINITY;
}

class HostMemory final : public c10::Allocator {
public:
  HostMemory() {
    static HostMemory *self = this;
    pthread_atfork([] { self->mutex.lock(); }, [] { self->mutex.unlock(); },
                   [] { self->mutex.unlock(); });
  }

  /// The context is the data: such storage can be copied on write.
  c10::DataPtr allocate(size_t wanted) override {
    void *data = take(roundUp(std::max<size_t>(wanted, 1), smallPage));
    return {data, data, &HostMemory::release, at::kCPU};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void *to, const void *from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

private:
  using Blocks = std::list<Block>;
  std::mutex mutex;
  Blocks used, free; // the latest free one first
  std::unordered_map<void *, Blocks::iterator> places; // in `used`
  size_t usedBytes = 0, freeBytes = 0, mostBytes = 0;

  void *take(size_t bytes) {
    std::lock_guard lock(mutex);
    // One that is not much larger.
    auto it = std::find_if(free.begin(), free.end(), [&](const Block &b) {
      return b.bytes >= bytes && b.bytes <= bytes + bytes / 4;
    });
    if (it == free.end()) {
      trim(std::max(mostBytes, usedBytes + bytes) - usedBytes - bytes);
      Blocks fresh = {{nullptr, bytes}};
      void *&data = fresh.front().data;
      if (!(data = map(bytes))) {
        trim(0);
        data = map(bytes);
      }
      TORCH_CHECK(data, "flarec: no memory for a result of ", bytes, " bytes");
      it = fresh.begin();
      free.splice(free.begin(), fresh);
      freeBytes += bytes;
    }
    places.emplace(it->data, it);
    used.splice(used.begin(), free, it);
    freeBytes -= it->bytes;
    usedBytes += it->bytes;
    mostBytes = std::max(mostBytes, usedBytes);
    return it->data;
  }

  /// Gives back the oldest free blocks until no more than this is left.
  void trim(size_t bytes) {
    while (freeBytes > bytes) {
      munmap(free.back().data, free.back().bytes);
      freeBytes -= free.back().bytes;
      free.pop_back();
    }
  }

  static void release(void *data) {
    static_cast<HostMemory &>(hostMemory()).put(data);
  }

  /// Needs no memory.
  void put(void *data) {
    std::lock_guard lock(mutex);
    auto place = places.find(data);
    auto it = place->second;
    // The system may take them until they are written again.
    madvise(data, it->bytes, MADV_FREE);
    places.erase(place);
    free.splice(free.begin(), used, it);
    usedBytes -= it->bytes;
    freeBytes += it->bytes;
    trim(addressesAreLimited() ? 0 : mostBytes - usedBytes);
  }
};

} // namespace

c10::Allocator &hostMemory() {
  static auto &memory = *new HostMemory; // tensors may outlive everything else
  return memory;
}

} // namespace flarec::ops
