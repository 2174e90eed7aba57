//===- npy_test.cpp - reading .npy files ----------------------------------===//
#include "npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

using namespace flarec::train;

namespace {

/// A file as NumPy writes it.
std::string file(const std::string &descr, bool fortran,
                 const std::string &shape, const std::string &values,
                 int version = 1) {
  std::string header = "{'descr': '" + descr +
                       "', 'fortran_order': " + (fortran ? "True" : "False") +
                       ", 'shape': " + shape + ", }";
  size_t start = version == 1 ? 10 : 12;
  while ((start + header.size() + 1) % 64)
    header += ' ';
  header += '\n';
  std::string text = "\x93NUMPY";
  text += char(version);
  text += char(0);
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i)
    text += char(header.size() >> (8 * i));
  return text + header + values;
}

template <typename T> std::string raw(std::initializer_list<T> values) {
  std::string bytes;
  for (T value : values) {
    char piece[sizeof(T)];
    std::memcpy(piece, &value, sizeof(T));
    bytes.append(piece, sizeof(T));
  }
  return bytes;
}

std::string messageOf(const std::string &bytes) {
  try {
    parseNpy(bytes, "a.npy");
  } catch (const std::runtime_error &error) {
    return error.what();
  }
  return "no error";
}

#define EXPECT_MESSAGE(bytes, part)                                            \
  EXPECT_NE(messageOf(bytes).find(part), std::string::npos) << messageOf(bytes)

using Shape = std::vector<int64_t>;
using Values = std::vector<float>;

TEST(Npy, ReadsFloat32InCOrder) {
  NpyArray a = parseNpy(
      file("<f4", false, "(2, 3)", raw<float>({1, 2, 3, 4, 5, 6})), "a");
  EXPECT_EQ(a.shape, (Shape{2, 3}));
  EXPECT_EQ(a.values, (Values{1, 2, 3, 4, 5, 6}));
}

TEST(Npy, ReadsFortranOrder) {
  NpyArray a = parseNpy(
      file("<f4", true, "(2, 3)", raw<float>({1, 4, 2, 5, 3, 6})), "a");
  EXPECT_EQ(a.values, (Values{1, 2, 3, 4, 5, 6}));
}

TEST(Npy, ReadsFortranOrderOfRankThree) {
  std::string values;
  for (int k = 0; k < 4; ++k)
    for (int j = 0; j < 3; ++j)
      for (int i = 0; i < 2; ++i)
        values += raw<double>({double(12 * i + 4 * j + k)});
  NpyArray a = parseNpy(file("<f8", true, "(2, 3, 4)", values), "a");
  for (int i = 0; i < 24; ++i)
    EXPECT_EQ(a.values[i], float(i));
}

TEST(Npy, ReadsBool) {
  NpyArray a =
      parseNpy(file("|b1", false, "(3,)", std::string("\1\0\1", 3)), "a");
  EXPECT_EQ(a.shape, (Shape{3}));
  EXPECT_EQ(a.values, (Values{1, 0, 1}));
}

TEST(Npy, ReadsVersionTwo) {
  EXPECT_EQ(
      parseNpy(file("<f4", false, "(1,)", raw<float>({7}), 2), "a").values,
      (Values{7}));
}

TEST(Npy, ReadsScalarAndEmpty) {
  EXPECT_EQ(parseNpy(file("<f4", false, "()", raw<float>({7})), "a").values,
            (Values{7}));
  NpyArray a = parseNpy(file("<f4", true, "(0, 5)", ""), "a");
  EXPECT_EQ(a.shape, (Shape{0, 5}));
  EXPECT_TRUE(a.values.empty());
}

TEST(Npy, RefusesWhatIsNoNpyFile) {
  EXPECT_MESSAGE("", "'a.npy': it is not a .npy file");
  EXPECT_MESSAGE("PK\3\4 some zip archive", "numpy.save");
}

TEST(Npy, RefusesOtherTypes) {
  EXPECT_MESSAGE(file("<i8", false, "(1,)", raw<int64_t>({7})),
                 "type '<i8'; supported are bool");
  EXPECT_MESSAGE(file(">f4", false, "(1,)", raw<float>({7})), "'>f4'");
}

TEST(Npy, RefusesRecords) {
  std::string header = "{'descr': [('x', '<f4')], 'fortran_order': False, "
                       "'shape': (1,), }\n";
  std::string bytes = std::string("\x93NUMPY\1\0", 8) + char(header.size()) +
                      char(0) + header + raw<float>({1});
  EXPECT_MESSAGE(bytes, "records");
}

TEST(Npy, RefusesTruncatedValues) {
  EXPECT_MESSAGE(
      file("<f4", false, "(2, 3)", raw<float>({1, 2, 3})),
      "needs 6 values of 4 bytes, but the file has 12 bytes of values");
}

TEST(Npy, RefusesTrailingBytes) {
  EXPECT_MESSAGE(file("<f4", false, "(1,)", raw<float>({1, 2})),
                 "the file has 8 bytes");
}

TEST(Npy, RefusesOverflowingShapes) {
  EXPECT_MESSAGE(file("<f4", false, "(4294967296, 4294967296, 4294967296)", ""),
                 "too large");
  EXPECT_MESSAGE(file("<f4", false, "(99999999999999999999,)", ""), "64 bits");
  EXPECT_MESSAGE(file("<f4", false, "(4611686018427387904,)", ""), "needs");
}

TEST(Npy, EveryTruncationIsAnError) {
  std::string whole =
      file("<f4", true, "(2, 3)", raw<float>({1, 4, 2, 5, 3, 6}));
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_THROW(parseNpy(whole.substr(0, length), "a"), std::runtime_error)
        << length;
}

TEST(Npy, DamagedHeadersNeverCrash) {
  std::string whole = file("<f4", false, "(1, 1)", raw<float>({1}));
  for (size_t at = 0; at < whole.size() - 4; ++at)
    for (char value : std::string("\0'(){},:9\xff", 10)) {
      std::string damaged = whole;
      damaged[at] = value;
      try {
        parseNpy(damaged, "a");
      } catch (const std::runtime_error &) {
      }
    }
}

TEST(Npy, NamesMissingFiles) {
  try {
    readNpy("/nowhere/x.npy");
    FAIL();
  } catch (const std::runtime_error &error) {
    EXPECT_STREQ(error.what(),
                 "cannot read '/nowhere/x.npy': there is no such file");
  }
}

} // namespace
