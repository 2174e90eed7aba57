// tile-to-nvvm: exponentials. The exponential unit (MUFU) makes one a lane every 8 cycles of a quarter of a multiprocessor and works beside everything else; what
// goes to the FMA pipe takes 3.5 to 7 issue slots each. So a share of them, spread evenly over the unrolled code, shortens a loop that waits for MUFU
// (schedules.md I.4: the measured balance).
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

/// 2^x = 2^i·2^f with i = x to nearest, |f| ≤ 1/2: x + 1.5·2^23 has i in its low bits, from where a shift takes it to the exponent of the polynomial.
/// The minimax polynomial of degree 3 for 2^f: largest relative error 7.5e-5, rms 5.2e-5. Right for |x| ≤ 126.
Value KernelLowering::poly3(Value a, Value factor) {
  Value magic = cf(12582912.0);
  Value t = factor ? fma(a, factor, magic) : Value(arith::AddFOp::create(b, loc, a, magic));
  Value whole = arith::SubFOp::create(b, loc, t, magic);
  Value f = factor ? fma(a, factor, fneg(whole)) : Value(arith::SubFOp::create(b, loc, a, whole));
  Value p = fma(fma(fma(cf(0.05517167), f, cf(0.24261113)), f, cf(0.69326097)), f, cf(0.99992806));
  return bitcast(f32(), add(shl(bitcast(i32(), t), 23), bitcast(i32(), p)));
}

/// Two at once in bf16: x + (1.5·2^16 + 127) has in its low 16 bits 2^i·(1 + f) as a bf16, i = floor x. That is right at f = 0 and 1 and up to 6 % too large
/// between, which a quadratic in 1 + f mends: ((0.484375·(1+f) - 0.71484375)² - 0.0588378906)·h + h. Right for -127 < x < 128.
Value KernelLowering::bits(Value a0, Value a1, Value factor) {
  Value magic = cf(98431.0);
  auto shifted = [&](Value a) { return bitcast(i32(), factor ? fma(a, factor, magic) : Value(arith::AddFOp::create(b, loc, a, magic))); };
  Value h = intrinsic("llvm.nvvm.prmt", i32(), {shifted(a0), shifted(a1), c32(0x5410)});
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
  // On the FMA pipe a factor costs nothing.
  Registers from = x;
  Value factor;
  if (auto scale = op.getA().getDefiningOp<tile::ScaleOp>()) {
    from = tiles[scale.getA()];
    factor = number(scale.getFactor());
  }
  Registers r, halves;
  for (size_t i = 0; i + 1 < x.size(); i += 2) {
    bool onFma = (exponentialPairs++ * share % 16) + share >= 16;
    Value half;
    if (onFma && kind == tile::Exponentials::Bits) {
      half = bits(from[i], from[i + 1], factor);
      auto [low, high] = unpack(b.getBF16Type(), half);
      r.append({low, high});
    } else {
      for (size_t j : {i, i + 1})
        r.push_back(onFma ? poly3(from[j], factor) : exp2(x[j]));
    }
    halves.push_back(half);
  }
  tiles[op.getOut()] = r;
  packed[op.getOut()] = halves;
}

} // namespace flarec::nvvm
