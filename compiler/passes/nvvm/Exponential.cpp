// tile-to-nvvm: exponentials. The exponential unit (MUFU) makes one a lane every 8 cycles of a quarter of a multiprocessor and works beside everything else; what
// goes to the FMA pipe takes 3.5 to 7 issue slots each. So a share of them, spread evenly over the unrolled code, shortens a loop that waits for MUFU
// (schedules.md I.4: the measured balance).
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

KernelLowering::Argument KernelLowering::argumentOf(tile::Exp2Op op) {
  Value x = op.getA();
  Argument r;
  if (auto add = x.getDefiningOp<tile::AddOp>())
    if (auto c = add.getB().getDefiningOp<tile::ConstantOp>(); c && c.getValue().isInteger()) {
      r.shift = c.getValue().convertToDouble();
      x = add.getA();
    }
  if (auto scale = x.getDefiningOp<tile::ScaleOp>()) {
    r.factor = number(scale.getFactor());
    x = scale.getA();
  }
  r.a = tiles[x];
  return r;
}

/// x + c in one rounding.
Value KernelLowering::plus(const Argument &x, size_t i, double c) {
  return x.factor ? fma(x.a[i], x.factor, cf(x.shift + c)) : Value(arith::AddFOp::create(b, loc, x.a[i], cf(x.shift + c)));
}

/// 2^x = 2^i·2^f with i = x to nearest, |f| ≤ 1/2: x + 1.5·2^23 has i in its low bits, from where a shift takes it to the exponent of the polynomial.
/// The minimax polynomial of degree 3 for 2^f: largest relative error 7.5e-5, rms 5.2e-5. Right for |x| ≤ 126.
Value KernelLowering::poly3(const Argument &x, size_t i) {
  Value t = plus(x, i, 12582912.0);
  Value rest = arith::SubFOp::create(b, loc, cf(12582912.0 + x.shift), t); // shift - i, exactly
  Value f = x.factor ? fma(x.a[i], x.factor, rest) : Value(arith::AddFOp::create(b, loc, x.a[i], rest));
  Value p = fma(fma(fma(cf(0.05517167), f, cf(0.24261113)), f, cf(0.69326097)), f, cf(0.99992806));
  return bitcast(f32(), add(shl(bitcast(i32(), t), 23), bitcast(i32(), p)));
}

/// Two at once in bf16: x + (1.5·2^16 + 127) has in its low 16 bits 2^i·(1 + f) as a bf16, i = floor x. That is right at f = 0 and 1 and up to 6 % too large
/// between, which a quadratic in 1 + f mends: ((0.484375·(1+f) - 0.71484375)² - 0.0588378906)·h + h. Right for -127 < x < 128.
Value KernelLowering::bits(const Argument &x, size_t i) {
  auto shifted = [&](size_t i) { return bitcast(i32(), plus(x, i, 98431.0)); };
  Value h = intrinsic("llvm.nvvm.prmt", i32(), {shifted(i), shifted(i + 1), c32(0x5410)});
  auto twice = [&](int64_t pattern) { return c32(pattern << 16 | pattern); };
  // One LOP3, (h & 0x7f) | 1.0: 0xEA is (a & b) | c. Written as two operations with literals it would be two.
  Value fraction = assembly(i32(), "lop3.b32 $0, $1, $2, $3, 0xEA;", "=r,r,r,r", {h, twice(0x007f), twice(0x3f80)});
  Value d = fma2(fraction, twice(0x3ef8), twice(0xbf37));  // 0.484375, -0.71484375
  d = fma2(d, d, twice(0xbd71));                           // -0.058837890625
  return fma2(d, h, h);
}

void KernelLowering::emit(tile::Exp2Op op) {
  auto [kind, share] = config ? config.getExponentials() : tile::Exponentials{tile::Exponentials::Mufu, 0};
  const Registers x = tiles[op.getA()];
  if (!op.getBounded() || kind == tile::Exponentials::Mufu) {
    unary(op, [&](Value v) { return exp2(v); });
    return;
  }
  // On the FMA pipe a factor and a shift cost nothing.
  Argument argument = argumentOf(op);
  Registers r, halves;
  for (size_t i = 0; i + 1 < x.size(); i += 2) {
    bool onFma = (exponentialPairs++ * share % 16) + share >= 16;
    Value half;
    if (onFma && kind == tile::Exponentials::Bits) {
      half = bits(argument, i);
      auto [low, high] = unpack(b.getBF16Type(), half);
      r.append({low, high});
    } else {
      for (size_t j : {i, i + 1})
        r.push_back(onFma ? poly3(argument, j) : exp2(x[j]));
    }
    halves.push_back(half);
  }
  tiles[op.getOut()] = r;
  packed[op.getOut()] = halves;
}

} // namespace flarec::nvvm
