// tile-to-nvvm: what groups multiply by and fast memory has no room for: latents' operands on their way from global memory, a page at a time.
//
// For each tile of tokens all pages of the head come by, in a ring of three: one is worked on, the next one has arrived or is about to, and the one after that is sent for when
// everyone is done with the one before. A page lies in memory as groups want it (StashPlan in passes/Registers.h), so it is copied as it is. That all blocks read all
// latents for each of their tiles costs little: with 256 tokens a tile, 1/256 of what each token would read for itself, out of the second-level cache.
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

void KernelLowering::sendForPage(Value page, Value slot) {
  constexpr int64_t piece = 16;
  int64_t threads = config.getThreads(), bytes = pages->bytes;
  Value from = offset(pages->memory, add(mul(widen(page), bytes), mul(widen(thread), piece)));
  Value to = offset(shared, widen(add(mul(slot, bytes), mul(thread, piece))));
  for (int64_t at = 0; at < bytes; at += threads * piece) {
    auto copy = [&] { intrinsic("llvm.nvvm.cp.async.cg.shared.global.16", {offset(to, at), offset(from, at)}); };
    if (int64_t left = (bytes - at) / piece; left < threads)
      onlyIf(lt(thread, c32(left)), copy);
    else
      copy();
  }
  intrinsic("llvm.nvvm.cp.async.commit.group", {});
}

void KernelLowering::beginPages() {
  for (int64_t i = 0; i + 1 < pagesAtOnce; ++i)
    sendForPage(c32(i % pages->count), c32(i));
}

void KernelLowering::pagesOfTile(Value tilesBefore) {
  pages->met = 0;
  pages->slot = rem(mul(narrow(tilesBefore), pages->count % pagesAtOnce), pagesAtOnce);
}

void KernelLowering::takePage(Value page) {
  // All but the newest one have arrived, for everyone, and everyone is done with the one before.
  intrinsic("llvm.nvvm.cp.async.wait.group", c32(pagesAtOnce - 2));
  proxyFence();
  barrier();
  Value next = add(page, pagesAtOnce - 1);
  sendForPage(rem(next, pages->count), rem(add(pages->slot, next), pagesAtOnce));
  pages->address = offset(shared, widen(mul(rem(add(pages->slot, page), pagesAtOnce), pages->bytes)));
  pages->first = mul(page, pages->blocks);
}

} // namespace flarec::nvvm
