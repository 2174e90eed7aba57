// Functions that nobody thought of: random straight-line flare programs, their gradients against finite differences, and their
// meaning before and after each pass.
#include "support.h"
#include "mlir/IR/Builders.h"
#include "llvm/ADT/StringExtras.h"
#include <cmath>
#include <cstdlib>

using namespace flarec;
using namespace flarec::test;
using namespace mlir;
using flare::FlareTensorType;
using flare::Index;

namespace {

constexpr unsigned N = FlareTensorType::N, M = FlareTensorType::M, D = FlareTensorType::D;

struct Generator {
  std::mt19937 rng;
  OpBuilder b{&context()};
  Location loc = UnknownLoc::get(&context());
  SmallVector<Value> pool;
  Value scale;

  unsigned roll(unsigned n) { return rng() % n; }
  FlareTensorType type(unsigned indices, Type element = {}) {
    return FlareTensorType::get(&context(), indices & N, indices & M ? 3 : 0, indices & D ? 2 : 0, element ? element : b.getF32Type());
  }
  static unsigned indices(Value v) { return cast<FlareTensorType>(v.getType()).indices(); }
  /// A value with exactly these indices; younger ones are likelier. Null if there is none.
  Value pick(unsigned set) {
    SmallVector<Value> fit;
    for (Value v : pool)
      if (indices(v) == set)
        fit.push_back(v);
    if (fit.empty())
      return {};
    return fit[std::max(roll(fit.size()), roll(fit.size()))];
  }
  Value any() { return pool[std::max(roll(pool.size()), roll(pool.size()))]; }

  void step() {
    switch (roll(12)) {
    case 0: // scores
    case 1:
      pool.push_back(flare::ScaleOp::create(b, loc, flare::ContractOp::create(b, loc, pick(N | D), pick(M | D), Index::d), scale));
      break;
    case 2:
    case 3: {
      bool overN = roll(2);
      Value x = pick(N | M), v = pick((overN ? N : M) | D);
      if (!x)
        return;
      auto op = flare::AttendOp::create(b, loc, type((overN ? M : N) | D), type(overN ? M : N), x, v, overN ? Index::n : Index::m);
      pool.append({op.getOut(), op.getLse()});
      break;
    }
    case 4: {
      auto op = flare::EncodeOp::create(b, loc, type(M | D), type(M), pick(M | D), pick(N | D), pick(N | D), scale);
      pool.append({op.getZ(), op.getLse()});
      break;
    }
    case 5: {
      auto op = flare::DecodeOp::create(b, loc, type(N | D, roll(2) ? b.getBF16Type() : Type()), type(N), pick(N | D), pick(M | D), pick(M | D), scale);
      pool.append({op.getY(), op.getLse()});
      break;
    }
    case 6:
    case 7: { // elementwise; no value carries n, m and d
      Value x = any(), y = any();
      if ((indices(x) | indices(y)) == (N | M | D))
        return;
      unsigned kind = roll(3);
      pool.push_back(kind == 0   ? Value(flare::AddOp::create(b, loc, x, y))
                     : kind == 1 ? Value(flare::SubOp::create(b, loc, x, y))
                                 : Value(flare::MulOp::create(b, loc, x, y)));
      break;
    }
    case 8: { // a weight: 2^(s·x - a)
      Value x = pick(N | M), a = roll(2) ? pick(M) : pick(N);
      if (!x || !a)
        return;
      if (roll(2))
        x = flare::ScaleOp::create(b, loc, x, scale);
      pool.push_back(flare::Exp2Op::create(b, loc, flare::SubOp::create(b, loc, x, a)));
      // Often a second one of the same scores, for flare-share-exponentials to find.
      if (Value c = roll(2) ? pick(M) : pick(N))
        pool.push_back(flare::Exp2Op::create(b, loc, flare::SubOp::create(b, loc, x, c)));
      break;
    }
    case 9: { // contraction of pairs
      Value x = pick(N | M);
      bool overN = roll(2);
      Value v = roll(3) ? pick((overN ? N : M) | D) : pick(overN ? N : M);
      if (!x || !v)
        return;
      pool.push_back(flare::ContractOp::create(b, loc, x, v, overN ? Index::n : Index::m));
      break;
    }
    case 10: {
      Value x = any();
      unsigned set = indices(x);
      Index i = Index(roll(3));
      if (!(set & flare::bit(i)) || set == flare::bit(i) || (set & ~flare::bit(i)) == D)
        return;
      pool.push_back(flare::SumOp::create(b, loc, x, i));
      break;
    }
    case 11:
      pool.push_back(roll(2) ? Value(flare::NegOp::create(b, loc, any())) : Value(flare::Exp2Op::create(b, loc, flare::ScaleOp::create(b, loc, any(), scale))));
      break;
    }
  }

