// PyTorch's switch for TF32, by each of its names.
#include "precision.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>

using flarec::ops::allowsTf32;

struct Precision : testing::Test {
  void TearDown() override {
    at::globalContext().setFloat32Precision(at::Float32Backend::GENERIC,
                                            at::Float32Op::ALL,
                                            at::Float32Precision::NONE);
    at::globalContext().setAllowTF32CuBLAS(false);
  }
};

TEST_F(Precision, OffUnlessAskedFor) { EXPECT_FALSE(allowsTf32()); }

// torch.backends.cuda.matmul.allow_tf32
TEST_F(Precision, AllowTf32) {
  at::globalContext().setAllowTF32CuBLAS(true);
  EXPECT_TRUE(allowsTf32());
  at::globalContext().setAllowTF32CuBLAS(false);
  EXPECT_FALSE(allowsTf32());
}

// torch.set_float32_matmul_precision
TEST_F(Precision, MatmulPrecision) {
  at::globalContext().setFloat32MatmulPrecision("high");
  EXPECT_TRUE(allowsTf32());
  at::globalContext().setFloat32MatmulPrecision("highest");
  EXPECT_FALSE(allowsTf32());
}

// torch.backends.cuda.matmul.fp32_precision
TEST_F(Precision, Fp32Precision) {
  at::globalContext().setFloat32Precision(at::Float32Backend::CUDA,
                                          at::Float32Op::MATMUL,
                                          at::Float32Precision::TF32);
  EXPECT_TRUE(allowsTf32());
  at::globalContext().setFloat32Precision(at::Float32Backend::CUDA,
                                          at::Float32Op::MATMUL,
                                          at::Float32Precision::IEEE);
  EXPECT_FALSE(allowsTf32());
}

// What PyTorch's own code sets around products that must be exact.
TEST_F(Precision, Guard) {
  at::globalContext().setAllowTF32CuBLAS(true);
  {
    at::NoTF32Guard guard;
    EXPECT_FALSE(allowsTf32());
  }
  EXPECT_TRUE(allowsTf32());
}
