// Tables that a build carries (autotune/shipped.cmake): the library's own source, with this folder's tables in place of autotune/tables/.
#include "flarec/autotune/tables.h"
#include "shipped.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
using testing::HasSubstr;
namespace fs = std::filesystem;

namespace {

std::string textOf(const fs::path &path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

const Device card{"A Card 80GB", "sm_90a", ""};

Shape shapeOf(int latents) { return {.dtype = DType::BF16, .headDim = 8, .latents = latents, .heads = 8, .tokens = 1 << 20}; }

TEST(Shipped, AreTheFilesByteForByte) {
  ASSERT_EQ(shippedTables().size(), 3u);
  for (const ShippedTable &table : shippedTables())
    EXPECT_EQ(table.json, textOf(fs::path(SHIPPED) / table.file)) << table.file;
}

TEST(Shipped, WhatCannotBeReadIsReportedOnceAndIgnored) {
  testing::internal::CaptureStderr();
  for (int i = 0; i < 2; ++i) {
    Database database({});
    ASSERT_EQ(database.tables().size(), 1u);
    EXPECT_EQ(database.tables()[0].entries.size(), 32u);
  }
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 2) << said;
  EXPECT_THAT(said, HasSubstr("the table damaged.json that flarec was built with is not used: it is no table"));
  EXPECT_THAT(said, HasSubstr("the table foreign.json that flarec was built with is not used: it has format 2, this version reads 1"));
}

TEST(Shipped, AreFoundAndTheUsersLieOverThem) {
  fs::path directory = fs::temp_directory_path() / ("flarec-shipped-" + std::to_string(getpid()));
  fs::remove_all(directory);
  Database plain(directory);
  const Entry *entry = plain.find(card, shapeOf(128));
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->functions.at("mixer_forward").sweeps.at(0).at("exp"), "bits:6");
  EXPECT_THAT(configurationText(entry->functions), HasSubstr("mixer_forward = [{blocks = 264, exp = \"bits:6\", heads = 4"));
  EXPECT_EQ(plain.find(card, shapeOf(100)), nullptr);
  EXPECT_NE(plain.find({"Its Sister", "sm_90a", ""}, shapeOf(128)), nullptr);

  Entry own = *entry;
  own.functions["mixer_forward"].sweeps[0]["exp"] = "mufu";
  record(directory, card, own);
  Database both(directory);
  EXPECT_EQ(both.find(card, shapeOf(128))->functions.at("mixer_forward").sweeps.at(0).at("exp"), "mufu");
  EXPECT_EQ(both.find(card, shapeOf(64))->functions.at("mixer_forward").sweeps.at(0).at("exp"), "bits:6") << "what the user has not tuned";
  fs::remove_all(directory);
}

} // namespace
