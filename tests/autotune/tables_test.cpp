// Tables of configurations: text, overlay, what is damaged, who serves whom.
#include "flarec/autotune/tables.h"
#include "flarec/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
using testing::HasSubstr;
namespace fs = std::filesystem;

namespace {

const Device card{"A Card 80GB", "sm_90a", ""};

Entry entryOf(int64_t heads, int64_t tokens, const std::string &blockHeads = "4") {
  Entry entry;
  entry.shape = {.dtype = DType::BF16, .headDim = 8, .latents = 128, .heads = heads, .tokens = tokens};
  Configuration encode = {{"rows", "m"}, {"tile", "64"}, {"heads", blockHeads}, {"row_groups", "1"}, {"blocks", "264"}};
  Configuration decode = encode;
  decode["rows"] = "n";
  entry.functions["mixer_forward"] = {{encode, decode}, 0.5, 0.9};
  entry.functions["mixer_backward"] = {{encode, decode}, 1.1, 1.2};
  entry.date = "2026-11-27";
  entry.compiler = "0.1.0+1 abc";
  entry.clock = 1755;
  return entry;
}

Shape shapeOf(int64_t heads, int64_t tokens) { return entryOf(heads, tokens).shape; }

std::string textOf(const fs::path &path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class Tables : public testing::Test {
protected:
  void SetUp() override {
    directory = fs::temp_directory_path() / ("flarec-tables-" + std::to_string(getpid()));
    fs::remove_all(directory);
  }
  void TearDown() override { fs::remove_all(directory); }
  void put(const std::string &name, const std::string &text) {
    fs::create_directories(directory);
    std::ofstream(directory / name) << text;
  }
  Database user() { return Database(directory, /*withShipped=*/false); }

  fs::path directory;
};

TEST_F(Tables, AreReadAsTheyAreWritten) {
  Table table{.device = card, .entries = {entryOf(8, 1 << 20), entryOf(16, 7225)}};
  Table again = Table::parse(table.json());
  EXPECT_EQ(again.device, card);
  ASSERT_EQ(again.entries.size(), 2u);
  EXPECT_EQ(again.entries[0].functions, table.entries[0].functions);
  EXPECT_EQ(again.entries[1].shape.tokens, 7225);
  EXPECT_EQ(again.entries[0].clock, 1755);
  EXPECT_EQ(again.json(), table.json());
  EXPECT_EQ(table.fileName(), "a-card-80gb.json");
}

TEST_F(Tables, ARangeHoldsItsTokens) {
  int64_t expected = 0;
  for (int64_t n : {int64_t(1), int64_t(5000), int64_t(40000), int64_t(1) << 20, int64_t(1) << 30}) {
    auto [from, to] = tokenRange(n);
    EXPECT_LE(from, n);
    EXPECT_GE(to, n);
    EXPECT_EQ(from, expected) << "ranges meet";
    expected = to + 1;
  }
}

TEST_F(Tables, ConfigurationsBecomeTheRequestsText) {
  Entry entry = entryOf(8, 1 << 20);
  entry.functions["mixer_forward"].sweeps = {{{"rows", "m"}, {"tile", "64"}}, {{"exp", "poly3:5"}}};
  entry.functions.erase("mixer_backward");
  EXPECT_EQ(configurationText(entry.functions), "{mixer_forward = [{rows = \"m\", tile = 64}, {exp = \"poly3:5\"}]}");
  entry.functions["mixer_backward"].sweeps = {{{"tile", "32"}}};
  EXPECT_THAT(configurationText(entry.functions), HasSubstr("mixer_backward = [{tile = 32}]"));
  EXPECT_THAT(configurationText(entry.functions, false), testing::Not(HasSubstr("backward")));
  entry.functions["mixer_forward"].sweeps = {{}, {}};
  EXPECT_EQ(configurationText(entry.functions), "{mixer_backward = [{tile = 32}]}");
  EXPECT_EQ(configurationText(entry.functions, false), "") << "the heuristic's kernels under their own key";
}

TEST_F(Tables, RecordingReplacesTheSameKeyAlone) {
  record(directory, card, entryOf(8, 1 << 20, "4"));
  record(directory, card, entryOf(8, 1 << 14, "2"));
  record(directory, card, entryOf(8, (1 << 20) + 5, "8")); // the same range
  Database database = user();
  ASSERT_EQ(database.tables().size(), 1u);
  ASSERT_EQ(database.tables()[0].entries.size(), 2u);
  EXPECT_EQ(database.find(card, shapeOf(8, 1 << 20))->functions.at("mixer_forward").sweeps[0].at("heads"), "8");
  EXPECT_EQ(database.find(card, shapeOf(8, 20000))->functions.at("mixer_forward").sweeps[0].at("heads"), "2");
}

TEST_F(Tables, ManyRecordAtOnceAndNothingIsLostOrSeenHalf) {
  std::vector<std::thread> threads;
  std::atomic<bool> stop = false;
  record(directory, card, entryOf(1, 100));
  std::thread reader([&] {
    while (!stop)
      for (auto &file : fs::directory_iterator(directory))
        if (file.path().extension() == ".json" && file.path().filename().string()[0] != '.')
          EXPECT_NO_THROW(Table::parse(textOf(file.path())));
  });
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 8; ++i)
        record(directory, card, entryOf(2 + 8 * t + i, 100));
    });
  for (std::thread &thread : threads)
    thread.join();
  stop = true;
  reader.join();
  EXPECT_EQ(user().tables().at(0).entries.size(), 33u);
}

