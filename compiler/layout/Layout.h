// Layouts: which register of which lane holds which element of a tile.
//
// A layout is a linear map over bits (as in Triton's LinearLayout): the number of a register and the number of a lane are written in
// binary, each of their bits has a *basis*, a step along one index, and an element's coordinates are the sum of the bases
// of the bits that are set. A basis of 0 says that the bit changes nothing: copies of the same element.
//
// Example: the f32 result fragment of mma.m16n8k16, rows r = n, columns c = m, is
//
//     reg [m1, n8], lane [m2, m4, n1, n2, n4]
//
// Register 1 of lane 5 = 0b00101 holds n = 1, m = 1 + 2 = 3 (bit 0 of the register: m1; bits 0 and 2 of the lane: m2, n1).
//
// A host vector with tokens across 16 lanes and 4 latents in 4 registers is reg [m1, m2], lane [n1, n2, n4, n8].
//
// A tile of more than 16 rows (or columns) is a sequence of blocks of 16; the layout describes one of them.
// 16-bit tiles keep the two elements of register bit 0 in one 32-bit register.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace flarec {

/// An index of a value, as in the dialects: tokens, latents, channels.
enum class Axis : int { n = 0, m = 1, d = 2 };

/// A step along an index; step 0 is a copy.
struct Basis {
  Axis axis = Axis::n;
  int step = 0;
  bool operator==(const Basis &o) const { return step == o.step && (step == 0 || axis == o.axis); }
};

/// Coordinates of an element, by axis.
struct Coordinates {
  int at[3] = {0, 0, 0};
  int &operator[](Axis a) { return at[int(a)]; }
  int operator[](Axis a) const { return at[int(a)]; }
};

class Layout {
public:
  std::vector<Basis> registers, lanes;

  int registerCount() const { return 1 << registers.size(); }
  int laneCount() const { return 1 << lanes.size(); }
  /// So many lanes, the first ones, hold all there is; the others copy them.
  int distinctLanes() const;

  /// The element that a register of a lane holds.
  Coordinates element(int reg, int lane) const;

  /// The layout of a value that lacks some axes: register bits along them vanish, lane bits become copies.
  Layout restrictedTo(bool n, bool m, bool d) const;

  /// The register that holds the same element as register `reg` of `other` in every lane, or -1. Both must distribute the axes that this one has
  /// equally over lanes.
  int matching(const Layout &other, int reg) const;

  /// Does each element of the block occur, and how often (0: not covered; else the number of copies)?
  int copies(int n, int m, int d) const;

  bool operator==(const Layout &o) const { return registers == o.registers && lanes == o.lanes; }

  /// `reg [m1, n8], lane [m2, m4, n1, n2, n4]`
  std::string str() const;
  /// A table over two axes: each cell says lane:register.
  std::string table(Axis rows, Axis columns) const;
};

/// Fragments of the warp-wide matrix instructions mma.m16n8k{8,16} (PTX ISA, "Matrix Fragments for mma"), for rows r and columns c,
/// `units` of 8 channels. TF32's K = 8 and bf16's fragments coincide here because the order of K may be permuted
/// on both sides: slot t and t+4 hold channels 2t and 2t+1.
namespace fragment {
/// r × c scores, which is also the left operand of a contraction over c.
Layout pair(Axis r, Axis c);
/// r × d: left operand of scores, and the accumulator of a contraction over c.
Layout row(Axis r, int units);
/// c × d: right operand of scores.
Layout column(Axis c, int units);
/// k × d: right operand of a contraction of pairs over k.
Layout weight(Axis k, int units);
/// The accumulator of a contraction over c again, and its right operand, with the instruction's columns permuted so that a lane's channels are neighbours, which leave in
/// one store. Units are a power of two.
Layout rowToStore(Axis r, int units);
Layout weightToStore(Axis k, int units);
/// k × d: right operand of a contraction of pairs over k by a warpgroup, which lies in memory; registers on the way there hold what those of `column` do, with channels
/// permuted as weightToStore has them.
Layout columnToStore(Axis k, int units);
/// One number a row, the same in the four lanes of a quad.
Layout rowVector(Axis r);
/// A row sum made by the matrix instruction: the accumulator's even and odd columns are equal.
Layout rowSum(Axis r);
/// One number a column.
Layout columnVector(Axis c);
} // namespace fragment

/// `latents`, a power of two, over a warp's 32 lanes: as many lanes to each, with 4 channels at a time (0: a number), so that they read side by side (merges).
Layout latentsOverLanes(int latents, int channels);

} // namespace flarec
