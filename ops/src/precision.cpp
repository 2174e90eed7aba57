//===- precision.cpp - PyTorch's switch for TF32 --------------------------===//
#include "precision.h"

#include <ATen/Context.h>

bool flarec::ops::allowsTf32() {
  // Unlike allowTF32CuBLAS() this does not raise where a program has used both
  // of PyTorch's switches, the old and the new.
  return at::globalContext().float32Precision(at::Float32Backend::CUDA,
                                              at::Float32Op::MATMUL) ==
             at::Float32Precision::TF32 &&
         !at::NoTF32Guard::should_disable_tf32();
}
