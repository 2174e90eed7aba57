// What a sweep needs, read off its ops before anything is lowered: which tokens it reads, what it reduces, in which forms its
// operands enter matrix instructions, which norms bound its scores. Pure questions; nothing here builds IR.
#pragma once
#include "flare/Flare.h"
#include "passes/Sizes.h"
#include "tile/Tile.h"
#include "llvm/ADT/SetVector.h"

namespace flarec::tiling {
using namespace mlir;
using flare::FlareTensorType;
using flare::Index;
using tile::TileType;

inline FlareTensorType typeOf(Value v) { return dyn_cast<FlareTensorType>(v.getType()); }
inline bool isTokens(Value v) { return typeOf(v) && typeOf(v).getTokens() && !typeOf(v).isPair(); }
inline bool isPair(Value v) { return typeOf(v) && typeOf(v).isPair(); }
inline bool isLatents(Value v) { return typeOf(v) && typeOf(v).getLatents() && !typeOf(v).getTokens(); }
/// Channels as layouts have them, which count in powers of two: on a GPU at least 8, the K of the smallest matrix instruction, on the host at least 4, a
/// quarter of a vector. Units of 8 channels that are all padding cost nothing on a GPU: they are zeros known when code is made, and no instruction is.
inline int64_t padded(int64_t d, bool host) { return std::max<int64_t>(host ? 4 : 8, llvm::PowerOf2Ceil(d)); }
/// Is v 0 in the channels that pad it? What is stored is, and what is made of it by products and sums.
bool vanishesInPadding(Value v);
/// Would a contraction or a sum, if it is over d, add up what pads its operands to `width` channels? Products of two do where neither is 0 there, and sums of what is not.
bool addsUpPadding(Operation *op, int64_t width);

/// How an operand is made from its value: f32, rounded to 16 bits, one of the two addends of a split (of `splitType`), or f32 times log2(e).
enum class Form { Wide, Round, High, Low, Base2 };
/// Where it goes, which decides its layout: into scores (contracted over d), into a contraction of pairs with
/// columns or rows, or elementwise into pairs.
enum class Role { Score, ColumnWeight, RowWeight, Vector };
constexpr int numRoles = 4;
struct Use {
  Role role;
  Form form;
  int key() const { return int(role) * 5 + int(form); }
};

/// Is v a tensor in memory: an argument, a sweep's result, or what the function returns?
bool isStored(Value v);

/// The index that a contraction, sum or attention runs over; d for other ops.
Index overOf(Operation *op);
/// Does op reduce pairs?
bool reduces(Operation *op);
/// Is it, of these, a sum of numbers: `flare.sum`, or a contraction with a vector, which no matrix instruction makes?
bool addsUp(Operation *op);
/// Is v made of op, in op's region?
bool dependsOn(Value v, Operation *op);
/// Reductions over tokens in the order in which they are yielded.
SmallVector<Operation *> carriedReductions(Region &region);

/// The function's mask of tokens; null: all of a range are there.
Value maskOf(flare::SweepOp sweep);
/// Stored token tensors that a sweep reads, in order of first use, then the mask.
llvm::SetVector<Value> tokensRead(flare::SweepOp sweep);
/// The number of latents; 0 where a sweep has none.
int64_t latentsOf(flare::SweepOp sweep);
/// The 16-bit type of its operands, or null: f32 operands.
Type halfOf(flare::SweepOp sweep, bool host);

/// f16 has 5 bits of exponent. What is stored in f16 is an exact operand, a softmax's weights are made so that they fit (below), and gradients fit where
/// SDPA's do. Anything else, that is z in f32 of a decode on its own and latents times numbers, has a range of its own and is two addends of bf16: the range of f32, an error of
/// 2^-17, three products where f16 would be one. For bf16 tokens one addend is mostly enough.
inline Type splitType(Type half) { return half && half.isF16() ? Type(BFloat16Type::get(half.getContext())) : half; }

/// The safe body's reference of a row, in base 2: the largest score so far and `above`, set where a score exceeds it; of f16, where a weight has become infinite,
/// which is by 16. Between two such times nothing is exchanged between lanes and nothing rescaled. In bf16 weights are as exact at any size; f16's
/// have all their bits down to 2^-21 of the largest (SDPA's: 2^-14). Where weights are not rounded to 16 bits the reference is the running maximum itself.
struct SafeReference {
  bool lazy;
  double above;
};
SafeReference safeReference(Operation *attend, Type half);

/// What holds in the fast body of an attention, in base 2: |x| ≤ limit, and a constant reference.
struct FastAttention {
  double limit, reference;
};
/// f16's weights 2^(x - reference) keep all their bits in 2^-14 … 2^16: |x| ≤ 14.9 and a reference of -1. bf16 has f32's exponents: 2^-126 … 2^127. Above the reference there is as much room for sums and values as `limit` leaves (2^60 of 2^127), below it
/// everything to the smallest exponent but 10: |x| ≤ 88 for a limit of 60.
FastAttention fastAttention(Operation *attend, Type half, double limit);
/// The joint sweep's factors 2^-lse have no sums to leave room for.
constexpr double jointRoom = 20;

/// Are all of v's values within f16's range, because they are stored so or are weighted means of such?
bool fitsHalf(Value v, Type half);
/// Does an attention round its weights to f16? Otherwise they are as any pairs of f32.
bool hasWeightsF16(Operation *op, Type half);
/// Do pairs that this attention reduces, and what it contracts them with, have two addends each?
bool splitsPairs(Operation *op, Type half);
/// Weights are 1 at most, but what the gradients of both softmaxes add up to may be twice as large as SDPA's, which are one each and fit f16 where SDPA's results
/// are finite. So where gradients are large all weights of such a sweep are halved, which costs nothing in an exponent, and what they are contracted to is doubled. Not
/// where they are small: that would cost the last bit of f16's smallest numbers.
bool needsHeadroom(flare::SweepOp sweep, Type half);
/// Gradients are large where some latent's is: it is a sum of tokens' gradients by weights.
constexpr double largeNorm = 64;

/// What bounds the exponentials of a fast body: the norms of the operands of scores (latents, tokens), and numbers of tokens that are subtracted from
/// scores. Failure: nothing that can be asked of staged tokens does.
struct Guards {
  SmallVector<std::pair<Value, Value>> norms;
  SmallVector<Value> numbers;
};
FailureOr<Guards> guarded(Region &fast);

/// Is there a fast version for bounded scores? Without guards only the safe one is emitted. Sweeps whose exponentials need no bound have one where the configuration
/// wants forms that do.
bool isVersioned(flare::SweepOp sweep);

/// Is v a latent value that enters a contraction of pairs rounded to 16 bits?
bool isRounded(Value v, Type half);
/// 16-bit values times an f32 vector would lose in rounding what storing them kept: two addends.
SmallVector<Form> formsOf(Value v, Type half);
/// The addends of Σ_d x·y: forms of x and of y.
SmallVector<std::pair<Form, Form>> addendsOf(Value x, Value y, Type half);
/// Of a contraction of pairs: forms of the pairs and of what they are contracted with.
SmallVector<std::pair<Form, Form>> addendsOf(Operation *reduction, Type half);

/// An operand s·t with t stored in 16 bits: products with t alone are exact, and s is a factor of the sum.
struct Scaled {
  Value stored, factor;
};
std::optional<Scaled> scaledStored(Value v, Type half);

/// The latent operands, each in every form and place in which the versions that are emitted meet it. With rows = n these are
/// parked: one stash entry each. `onlyFast`: those of the fast version, where there is one.
SmallVector<std::pair<Value, Use>> latentOperands(flare::SweepOp sweep, Type half, tile::ConfigAttr config, bool onlyFast = false);

/// Where an operand is kept: scores and what they are contracted with read one copy on the host, and as columns of groups (nvvm/Warpgroup.cpp).
Use keptFor(Use use, tile::ConfigAttr config, bool host);
} // namespace flarec::tiling