TEST_F(Tables, WhatIsDamagedOrForeignIsReportedOnceAndIgnored) {
  record(directory, card, entryOf(8, 1 << 20));
  put("a.json", "{\"format\": 1, \"dev");
  put("b.json", "{\"format\": 2}");
  put("c.json", "[]");
  std::string wild = Table{.device = card, .entries = {entryOf(8, 100)}}.json();
  put("d.json", wild.replace(wild.find("\"tile\": 64"), 10, "\"tile\": \"6\\\"]}\""));
  Entry backwards = entryOf(8, 100);
  backwards.functions.begin()->second.milliseconds = -1;
  put("f.json", Table{.device = card, .entries = {backwards}}.json());
  put("note.txt", "nothing to do with it");
  fs::create_directories(directory / "e.json");
  testing::internal::CaptureStderr();
  EXPECT_EQ(user().tables().size(), 1u);
  EXPECT_EQ(user().tables().size(), 1u);
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 6) << said;
  EXPECT_THAT(said, HasSubstr("a.json are not used: it is no table"));
  EXPECT_THAT(said, HasSubstr("b.json are not used: it has format 2, this version reads 1; remove the file, or tune again"));
  EXPECT_THAT(said, HasSubstr("e.json are not used: not a regular file"));
  EXPECT_THAT(said, HasSubstr("f.json are not used: entry 1: mixer_backward takes -1 ms"));
  EXPECT_NE(user().find(card, shapeOf(8, 1 << 20)), nullptr);
}

TEST_F(Tables, EntriesOfNoMixerAreErrors) {
  std::string good = Table{.device = card, .entries = {entryOf(8, 100), entryOf(8, 1 << 20)}}.json();
  EXPECT_EQ(Table::parse(good).entries.size(), 2u);
  for (auto [from, to, says] : {std::tuple("\"heads\": 8", "\"heads\": 1152921504606846976", "entry 1: heads is 1152921504606846976; it must be a whole number from 1 to 1048576"),
                                {"\"head_dim\": 8", "\"head_dim\": 8.7", "head_dim is 8.7"},
                                {"\"layout\": \"tokens-major\"", "\"layout\": \"foo\"", "layout is \"foo\"; it must be tokens-major or heads-major"},
                                {"\"tile\": 64", "\"tile\": 6400000000", "field \"tile\" is 6400000000"},
                                {"\"format\": 1", "\"format\": 1.5", "it has format 1.5"}}) {
    std::string bad = good;
    ASSERT_NE(bad.find(from), bad.npos) << from;
    bad.replace(bad.find(from), std::strlen(from), to);
    try {
      Table::parse(bad);
      ADD_FAILURE() << to;
    } catch (const Error &error) {
      EXPECT_THAT(error.what(), HasSubstr(says));
    }
  }
}

TEST_F(Tables, ADamagedFileIsKeptWhenItIsReplaced) {
  record(directory, card, entryOf(8, 100));
  fs::path path = directory / Table{.device = card, .entries = {}}.fileName();
  put(path.filename().string(), "{\"format\": 2}");
  testing::internal::CaptureStderr();
  record(directory, card, entryOf(8, 1 << 20));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("is replaced, and kept as "));
  std::ifstream kept(path.string() + ".replaced");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(kept), {}), "{\"format\": 2}");
  EXPECT_EQ(user().tables().at(0).entries.size(), 1u);
}

