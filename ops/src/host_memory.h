//===- host_memory.h - where large results on the host lie ----------------===//
//
// malloc gets what is large from the system and gives it back at once, so that
// each pass pays for its results' pages again: 4,000 page faults and 20 ms in
// four passes of 8 heads, 16 channels and 16,384 tokens, where the kernels take
// 45. Here freed blocks wait for the next pass.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>

namespace flarec::ops {

/// From this size on results come from hostMemory().
constexpr size_t largeResult = 1 << 20;

/// Blocks of huge pages, as far as they fill some. What is free and what is in
/// use together never exceed what was once in use; and the system may take the
/// pages of free blocks when it runs short of memory (MADV_FREE; until then they
/// count as resident). Under `ulimit -v` nothing is kept. Any thread, before and
/// after fork().
c10::Allocator &hostMemory();

} // namespace flarec::ops
