// Who holds what: layouts against the PTX ISA's formulas, and what the lowering relies on.
#include "layout/Layout.h"
#include <gtest/gtest.h>

using namespace flarec;

namespace {

constexpr Axis n = Axis::n, m = Axis::m, d = Axis::d;

int group(int lane) { return lane / 4; } // "groupID" of the PTX ISA
int thread(int lane) { return lane % 4; } // "threadID_in_group"

/// Compares every element of a layout of 32 lanes with formulas for its row and its column.
template <class Row, class Column>
void expectFragment(const Layout &l, Axis rows, Axis columns, int registers, Row row, Column column) {
  ASSERT_EQ(l.registerCount(), registers);
  ASSERT_EQ(l.laneCount(), 32);
  for (int i = 0; i < registers; ++i)
    for (int lane = 0; lane < 32; ++lane) {
      EXPECT_EQ(l.element(i, lane)[rows], row(i, lane)) << "register " << i << " of lane " << lane;
      EXPECT_EQ(l.element(i, lane)[columns], column(i, lane)) << "register " << i << " of lane " << lane;
    }
}

//===-- mma.m16n8k16 with 16-bit operands, PTX ISA "Matrix Fragments for mma.m16n8k16" -------------------===//

TEST(Fragments, LeftOperandOfM16N8K16) { // a0…a7
  auto row = [](int i, int lane) { return group(lane) + (i < 2 || (i >= 4 && i < 6) ? 0 : 8); };
  auto column = [](int i, int lane) { return thread(lane) * 2 + (i & 1) + (i < 4 ? 0 : 8); };
  expectFragment(fragment::pair(n, m), n, m, 8, row, column);
  expectFragment(fragment::pair(m, n), m, n, 8, row, column);
  expectFragment(fragment::row(m, 2), m, d, 8, row, column);
}

TEST(Fragments, RightOperandOfM16N8K16) { // b0…b3 of each 8 columns
  auto k = [](int i, int lane) { return thread(lane) * 2 + (i & 1) + (i & 2 ? 8 : 0); };
  for (int units : {1, 2, 4})
    expectFragment(fragment::weight(n, units), n, d, 4 * units, k, [](int i, int lane) { return group(lane) + 8 * (i / 4); });
  // Scores contract over channels: k = d, 16 columns are two right operands.
  expectFragment(fragment::column(m, 2), d, m, 8, k, [](int i, int lane) { return group(lane) + 8 * (i / 4); });
}

TEST(Fragments, ResultOfM16N8) { // c0…c3 of each 8 columns
  auto row = [](int i, int lane) { return group(lane) + (i % 4 < 2 ? 0 : 8); };
  auto column = [](int i, int lane) { return thread(lane) * 2 + (i & 1) + 8 * (i / 4); };
  expectFragment(fragment::pair(n, m), n, m, 8, row, column);
  for (int units : {1, 2, 4})
    expectFragment(fragment::row(m, units), m, d, 4 * units, row, column);
}

TEST(Fragments, ScoresAreTheLeftOperandOfWhatContractsThem) {
  // Both tests above hold for pair(): no data moves between the two products.
  EXPECT_EQ(fragment::pair(n, m).element(5, 9)[n], group(9));
  EXPECT_EQ(fragment::pair(n, m).element(5, 9)[m], thread(9) * 2 + 1 + 8);
}

//===-- mma.m16n8k8: 16 bits, and TF32 with its K permuted -------------------------------------------------===//

TEST(Fragments, M16N8K8) {
  expectFragment(
      fragment::row(n, 1), n, d, 4, [](int i, int lane) { return group(lane) + (i < 2 ? 0 : 8); },
      [](int i, int lane) { return thread(lane) * 2 + (i & 1); });
  expectFragment(
      fragment::column(m, 1), d, m, 4, [](int i, int lane) { return thread(lane) * 2 + (i & 1); },
      [](int i, int lane) { return group(lane) + 8 * (i / 2); });
}

// TF32's fragments put K = t and t + 4 into one lane where the 16-bit ones put 2t and 2t + 1. Any order of K is right as long
// as both operands have the same.
TEST(Fragments, TF32PermutesBothSidesOfKAlike) {
  auto channelOfSlot = [](int k) { return k < 4 ? 2 * k : 2 * (k - 4) + 1; };
  Layout a = fragment::row(n, 1), b = fragment::column(m, 1);
  for (int lane = 0; lane < 32; ++lane)
    for (int high = 0; high < 2; ++high) {
      int slot = thread(lane) + 4 * high; // a0, a1 / b0: K = t; a2, a3 / b1: K = t + 4
      EXPECT_EQ(a.element(high, lane)[d], channelOfSlot(slot));
      EXPECT_EQ(b.element(high, lane)[d], channelOfSlot(slot));
    }
}

//===-- Columns permuted, so that a lane's channels are neighbours -----------------------------------------===//

TEST(Fragments, ResultsToStoreAreTheSameProductWithItsColumnsPermuted) {
  for (int units : {1, 2, 4, 8, 16}) {
    Layout plain = fragment::row(n, units), b = fragment::weight(m, units), out = fragment::rowToStore(n, units), permuted = fragment::weightToStore(m, units);
    ASSERT_EQ(out.registerCount(), plain.registerCount());
    // Column j of unit u of the instructions is the channel that the right operand's lanes of it hold.
    auto channel = [&](int u, int j) { return permuted.element(4 * u, 4 * j)[d]; };
    for (int i = 0; i < out.registerCount(); ++i)
      for (int lane = 0; lane < 32; ++lane) {
        int column = plain.element(i, lane)[d];
        EXPECT_EQ(out.element(i, lane)[n], plain.element(i, lane)[n]);
        EXPECT_EQ(out.element(i, lane)[d], channel(column / 8, column % 8)) << "register " << i << " of lane " << lane << ", " << units << " units";
        EXPECT_EQ(permuted.element(i, lane)[m], b.element(i, lane)[m]);
        EXPECT_EQ(permuted.element(i, lane)[d], channel(b.element(i, lane)[d] / 8, b.element(i, lane)[d] % 8));
      }
    // A lane's channels of a row, of which there are two a unit, follow one another in eights, or as many as there are, and those of the four lanes of a quad side by side.
    int together = std::min(8, 2 * units);
    for (int i = 0; i < out.registerCount(); ++i)
      for (int lane = 0; lane < 4; ++lane) {
        int nth = i % 2 + 2 * (i / 4);
        EXPECT_EQ(out.element(i, lane)[d], nth % together + lane * together + nth / together * 4 * together);
      }
    // Those of warpgroups, whose right operands lie in memory: the same columns.
    Layout column = fragment::column(m, units), inMemory = fragment::columnToStore(m, units);
    for (int i = 0; i < column.registerCount(); ++i)
      for (int lane = 0; lane < 32; ++lane) {
        EXPECT_EQ(inMemory.element(i, lane)[m], column.element(i, lane)[m]);
        EXPECT_EQ(inMemory.element(i, lane)[d], channel(column.element(i, lane)[d] / 8, column.element(i, lane)[d] % 8));
      }
    EXPECT_EQ(out.copies(16, 0, 8 * units), 1);
    EXPECT_EQ(permuted.copies(0, 16, 8 * units), 1);
  }
}

//===-- Coverage ------------------------------------------------------------------------------------------===//

TEST(Layout, FragmentsHoldEachElementOnce) {
  EXPECT_EQ(fragment::pair(n, m).copies(16, 16, 0), 1);
  EXPECT_EQ(fragment::pair(m, n).copies(16, 16, 0), 1);
  for (int units : {1, 2, 4}) {
    EXPECT_EQ(fragment::row(n, units).copies(16, 0, 8 * units), 1);
    EXPECT_EQ(fragment::column(m, units).copies(0, 16, 8 * units), 1);
    EXPECT_EQ(fragment::weight(n, units).copies(16, 0, 8 * units), 1);
  }
  for (int latents : {4, 8, 16, 32})
    for (int channels : {8, 16, 32, 64}) {
      Layout l = latentsOverLanes(latents, channels);
      EXPECT_EQ(l.copies(0, latents, channels), std::max(1, 32 / latents * 4 / channels));
      EXPECT_EQ(latentsOverLanes(latents, 0), [&] { Layout numbers = l.restrictedTo(false, true, false); return numbers; }());
      EXPECT_EQ(l.element(3, 0)[d], 3) << "a lane's channels come in fours";
    }
  EXPECT_EQ(latentsOverLanes(4, 32).element(0, 1)[d], 4) << "next to those of the next lane";
}

TEST(Layout, VectorsAreRepeatedOverTheLanesThatShareThem) {
  EXPECT_EQ(fragment::rowVector(n).copies(16, 0, 0), 4);     // the four lanes of a quad
  EXPECT_EQ(fragment::columnVector(m).copies(0, 16, 0), 8);  // the eight quads
  EXPECT_EQ(fragment::rowSum(m).copies(0, 16, 0), 8);        // a quad, and its even and odd columns
}

TEST(Layout, CopiesIsZeroWhereSomethingIsMissing) {
  EXPECT_EQ(fragment::pair(n, m).copies(32, 16, 0), 0); // rows 16… are nowhere
  EXPECT_EQ(fragment::pair(n, m).copies(8, 16, 0), 0);  // rows 8…15 are outside
  Layout uneven{{{n, 1}}, {{n, 1}}};                    // element 1 twice, elements 0 and 2 once
  EXPECT_EQ(uneven.copies(3, 0, 0), 0);
}

//===-- Values that lack an axis, and finding a register's partner ----------------------------------------===//

TEST(Layout, RestrictedToAnAxis) {
  EXPECT_EQ(fragment::pair(n, m).restrictedTo(true, false, false), fragment::rowVector(n));
  EXPECT_EQ(fragment::pair(n, m).restrictedTo(false, true, false), fragment::columnVector(m));
  EXPECT_EQ(fragment::pair(m, n).restrictedTo(true, false, false), fragment::columnVector(n));
  EXPECT_EQ(fragment::row(m, 4).restrictedTo(false, true, false), fragment::rowVector(m));
  EXPECT_EQ(fragment::pair(n, m).restrictedTo(true, true, false), fragment::pair(n, m));
  EXPECT_EQ(fragment::pair(n, m).restrictedTo(false, false, false).registerCount(), 1);
}

TEST(Layout, MatchingFindsTheSameElement) {
  struct {
    Layout vector, whole;
    Axis axis;
  } cases[] = {{fragment::rowVector(n), fragment::pair(n, m), n},
               {fragment::columnVector(m), fragment::pair(n, m), m},
               {fragment::rowVector(m), fragment::row(m, 4), m},
               {fragment::rowSum(n), fragment::pair(n, m), n}};
  for (auto &[vector, whole, axis] : cases)
    for (int reg = 0; reg < whole.registerCount(); ++reg) {
      int partner = vector.matching(whole, reg);
      ASSERT_GE(partner, 0) << vector.str() << " in " << whole.str();
      for (int lane = 0; lane < 32; ++lane)
        EXPECT_EQ(vector.element(partner, lane)[axis], whole.element(reg, lane)[axis]);
    }
}

TEST(Layout, MatchingRefusesWhatIsInAnotherLane) {
  EXPECT_EQ(fragment::pair(n, m).matching(fragment::rowVector(n), 0), -1);
  EXPECT_EQ(fragment::weight(n, 1).matching(fragment::row(n, 1), 0), -1);
}

TEST(Layout, StepsOfZeroAreEqualWhateverTheirAxis) {
  EXPECT_EQ((Basis{n, 0}), (Basis{d, 0}));
  EXPECT_FALSE((Basis{n, 1}) == (Basis{d, 1}));
}

//===-- Printers ------------------------------------------------------------------------------------------===//

TEST(Layout, PrintsItsBases) {
  EXPECT_EQ(fragment::pair(n, m).str(), "reg [m1, n8, m8], lane [m2, m4, n1, n2, n4]");
  EXPECT_EQ(fragment::rowVector(m).str(), "reg [m8], lane [0, 0, m1, m2, m4]");
  EXPECT_EQ(Layout{}.str(), "reg [], lane []");
}

TEST(Layout, TheHeadersExample) {
  Layout l{{{m, 1}, {n, 8}}, {{m, 2}, {m, 4}, {n, 1}, {n, 2}, {n, 4}}};
  EXPECT_EQ(l.str(), "reg [m1, n8], lane [m2, m4, n1, n2, n4]");
  EXPECT_EQ(l.element(1, 5)[n], 1);
  EXPECT_EQ(l.element(1, 5)[m], 3);
}

TEST(Layout, PrintsATableOfWhoHoldsWhat) {
  Layout l{{{m, 1}}, {{m, 2}, {n, 1}}};
  EXPECT_EQ(l.table(n, m), "n\\m\t0\t1\t2\t3\n"
                           "0\t0:0\t0:1\t1:0\t1:1\n"
                           "1\t2:0\t2:1\t3:0\t3:1\n");
}

} // namespace