  /// Null if nothing fit to be returned came about.
  Program make() {
    OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
    b.setInsertionPointToEnd(module->getBody());
    Type bf16 = b.getBF16Type();
    SmallVector<Type> types{type(M | D), type(M | D, bf16), type(N | D), type(N | D, bf16), type(N), type(M), b.getF32Type()};
    auto f = func::FuncOp::create(b, loc, "f", b.getFunctionType(types, {}));
    Block *body = f.addEntryBlock();
    b.setInsertionPointToStart(body);
    for (BlockArgument a : body->getArguments().drop_back())
      pool.push_back(a);
    scale = body->getArguments().back();
    unsigned steps = 4 + roll(14);
    for (unsigned i = 0; i < steps; ++i)
      step();
    SmallVector<Value> results;
    for (Value v : llvm::reverse(pool))
      if (!isa<BlockArgument>(v) && !cast<FlareTensorType>(v.getType()).isPair() && results.size() < 1 + roll(2) &&
          !llvm::is_contained(results, v))
        results.push_back(v);
    if (results.empty())
      return Program(OwningOpRef<ModuleOp>());
    func::ReturnOp::create(b, loc, results);
    f.setType(b.getFunctionType(types, ValueRange(results).getTypes()));
    return Program(std::move(module));
  }
};

/// The tensors that a gradient reaches. A function may read a tensor that its results do not depend on, as the log-sum-exp
/// of a decode does not on z; asking for its gradient is an error.
std::string differentiable(Program &p) {
  std::vector<std::string> names;
  for (BlockArgument a : p.function("f").getArguments())
    if (isa<FlareTensorType>(a.getType())) {
      Program trial = p.clone();
      ScopedDiagnosticHandler quiet(&context(), [](Diagnostic &) { return success(); });
      std::string name = "arg" + std::to_string(a.getArgNumber());
      if (trial.tries("flare-differentiate{wanted=" + name + "}"))
        names.push_back(name);
    }
  return llvm::join(names, ",");
}

class RandomFunction : public testing::TestWithParam<int> {};

TEST_P(RandomFunction, GradientsAndPasses) {
  int checked = 0;
  for (int seed = GetParam() * 50; seed < GetParam() * 50 + 50; ++seed) {
    Generator g;
    g.rng.seed(seed);
    Program p = g.make();
    if (!p)
      continue;
    SCOPED_TRACE("seed " + std::to_string(seed));
    func::FuncOp f = p.function("f");
    std::string wanted = differentiable(p);
    if (wanted.empty())
      continue;
    Named a = randomArguments(f, {2, 1, 4}, g.rng, 0.4);
    a["arg6"] = Array::number(0.3);
    // Where numbers grow large, finite differences say little.
    double size = 0;
    for (auto &[n, v] : p.evaluate("f", a))
      for (double x : v.data)
        size = std::isfinite(x) ? std::max(size, std::abs(x)) : 1e300;
    if (size > 100)
      continue;
    Program d = checkGradients(std::move(p), "f", a, g.rng, wanted);
    Named values = backwardArguments(d, "f", a, g.rng);
    Named forward = d.evaluate("f_forward", values), backward = d.evaluate("f_backward", values);
    for (std::string pass : {"flare-expand", "flare-to-base-2", "flare-simplify", "flare-plan-sweeps", "flare-share-exponentials"}) {
      std::string before = d.text();
      ASSERT_TRUE(d.run(pass)) << before;
      for (bool safe : {false, true})
        for (auto [name, expected] : {std::pair("f_forward", &forward), std::pair("f_backward", &backward)}) {
          Named after = d.evaluate(name, values, {safe, false});
          for (auto &[result, array] : *expected)
            ASSERT_LT(difference(after[result], array), 1e-9) << result << " of @" << name << " after " << pass << "\n" << before << d.text();
        }
    }
    if (HasFailure())
      return;
    ++checked;
  }
  EXPECT_GT(checked, 15); // else the generator has become too timid
}

/// To a GPU's code in the LLVM dialect, and to the host's tiles, or a reason why not.
TEST_P(RandomFunction, LowersOrSaysWhyNot) {
  std::map<std::string, int> reasons;
  int lowered = 0;
  for (int seed = GetParam() * 50; seed < GetParam() * 50 + 50; ++seed) {
    Generator g;
    g.rng.seed(seed);
    Program p = g.make();
    if (!p)
      continue;
    std::string wanted = differentiable(p);
    for (std::string target : {"host", "sm_90a"}) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", " + target);
      Program d = p.clone();
      std::string why;
      ScopedDiagnosticHandler handler(&context(), [&](Diagnostic &diagnostic) {
        why += diagnostic.str() + "\n";
        return success();
      });
      std::string o = "{target=" + target + "}";
      std::string planned = "flare-differentiate{wanted=" + wanted + "},flare-expand,flare-to-base-2,flare-simplify,flare-plan-sweeps" + o +
                            ",flare-share-exponentials{wide=false}";
      ASSERT_TRUE(d.tries(planned)) << why << p.text();
      std::string text = d.text();
      if (d.tries("flare-configure" + o + ",flare-to-tile" + o + ",tile-assign-layouts" + o + ",tile-park,cse" + (target == "host" ? "" : ",tile-to-nvvm" + o)))
        ++lowered;
      else {
        EXPECT_FALSE(why.empty()) << text;
        // Reasons that a person can act on; what only a later pass notices is a gap in the earlier ones.
        EXPECT_TRUE(why.find("the heuristic finds no configuration: ") != std::string::npos || why.find("each value once") != std::string::npos ||
                    why.find("depends on no tokens") != std::string::npos || why.find("depends on tokens") != std::string::npos ||
                    why.find("without tokens or latents") != std::string::npos || why.find("no kernel computes") != std::string::npos)
            << why << text;
      }
      if (HasFailure())
        return;
    }
  }
  EXPECT_GT(lowered, 20);
}

/// Fifty functions each; FLAREC_TEST_BATCHES asks for more (a thousand take a minute).
int batches() {
  const char *e = std::getenv("FLAREC_TEST_BATCHES");
  return e ? std::atoi(e) : 16;
}
INSTANTIATE_TEST_SUITE_P(Seeds, RandomFunction, testing::Range(0, batches()));
INSTANTIATE_TEST_SUITE_P(OnceHung, RandomFunction, testing::Values(201)); // a product of exponentials was rewritten for ever

} // namespace
