//===- precision.h - PyTorch's switch for TF32 ----------------------------===//
#pragma once

namespace flarec::ops {

/// Are products of float32 on a GPU to be made in TF32, as PyTorch's own are
/// where `torch.backends.cuda.matmul.allow_tf32`, `fp32_precision` or
/// `torch.set_float32_matmul_precision` says so? Asked at each call.
bool allowsTf32();

} // namespace flarec::ops