TEST_F(Tables, AMissingDirectoryIsNoProblem) {
  testing::internal::CaptureStderr();
  EXPECT_TRUE(user().tables().empty());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(Tables, ADirectoryThatCannotBeWrittenIsAnError) {
  put("file", "");
  try {
    record(directory / "file" / "below", card, entryOf(8, 100));
    FAIL();
  } catch (const Error &error) {
    EXPECT_THAT(error.what(), HasSubstr("set FLAREC_TUNE_DIR"));
  }
}

TEST_F(Tables, TheUsersLieOverOthers) {
  // Two files of one device: the first in name's order wins what both have, as the user's do over shipped ones.
  put("a.json", Table{.device = card, .entries = {entryOf(8, 1 << 20, "2")}}.json());
  put("b.json", Table{.device = card, .entries = {entryOf(8, 1 << 20, "8"), entryOf(8, 100, "1")}}.json());
  Database database = user();
  EXPECT_EQ(database.find(card, shapeOf(8, 1 << 20))->functions.at("mixer_forward").sweeps[0].at("heads"), "2");
  EXPECT_EQ(database.find(card, shapeOf(8, 200))->functions.at("mixer_forward").sweeps[0].at("heads"), "1");
}

TEST_F(Tables, OnlyTheSameMixerServes) {
  record(directory, card, entryOf(8, 1 << 20));
  Database database = user();
  for (auto change : {+[](Shape &s) { s.latents = 64; }, +[](Shape &s) { s.headDim = 16; }, +[](Shape &s) { s.dtype = DType::F16; }}) {
    Shape other = shapeOf(8, 1 << 20);
    change(other);
    EXPECT_EQ(database.find(card, other), nullptr);
  }
  EXPECT_NE(database.find(card, shapeOf(3, 77)), nullptr) << "any H and N";
}

TEST_F(Tables, ADeviceNobodyTunedIsServedByItsKin) {
  record(directory, card, entryOf(8, 1 << 20, "4"));
  Device sister{"A Card 141GB", "sm_90a", ""}, older{"An Older Card", "sm_80", ""};
  EXPECT_NE(user().find(sister, shapeOf(8, 1 << 20)), nullptr);
  EXPECT_EQ(user().find(older, shapeOf(8, 1 << 20)), nullptr);
  record(directory, sister, entryOf(8, 100, "8"));
  EXPECT_EQ(user().find(sister, shapeOf(8, 1 << 20))->functions.at("mixer_forward").sweeps[0].at("heads"), "8") << "its own come first";
  Device avx2{"Some Processor", "host", "avx2"}, avx512{"Another", "host", "avx512"};
  record(directory, avx2, entryOf(8, 100));
  EXPECT_EQ(user().find(avx512, shapeOf(8, 100)), nullptr) << "of another instruction set";
}

TEST_F(Tables, TheNearestIsByExpectedLoss) {
  Entry eight = entryOf(8, 1 << 20, "8"), two = entryOf(2, 1 << 20, "2");
  EXPECT_EQ(expectedLoss(eight, shapeOf(8, 1 << 20)), 0);
  // Blocks of eight heads waste three of four where there are two.
  EXPECT_GT(expectedLoss(eight, shapeOf(2, 1 << 20)), 2);
  EXPECT_LT(expectedLoss(two, shapeOf(8, 1 << 20)), 0.1);
  EXPECT_LT(expectedLoss(eight, shapeOf(8, 1 << 21)), expectedLoss(eight, shapeOf(8, 1 << 12)));
  Shape turned = shapeOf(8, 1 << 20);
  turned.layout = Layout::HeadsMajor;
  EXPECT_GT(expectedLoss(eight, turned), 0);
  record(directory, card, eight);
  record(directory, card, two);
  EXPECT_EQ(user().find(card, shapeOf(2, 1 << 20))->shape.heads, 2);
  EXPECT_EQ(user().find(card, shapeOf(16, 1 << 20))->shape.heads, 8);
}

TEST_F(Tables, LookingUpIsAFunctionOfFilesAndShape) {
  record(directory, card, entryOf(8, 1 << 20, "8"));
  record(directory, card, entryOf(8, 1 << 14, "4"));
  Database one = user(), other = user();
  for (int64_t heads : {1, 2, 8, 16})
    for (int64_t tokens = 1; tokens < (1 << 22); tokens = tokens * 3 + 1)
      EXPECT_EQ(one.find(card, shapeOf(heads, tokens))->shape.tokens, other.find(card, shapeOf(heads, tokens))->shape.tokens);
}

TEST(ShippedTables, CanBeRead) {
  Database database({}, /*withShipped=*/true);
  for (const Table &table : database.tables()) {
    EXPECT_FALSE(table.device.name.empty());
    for (const Entry &entry : table.entries)
      EXPECT_EQ(entry.functions.size(), 2u);
  }
}

} // namespace
